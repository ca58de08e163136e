use std::collections::{BTreeMap, HashMap, HashSet};

use ssh_key::PublicKey;

use super::{Hosts, Key, Unidentified, key_fingerprint};
use crate::audit::{Entry, Event};
use crate::model::{
    Attestation, EntryIndex, GroupName, LockSummary, LockTarget, Timestamp, UserName, UserSummary,
};

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
    /// The keys by fingerprint.
    pub keys: BTreeMap<String, Key>,
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
                attestation,
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
                self.forget(user);
                self.users.insert(user.clone(), new);
                self.bind(user, public_key, attestation.as_ref(), entry.index);
            }
            Event::UserDisabled { user, .. } => self.set_enabled(user, false),
            Event::UserEnabled { user, .. } => self.set_enabled(user, true),
            Event::UserRemoved { user, .. } => self.forget(user),
            Event::KeyEnrolled {
                user,
                public_key,
                attestation,
                ..
            } => self.bind(user, public_key, attestation.as_ref(), entry.index),
            Event::Locked { target, reason, by } => self.lock(LockSummary {
                target: target.clone(),
                reason: reason.clone(),
                since: entry.time,
                by: Some(by.requester.clone()),
            }),
            Event::CounterWentBack {
                fingerprint,
                counter,
                newest,
                ..
            } => self.lock(LockSummary {
                target: LockTarget::Key(fingerprint.clone()),
                reason: format!("it counted to {counter} after {newest}: there may be two of it"),
                since: entry.time,
                by: None,
            }),
            Event::Unlocked { target, .. } => {
                self.locks.remove(target);
                if let LockTarget::Key(fingerprint) = target
                    && let Some(key) = self.key(fingerprint)
                {
                    (key.locked, key.since) = (None, entry.index);
                }
            }
            Event::KeyRemoved {
                user, fingerprint, ..
            } => {
                self.owners.remove(fingerprint);
                self.locks.remove(&LockTarget::Key(fingerprint.clone()));
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
        if self.is_locked(fingerprint) {
            return Err(Unidentified::KeyLocked(user.name.clone()));
        }
        if user.enabled && !self.suspended.contains(fingerprint) {
            Ok(user)
        } else {
            Err(Unidentified::Disabled(user.name.clone()))
        }
    }

    /// Whether a user's key is locked.
    pub fn is_locked(&self, fingerprint: &str) -> bool {
        let owner = self.owners.get(fingerprint);
        let user = owner.and_then(|owner| self.users.get(owner));
        let key = user.and_then(|user| user.keys.get(fingerprint));
        key.is_some_and(|key| key.locked.is_some())
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
            Event::KeyRemoved { fingerprint, .. }
            | Event::Locked {
                target: LockTarget::Key(fingerprint),
                ..
            } => {
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

    fn key(&mut self, fingerprint: &str) -> Option<&mut Key> {
        let user = self.users.get_mut(self.owners.get(fingerprint)?)?;
        user.keys.get_mut(fingerprint)
    }

    fn lock(&mut self, lock: LockSummary) {
        if let LockTarget::Key(fingerprint) = &lock.target {
            let Some(key) = self.key(fingerprint) else {
                // It was removed in that moment.
                return;
            };
            key.locked = Some(lock.clone());
        }
        self.locks.insert(lock.target.clone(), lock);
    }

    /// Keeps nothing of a user and their keys.
    fn forget(&mut self, user: &UserName) {
        self.owners.retain(|_, owner| owner != user);
        for (fingerprint, _) in self
            .users
            .remove(user)
            .into_iter()
            .flat_map(|user| user.keys)
        {
            self.locks.remove(&LockTarget::Key(fingerprint));
        }
    }

    fn bind(
        &mut self,
        user: &UserName,
        public_key: &str,
        attestation: Option<&Attestation>,
        since: EntryIndex,
    ) {
        // What is in the log was parsed before it got there.
        let (Some(user), Ok(key)) = (
            self.users.get_mut(user),
            PublicKey::from_openssh(public_key),
        ) else {
            return;
        };
        let fingerprint = key_fingerprint(key.key_data());
        self.owners.insert(fingerprint.clone(), user.name.clone());
        let key = Key {
            public_key: public_key.to_owned(),
            attestation: attestation.cloned(),
            locked: None,
            since,
        };
        user.keys.insert(fingerprint, key);
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
                .map(|(fingerprint, key)| key.summary(fingerprint))
                .collect(),
            enrolled: self.enrolled,
        }
    }
}

/// Why nothing is issued for a role, a user or a host, or no request by a key is taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Locked {
    /// It is locked.
    #[error("{0}; an administrator unlocks it with `hallpass unlock {target}`", target = .0.target)]
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
