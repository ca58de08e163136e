use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::{Invalid, WebhookUrl};

/// An address of whoever vouches for people or workloads: `https`, or `http` on this machine itself.
/// As an issuer it is compared as it was written (OpenID Connect Discovery 1.0, section 3).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct IssuerUrl(String);

impl IssuerUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IssuerUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let legal = text.len() <= 2000 && text.parse::<WebhookUrl>().is_ok();
        if legal {
            return Ok(Self(text.to_owned()));
        }
        let expected = "use https://HOST[:PORT][/PATH], or http:// for one on this machine";
        Err(Invalid::new("address", text, expected))
    }
}

impl TryFrom<String> for IssuerUrl {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
