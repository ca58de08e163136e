use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// What a CA key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// SSH user certificates.
    SshUser,
    /// SSH host certificates.
    SshHost,
    /// The issuing CA's certificate.
    X509Root,
    /// Client and server certificates.
    X509Issuing,
    /// The audit log's checkpoints.
    Log,
    /// A witness's cosignatures. It is in the witness's own home, never in a CA's.
    Witness,
}

impl KeyKind {
    /// Every kind that a CA has.
    pub const ALL: [Self; 5] = [
        Self::SshUser,
        Self::SshHost,
        Self::X509Root,
        Self::X509Issuing,
        Self::Log,
    ];

    /// Its name in files, the log and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SshUser => "ssh-user",
            Self::SshHost => "ssh-host",
            Self::X509Root => "x509-root",
            Self::X509Issuing => "x509-issuing",
            Self::Log => "log",
            Self::Witness => "witness",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                let expected = "ssh-user, ssh-host, x509-root, x509-issuing or log";
                Invalid::new("kind of key", text, expected)
            })
    }
}

/// Which CA key: its kind and its number, such as `ssh-user-2`. Numbers are counted from 1 and
/// never given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId {
    /// What it signs.
    pub kind: KeyKind,
    /// Which of its kind.
    pub number: u32,
}

impl KeyId {
    /// The first of its kind, which a home begins with.
    pub fn first(kind: KeyKind) -> Self {
        Self { kind, number: 1 }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.number)
    }
}

impl FromStr for KeyId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts = text.rsplit_once('-');
        parts
            .and_then(|(kind, number)| {
                let written = Self {
                    kind: kind.parse().ok()?,
                    number: number.parse().ok().filter(|number| *number > 0)?,
                };
                // One key, one name: no leading zeros and no plus sign.
                (written.to_string() == text).then_some(written)
            })
            .ok_or_else(|| Invalid::new("key", text, "a kind and a number, such as ssh-user-2"))
    }
}

impl TryFrom<String> for KeyId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// Where a CA key stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Trusted, not signing yet.
    Staged,
    /// Trusted and signing.
    Active,
    /// Trusted, no longer signing.
    Retiring,
    /// Not trusted any more: what it signed has expired.
    Retired,
    /// Never signed, and not trusted any more.
    Cancelled,
    /// Not trusted any more: somebody else may have it.
    Revoked,
}

impl KeyState {
    /// Whether the key is in the trust bundle.
    pub fn is_trusted(self) -> bool {
        matches!(self, Self::Staged | Self::Active | Self::Retiring)
    }

    /// Its name in the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Cancelled => "cancelled",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_name() {
        let id: KeyId = "x509-issuing-12".parse().unwrap();
        assert_eq!((id.kind, id.number), (KeyKind::X509Issuing, 12));
        assert_eq!(id.to_string(), "x509-issuing-12");
        for wrong in [
            "",
            "ssh-user",
            "ssh-user-",
            "ssh-user-0",
            "ssh-user-01",
            "ssh-user-+1",
            "ssh-user--1",
            "ssh-user-4294967296",
            "witness-1",
            "SSH-user-1",
            "../ssh-user-1",
        ] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }
}
