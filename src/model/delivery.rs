use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use super::{DeliveryName, HostName, Invalid};

/// Where the server delivers its log by itself: a `[[deliver]]` table of `hallpass.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Table")]
pub struct Delivery {
    /// What it is called. How far it has come is kept under this name.
    pub name: DeliveryName,
    /// To whom.
    pub to: Receiver,
    /// The root certificates that the receiver's is under, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Who takes the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// A syslog server, over TLS.
    Syslog(Endpoint),
    /// An HTTP server that entries are posted to.
    Webhook {
        /// Where.
        url: WebhookUrl,
        /// The file that holds the bearer token.
        bearer_file: Option<PathBuf>,
    },
}

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: DeliveryName,
    syslog: Option<Endpoint>,
    webhook: Option<WebhookUrl>,
    ca_file: Option<PathBuf>,
    bearer_file: Option<PathBuf>,
}

impl TryFrom<Table> for Delivery {
    type Error = String;

    fn try_from(table: Table) -> Result<Self, String> {
        let name = table.name;
        let wrong = |what: &str| Err(format!("deliver {:?}: {what}", name.as_str()));
        let to = match (table.syslog, table.webhook) {
            (Some(_), Some(_)) => {
                return wrong("it has both syslog and webhook: make a table of each");
            }
            (None, None) => {
                return wrong("add where to: syslog = \"HOST:PORT\" or webhook = \"https://...\"");
            }
            (Some(_), None) if table.bearer_file.is_some() => {
                return wrong("bearer_file is for a webhook: remove it");
            }
            (Some(endpoint), None) => Receiver::Syslog(endpoint),
            (None, Some(url)) if !url.tls && table.ca_file.is_some() => {
                return wrong("ca_file is for https, and the webhook is http: remove it");
            }
            (None, Some(url)) => Receiver::Webhook {
                url,
                bearer_file: table.bearer_file,
            },
        };
        Ok(Self {
            name,
            to,
            ca_file: table.ca_file,
        })
    }
}

/// A host and a TCP port: `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint {
    /// The name, which the host's certificate must be for.
    pub host: HostName,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The port may be left out where there is a usual one.
    fn parse(text: &str, usual: Option<u16>) -> Option<Self> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            // `parse` alone would take a sign.
            Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().ok()?,
            None if rest.is_empty() => usual?,
            _ => return None,
        };
        let host = host.to_ascii_lowercase().parse().ok()?;
        (port != 0).then_some(Self { host, port })
    }
}

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text, None)
            .ok_or_else(|| Invalid::new("address", text, "use HOST:PORT; 6514 is usual for syslog"))
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.address() {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where entries are posted: `https://HOST[:PORT]/PATH`; `http://` for this machine alone.
///
/// It is never shown: its path may be all that the receiver knows us by.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct WebhookUrl {
    /// Whether it is `https`.
    pub tls: bool,
    /// The server.
    pub endpoint: Endpoint,
    /// Path and query.
    pub target: String,
}

impl FromStr for WebhookUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let expected = "use https://HOST:PORT/PATH without a user or a fragment, or http:// for a \
                        receiver on this machine";
        // Only its beginning stands in the error.
        let shown = text.find("//").map_or(text, |start| {
            let end = text[start + 2..].find(['/', '?', '@']);
            end.map_or(text, |end| &text[..start + 2 + end])
        });
        webhook_url(text).ok_or_else(|| Invalid::new("webhook", shown, expected))
    }
}

fn webhook_url(text: &str) -> Option<WebhookUrl> {
    let (tls, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://")?),
    };
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let endpoint = Endpoint::parse(authority, Some(if tls { 443 } else { 80 }))?;
    let is_here = endpoint.host.as_str() == "localhost"
        || endpoint.host.address().is_some_and(|ip| ip.is_loopback());
    let is_plain = target.bytes().all(|c| c.is_ascii_graphic() && c != b'#');
    if !is_plain || !(tls || is_here) {
        return None;
    }
    let slash = if target.starts_with('/') { "" } else { "/" };
    Some(WebhookUrl {
        tls,
        endpoint,
        target: format!("{slash}{target}"),
    })
}

impl TryFrom<String> for WebhookUrl {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({})", self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for (text, shown) in [
            ("logs.example.org:6514", "logs.example.org:6514"),
            ("LOGS:1", "logs:1"),
            ("[::1]:6514", "[::1]:6514"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "logs",
            "logs:",
            "logs:0",
            "logs:+1",
            "logs:70000",
            "::1:6514",
            ":1",
            "a b:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_webhook_is_https_or_on_this_machine() {
        let parsed = |text: &str| {
            let url: WebhookUrl = text.parse().unwrap();
            format!("{} {} {}", url.tls, url.endpoint, url.target)
        };
        assert_eq!(parsed("https://siem/in?a=b"), "true siem:443 /in?a=b");
        assert_eq!(parsed("https://siem:8443"), "true siem:8443 /");
        assert_eq!(parsed("https://siem?a"), "true siem:443 /?a");
        assert_eq!(parsed("http://127.0.0.1:80/x"), "false 127.0.0.1:80 /x");
        assert_eq!(parsed("http://[::1]"), "false [::1]:80 /");
        assert_eq!(parsed("http://localhost"), "false localhost:80 /");
        for bad in [
            "",
            "siem",
            "ftp://siem",
            "http://siem/",
            "https://",
            "https://u:p@siem/",
            "https://siem/a b",
            "https://siem/#x",
            "https://siem/\r\n",
            "http://127.0.0.1.evil/",
            "http://localhost@siem/",
        ] {
            assert!(bad.parse::<WebhookUrl>().is_err(), "{bad:?}");
        }
        let secret = "https://bob:secret@siem/secret"
            .parse::<WebhookUrl>()
            .unwrap_err();
        assert!(!format!("{secret} {secret:?}").contains("/secret"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Endpoint>();
            let _ = format!("https://{text}").parse::<WebhookUrl>();
            let _ = format!("http://{text}").parse::<WebhookUrl>();
        }
    }
}
