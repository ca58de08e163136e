use std::collections::{BTreeMap, HashMap, HashSet};

use ssh_key::PublicKey;

use super::{Hosts, Unidentified, key_fingerprint};
use crate::audit::{Entry, Event};
use crate::model::{GroupName, LockSummary, LockTarget, Timestamp, UserKey, UserName, UserSummary};

/// Who is enrolled and which hosts have joined, rebuilt from the audit log's entries: there is no other record of it.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    users: BTreeMap<UserName, User>,
    /// Which user a key is bound to. A key is bound to one at most.
    owners: HashMap<String, UserName>,
    /// Keys that nothing is taken from while it is decided whether they stay.
    suspended: HashSet<String>,
    hosts: Hosts,
    locks: BTreeMap<LockTarget, LockSummary>,
    /// What nothing is issued for while it is decided whether it is locked.
    closing: Option<LockTarget>,
}

/// An enrolled user.
#[derive(Clone, Debug)]
pub struct User {
    /// The user's name.
    pub name: UserName,
    /// The user's groups.
    pub groups: Vec<GroupName>,
    /// Whether requests are taken.
    pub enabled: bool,
    /// Public keys as OpenSSH lines, by fingerprint.
    pub keys: BTreeMap<String, String>,
    /// When the user was enrolled.
    pub enrolled: Timestamp,
}

impl Directory {
    /// Takes in an entry that was committed. Entries about anything else change nothing.
    pub fn apply(&mut self, entry: &Entry) {
        self.hosts.apply(entry);
        match &entry.event {
            Event::UserEnrolled {
                user,
                groups,
                public_key,
                ..
            } => {
                let new = User {
                    name: user.clone(),
                    groups: groups.clone(),
                    enabled: true,
                    keys: BTreeMap::new(),
                    enrolled: entry.time,
                };
                // Nothing of an earlier user of that name.
                self.owners.retain(|_, owner| owner != user);
                self.users.insert(user.clone(), new);
                self.bind(user, public_key);
            }
            Event::UserDisabled { user, .. } => self.set_enabled(user, false),
            Event::UserEnabled { user, .. } => self.set_enabled(user, true),
            Event::UserRemoved { user, .. } => {
                self.users.remove(user);
                self.owners.retain(|_, owner| owner != user);
            }
            Event::KeyEnrolled {
                user, public_key, ..
            } => self.bind(user, public_key),
            Event::Locked { target, reason, by } => {
                let lock = LockSummary {
                    target: target.clone(),
                    reason: reason.clone(),
                    since: entry.time,
                    by: by.requester.clone(),
                };
                self.locks.insert(target.clone(), lock);
            }
            Event::Unlocked { target, .. } => {
                self.locks.remove(target);
            }
            Event::KeyRemoved {
                user, fingerprint, ..
            } => {
                self.owners.remove(fingerprint);
                if let Some(user) = self.users.get_mut(user) {
                    user.keys.remove(fingerprint);
                }
            }
            _ => {}
        }
    }

    /// The user whose requests are taken when a key signs them.
    ///
    /// # Errors
    /// When the key is nobody's, or they are not taken now.
    pub fn accepted(&self, fingerprint: &str) -> Result<&User, Unidentified> {
        let user = self
            .owners
            .get(fingerprint)
            .and_then(|owner| self.users.get(owner))
            .ok_or(Unidentified::UnknownKey)?;
        if user.enabled && !self.suspended.contains(fingerprint) {
            Ok(user)
        } else {
            Err(Unidentified::Disabled(user.name.clone()))
        }
    }

    /// Whether a key is bound to somebody.
    pub fn knows(&self, fingerprint: &str) -> bool {
        self.owners.contains_key(fingerprint)
    }

    /// Takes nothing from the keys that `event` would take away, until [`Self::resume`].
    pub fn suspend(&mut self, event: &Event) {
        match event {
            Event::UserDisabled { user, .. } | Event::UserRemoved { user, .. } => {
                let keys = self.users.get(user).map(|user| user.keys.keys());
                self.suspended.extend(keys.into_iter().flatten().cloned());
            }
            Event::KeyRemoved { fingerprint, .. } => {
                self.suspended.insert(fingerprint.clone());
            }
            Event::Locked { target, .. } => self.closing = Some(target.clone()),
            _ => {}
        }
    }

    /// It is decided: what was applied counts.
    pub fn resume(&mut self) {
        self.suspended.clear();
        self.closing = None;
    }

    /// All locks.
    pub fn locks(&self) -> impl Iterator<Item = &LockSummary> {
        self.locks.values()
    }

    /// Checks that nothing of it is locked.
    ///
    /// # Errors
    /// Says what is, and why.
    pub fn check_unlocked<const N: usize>(
        &self,
        targets: impl FnOnce() -> [LockTarget; N],
    ) -> Result<(), Locked> {
        // As on most days.
        if self.locks.is_empty() && self.closing.is_none() {
            return Ok(());
        }
        for target in targets() {
            if let Some(lock) = self.locks.get(&target) {
                return Err(Locked::Since(lock.clone()));
            }
            if self.closing.as_ref() == Some(&target) {
                return Err(Locked::Closing);
            }
        }
        Ok(())
    }

    /// The hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The user of that name.
    pub fn find(&self, name: &UserName) -> Option<&User> {
        self.users.get(name)
    }

    /// All users by name.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// Checks that a user can be enrolled.
    ///
    /// # Errors
    /// When the name or the key is in use.
    pub fn check_new_user(&self, name: &UserName, key: &PublicKey) -> Result<(), EnrolmentError> {
        if self.users.contains_key(name) {
            return Err(EnrolmentError::NameInUse(name.clone()));
        }
        self.check_new_key(key)
    }

    /// Checks that a key can be enrolled.
    ///
    /// # Errors
    /// When it is in use.
    pub fn check_new_key(&self, key: &PublicKey) -> Result<(), EnrolmentError> {
        let fingerprint = key_fingerprint(key.key_data());
        match self.owners.get(&fingerprint) {
            Some(owner) => Err(EnrolmentError::KeyInUse {
                fingerprint,
                owner: owner.clone(),
            }),
            None if self.hosts.of_key(&fingerprint).is_some() => {
                Err(EnrolmentError::HostsKey { fingerprint })
            }
            None => Ok(()),
        }
    }

    fn bind(&mut self, user: &UserName, public_key: &str) {
        // What is in the log was parsed before it got there.
        let (Some(user), Ok(key)) = (
            self.users.get_mut(user),
            PublicKey::from_openssh(public_key),
        ) else {
            return;
        };
        let fingerprint = key_fingerprint(key.key_data());
        self.owners.insert(fingerprint.clone(), user.name.clone());
        user.keys.insert(fingerprint, public_key.to_owned());
    }

    fn set_enabled(&mut self, user: &UserName, enabled: bool) {
        if let Some(user) = self.users.get_mut(user) {
            user.enabled = enabled;
        }
    }
}

impl User {
    /// What the API says of the user.
    pub fn summary(&self) -> UserSummary {
        UserSummary {
            name: self.name.clone(),
            groups: self.groups.clone(),
            enabled: self.enabled,
            keys: self
                .keys
                .iter()
                .map(|(fingerprint, public_key)| UserKey {
                    fingerprint: fingerprint.clone(),
                    public_key: public_key.clone(),
                })
                .collect(),
            enrolled: self.enrolled,
        }
    }
}

/// Why nothing is issued for a role, a user or a host.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Locked {
    /// It is locked.
    #[error(
        "{} is locked since {} by {}: {}; an administrator unlocks it with `hallpass unlock {}`",
        .0.target, .0.since.whole_secs(), .0.by, .0.reason, .0.target
    )]
    Since(LockSummary),
    /// It is about to be.
    #[error("it is being locked right now: ask again in a moment")]
    Closing,
}

/// Why a user or a key can't be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentError {
    /// The name is taken.
    #[error(
        "user {0} is already enrolled: choose another name, or add a key with `hallpass user key add`"
    )]
    NameInUse(UserName),
    /// The key is somebody's. Two people never share one.
    #[error(
        "key {fingerprint} is already enrolled for user {owner}: every user needs a key of their own"
    )]
    KeyInUse {
        /// The key's fingerprint.
        fingerprint: String,
        /// Whose it is.
        owner: UserName,
    },
    /// The key is a host's.
    #[error("key {fingerprint} is a host's: every user and every host needs a key of their own")]
    HostsKey {
        /// The key's fingerprint.
        fingerprint: String,
    },
}
