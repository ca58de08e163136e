use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

use super::api::{self, tls13_provider, untrusted};
use super::verifier::{CertificateRule, RuleVerifier};
use super::{
    ApiError, ConfigFolder, Connection, FileError, KeyError, LogKeys, Pin, ServerUrl, SigningKey,
    agent,
};
use crate::certificate::{fingerprint, parse_public_key};
use crate::model::LoginWays;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection was made with.
pub struct Connected {
    /// The folder that keeps it.
    pub folder: ConfigFolder,
    /// The key that will sign; nothing for who is to sign in first.
    pub key: Option<SigningKey>,
    /// Who signs in there.
    pub ways: LoginWays,
}

/// Pins the CA at `url` by its root certificate's fingerprint and keeps what later runs need.
///
/// # Errors
/// When the server does not prove to be that CA, or there is neither a key to sign with nor a provider
/// to sign in with.
pub fn connect(url: ServerUrl, pin: Pin, key: Option<&Path>) -> Result<Connected, ConnectError> {
    connect_in(&ConfigFolder::locate()?, url, pin, key)
}

/// The same in that folder.
///
/// # Errors
/// As [`connect`].
pub fn connect_in(
    folder: &ConfigFolder,
    url: ServerUrl,
    pin: Pin,
    key: Option<&Path>,
) -> Result<Connected, ConnectError> {
    let root_pem = pinned_root(&url, &pin)?;
    let path = match key {
        Some(path) => Some(
            std::path::absolute(path).map_err(|source| KeyError::Unreadable {
                path: path.to_owned(),
                source,
            })?,
        ),
        None => usual_key(folder)?,
    };
    let key = path.as_deref().map(SigningKey::open).transpose()?;
    let agent = api::agent(&root_pem);
    let ways = api::login_ways(&agent, &url)?;
    if key.is_none() && ways.providers.is_empty() && !ways.workloads {
        return Err(ConnectError::NoKey);
    }
    let trust = api::trust(&agent, &url)?;
    let connection = Connection {
        log: LogKeys::named(&trust).map_err(|error| ApiError::Strange {
            url: url.clone(),
            what: format!("the log's key: {error}"),
        })?,
        url,
        pin,
        root_pem,
        ssh_key: path,
    };
    folder.trust_hosts(&trust)?;
    folder.store(&connection)?;
    Ok(Connected {
        folder: folder.clone(),
        key,
        ways,
    })
}

/// The first plain key in the agent, else the first of OpenSSH's usual files.
fn usual_key(folder: &ConfigFolder) -> Result<Option<PathBuf>, FileError> {
    // Session keys are in the agent too, and soon gone.
    let lasting = |line: &String| !line.contains(" hallpass ") && parse_public_key(line).is_ok();
    if let Some(line) = agent::lines().into_iter().find(lasting) {
        return folder.keep_identity(&line).map(Some);
    }
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let usual = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| home.join(".ssh").join(name));
    Ok(usual.into_iter().find(|path| path.is_file()))
}

/// Shakes hands with a server that has the pinned certificate in its chain, and gives that in PEM.
fn pinned_root(url: &ServerUrl, pin: &Pin) -> Result<String, ConnectError> {
    let unreachable = |error: io::Error| ApiError::Unreachable {
        url: url.clone(),
        why: error.to_string(),
    };
    let provider = Arc::new(tls13_provider());
    let verifier = Arc::new(RuleVerifier {
        rule: PinRule {
            pin: pin.clone(),
            provider: Arc::clone(&provider),
            seen: Mutex::new(Seen::default()),
        },
        provider: Arc::clone(&provider),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unreachable(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
        .with_no_client_auth();
    let name = ServerName::try_from(url.host().to_string())
        .map_err(|error| unreachable(io::Error::other(error)))?;
    let mut tls = ClientConnection::new(Arc::new(config), name)
        .map_err(|error| unreachable(io::Error::other(error)))?;
    let mut tcp = open(url).map_err(unreachable)?;
    let shaken = tls.complete_io(&mut tcp);

    let seen = &verifier.rule.seen;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = shaken {
        if let Some(shown) = seen.other.clone() {
            return Err(ConnectError::OtherCa {
                url: url.clone(),
                pin: pin.clone(),
                shown,
            });
        }
        let why = error
            .get_ref()
            .and_then(|inner| untrusted(url, inner.downcast_ref()?));
        return Err(match why {
            Some(why) => ApiError::Untrusted {
                url: url.clone(),
                why,
            }
            .into(),
            None => unreachable(error).into(),
        });
    }
    let root = seen.root.as_ref().ok_or_else(|| {
        unreachable(io::Error::other(
            "it ended the handshake without a certificate",
        ))
    })?;
    Ok(pem(root))
}

fn open(url: &ServerUrl) -> io::Result<TcpStream> {
    let mut failure = io::Error::other("the name has no address");
    for address in (url.host().as_str(), url.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Takes a server whose chain holds the pinned certificate and leads to it. Nothing else is
/// relaxed: names, times, usages and signatures are checked as for any root.
#[derive(Debug)]
struct PinRule {
    pin: Pin,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The pinned certificate.
    root: Option<CertificateDer<'static>>,
    /// The fingerprint that was shown in its place.
    other: Option<String>,
}

impl CertificateRule for PinRule {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|one| fingerprint(one) == self.pin.as_str());
        let Some(pinned) = pinned else {
            let last = intermediates.last().unwrap_or(end_entity);
            self.seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .other = Some(fingerprint(last));
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, &[], now)?;
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .root = Some(pinned.clone().into_owned());
        Ok(())
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nowhere to keep it.
    #[error(transparent)]
    Config(#[from] super::ConfigError),
    /// The server has no certificate with that fingerprint.
    #[error(
        "the server at {url} is another CA: its root certificate is {shown}, not {pin}. Check the \
         fingerprint with the CA's administrator before anything else; nothing was sent or kept"
    )]
    OtherCa {
        /// Where.
        url: ServerUrl,
        /// What was wanted.
        pin: Pin,
        /// What was shown.
        shown: String,
    },
    /// Nothing to sign with.
    #[error(
        "there is no SSH key in the agent or in ~/.ssh: make one with ssh-keygen -t ed25519, or \
         name one with --ssh-key FILE"
    )]
    NoKey,
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The server can't be reached or trusted.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// It can't be kept.
    #[error(transparent)]
    File(#[from] FileError),
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_certificate_in_pem_reads_back() {
        let der = CertificateDer::from((0..200).collect::<Vec<u8>>());
        assert_eq!(
            CertificateDer::from_pem_slice(pem(&der).as_bytes()).unwrap(),
            der
        );
    }
}
