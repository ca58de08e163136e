use std::fmt::{self, Write};
use std::io::Read;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::CryptoProvider;
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::http::{Request, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::{Connection, KeyError, LogKeys, ServerUrl, SigningKey, now};
use crate::identity::{Proof, REQUEST_NAMESPACE, request_message};
use crate::keys::{SignError, random_bytes};
use crate::model::{LoginWays, Problem, SignedTrust, Timestamp, TrustBundle};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The server answers in milliseconds, unless its log waits for the disk.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Room for 1000 entries of the log.
const LARGEST_ANSWER: u64 = 64 * 1024 * 1024;
/// A difference between clocks that is worth a word; the server takes 60 s.
const WORTH_A_WORD: Duration = Duration::from_secs(30);

/// The CA's API. Its server shows a certificate under the pinned root, or nothing is sent.
pub struct Api {
    agent: ureq::Agent,
    url: ServerUrl,
    audience: String,
    /// Others may become known while it is in use.
    log: RwLock<LogKeys>,
    key: SigningKey,
}

impl Api {
    /// Speaks to the CA of `connection`; `key` signs.
    pub fn new(connection: &Connection, key: SigningKey) -> Self {
        let agent = agent(&connection.root_pem);
        Self {
            agent,
            url: connection.url.clone(),
            audience: connection.pin.to_string(),
            log: RwLock::new(connection.log.clone()),
            key,
        }
    }

    /// Where the CA answers.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// The fingerprint of the CA's root certificate.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The keys that sign the checkpoints of the CA's log, as far as they are known.
    pub fn log_keys(&self) -> LogKeys {
        let known = self.log.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    pub(super) fn know_log_keys(&self, keys: LogKeys) {
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The key that signs the requests.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// What the CA wants to be trusted. Needs no signature.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn trust(&self) -> Result<TrustBundle, ApiError> {
        trust(&self.agent, &self.url)
    }

    /// Who signs in there. Needs no signature.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn login_ways(&self) -> Result<LoginWays, ApiError> {
        login_ways(&self.agent, &self.url)
    }

    /// The same, signed by the keys of its log. Nobody has checked that.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn signed_trust(&self) -> Result<SignedTrust, ApiError> {
        signed_trust_from(&self.agent, &self.url)
    }

    /// Asks for something that is text.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn get_text(&self, target: &str) -> Result<String, ApiError> {
        String::from_utf8(self.get_bytes(target)?).map_err(|error| self.strange(error))
    }

    /// Asks for something that is neither text nor JSON.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn get_bytes(&self, target: &str) -> Result<Vec<u8>, ApiError> {
        self.body(self.send("GET", target, Vec::new(), &nonce()?)?)
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ApiError> {
        self.answer(self.send("GET", target, Vec::new(), &nonce()?)?)
    }

    /// Asks for something that has no end. Reading it fails when nothing comes for so long.
    pub(super) fn stream(
        &self,
        target: &str,
        silence: Duration,
    ) -> Result<impl Read + use<>, ApiError> {
        let request = self.signed("GET", target, Vec::new(), now(), &nonce()?)?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(None)
            .timeout_recv_response(Some(TIMEOUT))
            .timeout_per_read(Some(silence))
            .build();
        let response = run(&self.agent, &self.url, request)?;
        if !response.status().is_success() {
            let error = self.body(response).map(|_| self.strange("no stream"));
            return Err(error.unwrap_or_else(|error| error));
        }
        let body = response.into_body().into_with_config();
        Ok(body.limit(u64::MAX).reader())
    }

    /// Asks to do something.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        self.post_with(&nonce()?, target, body)
    }

    /// The same with a nonce that something in the body is bound to.
    pub(super) fn post_with<T: DeserializeOwned>(
        &self,
        nonce: &str,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        self.post_at(now(), nonce, target, body)
    }

    /// The same with a time that it is bound to as well.
    pub(super) fn post_at<T: DeserializeOwned>(
        &self,
        time: Timestamp,
        nonce: &str,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| self.strange(error))?;
        let request = self.signed("POST", target, body, time, nonce)?;
        self.answer(run(&self.agent, &self.url, request)?)
    }

    /// Asks to do something that needs no further words.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn post_nothing<T: DeserializeOwned>(&self, target: &str) -> Result<T, ApiError> {
        self.answer(self.send("POST", target, Vec::new(), &nonce()?)?)
    }

    /// Asks to do something that is answered with nothing.
    ///
    /// # Errors
    /// When it was not done.
    pub fn post_unanswered(&self, target: &str, body: &impl Serialize) -> Result<(), ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| self.strange(error))?;
        let response = self.send("POST", target, body, &nonce()?)?;
        self.body(response).map(|_| ())
    }

    /// Asks to remove something.
    ///
    /// # Errors
    /// When it was not.
    pub fn delete(&self, target: &str) -> Result<(), ApiError> {
        self.body(self.send("DELETE", target, Vec::new(), &nonce()?)?)
            .map(|_| ())
    }

    fn send(
        &self,
        method: &str,
        target: &str,
        body: Vec<u8>,
        nonce: &str,
    ) -> Result<Response<ureq::Body>, ApiError> {
        let request = self.signed(method, target, body, now(), nonce)?;
        run(&self.agent, &self.url, request)
    }

    fn signed(
        &self,
        method: &str,
        target: &str,
        body: Vec<u8>,
        time: Timestamp,
        nonce: &str,
    ) -> Result<Request<Vec<u8>>, ApiError> {
        let message = request_message(&self.audience, method, target, &body, time, nonce);
        let armored = self.key.sign(REQUEST_NAMESPACE, message.as_bytes())?;
        let signature: String = armored
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.url))
            .header(Proof::TIME, time.to_string())
            .header(Proof::NONCE, nonce)
            .header(Proof::SIGNATURE, signature);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        request.body(body).map_err(|error| self.strange(error))
    }

    fn answer<T: DeserializeOwned>(&self, response: Response<ureq::Body>) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body(response)?).map_err(|error| self.strange(error))
    }

    fn body(&self, response: Response<ureq::Body>) -> Result<Vec<u8>, ApiError> {
        body(&self.url, response)
    }

    pub(super) fn strange(&self, what: impl fmt::Display) -> ApiError {
        ApiError::strange(&self.url, what)
    }
}

/// Speaks TLS 1.3 with servers that have a certificate under one of these roots, and with no others.
pub(super) fn agent(root_pem: &str) -> ureq::Agent {
    // Without a root that can be read, no server is trusted.
    let roots = parse_pem(root_pem.as_bytes())
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(root)) => Some(root),
            _ => None,
        })
        .collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(tls13_provider()))
        .build();
    configured(tls)
}

fn configured(tls: TlsConfig) -> ureq::Agent {
    ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        // A proxy would hide the address that a certificate may be bound to.
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(TIMEOUT))
        .user_agent(concat!("hallpass/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// What the CA wants to be trusted, signed by its log's key. The server that gives it is not asked
/// who it is: the signature alone counts.
///
/// # Errors
/// When there is no good answer.
pub fn signed_trust(url: &ServerUrl) -> Result<SignedTrust, ApiError> {
    let tls = TlsConfig::builder()
        .disable_verification(true)
        .unversioned_rustls_crypto_provider(Arc::new(tls13_provider()))
        .build();
    signed_trust_from(&configured(tls), url)
}

fn signed_trust_from(agent: &ureq::Agent, url: &ServerUrl) -> Result<SignedTrust, ApiError> {
    unsigned(agent, url, "/v1/trust/signed")
}

/// What the CA wants to be trusted. Needs no signature.
pub(super) fn trust(agent: &ureq::Agent, url: &ServerUrl) -> Result<TrustBundle, ApiError> {
    unsigned(agent, url, "/v1/trust")
}

/// Who signs in here. Needs no signature.
pub(super) fn login_ways(agent: &ureq::Agent, url: &ServerUrl) -> Result<LoginWays, ApiError> {
    unsigned(agent, url, "/v1/login")
}

fn unsigned<T: DeserializeOwned>(
    agent: &ureq::Agent,
    url: &ServerUrl,
    target: &str,
) -> Result<T, ApiError> {
    let request = Request::get(format!("{url}{target}"))
        .body(Vec::new())
        .map_err(|error| ApiError::strange(url, error))?;
    let answer = body(url, run(agent, url, request)?)?;
    serde_json::from_slice(&answer).map_err(|error| ApiError::strange(url, error))
}

fn run(
    agent: &ureq::Agent,
    url: &ServerUrl,
    request: Request<Vec<u8>>,
) -> Result<Response<ureq::Body>, ApiError> {
    agent
        .run(request)
        .map_err(|error| ApiError::from_ureq(url, error))
}

/// The body of a good answer.
fn body(url: &ServerUrl, mut response: Response<ureq::Body>) -> Result<Vec<u8>, ApiError> {
    let status = response.status().as_u16();
    let date = response
        .headers()
        .get("date")
        .and_then(|date| http_date(date.to_str().ok()?));
    let body = response
        .body_mut()
        .with_config()
        .limit(LARGEST_ANSWER)
        .read_to_vec()
        .map_err(|error| ApiError::from_ureq(url, error))?;
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let problem: Problem = serde_json::from_slice(&body)
        .map_err(|_| ApiError::strange(url, format!("status {status} without an explanation")))?;
    let skew = date
        .filter(|_| status == 401)
        .and_then(|date| Skew::between(now(), date));
    Err(ApiError::Refused {
        status,
        kind: problem.kind,
        detail: problem.detail,
        skew,
    })
}

/// A fresh nonce.
pub(super) fn nonce() -> Result<String, ApiError> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes::<18>()?))
}

/// Ring's cryptography with the cipher suites of TLS 1.3 alone, by which no other version can be
/// agreed on.
pub(super) fn tls13_provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    provider
}

/// A path with its query, percent-encoded.
#[derive(Clone)]
pub struct Query {
    target: String,
    separator: char,
}

impl Query {
    /// A path of these segments.
    pub fn path(segments: &[&str]) -> Self {
        let mut target = String::new();
        for segment in segments {
            target.push('/');
            encode(&mut target, segment);
        }
        Self {
            target,
            separator: '?',
        }
    }

    /// With a parameter, when it has a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            self.target.push(self.separator);
            self.separator = '&';
            self.target.push_str(name);
            self.target.push('=');
            encode(&mut self.target, &value.to_string());
        }
        self
    }

    /// As it stands in a request line.
    pub fn as_str(&self) -> &str {
        &self.target
    }
}

/// Everything but the unreserved characters of RFC 3986.
fn encode(target: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            target.push(byte.into());
        } else {
            write!(target, "%{byte:02X}").expect("a String takes any text");
        }
    }
}

/// How far this machine's clock is from the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    seconds: u64,
    ahead: bool,
}

impl Skew {
    fn between(here: Timestamp, there: Timestamp) -> Option<Self> {
        let distance = here.distance(there);
        (distance > WORTH_A_WORD).then(|| Self {
            seconds: distance.as_secs(),
            ahead: here > there,
        })
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.ahead { "ahead of" } else { "behind" };
        let seconds = self.seconds;
        write!(
            f,
            "\nThis machine's clock is {seconds} s {way} the server's, which takes 60 s: set it \
             right."
        )
    }
}

fn http_date(text: &str) -> Option<Timestamp> {
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(Timestamp::from_secs(
        u64::try_from(date.unix_timestamp()).ok()?,
    ))
}

/// Why the CA gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No connection, or it broke off.
    #[error("can't reach the CA at {url}: {why}; check that it runs and that the address is right")]
    Unreachable {
        /// Where.
        url: ServerUrl,
        /// Why.
        why: String,
    },
    /// Whoever answers does not prove to be the CA.
    #[error(
        "the server at {url} does not prove to be your CA: {why}; nothing was sent to it. If the \
         CA was made anew, or has another name, run `hallpass connect` again"
    )]
    Untrusted {
        /// Where.
        url: ServerUrl,
        /// What is wrong with its certificate.
        why: String,
    },
    /// The CA said no.
    #[error("{detail}{}", skew.map_or_else(String::new, |skew| skew.to_string()))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// A URN that programs can rely on.
        kind: String,
        /// Why, and what to do next.
        detail: String,
        /// What may be behind it.
        skew: Option<Skew>,
    },
    /// An answer that makes no sense.
    #[error("the server at {url} gives an answer that can't be understood: {what}")]
    Strange {
        /// Where.
        url: ServerUrl,
        /// What.
        what: String,
    },
    /// The request could not be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No nonce.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] SignError),
}

impl ApiError {
    fn strange(url: &ServerUrl, what: impl fmt::Display) -> Self {
        Self::Strange {
            url: url.clone(),
            what: what.to_string(),
        }
    }

    fn from_ureq(url: &ServerUrl, error: ureq::Error) -> Self {
        let url = url.clone();
        let tls = match &error {
            ureq::Error::Rustls(error) => Some(error),
            ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
            _ => None,
        };
        if let Some(why) = tls.and_then(|error| untrusted(&url, error)) {
            return Self::Untrusted { url, why };
        }
        let why = match &error {
            ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
            ureq::Error::HostNotFound => "there is no such host".to_owned(),
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        Self::Unreachable { url, why }
    }
}

/// What is wrong with a server's certificate, when that is what is wrong.
pub(super) fn untrusted(url: &ServerUrl, error: &rustls::Error) -> Option<String> {
    use rustls::CertificateError as Wrong;
    let rustls::Error::InvalidCertificate(wrong) = error else {
        return None;
    };
    Some(match wrong {
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => format!(
            "its certificate is not for the name {}, but for those in its hallpass.toml",
            url.host()
        ),
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "its certificate has expired, by this machine's clock".to_owned()
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "its certificate is not valid yet, by this machine's clock".to_owned()
        }
        Wrong::UnknownIssuer => "its certificate is another CA's".to_owned(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_holds_foreign_text_encoded() {
        let target = Query::path(&["v1", "users", "a/../b c", "SHA256:+/"])
            .with("user", Some("bob@example.org"))
            .with("role", None::<&str>)
            .with("limit", Some(5));
        assert_eq!(
            target.as_str(),
            "/v1/users/a%2F..%2Fb%20c/SHA256%3A%2B%2F?user=bob%40example.org&limit=5"
        );
    }

    #[test]
    fn clocks_that_differ_by_more_than_half_a_minute_are_worth_a_word() {
        let server = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(server.to_string(), "1994-11-06T08:49:37Z");
        assert_eq!(
            Skew::between(server.plus(Duration::from_secs(30)), server),
            None
        );
        let skew = Skew::between(server.minus(Duration::from_secs(90)), server).unwrap();
        assert_eq!(
            skew.to_string(),
            "\nThis machine's clock is 90 s behind the server's, which takes 60 s: set it right."
        );
    }

    #[test]
    fn only_tls_13_is_spoken() {
        let provider = tls13_provider();
        assert!(!provider.cipher_suites.is_empty());
        assert!(
            provider
                .cipher_suites
                .iter()
                .all(|suite| suite.tls13().is_some())
        );
    }
}
