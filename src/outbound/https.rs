use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::{Serializer, byte_serialize};
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use zeroize::Zeroizing;

use super::{RootsError, roots};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than anybody's metadata, keys or tokens take.
const LARGEST_ANSWER: u64 = 256 * 1024;

/// Asks others by HTTPS, or by HTTP on this machine itself: no redirects, no proxies, ten seconds.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Https(ureq::Agent);

/// What was answered.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, of 256 KiB at most.
    pub body: Zeroizing<Vec<u8>>,
}

/// What speaks TLS with whoever shows a certificate under one of the roots in `ca_file`, else under
/// the system's, and waits so long.
///
/// # Errors
/// When there are no roots.
pub fn agent(
    ca_file: Option<&Path>,
    connect_timeout: Duration,
    timeout: Duration,
) -> Result<ureq::Agent, RootsError> {
    let roots = roots(ca_file)?;
    let roots = roots
        .iter()
        .map(|root| Certificate::from_der(root).to_owned());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(plain(connect_timeout, timeout)
        .tls_config(tls)
        .build()
        .new_agent())
}

/// The same without roots: for those who are not asked by TLS.
pub fn plain_agent(connect_timeout: Duration, timeout: Duration) -> ureq::Agent {
    plain(connect_timeout, timeout).build().new_agent()
}

fn plain(
    connect_timeout: Duration,
    timeout: Duration,
) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(connect_timeout))
        .timeout_global(Some(timeout))
        .user_agent(concat!("hallpass/", env!("CARGO_PKG_VERSION")))
}

impl Https {
    /// Knows whoever shows a certificate under one of the roots in `ca_file`, else under the system's.
    ///
    /// # Errors
    /// When there are no roots.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, RootsError> {
        agent(ca_file, CONNECT_TIMEOUT, TIMEOUT).map(Self)
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn get(&self, url: &str) -> Result<Answer, HttpsError> {
        let request = Request::get(url).header("accept", "application/json");
        self.run(request, Zeroizing::default()).await
    }

    /// Posts a form. `basic` is a client's id and secret (RFC 6749, section 2.3.1).
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn post_form(
        &self,
        url: &str,
        fields: &[(&str, &str)],
        basic: Option<(&str, &str)>,
    ) -> Result<Answer, HttpsError> {
        let form = Serializer::new(String::new())
            .extend_pairs(fields)
            .finish()
            .into_bytes();
        let mut request = Request::post(url)
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some((id, secret)) = basic {
            let encoded = |text: &str| {
                let text: String = byte_serialize(text.as_bytes()).collect();
                Zeroizing::new(text)
            };
            let (id, secret) = (encoded(id), encoded(secret));
            let pair = Zeroizing::new(format!("{}:{}", *id, *secret));
            let pair = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
            let header = Zeroizing::new(format!("Basic {}", *pair));
            request = request.header("authorization", header.as_str());
        }
        self.run(request, Zeroizing::new(form)).await
    }

    /// On a thread that may wait.
    async fn run(
        &self,
        request: ureq::http::request::Builder,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, HttpsError> {
        let agent = self.0.clone();
        let run = move || {
            let request = request
                .body(body.as_slice())
                .map_err(|_| HttpsError("its address can't be used".to_owned()))?;
            read(agent.run(request)?)
        };
        let answer = tokio::task::spawn_blocking(run).await;
        answer.unwrap_or_else(|_| Err(HttpsError("this server stops".to_owned())))
    }
}

fn read(mut response: Response<ureq::Body>) -> Result<Answer, HttpsError> {
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(LARGEST_ANSWER);
    Ok(Answer {
        status,
        body: Zeroizing::new(body.read_to_vec()?),
    })
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HttpsError(String);

impl From<ureq::Error> for HttpsError {
    fn from(error: ureq::Error) -> Self {
        Self(match error {
            ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
            ureq::Error::BodyExceedsLimit(_) => "its answer is too large".to_owned(),
            error => error.to_string(),
        })
    }
}
