use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::model::{HostName, Invalid};

/// Where a CA answers: `https://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerUrl {
    host: HostName,
    port: u16,
}

impl ServerUrl {
    const HTTPS: u16 = 443;

    /// The name that the server's certificate must be for.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ServerUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text).ok_or_else(|| {
            Invalid::new(
                "URL",
                text,
                "use https://HOST:PORT, as `hallpass serve` prints it",
            )
        })
    }
}

fn parse(text: &str) -> Option<ServerUrl> {
    let authority = text.strip_prefix("https://")?;
    let authority = authority
        .strip_suffix('/')
        .unwrap_or(authority)
        .to_ascii_lowercase();
    let (host, rest) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest.strip_prefix(':') {
        // `parse` alone would take a sign.
        Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().ok()?,
        None if rest.is_empty() => ServerUrl::HTTPS,
        _ => return None,
    };
    let host = host.parse().ok()?;
    (port != 0).then_some(ServerUrl { host, port })
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.address() {
            Some(std::net::IpAddr::V6(address)) => write!(f, "https://[{address}]")?,
            _ => write!(f, "https://{}", self.host)?,
        }
        if self.port == Self::HTTPS {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

impl TryFrom<String> for ServerUrl {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ServerUrl> for String {
    fn from(url: ServerUrl) -> Self {
        url.to_string()
    }
}

/// The fingerprint of a CA's root certificate: `SHA256:` and 43 characters of base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin(String);

impl Pin {
    /// The fingerprint as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pin {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digest = text
            .strip_prefix("SHA256:")
            .and_then(|end| STANDARD_NO_PAD.decode(end).ok());
        if digest.is_some_and(|digest| digest.len() == 32) {
            Ok(Self(text.to_owned()))
        } else {
            let expected = "use SHA256:..., as `hallpass init` and `hallpass serve` print it";
            Err(Invalid::new("fingerprint", text, expected))
        }
    }
}

impl TryFrom<String> for Pin {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.0
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_url_is_https_with_a_host_and_a_port() {
        for (text, shown) in [
            ("https://localhost:8443", "https://localhost:8443"),
            ("https://CA.example.org/", "https://ca.example.org"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("https://127.0.0.1:443", "https://127.0.0.1"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "localhost:8443",
            "http://localhost",
            "https://",
            "https://a:0",
            "https://a:+1",
            "https://a:99999",
            "https://a/v1",
            "https://a?b",
            "https://u@a",
            "https://a b",
            "https://[::1",
            "https://a:",
            "https://-oProxyCommand",
        ] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pin_is_a_whole_sha_256() {
        let good = format!("SHA256:{}", STANDARD_NO_PAD.encode([7; 32]));
        assert_eq!(good.parse::<Pin>().unwrap().as_str(), good);
        for bad in [
            "",
            "SHA256:",
            "SHA256:AAAA",
            &good[7..],
            &format!("{good}="),
        ] {
            assert!(bad.parse::<Pin>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<ServerUrl>();
            let _ = format!("https://{text}").parse::<ServerUrl>();
            let _ = text.parse::<Pin>();
        }
    }
}
