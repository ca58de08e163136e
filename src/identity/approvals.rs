use std::collections::HashMap;

use crate::audit::Asked;
use crate::model::{Timestamp, UserName};

/// What was approved for whom by whom, rebuilt from the audit log's entries.
#[derive(Clone, Debug, Default)]
pub struct Approvals {
    /// By who asked.
    given: HashMap<UserName, Vec<Approved>>,
}

/// An approval that was given.
#[derive(Clone, Debug)]
pub struct Approved {
    /// What for, exactly.
    pub request: Asked,
    /// By whom.
    pub by: UserName,
    /// The fingerprint of the key that signed it.
    pub key: String,
    /// Until when it counts.
    pub expires: Timestamp,
}

impl Approvals {
    /// Takes in one that was given, in place of another by the same person for the same.
    pub(super) fn give(&mut self, requester: &UserName, approved: Approved, now: Timestamp) {
        self.forget_those(|_, given| given.expires <= now);
        let given = self.given.entry(requester.clone()).or_default();
        given.retain(|given| (&given.by, &given.request) != (&approved.by, &approved.request));
        given.push(approved);
    }

    /// Forgets those of which something holds, given who asked.
    pub(super) fn forget_those(&mut self, forgotten: impl Fn(&UserName, &Approved) -> bool) {
        self.given.retain(|requester, given| {
            given.retain(|given| !forgotten(requester, given));
            !given.is_empty()
        });
    }

    /// Forgets all that was approved for somebody or by them.
    pub(super) fn forget(&mut self, user: &UserName) {
        self.forget_those(|requester, given| requester == user || given.by == *user);
    }

    /// Those that last for exactly that request.
    pub fn of<'a>(
        &'a self,
        requester: &UserName,
        request: &'a Asked,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a Approved> {
        let given = self.given.get(requester).into_iter().flatten();
        given.filter(move |given| given.request == *request && now < given.expires)
    }
}
