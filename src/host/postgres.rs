//! A stock PostgreSQL.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme};
use zeroize::Zeroizing;

use super::HostError;
use super::change::{Change, Line};
use super::settings::PostgresSettings;
use crate::client::{CertificateRule, RuleVerifier, Subject};
use crate::model::TrustBundle;

/// How long a reload may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Asks a PostgreSQL to go on with TLS (its protocol's SSLRequest).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// The line that has `postgresql.conf` take in what is put beside the data.
const INCLUDE: &str = "include_if_exists";

impl PostgresSettings {
    pub(super) fn key(&self) -> PathBuf {
        self.data.join("hallpass_server.key")
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.data.join("hallpass_server.crt")
    }

    fn root(&self) -> PathBuf {
        self.data.join("hallpass_root.pem")
    }

    fn config_part(&self) -> PathBuf {
        self.data.join("hallpass.conf")
    }

    /// The files as they should be, but for key and certificate.
    pub(super) fn changes(&self, trust: &TrustBundle) -> Result<Vec<Change>, HostError> {
        let part = format!(
            "# Written by `hallpass host`; `hallpass host leave` takes it away.\n\
             ssl = on\n\
             ssl_cert_file = '{}'\n\
             ssl_key_file = '{}'\n\
             ssl_ca_file = '{}'\n\
             ssl_min_protocol_version = 'TLSv1.3'\n",
            self.certificate().display(),
            self.key().display(),
            self.root().display(),
        );
        let config = self.read(&self.config).map_err(|source| HostError::Io {
            path: self.config.clone(),
            source,
        })?;
        let include = self.include();
        let config = if include.is_in(config.as_bytes()) {
            config.into_bytes()
        } else {
            include.behind(config.as_bytes())
        };
        Ok(vec![
            Change::public(self.root(), trust.x509.concat()),
            Change::public(self.config_part(), part),
            Change::public(self.config.clone(), config),
        ])
    }

    /// What `postgresql.conf` gets.
    pub(super) fn include(&self) -> Line {
        Line {
            path: self.config.clone(),
            text: format!("{INCLUDE} '{}'", self.config_part().display()),
        }
    }

    /// Has it read its configuration again. Sessions go on.
    pub(super) fn reload(&self) -> Result<(), HostError> {
        let pid = self.running()?.pid;
        // With its own rights alone: what it says is its process need not be.
        let told = Command::new("/bin/sh")
            .args(["-c", &format!("kill -s HUP {pid}")])
            .uid(self.owner().user)
            .gid(self.owner().group)
            .stdin(Stdio::null())
            .output();
        let why = match told {
            Ok(told) if told.status.success() => return Ok(()),
            Ok(told) => String::from_utf8_lossy(&told.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        Err(HostError::NotInForce(format!(
            "PostgreSQL (process {pid}) can't be told to reload: {why}"
        )))
    }

    /// Reads a file of its.
    fn read(&self, path: &Path) -> io::Result<String> {
        self.owner().act(|| fs::read_to_string(path))
    }

    /// The key that it has from here. It stays when the certificate is renewed: of a key and a
    /// certificate that both are new, a crash could leave one, with which PostgreSQL would not start.
    pub(super) fn held(&self) -> Option<Subject> {
        let pem = Zeroizing::new(self.read(&self.key()).ok()?);
        Subject::x509_in(&self.key(), &pem).ok()
    }

    /// Its certificate, when it is for the key that it has.
    pub(super) fn certified(&self) -> Option<String> {
        let pem = self.read(&self.certificate()).ok()?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let held = self.held()?.public_key_info()?;
        (certificate.public_key().raw == held).then_some(pem)
    }

    /// Whether it runs.
    pub(super) fn runs(&self) -> bool {
        self.running().is_ok()
    }

    fn running(&self) -> Result<Running, HostError> {
        let path = self.data.join("postmaster.pid");
        let text = self.read(&path).unwrap_or_default();
        let mut lines = text.lines();
        // PID, data folder, start time, port, socket folder, first address.
        let running = (|| {
            let pid = lines
                .next()?
                .trim()
                .parse()
                .ok()
                // It may have ended without a word.
                .filter(|pid| *pid > 1 && Path::new(&format!("/proc/{pid}")).exists())?;
            let port = lines.nth(2)?.trim().parse().ok()?;
            let address = lines.nth(1).unwrap_or_default().trim();
            let address = match address {
                "" | "*" | "0.0.0.0" | "::" => "localhost",
                address => address,
            };
            Some(Running {
                pid,
                port,
                address: address.to_owned(),
            })
        })();
        running.ok_or_else(|| {
            HostError::NotInForce(format!(
                "PostgreSQL does not run ({} names no process). What it needs is in place: start it, \
                 then run `hallpass host sync` again",
                path.display()
            ))
        })
    }

    /// Waits until it shows the certificate that is in place, and asks for certificates of exactly
    /// the CAs that it should trust.
    pub(super) fn wait_until_in_force(&self, trust: &TrustBundle) -> Result<(), HostError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.is_in_force(trust) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn is_in_force(&self, trust: &TrustBundle) -> Result<(), HostError> {
        let Running { port, address, .. } = self.running()?;
        let not = |why: String| {
            HostError::NotInForce(format!(
                "PostgreSQL at {address}:{port} is not as it should be yet: {why}; its own log says \
                 more"
            ))
        };
        let shown = shown(&address, port).map_err(|error| not(error.to_string()))?;
        let pem = self.certified().unwrap_or_default();
        let own = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            not(format!(
                "{} is no certificate",
                self.certificate().display()
            ))
        })?;
        if shown.certificate.as_ref() != Some(&own) {
            return Err(not("it shows another certificate".to_owned()));
        }
        let mut wanted = Vec::new();
        for pem in &trust.x509 {
            wanted.extend(subject(pem));
        }
        let mut asked = shown.authorities;
        wanted.sort();
        asked.sort();
        if asked != wanted {
            return Err(not("it trusts other CAs".to_owned()));
        }
        Ok(())
    }
}

/// A PostgreSQL that runs.
struct Running {
    pid: u32,
    port: u16,
    address: String,
}

/// The subject of a certificate in PEM, in DER.
fn subject(pem: &str) -> Option<Vec<u8>> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(certificate.subject().as_raw().to_vec())
}

/// What a server shows of itself in a handshake.
#[derive(Debug, Default)]
struct Shown {
    certificate: Option<CertificateDer<'static>>,
    /// The subjects of the CAs that it takes certificates of, in DER.
    authorities: Vec<Vec<u8>>,
}

/// Looks at everything, trusts nothing, and sends nothing.
#[derive(Debug, Default)]
struct Onlooker(Mutex<Shown>);

fn shown(address: &str, port: u16) -> io::Result<Shown> {
    let target = (address, port).to_socket_addrs()?.next();
    let target = target.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut tcp = TcpStream::connect_timeout(&target, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    tcp.write_all(&SSL_REQUEST)?;
    let mut answer = [0];
    tcp.read_exact(&mut answer)?;
    if answer != *b"S" {
        return Err(io::Error::other("it does not speak TLS"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let onlooker = Arc::new(Onlooker::default());
    let verifier = RuleVerifier {
        rule: Arc::clone(&onlooker),
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(&onlooker) as _);
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    let mut shown = onlooker.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *shown))
}

impl CertificateRule for Arc<Onlooker> {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.certificate = Some(end_entity.clone().into_owned());
        Ok(())
    }
}

impl ResolvesClientCert for Onlooker {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.authorities = root_hint_subjects
            .iter()
            .map(|name| name.to_vec())
            .collect();
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
