use serde::Serialize;

use super::{Ask, PolicySet, check_bounds};
use crate::model::{Circumstances, Purpose, Reason, RoleName, Ttl, UserName};

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

impl PolicySet {
    /// What the set says to a request: its role's bounds first, then the policies.
    pub fn judge(
        &self,
        requester: &UserName,
        wanted: &Wanted,
        circumstances: &Circumstances,
    ) -> Judged {
        let out_of_bounds = |bound: String| Judged {
            allowed: false,
            policies: Vec::new(),
            bound: Some(bound),
        };
        let Some(role) = self.roles.find(&wanted.role) else {
            return out_of_bounds(format!("there is no role {}", wanted.role));
        };
        let ttl = wanted.ttl.unwrap_or(role.default_ttl);
        let reason = wanted.reason.as_ref();
        if let Err(bound) = check_bounds(role, &wanted.purpose, reason, ttl) {
            return out_of_bounds(bound.detail);
        }
        let verdict = self.engine.decide_request(&Ask {
            requester,
            role,
            purpose: &wanted.purpose,
            reason,
            ttl,
            circumstances,
        });
        Judged {
            allowed: verdict.allowed,
            policies: verdict.policies,
            bound: None,
        }
    }
}
