//! An issuing CA under a root whose key is on another machine: the request goes there in a file, and
//! the certificate comes back in one. Until then nothing trusts the key, and the log does not know it.

use std::path::PathBuf;

use super::home::Home;
use super::importing::{ImportError, Incoming, KeyImport, KeyImported};
use crate::certificate::issuing_request;
use crate::keys::{KeyStore, Opening, StoreError, TokenKeys};
use crate::model::{KeyId, KeyKind, Reason};

/// A certificate that a request was answered with.
pub struct KeyInstall {
    /// Its file, and what that holds.
    pub certificate: (PathBuf, String),
    /// The same of the root that issued it, when this home does not trust that yet.
    pub root: Option<(PathBuf, String)>,
    /// Why it signs at once, without anybody having confirmed it; otherwise it is staged.
    pub activate: Option<Reason>,
}

const KIND: KeyKind = KeyKind::X509Issuing;

impl Home {
    /// The request that waits for a certificate; nothing when there is none.
    ///
    /// # Errors
    /// When it is no home, or the request can't be read.
    pub fn waiting_request(&self) -> Result<Option<String>, ImportError> {
        self.check_whole()?;
        Ok(KeyStore::request_in(&self.keys(), KIND)?)
    }

    /// Makes the key of an issuing CA, and the request for its certificate in PEM. A key that waited
    /// before is given up. A server may work on the home meanwhile.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn request_issuing<'a>(
        &self,
        opening: impl Into<Opening<'a>>,
        token: Option<TokenKeys>,
    ) -> Result<String, ImportError> {
        self.check_whole()?;
        let store = KeyStore::open(&self.keys(), opening)?.with_token(token);
        let made = KeyStore::publics_in(&self.keys(), KIND)?;
        let last = made.last().map_or(0, |(id, _)| id.number);
        let id = KeyId {
            kind: KIND,
            number: last + 1,
        };
        store.request(id, |signer| Ok(issuing_request(signer.clone())?))
    }

    /// Takes in the certificate that a request was answered with, as
    /// [`import_key`](Self::import_key) takes in a key.
    ///
    /// # Errors
    /// When no request waits, a server works on the home, or the certificate won't do. Then the
    /// request still waits.
    pub async fn install_issuing<'a>(
        &self,
        opening: impl Into<Opening<'a>>,
        token: Option<TokenKeys>,
        install: KeyInstall,
    ) -> Result<KeyImported, ImportError> {
        self.check_whole()?;
        let _lock = self.lock_idle()?;
        if KeyStore::request_in(&self.keys(), KIND)?.is_none() {
            let folder = self.keys();
            return Err(StoreError::NoRequest { folder, kind: KIND }.into());
        }
        let (mut plan, opened) = self.plan()?;
        let store = KeyStore::open(&self.keys(), opening)?.with_token(token);
        let import = KeyImport {
            kind: KIND,
            key: Incoming::Requested(store.requested_key(KIND)?),
            certificate: Some(install.certificate),
            root: install.root,
            activate: install.activate,
        };
        let public = plan.public_part(&import)?;
        let imported = plan.make(&store, &import, &public)?;
        plan.carry_out(&store, opened).await?;
        // A stop in between leaves a request whose answer is here already, and is named as that.
        store.forget_request(KIND)?;
        Ok(imported)
    }
}
