//! Whoever has a key that nobody knows yet, and is about to be somebody: what they are told, and what is
//! logged of them.

use std::net::IpAddr;

use ssh_key::PublicKey;

use super::{Authority, Refusal, cut, request_line};
use crate::audit::{Event, NewSession, Refused, Spent, With};
use crate::certificate::check_ssh_key;
use crate::identity::{LoginError, NewcomersKey, NoLogin, NoWorkload, ReplayGuard, SignedRequest};
use crate::model::{SessionSummary, Timestamp};

impl Authority {
    /// Whoever holds a key that nobody knows yet. Nothing of them is remembered.
    pub(super) async fn stranger(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<NewcomersKey, Refusal> {
        match self.authenticate(request, now).await {
            Ok(authentic) => Ok(authentic.newcomer()),
            Err(refusal) => Err(self.unidentified(request, source, refusal, now).await?),
        }
    }

    /// The same, once it is known that they may come: their request is good once.
    pub(super) async fn admitted(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        newcomer: NewcomersKey,
        now: Timestamp,
    ) -> Result<NewcomersKey, Refusal> {
        match newcomer.admit(&self.replays, now) {
            Ok(()) => Ok(newcomer),
            Err(refusal) => Err(self.unidentified(request, source, refusal, now).await?),
        }
    }

    /// The key of a session to come: nobody's yet, and no FIDO2 key, whose touches would be asked for all
    /// the time and count for nothing.
    pub(super) fn check_session_key(&self, newcomer: &NewcomersKey) -> Result<PublicKey, Refusal> {
        let key = PublicKey::from(newcomer.key.clone());
        check_ssh_key(key.key_data()).map_err(|error| Refusal::illegal(error.to_string()))?;
        if key.algorithm().as_str().starts_with("sk-") {
            let detail =
                "the key of a session is no FIDO2 key: show that with `hallpass login --touch`";
            return Err(Refusal::illegal(detail));
        }
        self.directory().check_new_key(&key)?;
        Ok(key)
    }

    /// Tells the administrators, but not as often as strangers like.
    fn unavailable(&self, source: IpAddr, why: String, now: Timestamp) -> Refusal {
        if self.strangers.list_address(source, now).is_some() {
            tracing::warn!(%source, "{why}");
        }
        Refusal::NoProvider(why)
    }

    /// Logs that somebody did not sign in, and gives what they are told.
    pub(super) async fn not_signed_in(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        newcomer: &NewcomersKey,
        error: NotBegun,
        now: Timestamp,
    ) -> Refusal {
        let refusal = match error {
            NotBegun::Refused(refusal) => refusal,
            NotBegun::Login(error) if error.is_unavailable() => {
                return self.unavailable(source, error.to_string(), now);
            }
            NotBegun::Login(error) => Refusal::Denied {
                code: error.code(),
                detail: error.to_string(),
            },
            NotBegun::NoWorkload(error @ NoWorkload::Unreachable(_)) => {
                return self.unavailable(source, error.to_string(), now);
            }
            NotBegun::NoWorkload(error) => Refusal::Denied {
                code: error.code(),
                detail: error.to_string(),
            },
            NotBegun::NoLogin(error) => Refusal::Denied {
                code: "no-login",
                detail: error.to_string(),
            },
        };
        if !refusal.is_logged() {
            return refusal;
        }
        let refused = Refused {
            request: request_line(request),
            code: refusal.code().to_owned(),
            detail: cut(&refusal.to_string()),
        };
        let fingerprint = Some(newcomer.fingerprint.clone());
        match self.log_stranger(source, fingerprint, refused, now).await {
            Ok(()) => refusal,
            Err(error) => error,
        }
    }

    /// Logs something of them.
    pub(super) async fn append(
        &self,
        event: Event,
        spent: Option<Spent>,
        with: With,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let slot = self.log.reserve(now)?;
        slot.commit_with(event, spent, with).await?;
        Ok(())
    }

    /// Logs that their session begins, and gives it.
    pub(super) async fn log_session(
        &self,
        newcomer: &NewcomersKey,
        session: NewSession,
        with: With,
        now: Timestamp,
    ) -> Result<SessionSummary, Refusal> {
        let expires = ReplayGuard::expiry(newcomer.signed);
        let spent = Spent::new(newcomer.nonce.clone(), expires);
        let event = Event::SessionBegun(session);
        self.append(event, Some(spent), with, now).await?;
        let session = self.session(&newcomer.fingerprint, now);
        session.ok_or_else(|| Refusal::Internal("the session is over again".to_owned()))
    }
}

/// Why a login comes to nothing.
pub(super) enum NotBegun {
    /// Because of us or of what was asked.
    Refused(Refusal),
    /// Because of the provider.
    Login(LoginError),
    /// There is none.
    NoLogin(NoLogin),
    /// The token vouches for nobody.
    NoWorkload(NoWorkload),
}

impl From<NoWorkload> for NotBegun {
    fn from(error: NoWorkload) -> Self {
        Self::NoWorkload(error)
    }
}

impl From<Refusal> for NotBegun {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<LoginError> for NotBegun {
    fn from(error: LoginError) -> Self {
        Self::Login(error)
    }
}

impl From<NoLogin> for NotBegun {
    fn from(error: NoLogin) -> Self {
        Self::NoLogin(error)
    }
}
