//! A CA's signer as the encoders want it. Their errors have no room for the reason why a signature
//! was not made, so it is kept beside them.

use std::cell::Cell;
use std::sync::Arc;

use crate::keys::{SignError, Signer};

thread_local! {
    /// Why the last signature on this thread failed. An encoder signs on the thread that calls it.
    static FAILURE: Cell<Option<SignError>> = const { Cell::new(None) };
}

/// A signer that an encoder borrows.
pub(super) struct Lent(pub(super) Arc<Signer>);

impl Lent {
    /// Signs, or keeps the reason for [`failure`].
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        FAILURE.take();
        match self.0.sign(message) {
            Ok(signature) => Some(signature),
            Err(error) => {
                FAILURE.set(Some(error));
                None
            }
        }
    }
}

/// Why the encoder that just failed got no signature, when that was it.
pub(super) fn failure() -> Option<SignError> {
    FAILURE.take()
}
