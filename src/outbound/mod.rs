//! Calls that the server makes by itself: whom it believes there, and how it asks.

mod https;

pub use https::{Answer, Https, HttpsError, agent, plain_agent};

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The root certificates by which a peer is known: those in `ca_file` (PEM), else the system's.
///
/// # Errors
/// When there is none.
pub fn roots(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs().certs;
        return if found.is_empty() {
            Err(RootsError::NoSystemRoots)
        } else {
            Ok(found)
        };
    };
    let unreadable = |why: String| RootsError::File {
        path: path.to_owned(),
        why,
    };
    let roots = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error.to_string()))?;
    if roots.is_empty() {
        return Err(unreadable("it holds no certificate in PEM".to_owned()));
    }
    Ok(roots)
}

/// Why nobody can be believed.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The system has none.
    #[error("this machine has no root certificates: install ca-certificates, or set ca_file")]
    NoSystemRoots,
    /// The file has none.
    #[error("ca_file {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}
