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

#[cfg(test)]
mod tests {
    use super::super::Directory;
    use super::*;
    use crate::audit::{Actor, Decision, Entry, Event};
    use crate::model::{EntryIndex, LockTarget};

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn now() -> Timestamp {
        Timestamp::from_secs(1000)
    }

    fn asked() -> Asked {
        Asked {
            role: "deploy".parse().unwrap(),
            purpose: "deploy".parse().unwrap(),
            reason: None,
            ttl: 600,
        }
    }

    fn actor(requester: &str) -> Actor {
        Actor {
            requester: requester.parse().unwrap(),
            method: "ssh-key".to_owned(),
            fingerprint: "SHA256:AAAA".to_owned(),
            source: "192.0.2.7".parse().unwrap(),
            nonce: "nonce".to_owned(),
            counter: None,
        }
    }

    fn apply(directory: &mut Directory, event: Event) {
        directory.apply(&Entry {
            index: EntryIndex(1),
            time: now(),
            event,
            salt: None,
        });
    }

    fn given(by: &str, expires: u64) -> Event {
        Event::ApprovalGiven {
            entry: EntryIndex(0),
            requester: "vera".parse().unwrap(),
            request: asked(),
            expires: Timestamp::from_secs(expires),
            decision: Decision {
                policies: Vec::new(),
                policy_set: String::new(),
                action: None,
                approves: None,
                circumstances: None,
            },
            by: actor(by),
        }
    }

    fn count(directory: &Directory, now: Timestamp) -> usize {
        let vera = "vera".parse().unwrap();
        directory.approvals(&vera, &asked(), now).count()
    }

    /// Alice is enrolled, and approved what vera asks for.
    fn directory() -> Directory {
        let mut directory = Directory::default();
        let enrolled = Event::UserEnrolled {
            user: "alice".parse().unwrap(),
            groups: Vec::new(),
            public_key: KEY.to_owned(),
            attestation: None,
            by: None,
        };
        apply(&mut directory, enrolled);
        apply(&mut directory, given("alice", 1600));
        assert_eq!(count(&directory, now()), 1);
        directory
    }

    #[test]
    fn while_it_is_open_whether_an_approver_stays_nothing_of_theirs_counts() {
        let mut directory = directory();
        let (user, by) = ("alice".parse::<UserName>().unwrap(), actor("root"));
        for event in [
            Event::UserDisabled {
                user: user.clone(),
                by: by.clone(),
            },
            Event::UserRemoved {
                user: user.clone(),
                by: by.clone(),
            },
            Event::Locked {
                target: LockTarget::User(user),
                reason: "x".to_owned(),
                by: by.clone(),
            },
            Event::Locked {
                target: LockTarget::Key("SHA256:AAAA".to_owned()),
                reason: "x".to_owned(),
                by,
            },
        ] {
            directory.suspend(&event);
            assert_eq!(count(&directory, now()), 0, "{event:?}");
            // It did not get into the log.
            directory.resume();
            assert_eq!(count(&directory, now()), 1, "{event:?}");
        }
    }

    #[test]
    fn what_the_log_says_beyond_the_rules_counts_for_nothing() {
        let mut directory = directory();
        // Whoever is nobody, and whoever asks.
        apply(&mut directory, given("mallory", 1600));
        apply(&mut directory, given("vera", 1600));
        assert_eq!(count(&directory, now()), 1);
        // Longer than an hour.
        apply(&mut directory, given("alice", 1_000_000));
        assert_eq!(count(&directory, Timestamp::from_secs(4599)), 1);
        assert_eq!(count(&directory, Timestamp::from_secs(4600)), 0);
    }
}
