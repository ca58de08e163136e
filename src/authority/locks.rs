//! Locks: on a bad day, nothing more is issued for a role, a user or a host, a user administers nothing,
//! and no request by a key is taken.

use std::net::IpAddr;

use super::enrolment::{Suspension, not_oneself};
use super::{Authority, Refusal, now};
use crate::audit::{Event, With};
use crate::identity::{Locked, SignedRequest};
use crate::model::{LockSummary, LockTarget, NewLock};
use crate::policy::AdminAction;

impl Authority {
    /// All locks.
    ///
    /// # Errors
    /// When the requester may not know.
    pub async fn locks(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Vec<LockSummary>, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::Lock, now)
            .await?;
        self.read(&requester).await?;
        Ok(self.directory().locks().cloned().collect())
    }

    /// Issues nothing more for a role, a user or a host, or takes no more requests by a key: what is in
    /// the log after the lock is not for it.
    ///
    /// # Errors
    /// When the requester may not, there is no such thing, it is locked already, or it is the requester
    /// or the key that signed the request.
    pub async fn lock(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<LockSummary, Refusal> {
        let target = self
            .change(
                request,
                source,
                AdminAction::Lock,
                |by| {
                    let NewLock { target, reason } = self.parse(request)?;
                    self.check_exists(&target)?;
                    if target == LockTarget::Key(by.fingerprint.clone()) {
                        let detail = "this key signs your requests: sign this one with another key of \
                                      yours, or leave it to another administrator";
                        return Err(Refusal::Conflict(detail.to_owned()));
                    }
                    if let LockTarget::User(user) = &target {
                        not_oneself(user, &by)?;
                    }
                    let locked = self.directory().check_unlocked(|| [target.clone()]);
                    locked.map_err(|locked| Refusal::Conflict(locked.to_string()))?;
                    let event = Event::Locked {
                        target: target.clone(),
                        reason: reason.to_string(),
                        by,
                    };
                    Ok((target, event))
                },
                |event| With::holding(Suspension::begin(&self.directory, event)),
            )
            .await?;
        let directory = self.directory();
        let lock = directory.locks().find(|lock| lock.target == target);
        lock.cloned()
            .ok_or_else(|| Refusal::Internal("the lock is gone again".to_owned()))
    }

    /// Issues again, or takes a key's requests again, whatever it counted before.
    ///
    /// # Errors
    /// When the requester may not, or it is not locked.
    pub async fn unlock(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        target: &str,
    ) -> Result<(), Refusal> {
        self.change(
            request,
            source,
            AdminAction::Lock,
            |by| {
                let target: LockTarget = target
                    .parse()
                    .map_err(|error: crate::model::Invalid| Refusal::illegal(error.to_string()))?;
                if self.directory().check_unlocked(|| [target.clone()]).is_ok() {
                    return Err(Refusal::NotFound(format!(
                        "{target} is not locked: `hallpass lock` shows what is"
                    )));
                }
                Ok(((), Event::Unlocked { target, by }))
            },
            |_| With::default(),
        )
        .await
    }

    fn check_exists(&self, target: &LockTarget) -> Result<(), Refusal> {
        let exists = match target {
            LockTarget::Role(name) => self.policy().roles.find(name).is_some(),
            LockTarget::User(name) => {
                self.workloads.is_called(name) || self.directory().find(name).is_some()
            }
            LockTarget::Host(name) => self.directory().hosts().find(name).is_some(),
            LockTarget::Key(fingerprint) => {
                let directory = self.directory();
                if directory.sessions().of_key(fingerprint).is_some() {
                    return Err(Refusal::Conflict(format!(
                        "this is the key of a session: end that with `hallpass session end \
                         {fingerprint}`"
                    )));
                }
                directory.is_enrolled(fingerprint)
            }
        };
        if exists {
            Ok(())
        } else {
            Err(Refusal::NotFound(format!("there is no {target}")))
        }
    }
}

impl From<Locked> for Refusal {
    fn from(locked: Locked) -> Self {
        Self::Denied {
            code: "locked",
            detail: locked.to_string(),
        }
    }
}
