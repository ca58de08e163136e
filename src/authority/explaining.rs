//! Why was this granted or refused, and would that be? Answered by what decides.

use std::net::IpAddr;

use serde_json::from_str;

use super::approvals::approvals;
use super::{Authority, Refusal, now};
use crate::audit::{Asked, Decision, Entry, Event};
use crate::identity::{Requester, SignedRequest};
use crate::model::{
    Circumstances, EntryIndex, ExplainRequest, Explanation, LoggedDecision, Timestamp, UserName,
};
use crate::policy::{AdminAction, Approval, Ask, PolicySet, Wanted};

/// What is asked about.
enum Question {
    /// A certificate.
    Request(Wanted),
    /// To approve what that requester asks for.
    Approval(UserName, Wanted),
    /// Administration.
    Admin(AdminAction),
}

impl Authority {
    /// What policy says to a question and why, or why it decided as it did.
    ///
    /// # Errors
    /// When the requester may not know that, or the question makes no sense.
    pub async fn explain(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Explanation, Refusal> {
        let now = now();
        let requester = self.identify(request, source, now).await?;
        let explained = match self.parse::<ExplainRequest>(request) {
            Ok(ask) => self.explain_to(&requester, request, ask).await,
            Err(refusal) => Err(refusal),
        };
        self.read(&requester).await?;
        explained
    }

    async fn explain_to(
        &self,
        requester: &Requester,
        request: &SignedRequest,
        ask: ExplainRequest,
    ) -> Result<Explanation, Refusal> {
        let now = now();
        if let Some(index) = ask.entry {
            let only = ExplainRequest {
                entry: Some(index),
                ..ExplainRequest::default()
            };
            if ask != only {
                let text = "entry: an entry of the log says all by itself: leave the rest out";
                return Err(Refusal::illegal(text));
            }
            self.permit(requester, request, AdminAction::ReadLog, now)
                .await?;
            return tokio::task::block_in_place(|| self.explain_entry(index));
        }
        let own = &requester.actor.requester;
        let about = ask.requester.clone().unwrap_or_else(|| own.clone());
        // What others' groups and policies are is not for everybody.
        if about != *own || ask.groups.is_some() {
            self.permit(requester, request, AdminAction::ManagePolicy, now)
                .await?;
        }
        let approvals = ask.approvals;
        let mut circumstances = self.supposed(requester, &about, &ask)?;
        let question = match (ask.role, ask.action) {
            (Some(role), None) => {
                let purpose = ask.purpose.ok_or_else(|| {
                    Refusal::illegal("purpose: a role is asked for with a purpose")
                })?;
                Question::Request(Wanted {
                    role,
                    purpose,
                    reason: ask.reason,
                    ttl: ask.ttl,
                })
            }
            (None, Some(action)) => Question::Admin(admin_action(&action)?),
            _ => {
                let text = "role: name a role, or an action of administration";
                return Err(Refusal::illegal(text));
            }
        };
        let policy = self.policy();
        circumstances.approvals = match (&question, approvals) {
            (Question::Request(wanted), None) => self.approved(&policy, &about, wanted, now),
            (Question::Request(_), Some(approvals)) => approvals,
            (_, None) => 0,
            (_, Some(_)) => {
                let text = "approvals: they count for a role that is asked for, and nothing else";
                return Err(Refusal::illegal(text));
            }
        };
        // Each condition of each policy: longer than a decision takes.
        Ok(tokio::task::block_in_place(|| {
            explain(&policy, &about, &question, circumstances)
        }))
    }

    /// How many approvals of a request count now.
    fn approved(
        &self,
        policy: &PolicySet,
        requester: &UserName,
        wanted: &Wanted,
        now: Timestamp,
    ) -> u32 {
        let Ok((_, ttl)) = policy.bounded(wanted) else {
            return 0;
        };
        let asked = Asked {
            role: wanted.role.clone(),
            purpose: wanted.purpose.clone(),
            reason: wanted.reason.clone(),
            ttl: ttl.as_secs(),
        };
        self.approvals(requester, &asked, now)
    }

    /// The circumstances of a question: those of whoever asks it, but for what it says itself.
    fn supposed(
        &self,
        requester: &Requester,
        about: &UserName,
        ask: &ExplainRequest,
    ) -> Result<Circumstances, Refusal> {
        let own = self.circumstances(requester, now());
        let is_own = *about == requester.actor.requester;
        let groups = match &ask.groups {
            Some(groups) => groups.clone(),
            None if is_own => own.groups.clone(),
            None => {
                let directory = self.directory();
                let user = directory.find(about).ok_or_else(|| {
                    Refusal::NotFound(format!(
                        "there is no user {about}: name the groups too, to ask about somebody who \
                         is not enrolled yet"
                    ))
                })?;
                user.groups.clone()
            }
        };
        let mfa = match ask.mfa {
            Some(mfa) => Some(mfa),
            None if is_own => own.mfa,
            None => None,
        };
        Ok(Circumstances {
            groups,
            mfa,
            method: ask.method.clone().unwrap_or(own.method),
            key_type: ask.key_type.clone().unwrap_or(own.key_type),
            source: ask.source.unwrap_or(own.source),
            time: ask.time.unwrap_or(own.time),
            workload: if is_own { own.workload } else { None },
            approvals: 0,
        })
    }

    fn explain_entry(&self, index: EntryIndex) -> Result<Explanation, Refusal> {
        let body = self.reader.range(index, 1)?.into_iter().next();
        let body =
            body.ok_or_else(|| Refusal::NotFound(format!("the log has no entry {index}")))?;
        let entry: Entry = from_str(&body)
            .map_err(|error| Refusal::Internal(format!("entry {index}: {error}")))?;
        let none = || {
            Refusal::NotFound(format!(
                "entry {index} holds no decision of policy: certificates that were issued and \
                 requests that policy refused do"
            ))
        };
        let (by, question, decision, allowed) = decided(&entry.event).ok_or_else(none)?;
        let Some(circumstances) = decision.circumstances.clone() else {
            return Err(Refusal::Conflict(format!(
                "entry {index} was logged by a version that did not keep how and when it was asked"
            )));
        };
        let policy = self.policy_of(&decision.policy_set)?;
        let explanation = explain(&policy, by, &question, circumstances);
        Ok(Explanation {
            logged: Some(LoggedDecision {
                allowed,
                policies: decision.policies.clone(),
            }),
            ..explanation
        })
    }
}

/// The decision that an event holds: who asked, for what, what was decided on what, and how.
fn decided(event: &Event) -> Option<(&UserName, Question, &Decision, bool)> {
    match event {
        Event::CertificateIssued {
            by,
            request,
            decision,
            ..
        } => {
            let question = Question::Request(request.wanted()?);
            Some((&by.requester, question, decision, true))
        }
        Event::ApprovalGiven {
            requester,
            request,
            decision,
            by,
            ..
        } => {
            let question = Question::Approval(requester.clone(), request.wanted()?);
            Some((&by.requester, question, decision, true))
        }
        Event::RequestRefused {
            by,
            request,
            decision: Some(decision),
            refused,
        } => {
            // Policy may have permitted what was then refused for something else, such as a lock.
            let allowed = !refused.is_by_policy();
            let question = match (request, &decision.action) {
                (Some(asked), _) => match &decision.approves {
                    Some(requester) => Question::Approval(requester.clone(), asked.wanted()?),
                    None => Question::Request(asked.wanted()?),
                },
                (None, action) => Question::Admin(admin_action(action.as_ref()?).ok()?),
            };
            Some((&by.requester, question, decision, allowed))
        }
        Event::HostCertificateIssued { by, decision, .. } => {
            let question = Question::Admin(AdminAction::CertifyHosts);
            Some((&by.requester, question, decision, true))
        }
        _ => None,
    }
}

fn admin_action(name: &str) -> Result<AdminAction, Refusal> {
    let mut actions = AdminAction::ALL.into_iter();
    actions
        .find(|action| action.as_str() == name)
        .ok_or_else(|| {
            let names = AdminAction::ALL.map(AdminAction::as_str).join(", ");
            let name: String = name.chars().take(64).collect();
            Refusal::illegal(format!("action: {name:?} is none: use one of {names}"))
        })
}

/// The same way that a request goes: its role's bounds first, then policy.
fn explain(
    policy: &PolicySet,
    requester: &UserName,
    question: &Question,
    circumstances: Circumstances,
) -> Explanation {
    let engine = &policy.engine;
    let explained = match question {
        Question::Request(wanted) => policy.bounded(wanted).map(|(role, ttl)| {
            let ask = Ask {
                requester,
                role,
                purpose: &wanted.purpose,
                reason: wanted.reason.as_ref(),
                ttl,
                circumstances: &circumstances,
            };
            let explained = engine.explain_request(&ask);
            let allowed = explained.verdict.allowed;
            let needs = (!allowed).then(|| engine.approvals_needed(&ask)).flatten();
            (explained, needs)
        }),
        Question::Approval(for_whom, wanted) => policy.bounded(wanted).map(|(role, ttl)| {
            let explained = engine.explain_approval(&Approval {
                approver: requester,
                requester: for_whom,
                role,
                purpose: &wanted.purpose,
                reason: wanted.reason.as_ref(),
                ttl,
                circumstances: &circumstances,
            });
            (explained, None)
        }),
        Question::Admin(action) => {
            let explained = engine.explain_admin(requester, *action, &circumstances);
            Ok((explained, None))
        }
    };
    let (explained, needs) = match explained {
        Ok(explained) => explained,
        Err(bound) => {
            return Explanation {
                allowed: false,
                refusal: Some(bound.detail),
                policy_set: policy.digest.clone(),
                circumstances,
                policies: Vec::new(),
                logged: None,
            };
        }
    };
    let refusal = (!explained.verdict.allowed).then(|| {
        let none = || "no policy permits it".to_owned();
        let refusal = Refusal::denied(&explained.verdict, none).to_string();
        match needs {
            Some(needs) => format!("it needs {}: {refusal}", approvals(needs)),
            None => refusal,
        }
    });
    Explanation {
        allowed: explained.verdict.allowed,
        refusal,
        policy_set: policy.digest.clone(),
        circumstances,
        policies: explained.policies,
        logged: None,
    }
}
