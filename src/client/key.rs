use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ssh_key::{PrivateKey, PublicKey, SshSig};

use crate::certificate::{SubjectError, parse_public_key};
use crate::identity::key_fingerprint;

/// An SSH key of the user. Its signatures are made by the stock `ssh-keygen`, so that keys in an
/// agent, passphrase prompts and FIDO2 keys' touches work as they do elsewhere.
#[derive(Clone, Debug)]
pub struct SigningKey {
    path: PathBuf,
    public_key: PublicKey,
}

impl SigningKey {
    /// Of a private key's file, or of a `.pub` file whose private key is beside it or in the
    /// agent.
    ///
    /// # Errors
    /// When it can't be read, is no key, or others can read it.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8_lossy(&text);
        let public_key = if text.contains("PRIVATE KEY") {
            check_exposure(path)?;
            public_part(path, &text)?
        } else {
            let beside = path.with_extension("");
            if path.extension().is_some_and(|ending| ending == "pub") && beside.is_file() {
                check_exposure(&beside)?;
            }
            parse_public_key(&text).map_err(|error| KeyError::NotAKey {
                path: path.to_owned(),
                error,
            })?
        };
        Ok(Self {
            path: path.to_owned(),
            public_key,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// As OpenSSH prints it.
    pub fn fingerprint(&self) -> String {
        key_fingerprint(self.public_key.key_data())
    }

    /// Makes an armored SSHSIG over `message`. May ask the user for a passphrase or a touch.
    pub(super) fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, KeyError> {
        let unavailable = |source| KeyError::NoSshKeygen { source };
        let mut ssh_keygen = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(unavailable)?;
        if let Some(mut stdin) = ssh_keygen.stdin.take() {
            // When it stops reading, its exit code says why.
            stdin.write_all(message).ok();
        }
        let output = ssh_keygen.wait_with_output().map_err(unavailable)?;
        let failed = || KeyError::NotSigned {
            path: self.path.clone(),
        };
        if !output.status.success() {
            return Err(failed());
        }
        let armored = String::from_utf8(output.stdout).map_err(|_| failed())?;
        let signature = SshSig::from_pem(&armored).map_err(|_| failed())?;
        if signature.public_key() != self.public_key.key_data() {
            return Err(KeyError::OtherKey {
                path: self.path.clone(),
            });
        }
        // As ssh-keygen wrote it: ssh-key 0.6 encodes signatures of ECDSA FIDO2 keys wrongly.
        Ok(armored)
    }
}

/// The public key of a private key's file: from the `.pub` file beside it, or from the file.
fn public_part(path: &Path, text: &str) -> Result<PublicKey, KeyError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    let beside = fs::read_to_string(beside).ok();
    if let Some(key) = beside.and_then(|line| parse_public_key(&line).ok()) {
        return Ok(key);
    }
    // OpenSSH's own format has it in the clear even when there is a passphrase.
    if let Ok(key) = PrivateKey::from_openssh(text.as_bytes()) {
        return Ok(key.public_key().clone());
    }
    Err(KeyError::NoPublicPart {
        path: path.to_owned(),
    })
}

/// Refuses a private key that others can read, as `ssh` does.
pub(super) fn check_exposure(path: &Path) -> Result<(), KeyError> {
    let metadata = fs::metadata(path).map_err(|source| KeyError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    if metadata.mode() & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode: metadata.mode() & 0o777,
        });
    }
    Ok(())
}

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read.
    #[error("can't read the key {path}: {source}; name another with --identity or --key")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the private key.
    #[error(
        "others can read the private key {path} (its mode is {mode:o}): run chmod 600 {path}, and \
         replace the key if others use this machine"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key.
    #[error("{path}: {error}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        error: SubjectError,
    },
    /// A private key in a format that hides its public part.
    #[error(
        "{path} does not tell its public key: make the .pub file beside it with ssh-keygen -y -f \
         {path} > {path}.pub"
    )]
    NoPublicPart {
        /// The file.
        path: PathBuf,
    },
    /// `ssh-keygen` can't be run.
    #[error("can't run ssh-keygen: {source}; install OpenSSH's client programs")]
    NoSshKeygen {
        /// Why.
        source: io::Error,
    },
    /// `ssh-keygen` made no signature.
    #[error(
        "ssh-keygen made no signature with {path}: its own message is above; a .pub file needs its \
         private key in the agent (`ssh-add -l`)"
    )]
    NotSigned {
        /// The file.
        path: PathBuf,
    },
    /// The `.pub` file belongs to another key.
    #[error(
        "{path} and the .pub file beside it are not one pair: make the .pub file again with \
         ssh-keygen -y -f {path} > {path}.pub"
    )]
    OtherKey {
        /// The private key's file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ssh_key::LineEnding;
    use ssh_key::private::Ed25519Keypair;

    use super::*;
    use crate::identity::{REQUEST_NAMESPACE, verify};

    #[test]
    fn ssh_keygen_signs_and_a_key_that_others_can_read_is_refused() {
        let folder = std::env::temp_dir().join(format!("hallpass-key-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        let pair = PrivateKey::from(Ed25519Keypair::from_seed(&[3; 32]));
        pair.write_openssh_file(&path, LineEnding::LF).unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            SigningKey::open(&path),
            Err(KeyError::Exposed { mode: 0o644, .. })
        ));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = SigningKey::open(&path).unwrap();
        assert_eq!(
            key.fingerprint(),
            key_fingerprint(pair.public_key().key_data())
        );
        let signature = key.sign(REQUEST_NAMESPACE, b"message").unwrap();
        let signature = SshSig::from_pem(signature).unwrap();
        assert!(verify(&signature, REQUEST_NAMESPACE, b"message").is_ok());
        fs::remove_dir_all(&folder).unwrap();
    }
}
