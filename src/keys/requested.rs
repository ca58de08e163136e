//! A key that waits for the certificate of a CA elsewhere: sealed or in the token like any other, as
//! `KIND-request.age` or `.token`, with the request beside it. It has no number yet, and no trust.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::store::{read_private, remove, unreadable, write};
use super::{KeyStore, Signer, StoreError};
use crate::model::{KeyId, KeyKind};

impl KeyStore {
    /// The request that waits for a certificate; nothing when there is none.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn request_in(
        folder: &std::path::Path,
        kind: KeyKind,
    ) -> Result<Option<String>, StoreError> {
        let path = folder.join(format!("{kind}-request.csr"));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(unreadable(&path, source)),
        }
    }

    /// Makes a key with the request for its certificate, in place of one that waits. It will be the
    /// key of that id, as far as is known now.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn request<E: From<StoreError>>(
        &self,
        id: KeyId,
        request: impl FnOnce(&Arc<Signer>) -> Result<String, E>,
    ) -> Result<String, E> {
        let made = self.make(id)?;
        let ending = made.ending();
        let signer = Arc::new(made.signer);
        let text = request(&signer)?;
        // While files of two keys are there, there is no request.
        self.forget_request(id.kind)?;
        write(&self.requested(id.kind, ending), 0o600, &made.content)?;
        write(&self.requested(id.kind, "csr"), 0o644, text.as_bytes())?;
        Ok(text)
    }

    /// Opens the key that waits for a certificate.
    ///
    /// # Errors
    /// When there is none, or it can't be opened.
    pub fn requested_key(&self, kind: KeyKind) -> Result<Arc<Signer>, StoreError> {
        if Self::request_in(&self.folder, kind)?.is_none() {
            return Err(StoreError::NoRequest {
                folder: self.folder.clone(),
                kind,
            });
        }
        let [place, sealed] = ["token", "age"].map(|ending| self.requested(kind, ending));
        Ok(Arc::new(self.open_at(&place, &sealed)?))
    }

    /// Makes the key that waits the one of that id, with its certificate. It still waits, until it is
    /// [forgotten](Self::forget_request) once that is certain.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn number_requested(&self, id: KeyId, public: &str) -> Result<(), StoreError> {
        let [place, sealed] = ["token", "age"].map(|ending| self.requested(id.kind, ending));
        let (from, to, other) = if place.exists() {
            (place, self.place_path(id), self.sealed_path(id))
        } else {
            (sealed, self.sealed_path(id), self.place_path(id))
        };
        let content = read_private(&from)?;
        remove(&other)?;
        write(&to, 0o600, &content)?;
        write(&self.public_path(id), 0o644, public.as_bytes())
    }

    /// Lets go of the key that waits, if there is one.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn forget_request(&self, kind: KeyKind) -> Result<(), StoreError> {
        // The request first: without it, nothing waits.
        for ending in ["csr", "token", "age"] {
            remove(&self.requested(kind, ending))?;
        }
        Ok(())
    }

    fn requested(&self, kind: KeyKind, ending: &str) -> PathBuf {
        self.folder.join(format!("{kind}-request.{ending}"))
    }
}
