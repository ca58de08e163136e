//! Private keys that were made elsewhere: out of a file of OpenSSH's, or out of PEM.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pkcs8::der::asn1::ObjectIdentifier;
use pkcs8::{EncodePrivateKey, EncryptedPrivateKeyInfo, PrivateKeyInfo, SecretDocument};
use ssh_key::PrivateKey;
use zeroize::Zeroizing;

use super::scrub::scrubbed;
use super::{Signer, is_private};
use crate::model::KeyKind;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const NAMES: [(ObjectIdentifier, &str); 4] = [
    (
        ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"),
        "an RSA key",
    ),
    (
        ObjectIdentifier::new_unwrap("1.3.101.112"),
        "an Ed25519 key",
    ),
    (
        ObjectIdentifier::new_unwrap("1.3.132.0.34"),
        "an ECDSA key on P-384",
    ),
    (
        ObjectIdentifier::new_unwrap("1.3.132.0.35"),
        "an ECDSA key on P-521",
    ),
];

/// What comes before the private and the public key in the PKCS#8 document (RFC 5958) of an Ed25519
/// key (RFC 8410).
const ED25519_PRIVATE: [u8; 16] = [
    0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const ED25519_PUBLIC: [u8; 3] = [0x81, 0x21, 0x00];

/// A private key that was made elsewhere, on its way to be sealed.
pub struct ForeignKey {
    document: Zeroizing<Vec<u8>>,
    signer: Arc<Signer>,
}

impl ForeignKey {
    fn new(document: Zeroizing<Vec<u8>>) -> Option<Self> {
        let signer = Signer::from_pkcs8(&document).map(Arc::new)?;
        Some(Self { document, signer })
    }

    /// The key, in use.
    pub fn signer(&self) -> &Arc<Signer> {
        &self.signer
    }

    /// The key as a PKCS#8 document.
    pub(super) fn document(&self) -> &[u8] {
        &self.document
    }
}

/// A file that should hold a private key. Zeroized when dropped.
pub struct ForeignFile {
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
    /// Whether others than its owner can read it.
    pub is_exposed: bool,
}

impl ForeignFile {
    /// More than any private key is long.
    const LONGEST: u64 = 64 << 10;

    /// Reads it; a pipe will do as well.
    ///
    /// # Errors
    /// When it can't be read, or is longer than any private key.
    pub fn read(path: &Path) -> Result<Self, ForeignError> {
        let unreadable = |source| ForeignError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        // With all its room from the start, so that it is not moved while it grows.
        let mut content = Zeroizing::new(Vec::with_capacity(Self::LONGEST as usize + 1));
        file.take(Self::LONGEST + 1)
            .read_to_end(&mut content)
            .map_err(unreadable)?;
        let path = path.to_owned();
        if content.len() as u64 > Self::LONGEST {
            return Err(ForeignError::Long { path });
        }
        Ok(Self {
            path,
            content,
            is_exposed: metadata.is_file() && !is_private(&metadata),
        })
    }

    /// Whether it takes a passphrase of its own to read the key.
    ///
    /// # Errors
    /// When it holds no private key for that kind.
    pub fn is_encrypted(&self, kind: KeyKind) -> Result<bool, ForeignError> {
        match kind {
            KeyKind::SshUser | KeyKind::SshHost => Ok(self.openssh(kind)?.is_encrypted()),
            _ => Ok(self.pem(kind)?.label == "ENCRYPTED PRIVATE KEY"),
        }
    }

    /// The key, checked to be one that can be a CA key of that kind. `passphrase` is asked for
    /// where [`Self::is_encrypted`].
    ///
    /// # Errors
    /// When it is none, or the passphrase is wrong.
    pub fn key(
        &self,
        kind: KeyKind,
        passphrase: Option<&Zeroizing<String>>,
    ) -> Result<ForeignKey, ForeignError> {
        let passphrase = passphrase.map_or(&[][..], |text| text.as_bytes());
        let document = scrubbed(|| match kind {
            KeyKind::SshUser | KeyKind::SshHost => self.ed25519(kind, passphrase),
            _ => self.p256(kind, passphrase),
        })?;
        ForeignKey::new(document).ok_or_else(|| self.damaged())
    }

    fn ed25519(
        &self,
        kind: KeyKind,
        passphrase: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, ForeignError> {
        let mut key = self.openssh(kind)?;
        if key.is_encrypted() {
            key = key.decrypt(passphrase).map_err(|_| self.wrong())?;
        }
        let pair = key.key_data().ed25519().ok_or_else(|| self.damaged())?;
        let mut document = Zeroizing::new(Vec::with_capacity(128));
        document.extend_from_slice(&ED25519_PRIVATE);
        document.extend_from_slice(pair.private.as_ref());
        document.extend_from_slice(&ED25519_PUBLIC);
        document.extend_from_slice(pair.public.as_ref());
        Ok(document)
    }

    fn openssh(&self, kind: KeyKind) -> Result<PrivateKey, ForeignError> {
        let text = self.text(kind)?;
        let Some(block) = block(text).filter(|block| block.label == "OPENSSH PRIVATE KEY") else {
            return Err(self.none(kind));
        };
        let key = PrivateKey::from_openssh(block.text).map_err(|error| match error {
            ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => {
                self.unsupported("a key of another algorithm", kind)
            }
            _ => self.damaged(),
        })?;
        if key.algorithm() == ssh_key::Algorithm::Ed25519 {
            return Ok(key);
        }
        let algorithm = key.algorithm();
        Err(self.unsupported(&format!("an {} key", algorithm.as_str()), kind))
    }

    fn p256(&self, kind: KeyKind, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, ForeignError> {
        let block = self.pem(kind)?;
        let (_, document) = SecretDocument::from_pem(block.text).map_err(|_| self.damaged())?;
        let key = match block.label {
            "EC PRIVATE KEY" => p256::SecretKey::from_sec1_der(document.as_bytes())
                .map_err(|_| self.unsupported("no key on P-256, or damaged,", kind))?,
            "PRIVATE KEY" => self.pkcs8(kind, document.as_bytes())?,
            _ => {
                // What it is encrypted with is read along with it.
                let info = EncryptedPrivateKeyInfo::try_from(document.as_bytes())
                    .map_err(|_| self.encrypted_otherwise())?;
                let document = info.decrypt(passphrase).map_err(|error| match error {
                    pkcs8::Error::EncryptedPrivateKey(
                        // Which of the two it is, does not depend on the direction.
                        pkcs8::pkcs5::Error::DecryptFailed | pkcs8::pkcs5::Error::EncryptFailed,
                    ) => self.wrong(),
                    pkcs8::Error::EncryptedPrivateKey(_) => self.encrypted_otherwise(),
                    // Decrypted to noise.
                    _ => self.wrong(),
                })?;
                self.pkcs8(kind, document.as_bytes())?
            }
        };
        // Written anew: what reads it wants the public key in it, which others leave out.
        let document = key.to_pkcs8_der().map_err(|_| self.damaged())?;
        Ok(Zeroizing::new(document.as_bytes().to_vec()))
    }

    fn pkcs8(&self, kind: KeyKind, document: &[u8]) -> Result<p256::SecretKey, ForeignError> {
        let info = PrivateKeyInfo::try_from(document).map_err(|_| self.damaged())?;
        let curve = info.algorithm.parameters_oid().ok();
        if info.algorithm.oid != EC_PUBLIC_KEY || curve != Some(P256) {
            let known = NAMES
                .into_iter()
                .find(|(oid, _)| *oid == info.algorithm.oid || Some(*oid) == curve);
            let name = known.map_or("a key of another algorithm", |(_, name)| name);
            return Err(self.unsupported(name, kind));
        }
        p256::SecretKey::try_from(info).map_err(|_| self.damaged())
    }

    fn pem(&self, kind: KeyKind) -> Result<Block<'_>, ForeignError> {
        let block = block(self.text(kind)?).ok_or_else(|| self.none(kind))?;
        match block.label {
            "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => Ok(block),
            "EC PRIVATE KEY" if block.text.contains("Proc-Type: 4,ENCRYPTED") => {
                Err(self.encrypted_otherwise())
            }
            "EC PRIVATE KEY" => Ok(block),
            "RSA PRIVATE KEY" => Err(self.unsupported("an RSA key", kind)),
            _ => Err(self.none(kind)),
        }
    }

    fn text(&self, kind: KeyKind) -> Result<&str, ForeignError> {
        std::str::from_utf8(&self.content).map_err(|_| self.none(kind))
    }

    /// It holds no private key for that kind: says what it holds instead.
    fn none(&self, kind: KeyKind) -> ForeignError {
        let path = self.path.clone();
        let text = std::str::from_utf8(&self.content).unwrap_or_default();
        let label = block(text).map(|block| block.label);
        let is_public = text.starts_with("ssh-")
            || text.starts_with("ecdsa-")
            || text.starts_with("sk-")
            || text.contains("PUBLIC KEY-----")
            || text.contains("BEGIN CERTIFICATE-----");
        match label {
            Some(label) if label.ends_with("PRIVATE KEY") => ForeignError::OtherKind {
                path,
                kind,
                expected: expected(kind),
            },
            Some("") => self.damaged(),
            _ if is_public => ForeignError::Public { path },
            _ => ForeignError::None {
                path,
                kind,
                expected: expected(kind),
            },
        }
    }

    fn unsupported(&self, found: &str, kind: KeyKind) -> ForeignError {
        ForeignError::Unsupported {
            path: self.path.clone(),
            found: found.to_owned(),
            kind,
            expected: expected(kind),
        }
    }

    fn damaged(&self) -> ForeignError {
        ForeignError::Damaged {
            path: self.path.clone(),
        }
    }

    fn wrong(&self) -> ForeignError {
        ForeignError::WrongPassphrase {
            path: self.path.clone(),
        }
    }

    fn encrypted_otherwise(&self) -> ForeignError {
        ForeignError::EncryptedOtherwise {
            path: self.path.clone(),
        }
    }
}

fn expected(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::SshUser | KeyKind::SshHost => {
            "an Ed25519 private key in OpenSSH's format, as `ssh-keygen -t ed25519` makes it"
        }
        _ => {
            "an ECDSA private key on P-256 in PEM (PRIVATE KEY, ENCRYPTED PRIVATE KEY or EC PRIVATE \
             KEY)"
        }
    }
}

/// A block of PEM.
#[derive(Clone, Copy)]
struct Block<'a> {
    /// Empty when the block is cut off.
    label: &'a str,
    /// From the line that begins it to the one that ends it.
    text: &'a str,
}

/// The first block of PEM that is a private key.
fn block(text: &str) -> Option<Block<'_>> {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "PRIVATE KEY-----";
    let mut from = 0;
    while let Some(start) = text[from..].find(BEGIN).map(|found| from + found) {
        let line = text[start..].lines().next()?;
        from = start + line.len();
        if !line.ends_with(END) {
            continue;
        }
        let label = line[BEGIN.len()..].trim_end_matches('-');
        let end = format!("-----END {label}-----");
        return Some(match text[from..].find(&end) {
            Some(found) => Block {
                label,
                text: &text[start..from + found + end.len()],
            },
            None => Block { label: "", text },
        });
    }
    None
}

/// Why a file's key can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No private key is that long.
    #[error("{path} is longer than 64 KiB: it is no private key")]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// It is the public part.
    #[error("{path} holds a public key or a certificate: give the file with the private key")]
    Public {
        /// The file.
        path: PathBuf,
    },
    /// It holds another kind of key.
    #[error("{path} holds a private key of another kind: {kind} takes {expected}")]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// What the key is wanted for.
        kind: KeyKind,
        /// What would do.
        expected: &'static str,
    },
    /// It holds none.
    #[error("{path} holds no private key: {kind} takes {expected}")]
    None {
        /// The file.
        path: PathBuf,
        /// What the key is wanted for.
        kind: KeyKind,
        /// What would do.
        expected: &'static str,
    },
    /// It is of another algorithm.
    #[error("{path} holds {found} that can't be a CA key here: {kind} takes {expected}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What the key is wanted for.
        kind: KeyKind,
        /// What would do.
        expected: &'static str,
    },
    /// It is cut off or changed.
    #[error("{path} holds a private key that is cut off or damaged: copy it again")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase is another's.
    #[error("the passphrase does not open the key in {path}")]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// It is encrypted in a way that is not read.
    #[error(
        "{path} is encrypted in a way that is not read here: give it decrypted by a pipe, as in \
         `hallpass key import KIND <(openssl pkey -in {path}) ...`"
    )]
    EncryptedOtherwise {
        /// The file.
        path: PathBuf,
    },
}
