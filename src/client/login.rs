//! Signing in: a provider vouches for somebody, and a fresh key signs for them for a while.

use std::fs;
use std::io;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::api;
use super::callback::{Callback, Returned};
use super::runtime::Runtime;
use super::{
    Api, ApiError, ConfigError, ConfigFolder, Connection, FileError, KeyError, OpenError, Query,
    RuntimeError, SigningKey, TokenError, agent, files, now,
};
use crate::identity::{TOUCH_NAMESPACE, touch_message};
use crate::keys::{SignError, random_bytes};
use crate::model::{
    DevicePrompt, LoginAnswer, LoginBegin, LoginBegun, LoginFinish, ProviderName, SessionSummary,
    SessionTouch, Timestamp, UserName,
};

/// How somebody signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginWay {
    /// In a browser on this machine.
    Browser,
    /// On another device.
    Device,
}

/// What somebody is to do.
#[derive(Debug)]
pub enum Prompt<'a> {
    /// Open that page.
    Browser(&'a str),
    /// Open a page elsewhere and enter a code.
    Device(&'a DevicePrompt),
    /// Touch the FIDO2 key.
    Touch,
}

/// Somebody who signed in on this machine: `login.json`, which holds no secret. The key that signs is
/// beside it or in the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    /// Who.
    pub name: UserName,
    /// With whom.
    pub provider: ProviderName,
    /// The fingerprint of the key.
    pub fingerprint: String,
    /// Whether the agent has it.
    pub in_agent: bool,
    /// Until when.
    pub expires: Timestamp,
    #[serde(skip)]
    folder: PathBuf,
}

impl SignedIn {
    const FILE: &str = "login.json";

    /// Whoever signed in by way of that configuration last, also when that is over.
    pub(super) fn find(config: &ConfigFolder) -> Option<Self> {
        Self::read(&Runtime::open().ok()?.login(config.path()))
    }

    pub(super) fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(Self::FILE)).ok()?;
        let signed_in: Self = serde_json::from_str(&text).ok()?;
        Some(Self {
            folder: folder.to_owned(),
            ..signed_in
        })
    }

    /// The key that signs for them; nothing once that is over or the key is gone.
    pub(super) fn key(&self, now: Timestamp) -> Option<SigningKey> {
        if self.expires <= now {
            return None;
        }
        let public = public_part(&self.folder);
        let path = if self.in_agent {
            let line = fs::read_to_string(&public).ok()?;
            agent::holds(line.trim()).then_some(public)?
        } else {
            private_part(&self.folder)
        };
        SigningKey::open(&path).ok()
    }

    /// Forgets the key.
    fn forget(&self) -> Result<(), FileError> {
        if self.in_agent {
            agent::remove(&public_part(&self.folder));
        }
        fs::remove_dir_all(&self.folder).map_err(|source| FileError::new(&self.folder, source))
    }
}

fn private_part(folder: &Path) -> PathBuf {
    folder.join("key")
}

fn public_part(folder: &Path) -> PathBuf {
    folder.join("key.pub")
}

/// Whether somebody is signed in on this machine whose key is there.
pub fn is_signed_in() -> bool {
    let session = ConfigFolder::locate()
        .ok()
        .and_then(|folder| SignedIn::find(&folder));
    session.is_some_and(|session| session.key(now()).is_some())
}

/// Has somebody sign in. `tell` hands on what they are to do.
///
/// # Errors
/// When nobody did in time, or the CA does not let them in.
pub fn login(
    provider: Option<ProviderName>,
    way: LoginWay,
    tell: impl Fn(Prompt<'_>),
) -> Result<SessionSummary, LoginFailed> {
    begin(|api| match way {
        LoginWay::Browser => in_browser(api, provider, &tell),
        LoginWay::Device => on_device(api, provider, &tell),
    })
}

/// Makes a key, has `sign_in` bind it to somebody, and keeps it in place of the one before.
pub(super) fn begin(
    sign_in: impl FnOnce(&Api) -> Result<SessionSummary, LoginFailed>,
) -> Result<SessionSummary, LoginFailed> {
    let folder = ConfigFolder::locate()?;
    let connection = folder.load()?;
    let runtime = Runtime::open()?;
    Runtime::sweep(now());
    let place = runtime.login(folder.path());
    let draft = runtime.draft()?;
    let signed_in = in_draft(&connection, &draft, sign_in);
    let session = match signed_in {
        Ok(session) => session,
        Err(error) => {
            // Its key signs for nobody.
            fs::remove_dir_all(&draft).ok();
            return Err(error);
        }
    };
    // What was there ends: of two sessions, one would be forgotten.
    if let Some(before) = SignedIn::read(&place) {
        end(&connection, &before).ok();
        if before.in_agent {
            agent::remove(&public_part(&place));
        }
    }
    runtime.replace(&draft, &place)?;
    Ok(session)
}

fn in_draft(
    connection: &Connection,
    draft: &Path,
    sign_in: impl FnOnce(&Api) -> Result<SessionSummary, LoginFailed>,
) -> Result<SessionSummary, LoginFailed> {
    let seed = Zeroizing::new(random_bytes()?);
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    key.set_comment("hallpass login");
    let (private, public) = (private_part(draft), public_part(draft));
    files::private(&private, key.to_openssh(LineEnding::LF)?.as_bytes())?;
    let line = key.public_key().to_openssh()?;
    files::private(&public, format!("{line}\n").as_bytes())?;
    let session = sign_in(&Api::new(connection, SigningKey::open(&private)?))?;

    let left = session.expires.as_secs().saturating_sub(now().as_secs());
    let in_agent = left > 0 && agent::answers() && agent::add(&private, &line, left);
    if in_agent {
        fs::remove_file(&private).map_err(|source| FileError::new(&private, source))?;
    }
    let signed_in = SignedIn {
        name: session.name.clone(),
        provider: session.provider.clone(),
        fingerprint: session.fingerprint.clone(),
        in_agent,
        expires: session.expires,
        folder: draft.to_owned(),
    };
    let text = serde_json::to_vec(&signed_in).map_err(io::Error::other);
    let path = draft.join(SignedIn::FILE);
    let text = text.map_err(|source| FileError::new(&path, source))?;
    files::private(&path, &text)?;
    Ok(session)
}

fn in_browser(
    api: &Api,
    provider: Option<ProviderName>,
    tell: &impl Fn(Prompt<'_>),
) -> Result<SessionSummary, LoginFailed> {
    let ways = api.login_ways()?.providers;
    let chosen = match (&provider, &ways[..]) {
        (None, [only]) => Some(only),
        (name, all) => all.iter().find(|one| Some(&one.name) == name.as_ref()),
    };
    let port = chosen.and_then(|provider| provider.redirect_port);
    let callback =
        Callback::listen(port).map_err(|source| LoginFailed::NoCallback { port, source })?;
    let begin = LoginBegin {
        provider,
        redirect: Some(callback.address()),
    };
    let begun: LoginBegun = api.post("/v1/login", &begin)?;
    let (Some(url), Some(state)) = (&begun.url, &begun.state) else {
        return Err(api.strange("a login without an address").into());
    };
    // What opens it may do anything with another kind of address.
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(api
            .strange("a login with an address that is no page's")
            .into());
    }
    tell(Prompt::Browser(url));
    let patience = begun.expires.as_secs().saturating_sub(now().as_secs());
    let until = Instant::now() + Duration::from_secs(patience);
    let returned = callback.wait(state, until);
    let returned = returned.map_err(|source| LoginFailed::NoCallback { port, source })?;
    let returned = returned.ok_or(LoginFailed::Late)?;
    let session = finish_in_browser(api, begun.login, &returned);
    match &session {
        Ok(session) => {
            let text = format!("You are {} in the terminal. Close this page.", session.name);
            returned.show("Signed in to Hallpass", &text);
        }
        Err(_) => returned.show("Not signed in", "The terminal says why."),
    }
    session
}

fn finish_in_browser(
    api: &Api,
    login: String,
    returned: &Returned,
) -> Result<SessionSummary, LoginFailed> {
    let redirect = returned.answer.clone().map_err(LoginFailed::Refused)?;
    let finish = LoginFinish {
        login,
        redirect: Some(redirect),
    };
    let answer: LoginAnswer = api.post("/v1/login/finish", &finish)?;
    let session = answer.session;
    Ok(session.ok_or_else(|| api.strange("an answer without a session"))?)
}

fn on_device(
    api: &Api,
    provider: Option<ProviderName>,
    tell: &impl Fn(Prompt<'_>),
) -> Result<SessionSummary, LoginFailed> {
    let begin = LoginBegin {
        provider,
        redirect: None,
    };
    let begun: LoginBegun = api.post("/v1/login", &begin)?;
    let Some(device) = &begun.device else {
        return Err(api.strange("a login without a code").into());
    };
    tell(Prompt::Device(device));
    let finish = LoginFinish {
        login: begun.login.clone(),
        redirect: None,
    };
    let mut wait = device.interval;
    loop {
        std::thread::sleep(Duration::from_secs(wait.clamp(1, 60)));
        if begun.expires <= now() {
            return Err(LoginFailed::Late);
        }
        let answer: LoginAnswer = match api.post("/v1/login/finish", &finish) {
            // The provider may be there again for the next question.
            Err(ApiError::Refused { status: 503, .. }) => continue,
            answer => answer?,
        };
        if let Some(session) = answer.session {
            return Ok(session);
        }
        wait = answer.wait.unwrap_or(wait);
    }
}

/// Shows a FIDO2 key of one's own as the second factor of the session on this machine: that one, or the
/// one that was chosen at `connect`.
///
/// # Errors
/// When nobody is signed in here, or the CA does not take it.
pub fn touch(key: Option<&Path>, tell: impl Fn(Prompt<'_>)) -> Result<SessionSummary, LoginFailed> {
    let folder = ConfigFolder::locate()?;
    let connection = folder.load()?;
    let key = key.or(connection.ssh_key.as_deref());
    let key = SigningKey::open(key.ok_or(LoginFailed::NoTouch)?)?;
    if !key.public_key().algorithm().as_str().starts_with("sk-") {
        return Err(LoginFailed::NotFido2(key.path().to_owned()));
    }
    let session = SignedIn::find(&folder).ok_or(OpenError::NotSignedIn)?;
    let own = session.key(now());
    let own = own.ok_or_else(|| OpenError::SessionOver(session.name.clone()))?;
    let api = Api::new(&connection, own);
    let (time, nonce) = (now(), api::nonce()?);
    let message = touch_message(api.audience(), &session.fingerprint, time, &nonce);
    tell(Prompt::Touch);
    let touch = key.sign(TOUCH_NAMESPACE, message.as_bytes())?;
    let touch = SessionTouch { touch };
    Ok(api.post_at(time, &nonce, "/v1/sessions/touch", &touch)?)
}

/// What became of a session that somebody ended.
#[derive(Debug)]
pub struct LoggedOut {
    /// Whose it was.
    pub session: SignedIn,
    /// Why the CA was not told, when it could not be: the key is gone all the same.
    pub untold: Option<ApiError>,
}

/// Ends the session on this machine: tells the CA, and forgets the key.
///
/// # Errors
/// When nobody is signed in here, or the key can't be removed.
pub fn logout() -> Result<LoggedOut, LoginFailed> {
    let folder = ConfigFolder::locate()?;
    let connection = folder.load()?;
    let session = SignedIn::find(&folder).ok_or(OpenError::NotSignedIn)?;
    let told = end(&connection, &session);
    session.forget()?;
    let untold = told.err();
    Ok(LoggedOut { session, untold })
}

/// Tells the CA that a session is over.
fn end(connection: &Connection, session: &SignedIn) -> Result<(), ApiError> {
    let Some(key) = session.key(now()) else {
        return Ok(());
    };
    let target = Query::path(&["v1", "sessions", &session.fingerprint]);
    Api::new(connection, key).delete(target.as_str())
}

/// Why nobody signed in.
#[derive(Debug, thiserror::Error)]
pub enum LoginFailed {
    /// There is no connection or no key.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The CA does not take it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// There is no private place for the key.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file can't be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// No random bytes.
    #[error("no key could be made: {0}")]
    Random(#[from] SignError),
    /// The key can't be encoded.
    #[error("no key could be made: {0}")]
    Ssh(#[from] ssh_key::Error),
    /// The browser could not come back.
    #[error(
        "{} on this machine can't be listened on: {source}; sign in on another device with \
         `hallpass login --device`",
        .port.map_or_else(|| "no port".to_owned(), |port| format!("port {port}"))
    )]
    NoCallback {
        /// The only one that would do, if there is such.
        port: Option<NonZeroU16>,
        /// Why not.
        source: io::Error,
    },
    /// Nobody signed in.
    #[error("nobody signed in in time: begin again with `hallpass login`")]
    Late,
    /// The provider said no.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// A workload has no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is nothing to touch.
    #[error("no FIDO2 key is known here: name one of yours with --touch FILE")]
    NoTouch,
    /// Not a key that one touches.
    #[error("{0} is no FIDO2 key (ssh-keygen -t ed25519-sk): name one of yours with --touch FILE")]
    NotFido2(PathBuf),
}

impl From<ConfigError> for LoginFailed {
    fn from(error: ConfigError) -> Self {
        OpenError::from(error).into()
    }
}

impl From<KeyError> for LoginFailed {
    fn from(error: KeyError) -> Self {
        OpenError::from(error).into()
    }
}
