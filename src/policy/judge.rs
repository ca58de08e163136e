use serde::Serialize;

use super::bounds::check_bounds;
use super::{Approval, Ask, OutOfBounds, PolicySet, Verdict};
use crate::model::{Circumstances, Purpose, Reason, Role, RoleName, Ttl, UserName};

/// A request, as it is put to a policy set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// The role.
    pub role: RoleName,
    /// What for.
    pub purpose: Purpose,
    /// Why, when that is said.
    pub reason: Option<Reason>,
    /// For how long; the role's default when that is not said.
    pub ttl: Option<Ttl>,
}

/// What a policy set says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether it is permitted.
    pub allowed: bool,
    /// The policies that decided. None when the role's bounds did.
    pub policies: Vec<String>,
    /// Why the role's bounds refuse it.
    pub bound: Option<String>,
}

impl From<Verdict> for Judged {
    fn from(verdict: Verdict) -> Self {
        Self {
            allowed: verdict.allowed,
            policies: verdict.policies,
            bound: None,
        }
    }
}

impl From<OutOfBounds> for Judged {
    fn from(bound: OutOfBounds) -> Self {
        Self {
            allowed: false,
            policies: Vec::new(),
            bound: Some(bound.detail),
        }
    }
}

impl PolicySet {
    /// What the set says to a request: its role's bounds first, then the policies.
    pub fn judge(
        &self,
        requester: &UserName,
        wanted: &Wanted,
        circumstances: &Circumstances,
    ) -> Judged {
        let (role, ttl) = match self.bounded(wanted) {
            Ok(bounded) => bounded,
            Err(bound) => return bound.into(),
        };
        let verdict = self.engine.decide_request(&Ask {
            requester,
            role,
            purpose: &wanted.purpose,
            reason: wanted.reason.as_ref(),
            ttl,
            circumstances,
        });
        verdict.into()
    }

    /// What the set says to somebody who wants to approve another's request: that one's role's bounds
    /// first, then the policies.
    pub fn judge_approval(
        &self,
        approver: &UserName,
        requester: &UserName,
        wanted: &Wanted,
        circumstances: &Circumstances,
    ) -> Judged {
        let (role, ttl) = match self.bounded(wanted) {
            Ok(bounded) => bounded,
            Err(bound) => return bound.into(),
        };
        let verdict = self.engine.decide_approval(&Approval {
            approver,
            requester,
            role,
            purpose: &wanted.purpose,
            reason: wanted.reason.as_ref(),
            ttl,
            circumstances,
        });
        verdict.into()
    }

    /// The role that a request is for, and the lifetime, when it is within the role's bounds.
    ///
    /// # Errors
    /// At the first bound that it oversteps.
    pub fn bounded(&self, wanted: &Wanted) -> Result<(&Role, Ttl), OutOfBounds> {
        let role = self.roles.find(&wanted.role).ok_or_else(|| OutOfBounds {
            code: "unknown-role",
            detail: format!(
                "there is no role {}: `hallpass role list` shows yours",
                wanted.role
            ),
        })?;
        let ttl = wanted.ttl.unwrap_or(role.default_ttl);
        check_bounds(role, &wanted.purpose, wanted.reason.as_ref(), ttl)?;
        Ok((role, ttl))
    }
}
