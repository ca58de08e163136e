//! Approvals: what policy grants only when somebody else agrees waits for them.

use std::net::IpAddr;

use super::{Authority, Refusal, decision, now, spent};
use crate::access::Waits;
use crate::audit::{Asked, Decision, Event, NEEDS_APPROVAL, With};
use crate::identity::{Requester, SignedRequest};
use crate::model::{
    EntryIndex, GivenApproval, LONGEST_APPROVAL, LockTarget, Timestamp, Ttl, UserName,
    WaitingRequest,
};
use crate::policy::{APPROVE, Approval, Wanted};

/// Why a request is not approved, with what policy said to it when it was asked.
type NotApproved = (Option<Asked>, Option<Decision>, Refusal);

impl Authority {
    /// The requests that wait for an approval which the requester may give, and their own.
    ///
    /// # Errors
    /// When the requester can't be identified.
    pub async fn waiting_requests(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Vec<WaitingRequest>, Refusal> {
        let now = now();
        let requester = self.identify(request, source, now).await?;
        self.read(&requester).await?;
        let shown = |(entry, waits): &(EntryIndex, Waits)| {
            waits.requester == requester.actor.requester
                || self.may_approve(&requester, *entry, waits, now).is_ok()
        };
        // A decision for each: together longer than one takes.
        Ok(tokio::task::block_in_place(|| {
            let waiting = self.waiting.all(now);
            let waiting = waiting.into_iter().filter(shown);
            waiting
                .filter_map(|(entry, waits)| self.waiting_request(entry, waits, now))
                .collect()
        }))
    }

    /// Approves what another asked for, which then counts for exactly that.
    ///
    /// # Errors
    /// When no request waits under that entry, it is the requester's own, or policy does not permit
    /// them to approve it.
    pub async fn approve(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        entry: EntryIndex,
    ) -> Result<GivenApproval, Refusal> {
        let now = now();
        let (requester, alone) = self.identify_alone(request, source, now).await?;
        let (waits, decision) = match self.approval(&requester, entry, now) {
            Ok(approval) => approval,
            Err(refused) => {
                let (asked, decision, refusal) = *refused;
                return Err(self
                    .refuse(&requester, request, asked, decision, refusal, now)
                    .await);
            }
        };
        let lasts = std::time::Duration::from_secs(waits.request.ttl).min(LONGEST_APPROVAL);
        let expires = now.plus(lasts);
        let event = Event::ApprovalGiven {
            entry,
            requester: waits.requester.clone(),
            request: waits.request.clone(),
            expires,
            decision,
            by: requester.actor.clone(),
        };
        let slot = self.reserve(request, &requester, now).await?;
        let place = slot
            .commit_with(event, Some(spent(&requester)), With::holding(alone))
            .await?;
        let request = self.waiting_request(entry, waits, now);
        Ok(GivenApproval {
            request: request
                .ok_or_else(|| Refusal::Internal("the request has no lifetime".to_owned()))?,
            expires,
            entry: place.index,
        })
    }

    /// What is approved, and why that may be.
    fn approval(
        &self,
        requester: &Requester,
        entry: EntryIndex,
        now: Timestamp,
    ) -> Result<(Waits, Decision), Box<NotApproved>> {
        let waits = self.waiting.of(entry, now).filter(|waits| {
            let directory = self.directory();
            directory.still_asks(&waits.requester, entry, now)
        });
        let waits = waits.ok_or_else(|| {
            let refusal = Refusal::NotFound(format!(
                "no request waits for approval under {entry}: `hallpass approval list` shows those \
                 that you may approve; after an hour, or when the server was started anew, whoever \
                 asks again gets a new number"
            ));
            Box::new((None, None, refusal))
        })?;
        let decision = self.may_approve(requester, entry, &waits, now)?;
        let locked = self.directory().check_unlocked(|| {
            [
                requester.lock(),
                LockTarget::User(waits.requester.clone()),
                LockTarget::Role(waits.request.role.clone()),
            ]
        });
        match locked {
            Ok(()) => Ok((waits, decision)),
            Err(locked) => {
                let asked = Some(waits.request);
                Err(Box::new((asked, Some(decision), locked.into())))
            }
        }
    }

    /// Has policy decide whether somebody may approve a request.
    fn may_approve(
        &self,
        requester: &Requester,
        entry: EntryIndex,
        waits: &Waits,
        now: Timestamp,
    ) -> Result<Decision, Box<NotApproved>> {
        let asked = || Some(waits.request.clone());
        let denied = |code, detail: &str| {
            let detail = detail.to_owned();
            Box::new((asked(), None, Refusal::Denied { code, detail }))
        };
        let approver = &requester.actor.requester;
        if requester.workload.is_some() {
            let detail = "a job or a service approves nothing: people do";
            return Err(denied("not-a-person", detail));
        }
        if waits.requester == *approver {
            let detail = "this is what you ask for yourself: somebody else approves it";
            return Err(denied("own-request", detail));
        }
        let policy = self.policy();
        // The roles may be others since.
        let wanted = waits.request.wanted();
        let wanted = wanted.ok_or_else(|| denied("ttl-too-long", "no role lives so long"))?;
        let (role, ttl) = policy
            .bounded(&wanted)
            .map_err(|bound| Box::new((asked(), None, bound.into())))?;
        let circumstances = self.circumstances(requester, now);
        let verdict = policy.engine.decide_approval(&Approval {
            approver,
            requester: &waits.requester,
            role,
            purpose: &wanted.purpose,
            reason: wanted.reason.as_ref(),
            ttl,
            circumstances: &circumstances,
        });
        let mut decision = decision(&policy, &verdict, circumstances);
        decision.action = Some(APPROVE.to_owned());
        decision.approves = Some(waits.requester.clone());
        if verdict.allowed {
            return Ok(decision);
        }
        // What others ask for is for those who may approve it.
        let none = || format!("no policy permits {approver} to approve {entry}");
        let refusal = Refusal::denied(&verdict, none);
        Err(Box::new((asked(), Some(decision), refusal)))
    }

    /// A request that waits, as the API tells of it.
    fn waiting_request(
        &self,
        entry: EntryIndex,
        waits: Waits,
        now: Timestamp,
    ) -> Option<WaitingRequest> {
        let directory = self.directory();
        let approved = directory.approvals(&waits.requester, &waits.request, now);
        let mut approved_by: Vec<UserName> = approved.cloned().collect();
        approved_by.sort();
        let until = waits.until();
        Some(WaitingRequest {
            entry,
            requester: waits.requester,
            ttl: Ttl::from_secs(waits.request.ttl).ok()?,
            role: waits.request.role,
            purpose: waits.request.purpose,
            reason: waits.request.reason,
            needs: waits.needs,
            approved_by,
            until,
        })
    }

    /// How many approvals of a request count.
    pub(super) fn approvals(&self, requester: &UserName, asked: &Asked, now: Timestamp) -> u32 {
        let directory = self.directory();
        let count = directory.approvals(requester, asked, now).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

impl Refusal {
    /// Policy says no, and would not if more people had approved it.
    pub(super) fn needs_approval(asked: &Asked, needs: u32, has: u32) -> Self {
        let role = &asked.role;
        let has = match has {
            0 => String::new(),
            has => format!(" and has {has}"),
        };
        Self::Denied {
            code: NEEDS_APPROVAL,
            detail: format!("role {role} needs {} for this{has}", approvals(needs)),
        }
    }

    /// The same for whoever asked, who is told by which number others approve it.
    pub(super) fn and_waits(self, entry: EntryIndex) -> Self {
        match self {
            Self::Denied { code, detail } => Self::Denied {
                code,
                detail: format!(
                    "{detail}: somebody who may runs `hallpass approval give {entry}`, then ask again"
                ),
            },
            other => other,
        }
    }
}

/// So many, in words.
pub(super) fn approvals(count: u32) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} approval{s}")
}

impl Asked {
    /// As it is put to policy. Nothing when no role lives so long, or so short.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        Some(Wanted {
            role: self.role.clone(),
            purpose: self.purpose.clone(),
            reason: self.reason.clone(),
            ttl: Some(Ttl::from_secs(self.ttl).ok()?),
        })
    }
}
