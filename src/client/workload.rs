//! What a job has from its platform to say who it is.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Request;
use zeroize::Zeroizing;

use super::login::begin;
use super::{ConfigFolder, LoginFailed};
use crate::model::{SessionSummary, WorkloadLogin};
use crate::outbound;

/// The variable that holds a token, as GitLab's `id_tokens` sets it.
const TOKEN: &str = "HALLPASS_ID_TOKEN";
/// Where GitHub gives a job its tokens, and what for.
const GITHUB_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const GITHUB_TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";
const LONGEST: u64 = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(20);

/// What the environment has to say who a job is.
pub struct IdToken {
    token: Option<Zeroizing<String>>,
    github: Option<(String, Zeroizing<String>)>,
}

impl IdToken {
    /// Takes it out of the environment, so that no program which is started from here has it. To be
    /// called first of all, while there is one thread.
    pub fn take() -> Self {
        let take = |name: &str| {
            let value = env::var(name).ok().filter(|value| !value.is_empty())?;
            // SAFETY: there is no other thread yet that could read the environment.
            unsafe { env::remove_var(name) };
            Some(Zeroizing::new(value))
        };
        let (token, bearer) = (take(TOKEN), take(GITHUB_TOKEN));
        let url = env::var(GITHUB_URL).ok();
        Self {
            token,
            github: url.zip(bearer),
        }
    }

    /// The job's token for an audience: out of a file, else of the environment, else from GitHub.
    fn get(self, file: Option<&Path>, audience: &str) -> Result<Zeroizing<String>, TokenError> {
        match (file, self.token, self.github) {
            (Some(path), ..) => from_file(path),
            (None, Some(token), _) => Ok(token),
            (None, None, Some((url, bearer))) => from_github(&url, &bearer, audience),
            (None, None, None) => Err(TokenError::None),
        }
    }
}

/// Begins a session with a job's token. Its audience is the CA's address when none is given.
///
/// # Errors
/// When there is no token, or the CA does not take it.
pub fn workload_login(
    token: IdToken,
    file: Option<&Path>,
    audience: Option<&str>,
) -> Result<SessionSummary, LoginFailed> {
    let url = ConfigFolder::locate()?.load()?.url.to_string();
    let token = token.get(file, audience.unwrap_or(&url))?;
    let token = token.trim().to_owned();
    begin(|api| Ok(api.post("/v1/login/workload", &WorkloadLogin { token })?))
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, TokenError> {
    let unreadable = |source| TokenError::File {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// GitHub's answer.
#[derive(Deserialize)]
struct Given {
    value: String,
}

/// Asks GitHub for a token of this job ("About security hardening with OpenID Connect" in GitHub's
/// documentation).
fn from_github(url: &str, bearer: &str, audience: &str) -> Result<Zeroizing<String>, TokenError> {
    let failed = |why: String| TokenError::Github(why);
    // The bearer is a secret.
    let here = url.starts_with("http://127.0.0.1:");
    if !here && !url.starts_with("https://") {
        return Err(failed("its address is not one of HTTPS".to_owned()));
    }
    let agent = outbound::agent(None, CONNECT_TIMEOUT, TIMEOUT);
    let agent = agent.map_err(|error| failed(error.to_string()))?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("audience", audience)
        .finish();
    let separator = if url.contains('?') { '&' } else { '?' };
    let authorization = Zeroizing::new(format!("Bearer {bearer}"));
    let request = Request::get(format!("{url}{separator}{query}"))
        .header("authorization", authorization.as_str())
        .body(())
        .map_err(|_| failed("its address can't be used".to_owned()))?;
    let mut answer = agent
        .run(request)
        .map_err(|error| failed(error.to_string()))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(failed(format!("it answered {status}")));
    }
    let body = answer.body_mut().with_config().limit(LONGEST);
    let body = body
        .read_to_vec()
        .map_err(|error| failed(error.to_string()))?;
    // The error could quote the token.
    let given: Given =
        serde_json::from_slice(&body).map_err(|_| failed("its answer has no token".to_owned()))?;
    Ok(Zeroizing::new(given.value))
}

/// Why a job has no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is none anywhere.
    #[error(
        "this job has no token: in GitHub, give it `permissions: id-token: write`; in GitLab, set \
         HALLPASS_ID_TOKEN with `id_tokens`; elsewhere, name a file with --token-file"
    )]
    None,
    /// The file can't be read.
    #[error("can't read the token {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// GitHub gives none.
    #[error("GitHub gives this job no token: {0}")]
    Github(String),
}
