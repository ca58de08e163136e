//! Sessions: who has signed in, with which second factor, and until when.

use std::net::IpAddr;
use std::sync::Arc;

use ssh_key::SshSig;

use super::enrolment::Suspension;
use super::{Authority, Refusal, now, spent};
use crate::audit::{Actor, Counter, Event, With};
use crate::identity::{
    self, Requester, SignedRequest, TOUCH_NAMESPACE, Unidentified, touch_message,
};
use crate::model::{SecondFactor, SessionSummary, SessionTouch, Timestamp};
use crate::policy::AdminAction;

impl Authority {
    /// Takes a touch of an enrolled FIDO2 key as the second factor of the session whose key signs the
    /// request.
    ///
    /// # Errors
    /// When there is no session, or the touch is not one of the same user's key for this request.
    pub async fn touch_session(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<SessionSummary, Refusal> {
        let now = now();
        let mut requester = self.identify(request, source, now).await?;
        let touch = self
            .parse(request)
            .and_then(|ask: SessionTouch| self.touched_by(&requester, &ask.touch));
        let (touched, touch) = match touch {
            Ok(touch) => touch,
            Err(refusal) => {
                let refusal = self.refuse(&requester, request, None, None, refusal, now);
                return Err(refusal.await);
            }
        };
        let (mfa, counter) = match self.factor(&requester, &touched, touch, now) {
            Ok(factor) => factor,
            Err(why) => {
                let fingerprint = Some(touched);
                let refusal = identity::Refusal { why, fingerprint };
                return Err(self.unidentified(request, source, refusal, now).await?);
            }
        };
        let alone = Arc::clone(&self.changes).lock_owned().await;
        let event = Event::SessionTouched {
            touched,
            counter: counter.as_ref().map(|counter| counter.value),
            mfa,
            by: requester.actor.clone(),
        };
        // Nobody is accepted any more who has gone, and what the FIDO2 key has counted is kept.
        requester.counter = counter;
        self.reserve(request, &requester, now)
            .await?
            .commit_with(event, Some(spent(&requester)), With::holding(alone))
            .await?;
        self.session(&requester.actor.fingerprint, now)
            .ok_or_else(|| Refusal::Internal("the session is over again".to_owned()))
    }

    /// The FIDO2 key that signed a touch for this very request, and what it says.
    fn touched_by(
        &self,
        requester: &Requester,
        touch: &str,
    ) -> Result<(String, identity::Touch), Refusal> {
        let wrong = |detail: &str| Refusal::Denied {
            code: "wrong-touch",
            detail: format!("touch: {detail}"),
        };
        let actor = &requester.actor;
        if self
            .directory()
            .sessions()
            .of_key(&actor.fingerprint)
            .is_none()
        {
            let detail = "the key that signs your requests is enrolled, and no session's: a touch of \
                          it counts by itself";
            return Err(wrong(detail));
        }
        let signature = SshSig::from_pem(touch).map_err(|_| wrong("it is no SSH signature"))?;
        let audiences = &self.keys.now().audiences;
        let signed = audiences.iter().find_map(|audience| {
            let message =
                touch_message(audience, &actor.fingerprint, requester.signed, &actor.nonce);
            identity::verify(&signature, TOUCH_NAMESPACE, message.as_bytes()).ok()
        });
        let signed = signed.ok_or_else(|| wrong("it was not made for this request"))?;
        let touch = signed
            .touch
            .ok_or_else(|| wrong("it was not made by a FIDO2 key"))?;
        let fingerprint = identity::key_fingerprint(&signed.key);
        let directory = self.directory();
        let owner = directory.find(&actor.requester);
        if owner.is_none_or(|owner| !owner.keys.contains_key(&fingerprint)) {
            let user = &actor.requester;
            return Err(wrong(&format!(
                "the key {fingerprint} is not enrolled for {user}: an administrator does that with \
                 `hallpass user key add {user} FILE.pub`"
            )));
        }
        Ok((fingerprint, touch))
    }

    /// What the touch is worth.
    fn factor(
        &self,
        requester: &Requester,
        fingerprint: &str,
        touch: identity::Touch,
        now: Timestamp,
    ) -> Result<(SecondFactor, Option<Counter>), Unidentified> {
        let directory = self.directory();
        let accepted = directory.accepted(fingerprint, now)?;
        let user = accepted.user.ok_or(Unidentified::UnknownKey)?;
        if user.name != requester.actor.requester {
            return Err(Unidentified::UnknownKey);
        }
        identity::second_factor(
            user,
            fingerprint,
            touch,
            &self.counters,
            requester.signed,
            now,
        )
    }

    /// The requester's own sessions, or everybody's for those who manage users.
    ///
    /// # Errors
    /// When the requester can't be identified, or may not see others'.
    pub async fn sessions(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        all: bool,
    ) -> Result<Vec<SessionSummary>, Refusal> {
        let now = now();
        let requester = self.identify(request, source, now).await?;
        if all {
            self.permit(&requester, request, AdminAction::ManageUsers, now)
                .await?;
        }
        self.read(&requester).await?;
        let directory = self.directory();
        let own = &requester.actor.requester;
        let living = directory.sessions().living(now);
        let shown = living.filter(|(_, session)| all || session.user == *own);
        let mut sessions: Vec<SessionSummary> = shown
            .map(
                |(fingerprint, session)| match directory.accepted(fingerprint, now) {
                    Ok(accepted) => {
                        let (groups, mfa) = (accepted.groups(), accepted.mfa());
                        session.summary(fingerprint, groups, mfa, now)
                    }
                    Err(_) => session.summary(fingerprint, session.groups.clone(), None, now),
                },
            )
            .collect();
        sessions.sort_by(|one, other| (&one.name, one.began).cmp(&(&other.name, other.began)));
        Ok(sessions)
    }

    /// Ends a session: the requester's own, or anybody's for those who manage users.
    ///
    /// # Errors
    /// When there is none, or the requester may not.
    pub async fn end_session(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        fingerprint: &str,
    ) -> Result<(), Refusal> {
        let find = || {
            let directory = self.directory();
            let session = directory.sessions().of_key(fingerprint);
            session.map(|session| session.user.clone())
        };
        let ends = |by: Actor| {
            let user = find().ok_or_else(|| {
                let detail = "no such session lasts: `hallpass session list` shows yours";
                Refusal::NotFound(detail.to_owned())
            })?;
            let fingerprint = fingerprint.to_owned();
            let event = Event::SessionEnded {
                user,
                fingerprint,
                by: Some(by),
            };
            Ok(((), event))
        };
        let suspended = |event: &Event| With::holding(Suspension::begin(&self.directory, event));
        let is_own = |actor: &Actor| find().is_some_and(|user| user == actor.requester);
        let action = AdminAction::ManageUsers;
        self.change_own(request, source, action, is_own, ends, suspended)
            .await
    }

    /// A session as the API tells of it.
    pub(super) fn session(&self, fingerprint: &str, now: Timestamp) -> Option<SessionSummary> {
        let directory = self.directory();
        let accepted = directory.accepted(fingerprint, now).ok()?;
        let session = accepted.session?;
        let (groups, mfa) = (accepted.groups(), accepted.mfa());
        Some(session.summary(fingerprint, groups, mfa, now))
    }
}
