//! Who signs tokens, and by which keys.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::jwt::{self, Claims, Expected, Jwks, JwtError};
use crate::model::{IssuerUrl, Timestamp};
use crate::outbound::{Answer, Https, HttpsError};

/// For how long metadata and keys are believed.
const LIFE: Duration = Duration::from_secs(60 * 60);
/// How often in a minute keys are fetched at most since a token names one that is not known: anybody
/// can write such a token.
const REFETCHES: usize = 6;
/// For how long one that gives no answer is not asked again: whoever waits behind a question that came
/// to nothing is not to wait as long once more.
const REST: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// An issuer of tokens. Its keys are fetched when they are needed, and kept for an hour.
pub struct Issuer {
    name: String,
    keys: KeysFrom,
    /// What was fetched last. Never locked while something is fetched: whoever needs nothing new does
    /// not wait for those who do.
    known: RwLock<Known>,
    /// Held while something is fetched, so that two who need it fetch it once.
    fetching: Mutex<Fetching>,
}

/// Where its keys come from.
enum KeysFrom {
    /// From where its metadata says.
    Metadata(IssuerUrl, Https),
    Address(IssuerUrl, Https),
    Given,
}

#[derive(Clone, Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, Instant)>,
    keys: Option<(Arc<Jwks>, Instant)>,
}

#[derive(Default)]
struct Fetching {
    /// When keys were fetched since one was not known, in the last minute.
    refetched: Vec<Instant>,
    /// Why there was no answer, and when.
    failed: Option<(IssuerError, Instant)>,
}

/// What an issuer says of itself (OpenID Connect Discovery 1.0, section 3; RFC 8414; RFC 8628, section 4;
/// RFC 9207, section 3).
#[derive(Clone, Debug, Deserialize)]
pub struct Metadata {
    issuer: String,
    /// Where its keys are.
    pub jwks_uri: IssuerUrl,
    /// Where people sign in.
    pub authorization_endpoint: Option<IssuerUrl>,
    /// Where codes are redeemed.
    pub token_endpoint: Option<IssuerUrl>,
    /// Where logins on other devices begin.
    pub device_authorization_endpoint: Option<IssuerUrl>,
    /// Whether each redirect says whom it comes from.
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
    /// How clients prove who they are.
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Issuer {
    /// One that says itself where its keys are.
    pub fn discovered(issuer: IssuerUrl, https: Https) -> Self {
        Self::new(issuer.to_string(), KeysFrom::Metadata(issuer, https))
    }

    /// One whose keys are at an address.
    pub fn with_keys_at(name: String, keys: IssuerUrl, https: Https) -> Self {
        Self::new(name, KeysFrom::Address(keys, https))
    }

    /// One whose keys never change.
    pub fn with_keys(name: String, keys: Jwks) -> Self {
        let issuer = Self::new(name, KeysFrom::Given);
        issuer.learn(|known| known.keys = Some((Arc::new(keys), Instant::now())));
        issuer
    }

    fn new(name: String, keys: KeysFrom) -> Self {
        Self {
            name,
            keys,
            known: RwLock::default(),
            fetching: Mutex::default(),
        }
    }

    fn known(&self) -> Known {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn learn(&self, learn: impl FnOnce(&mut Known)) {
        learn(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The `iss` of its tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it can't be asked, or is another.
    pub async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError> {
        match self.known().metadata {
            Some((metadata, fetched)) if fetched.elapsed() < LIFE => Ok(metadata),
            _ => self.fetch_metadata(&mut *self.fetching.lock().await).await,
        }
    }

    async fn fetch_metadata(&self, fetching: &mut Fetching) -> Result<Arc<Metadata>, IssuerError> {
        let KeysFrom::Metadata(issuer, https) = &self.keys else {
            return Err(IssuerError::Strange("it has no metadata".to_owned()));
        };
        // Another who waited for the same may have fetched it.
        if let Some((metadata, fetched)) = self.known().metadata
            && fetched.elapsed() < LIFE
        {
            return Ok(metadata);
        }
        let base = issuer.as_str();
        let base = base.strip_suffix('/').unwrap_or(base);
        let url = format!("{base}/.well-known/openid-configuration");
        let answer = fetching.fetch(https, &url).await?;
        let metadata: Metadata = serde_json::from_slice(&answer.body).map_err(|error| {
            // What an error quotes may be long.
            let why: String = error.to_string().chars().take(200).collect();
            IssuerError::Strange(format!("its metadata at {url}: {why}"))
        })?;
        if metadata.issuer != self.name {
            let told: String = metadata.issuer.chars().take(200).collect();
            return Err(IssuerError::Strange(format!(
                "its metadata at {url} says that it is {told:?}, and not {}",
                self.name
            )));
        }
        let metadata = Arc::new(metadata);
        self.learn(|known| known.metadata = Some((Arc::clone(&metadata), Instant::now())));
        Ok(metadata)
    }

    /// Verifies a token by its keys, and that it says what it must.
    ///
    /// # Errors
    /// When it does not count, or the keys can't be fetched.
    pub async fn verify(
        &self,
        token: &str,
        expected: &Expected<'_>,
        now: Timestamp,
    ) -> Result<Claims, IssuerError> {
        let keys = self.keys(None).await?;
        match jwt::verify(token, &keys, expected, now) {
            // It may have new ones.
            Err(JwtError::UnknownKey(_)) => {
                let keys = self.keys(Some(&keys)).await?;
                Ok(jwt::verify(token, &keys, expected, now)?)
            }
            verified => Ok(verified?),
        }
    }

    /// Its keys: fetched again when they are old, or when a token names one that is not among `old`.
    async fn keys(&self, old: Option<&Arc<Jwks>>) -> Result<Arc<Jwks>, IssuerError> {
        let current = || match self.known().keys {
            Some((keys, _)) if matches!(self.keys, KeysFrom::Given) => Some(keys),
            Some((keys, fetched)) if fetched.elapsed() < LIFE => {
                let is_new = old.is_none_or(|old| !Arc::ptr_eq(old, &keys));
                is_new.then_some(keys)
            }
            _ => None,
        };
        if let Some(keys) = current() {
            return Ok(keys);
        }
        let fetching = &mut *self.fetching.lock().await;
        // Another who waited for the same may have fetched them.
        if let Some(keys) = current() {
            return Ok(keys);
        }
        if let Some(old) = old {
            fetching.refetched.retain(|when| when.elapsed() < MINUTE);
            if fetching.refetched.len() >= REFETCHES {
                return Ok(Arc::clone(old));
            }
            fetching.refetched.push(Instant::now());
        }
        let (url, https) = match &self.keys {
            KeysFrom::Metadata(_, https) => {
                let metadata = self.fetch_metadata(fetching).await?;
                (metadata.jwks_uri.clone(), https)
            }
            KeysFrom::Address(url, https) => (url.clone(), https),
            KeysFrom::Given => return Err(IssuerError::Strange("it has no keys".to_owned())),
        };
        let answer = fetching.fetch(https, url.as_str()).await?;
        let keys = Jwks::parse(&answer.body)
            .map_err(|error| IssuerError::Strange(format!("its keys at {url}: {error}")))?;
        let keys = Arc::new(keys);
        self.learn(|known| known.keys = Some((Arc::clone(&keys), Instant::now())));
        Ok(keys)
    }
}

impl Fetching {
    async fn fetch(&mut self, https: &Https, url: &str) -> Result<Answer, IssuerError> {
        if let Some((error, when)) = &self.failed
            && when.elapsed() < REST
        {
            return Err(error.clone());
        }
        let answer = fetch(https, url).await;
        self.failed = match &answer {
            Err(error) if error.is_unreachable() => Some((error.clone(), Instant::now())),
            _ => None,
        };
        answer
    }
}

async fn fetch(https: &Https, url: &str) -> Result<Answer, IssuerError> {
    let answer = https.get(url).await?;
    if answer.status != 200 {
        let why = format!("{url} answered with status {}", answer.status);
        return Err(if answer.status >= 500 {
            IssuerError::Unreachable(why)
        } else {
            IssuerError::Strange(why)
        });
    }
    Ok(answer)
}

/// Why a token can't be verified.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IssuerError {
    /// It gives no answer.
    #[error("{0}")]
    Unreachable(String),
    /// It answers in a way that makes no sense.
    #[error("{0}")]
    Strange(String),
    /// The token does not count.
    #[error(transparent)]
    Token(#[from] JwtError),
}

impl IssuerError {
    /// Whether it may be right another time.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

impl From<HttpsError> for IssuerError {
    fn from(error: HttpsError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A server that answers every question alike, and counts them.
    fn server(body: &'static str, pause: Duration) -> (IssuerUrl, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::default());
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 2048]).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause);
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                )
                .unwrap();
            }
        });
        (url.parse().unwrap(), asked)
    }

    fn issuer(url: &IssuerUrl) -> Issuer {
        let https = Https::new(None).unwrap();
        Issuer::with_keys_at("https://issuer".to_owned(), url.clone(), https)
    }

    #[tokio::test]
    async fn keys_are_fetched_once_for_all_who_need_them_and_not_for_ever_for_unknown_ones() {
        let (url, asked) = server(r#"{"keys": []}"#, Duration::from_millis(100));
        let issuer = issuer(&url);
        let expected = Expected {
            issuer: None,
            audience: "us",
            nonce: None,
            max_age: None,
        };
        let both = tokio::join!(issuer.keys(None), issuer.keys(None));
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(issuer.keys(None).await.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // {"alg":"ES256","kid":"x"} and an empty object
        let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.e30.AAAA";
        for _ in 0..10 {
            let refused = issuer.verify(token, &expected, Timestamp::default()).await;
            let error = JwtError::UnknownKey(Some("x".to_owned()));
            assert!(matches!(refused, Err(IssuerError::Token(refused)) if refused == error));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1 + REFETCHES);
    }

    #[tokio::test]
    async fn one_that_gives_no_answer_is_let_rest() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let issuer = issuer(&url.parse().unwrap());
        let first = issuer.keys(None).await.unwrap_err();
        assert!(first.is_unreachable());
        // Somebody listens there now, who is not asked yet.
        let _listener = TcpListener::bind(url.strip_prefix("http://").unwrap()).unwrap();
        let second = issuer.keys(None).await.unwrap_err();
        assert_eq!(first.to_string(), second.to_string());
    }
}
