use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{HostName, Invalid, RoleName, UserName};

/// What can be locked: nothing is issued for it then, and no request by a key is taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LockTarget {
    /// A role, for everybody.
    Role(RoleName),
    /// A user, for every role.
    User(UserName),
    /// A host, for every name of it.
    Host(HostName),
    /// A user's key, by its fingerprint as OpenSSH prints it.
    Key(String),
}

impl fmt::Display for LockTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(name) => write!(f, "role/{name}"),
            Self::User(name) => write!(f, "user/{name}"),
            Self::Host(name) => write!(f, "host/{name}"),
            Self::Key(fingerprint) => write!(f, "key/{fingerprint}"),
        }
    }
}

impl FromStr for LockTarget {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once('/') {
            Some(("role", name)) => name.parse().map(Self::Role),
            Some(("user", name)) => name.parse().map(Self::User),
            Some(("host", name)) => name.parse().map(Self::Host),
            Some(("key", fingerprint)) if is_fingerprint(fingerprint) => {
                Ok(Self::Key(fingerprint.to_owned()))
            }
            _ => Err(Invalid::new(
                "lock",
                text,
                "role/, user/ or host/ and a name, such as role/deploy, or key/ and a fingerprint as \
                 ssh-keygen -l prints it",
            )),
        }
    }
}

/// Whether it is `SHA256:` and the unpadded base64 of 32 bytes.
fn is_fingerprint(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'+' || c == b'/';
    text.strip_prefix("SHA256:")
        .is_some_and(|digest| digest.len() == 43 && digest.bytes().all(legal))
}

impl TryFrom<String> for LockTarget {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<LockTarget> for String {
    fn from(target: LockTarget) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_written_as_it_is_read() {
        for text in [
            "role/deploy",
            "user/alice",
            "host/web-1.example.org",
            "key/SHA256:/6FWP9dXMqZcDr9SWmTjrnPcKhTCfyviV2tvEKBw7+I",
        ] {
            assert_eq!(text.parse::<LockTarget>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "deploy",
            "role/",
            "role/Deploy",
            "group/x",
            "user/a/b",
            "key/x",
            "key/SHA256:",
        ] {
            assert!(wrong.parse::<LockTarget>().is_err(), "{wrong}");
        }
    }
}
