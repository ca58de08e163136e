use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use ureq::http::Uri;

use super::request::{AddCheckpoint, size};
use crate::audit::{NoteKind, VerifierKey};
use crate::model::Invalid;
use crate::outbound::{self, RootsError};

/// A witness has nothing to do but to verify a signature and to write a line.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);
/// A few lines are expected.
const LARGEST_ANSWER: u64 = 16 * 1024;

/// A witness that a CA asks for cosignatures: a `[[witness]]` of `hallpass.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedWitness {
    /// Where it answers.
    pub url: WitnessUrl,
    /// Its key. What another signed does not count.
    #[serde(deserialize_with = "cosigning")]
    pub key: VerifierKey,
    /// The root certificates by which it is known, for `https`; the system's when left out.
    pub ca_file: Option<PathBuf>,
}

fn cosigning<'de, D: Deserializer<'de>>(text: D) -> Result<VerifierKey, D::Error> {
    let key = VerifierKey::deserialize(text)?;
    if key.kind() == NoteKind::Cosignature {
        return Ok(key);
    }
    let what = "this is a log's key: take the one that `hallpass witness init` prints";
    Err(serde::de::Error::custom(what))
}

/// The submission prefix of a witness: `http://HOST[:PORT][/PATH]`, or `https`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct WitnessUrl(String);

impl FromStr for WitnessUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let legal = text.parse::<Uri>().is_ok_and(|uri| {
            let host = uri.host().is_some_and(|host| !host.is_empty());
            let plain = uri.query().is_none() && !text.contains(['@', '#']);
            host && plain && matches!(uri.scheme_str(), Some("http" | "https"))
        });
        if legal {
            return Ok(Self(text.trim_end_matches('/').to_owned()));
        }
        let expected = "use http://HOST:PORT, as `hallpass witness serve` prints it, or https";
        Err(Invalid::new("URL of a witness", text, expected))
    }
}

impl TryFrom<String> for WitnessUrl {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Speaks to a witness.
pub(super) struct Caller {
    agent: ureq::Agent,
    target: String,
}

/// What a witness said.
pub(super) enum Said {
    /// Lines that should be its signature.
    Cosigned(String),
    /// The size of the checkpoint that it cosigned last.
    AnotherSize(u64),
    /// The proof does not hold, it says.
    Unproven,
    /// Something else, in its own words.
    Refused(u16, String),
}

impl Caller {
    /// For a witness, with the folder that its `ca_file` is relative to.
    pub(super) fn new(witness: &AskedWitness, folder: &Path) -> Result<Self, AskedError> {
        let ca_file = witness.ca_file.as_ref().map(|path| folder.join(path));
        let agent = if witness.url.0.starts_with("https:") {
            let name = witness.key.name();
            outbound::agent(ca_file.as_deref(), CONNECT_TIMEOUT, TIMEOUT)
                .map_err(|source| AskedError::Roots(name.to_owned(), source))?
        } else {
            outbound::plain_agent(CONNECT_TIMEOUT, TIMEOUT)
        };
        let target = format!("{}/add-checkpoint", witness.url);
        Ok(Self { agent, target })
    }

    /// Waits for the answer, or says why there is none.
    pub(super) fn call(&self, asked: &AddCheckpoint) -> Result<Said, String> {
        let mut answer = self
            .agent
            .post(&self.target)
            .header("content-type", "text/plain; charset=utf-8")
            .send(asked.to_string())
            .map_err(|error| match error {
                ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
                error => error.to_string(),
            })?;
        let status = answer.status().as_u16();
        let text = answer
            .body_mut()
            .with_config()
            .limit(LARGEST_ANSWER)
            .read_to_vec()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let cosigned = || text.strip_suffix('\n').and_then(size);
        Ok(match status {
            200 => Said::Cosigned(text),
            409 if let Some(size) = cosigned() => Said::AnotherSize(size),
            422 => Said::Unproven,
            _ => Said::Refused(status, shortened(&text)),
        })
    }
}

/// A stranger's words, such that they can stand in a log.
fn shortened(text: &str) -> String {
    let text: String = text.trim().chars().take(200).collect();
    text.escape_debug().to_string()
}

/// Why a witness of the configuration can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskedError {
    /// Whoever answers could not be known.
    #[error("hallpass.toml: witness {0}: {1}")]
    Roots(String, RootsError),
    /// Two of one name.
    #[error(
        "hallpass.toml: two witnesses have the name {0}: nobody could tell whose cosignatures are \
         meant; remove one"
    )]
    SameName(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_prefix_and_nothing_more() {
        for (text, shown) in [
            ("http://127.0.0.1:8444", "http://127.0.0.1:8444"),
            (
                "https://witness.example.org/",
                "https://witness.example.org",
            ),
            ("https://example.org/a/b/", "https://example.org/a/b"),
            ("http://[::1]:8444", "http://[::1]:8444"),
        ] {
            assert_eq!(text.parse::<WitnessUrl>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "witness.example.org",
            "ftp://example.org",
            "file:///etc/passwd",
            "http://",
            "http://user:secret@example.org",
            "https://example.org?x=y",
            "https://example.org/#x",
            "https://a b",
        ] {
            assert!(bad.parse::<WitnessUrl>().is_err(), "{bad:?}");
        }
    }
}
