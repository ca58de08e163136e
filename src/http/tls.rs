use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::ring::{default_provider, sign};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;

use crate::authority::{Authority, Refusal};
use crate::model::{HostTtl, Timestamp};

/// The server's side of TLS 1.3, with a certificate that is renewed while it runs.
pub struct ServerTls {
    authority: Arc<Authority>,
    ttl: HostTtl,
    current: Arc<Current>,
}

struct Current(ArcSwap<CertifiedKey>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's certificate")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServerTls {
    /// How long the server's own certificate lives.
    pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);
    /// How often it is looked at, and how soon a renewal that failed is tried again.
    const TICK: Duration = Duration::from_secs(60);

    /// With a first certificate.
    ///
    /// # Errors
    /// When it can't be issued.
    pub async fn new(authority: Arc<Authority>, ttl: HostTtl) -> Result<Self, TlsError> {
        let certified = issue(&authority, ttl).await?;
        let current = Arc::new(Current(ArcSwap::from_pointee(certified)));
        Ok(Self {
            authority,
            ttl,
            current,
        })
    }

    /// The configuration for rustls: TLS 1.3 alone.
    ///
    /// # Errors
    /// When rustls does not take it.
    pub fn config(&self) -> Result<rustls::ServerConfig, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Renews the certificate at half its life and when the CA keys change, for ever. When a renewal
    /// fails, the old one stays and it is tried again.
    pub async fn keep_fresh(self) {
        let half = self.ttl.duration() / 2;
        let tick = half.min(Self::TICK);
        let mut renew_at = SystemTime::now() + half;
        let mut keys = self.authority.key_changes();
        loop {
            // By the wall clock, since clients judge by theirs: a timer stands still while the
            // machine sleeps.
            let other_keys = tokio::select! {
                () = tokio::time::sleep(tick) => false,
                changed = keys.changed() => changed.is_ok(),
            };
            let now = SystemTime::now();
            // Also when the clock was set back.
            if !other_keys && now < renew_at && now + half >= renew_at {
                continue;
            }
            match issue(&self.authority, self.ttl).await {
                Ok(certified) => {
                    self.current.0.store(Arc::new(certified));
                    renew_at = now + half;
                }
                Err(error) => {
                    tracing::error!(%error, "the server's certificate was not renewed");
                    renew_at = now;
                }
            }
        }
    }
}

async fn issue(authority: &Authority, ttl: HostTtl) -> Result<CertifiedKey, TlsError> {
    let issued = authority.certify_itself(ttl).await?;
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Chain)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.key.serialize_der()));
    let valid_before: Timestamp = issued.valid_before;
    tracing::info!(%valid_before, "the server has a new certificate");
    Ok(CertifiedKey::new(chain, sign::any_supported_type(&key)?))
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate was not issued.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The chain can't be read back.
    #[error("the server's own certificate can't be read")]
    Chain,
    /// rustls does not take it.
    #[error("TLS can't be set up: {0}")]
    Rustls(#[from] rustls::Error),
}
