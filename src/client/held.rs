use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::session::{Ask, SessionError};
use super::{FileError, Subject, files};
use crate::certificate::BACKDATE;
use crate::model::{CertificateAnswer, EntryIndex, Purpose, RoleName, Serial, Timestamp};

/// A certificate with less life than this left is worth a new one, unless that is a tenth of its
/// life or more.
const ENOUGH: Duration = Duration::from_secs(30);

/// What the CA answered, as it is kept beside the files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The role.
    pub role: RoleName,
    /// What for.
    pub purpose: Purpose,
    /// The entry of the audit log.
    pub entry: EntryIndex,
    /// The certificate's serial number.
    pub serial: Serial,
    /// From when it is good.
    pub valid_after: Timestamp,
    /// Until when.
    pub valid_before: Timestamp,
    /// The login names, or the database user.
    pub good_for: Vec<String>,
    /// Whether the private key is in the agent alone.
    pub in_agent: bool,
}

impl Held {
    const FILE: &'static str = "session.json";

    pub(super) fn new(ask: &Ask, answer: &CertificateAnswer) -> Self {
        Self {
            role: ask.role.clone(),
            purpose: ask.purpose.clone(),
            entry: answer.entry,
            serial: answer.serial,
            valid_after: answer.valid_after,
            valid_before: answer.valid_before,
            good_for: answer.good_for.clone(),
            in_agent: false,
        }
    }

    /// What a session's folder says, when it can be read.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(Self::FILE)).ok()?).ok()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), FileError> {
        let path = folder.join(Self::FILE);
        let text = serde_json::to_vec(self)
            .map_err(|error| FileError::new(&path, io::Error::other(error)))?;
        files::private(&path, &text)
    }

    /// How much life is left.
    pub fn left(&self, now: Timestamp) -> Duration {
        if self.valid_before > now {
            self.valid_before.distance(now)
        } else {
            Duration::ZERO
        }
    }

    /// Whether it lives long enough to begin something with it.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        let life = self
            .valid_before
            .distance(self.valid_after)
            .saturating_sub(BACKDATE);
        let left = self.left(now);
        !left.is_zero() && left >= ENOUGH.min(life / 10)
    }
}

/// Where the files of a certificate are.
pub(super) struct Place {
    pub(super) key: PathBuf,
    pub(super) public_key: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) root: Option<PathBuf>,
}

impl Place {
    /// For SSH, named as `ssh` looks for them.
    pub(super) fn ssh(folder: &Path, stem: &str) -> Self {
        Self {
            key: folder.join(stem),
            public_key: folder.join(format!("{stem}.pub")),
            certificate: folder.join(format!("{stem}-cert.pub")),
            root: None,
        }
    }

    /// For X.509.
    pub(super) fn x509(folder: &Path, stem: &str) -> Self {
        Self {
            key: folder.join(format!("{stem}.key")),
            public_key: folder.join(format!("{stem}.pub")),
            certificate: folder.join(format!("{stem}.crt")),
            root: Some(folder.join("root.crt")),
        }
    }

    /// Refuses to put a key over one that no certificate of ours belongs to.
    pub(super) fn check_free(&self, subject: &Subject) -> Result<(), SessionError> {
        let certified = fs::read_to_string(&self.certificate).is_ok_and(|text| {
            text.starts_with("-----BEGIN CERTIFICATE-----") || text.contains("-cert-v01@")
        });
        let occupied = |path: &PathBuf| path.exists() && !certified;
        let ours = subject.own_file().is_none().then_some(&self.key);
        match ours
            .into_iter()
            .chain([&self.certificate])
            .find(|path| occupied(path))
        {
            Some(path) => Err(SessionError::Occupied { path: path.clone() }),
            None => Ok(()),
        }
    }

    /// Writes a fresh key and the certificate.
    pub(super) fn write(
        &self,
        subject: &Subject,
        answer: &CertificateAnswer,
    ) -> Result<(), SessionError> {
        if let Some(key) = subject.private_part()? {
            files::private(&self.key, key.as_bytes())?;
            if subject.is_ssh() {
                files::replace(&self.public_key, line(&subject.ssh_line()?).as_bytes())?;
            }
        }
        files::replace(&self.certificate, line(&answer.certificate).as_bytes())?;
        if let Some(root) = &self.root {
            files::replace(root, answer.trust.x509.join("").as_bytes())?;
        }
        Ok(())
    }
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_used_again_until_little_of_its_life_is_left() {
        let now = Timestamp::from_secs(1_000_000);
        let held = |life: u64, left: u64| {
            let valid_before = now.plus(Duration::from_secs(left));
            Held {
                role: "deploy".parse().unwrap(),
                purpose: "deploy".parse().unwrap(),
                entry: EntryIndex(1),
                serial: Serial::new(1).unwrap(),
                valid_after: valid_before.minus(Duration::from_secs(life) + BACKDATE),
                valid_before,
                good_for: Vec::new(),
                in_agent: false,
            }
        };
        for (life, left, fresh) in [
            (600, 600, true),
            (600, 30, true),
            (600, 29, false),
            (60, 6, true),
            (60, 5, false),
            (3, 1, true),
            (3, 0, false),
        ] {
            assert_eq!(held(life, left).is_fresh(now), fresh, "{left} of {life}");
        }
    }
}
