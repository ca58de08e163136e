//! Who signs tokens, and by which keys.

use std::sync::Arc;
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
    /// Held while something is fetched, so that two who need it fetch it once.
    known: Mutex<Known>,
}

/// Where its keys come from.
enum KeysFrom {
    /// From where its metadata says.
    Metadata(IssuerUrl, Https),
    Address(IssuerUrl, Https),
    Given,
}

#[derive(Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, Instant)>,
    keys: Option<(Arc<Jwks>, Instant)>,
    /// When keys were fetched since one was not known, in the last minute.
    refetched: Vec<Instant>,
    /// Why it gave no answer, and when.
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
        let mut issuer = Self::new(name, KeysFrom::Given);
        issuer.known.get_mut().keys = Some((Arc::new(keys), Instant::now()));
        issuer
    }

    fn new(name: String, keys: KeysFrom) -> Self {
        Self {
            name,
            keys,
            known: Mutex::default(),
        }
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
        self.metadata_in(&mut *self.known.lock().await).await
    }

    async fn metadata_in(&self, known: &mut Known) -> Result<Arc<Metadata>, IssuerError> {
        let KeysFrom::Metadata(issuer, https) = &self.keys else {
            return Err(IssuerError::Strange("it has no metadata".to_owned()));
        };
        if let Some((metadata, fetched)) = &known.metadata
            && fetched.elapsed() < LIFE
        {
            return Ok(Arc::clone(metadata));
        }
        let base = issuer.as_str().trim_end_matches('/');
        let url = format!("{base}/.well-known/openid-configuration");
        let answer = known.fetch(https, &url).await?;
        let metadata: Metadata = serde_json::from_slice(&answer.body)
            .map_err(|error| IssuerError::Strange(format!("its metadata at {url}: {error}")))?;
        if metadata.issuer != self.name {
            let told: String = metadata.issuer.chars().take(200).collect();
            return Err(IssuerError::Strange(format!(
                "its metadata at {url} says that it is {told:?}, and not {}",
                self.name
            )));
        }
        let metadata = Arc::new(metadata);
        known.metadata = Some((Arc::clone(&metadata), Instant::now()));
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
        let mut known = self.known.lock().await;
        let known = &mut *known;
        if let Some((keys, fetched)) = &known.keys {
            let wanted = match old {
                None => fetched.elapsed() >= LIFE,
                // Another who waited for the same may have fetched them.
                Some(old) => Arc::ptr_eq(old, keys) && known.refetched.len() < REFETCHES,
            };
            if matches!(self.keys, KeysFrom::Given) || !wanted {
                known.refetched.retain(|fetched| fetched.elapsed() < MINUTE);
                return Ok(Arc::clone(keys));
            }
            if old.is_some() {
                known.refetched.push(Instant::now());
            }
        }
        let (url, https) = match &self.keys {
            KeysFrom::Metadata(_, https) => {
                (self.metadata_in(known).await?.jwks_uri.clone(), https)
            }
            KeysFrom::Address(url, https) => (url.clone(), https),
            KeysFrom::Given => return Err(IssuerError::Strange("it has no keys".to_owned())),
        };
        let answer = known.fetch(https, url.as_str()).await?;
        let keys = Jwks::parse(&answer.body)
            .map_err(|error| IssuerError::Strange(format!("its keys at {url}: {error}")))?;
        let keys = Arc::new(keys);
        known.keys = Some((Arc::clone(&keys), Instant::now()));
        Ok(keys)
    }
}

impl Known {
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
