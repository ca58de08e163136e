use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ssh_key::PublicKey;

use super::locks::Locks;
use super::{
    Accepted, Approvals, Approved, Host, Hosts, Key, KnownHost, Locked, MAX_SKEW, Session,
    Sessions, Unidentified, key_fingerprint,
};
use crate::audit::{Asked, Entry, Event};
use crate::model::{
    Account, Attestation, EntryIndex, GroupName, HostName, LONGEST_APPROVAL, LockSummary,
    LockTarget, Timestamp, UserName, UserSummary,
};

/// Who is enrolled, who has signed in and which hosts have joined, rebuilt from the audit log's
/// entries: there is no other record of it.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    users: BTreeMap<UserName, User>,
    /// Which user a key is bound to. A key is bound to one at most.
    owners: HashMap<String, UserName>,
    approvals: Approvals,
    /// Whose approvals do not count while it is decided whether they stay.
    leaving: Option<UserName>,
    /// Keys that nothing is taken from while it is decided whether they stay.
    suspended: HashSet<String>,
    /// Which user an account at a provider is.
    accounts: HashMap<Account, UserName>,
    /// Accounts that were taken from a user, until an administrator says otherwise, and users who were
    /// removed: a login does not bring them back.
    barred: HashMap<Account, UserName>,
    removed: HashSet<UserName>,
    sessions: Sessions,
    /// No token from before that is taken: whether it was used is not known any more.
    tokens_since: Timestamp,
    hosts: Hosts,
    locks: Locks,
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
    /// The accounts that the user signs in with.
    pub accounts: Vec<Account>,
    /// When the user was enrolled.
    pub enrolled: Timestamp,
    /// The entry that says so.
    pub since: EntryIndex,
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
                // Nothing of an earlier user of that name.
                self.forget(user);
                self.removed.remove(user);
                let new = User::new(user, groups, entry);
                self.users.insert(user.clone(), new);
                self.bind(user, public_key, attestation.as_ref(), entry.index);
            }
            Event::UserDisabled { user, .. } => {
                self.set_enabled(user, false);
                self.forget_given(user);
                self.sessions.end_those(|session| session.user == *user);
            }
            Event::UserLinked { user, account, .. } => {
                let new = || User::new(user, &[], entry);
                let linked = self.users.entry(user.clone()).or_insert_with(new);
                linked.accounts.push(account.clone());
                self.removed.remove(user);
                self.barred.remove(account);
                self.accounts.insert(account.clone(), user.clone());
            }
            Event::UserUnlinked { user, account, .. } => {
                if let Some(user) = self.users.get_mut(user) {
                    user.accounts.retain(|own| own != account);
                }
                self.forget_given(user);
                self.bar(account, user);
            }
            Event::SessionBegun(session) => self.sessions.begin(session, entry.time),
            Event::SessionTouched {
                touched, mfa, by, ..
            } => self.sessions.touch(&by.fingerprint, touched, *mfa),
            Event::SessionEnded {
                fingerprint, by, ..
            } => {
                self.sessions.end(fingerprint);
                // Somebody else may have had the key, also when its owner says so with another; who
                // signs out with it has approved what they have.
                if by.as_ref().is_none_or(|by| by.fingerprint != *fingerprint) {
                    self.distrust(fingerprint);
                }
            }
            Event::ApprovalGiven {
                requester,
                request,
                expires,
                by,
                ..
            } => {
                let approved = Approved {
                    request: request.clone(),
                    by: by.requester.clone(),
                    key: by.fingerprint.clone(),
                    expires: (*expires).min(entry.time.plus(LONGEST_APPROVAL)),
                };
                self.approvals.give(requester, approved, entry.time);
            }
            // Of what came after the backup nothing is known, an end of a session or of an invitation
            // least of all; and what a clock said that was ahead is worth nothing.
            Event::LogRestored { .. } | Event::ClockCorrected { .. } => {
                self.sessions.end_those(|_| true);
                self.approvals.forget_those(|_, _| true);
                self.hosts.withdraw(|_| true);
                self.tokens_since = entry.time;
            }
            // What came before, sessions among it, may be in the file.
            Event::LogArchived { .. } => self.tokens_since = entry.time,
            Event::UserEnabled { user, .. } => self.set_enabled(user, true),
            Event::UserRemoved { user, .. } => {
                self.forget(user);
                self.removed.insert(user.clone());
            }
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
            Event::HostInvited { profile, .. } => {
                let host = LockTarget::Host(profile.host.clone());
                if self.locks.has(&host) {
                    let names = self.names_of(&profile.host);
                    self.locks.add_names(&profile.host, names);
                }
            }
            Event::KeyRemoved {
                user, fingerprint, ..
            } => {
                self.owners.remove(fingerprint);
                self.distrust(fingerprint);
                self.locks.remove(&LockTarget::Key(fingerprint.clone()));
                if let Some(user) = self.users.get_mut(user) {
                    user.keys.remove(fingerprint);
                }
            }
            _ => {}
        }
    }

    /// Whose requests are taken at that time when a key signs them.
    ///
    /// # Errors
    /// When the key is nobody's, or they are not taken now.
    pub fn accepted(
        &self,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Accepted<'_>, Unidentified> {
        let accepted = match self.owners.get(fingerprint) {
            Some(owner) => {
                let user = self.users.get(owner).ok_or(Unidentified::UnknownKey)?;
                Accepted {
                    name: &user.name,
                    user: Some(user),
                    session: None,
                    factor_locked: false,
                }
            }
            None => self.signed_in(fingerprint, now)?,
        };
        if self.is_locked(fingerprint) {
            return Err(Unidentified::KeyLocked(accepted.name.clone()));
        }
        let enabled = accepted.user.is_none_or(|user| user.enabled);
        if enabled && !self.suspended.contains(fingerprint) {
            Ok(accepted)
        } else {
            Err(Unidentified::Disabled(accepted.name.clone()))
        }
    }

    /// The same of a session's key.
    fn signed_in(&self, fingerprint: &str, now: Timestamp) -> Result<Accepted<'_>, Unidentified> {
        let session = self.sessions.of_key(fingerprint);
        let session = session.ok_or(Unidentified::UnknownKey)?;
        if session.expires <= now {
            return Err(Unidentified::SessionOver(session.user.clone()));
        }
        let user = match session.workload {
            Some(_) => None,
            None => Some(
                self.users
                    .get(&session.user)
                    .ok_or(Unidentified::UnknownKey)?,
            ),
        };
        let touched = session.touched.as_deref();
        Ok(Accepted {
            name: &session.user,
            user,
            session: Some(session),
            factor_locked: touched.is_some_and(|touched| {
                self.is_locked(touched)
                    || self.suspended.contains(touched)
                    || self.owners.get(touched) != Some(&session.user)
            }),
        })
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
        self.owners.contains_key(fingerprint) || self.sessions.of_key(fingerprint).is_some()
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Who has approved exactly that request so that it counts now: somebody else, who is enabled and
    /// not locked.
    pub fn approvals<'a>(
        &'a self,
        requester: &'a UserName,
        request: &'a Asked,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a UserName> {
        let approvals = self.approvals.of(requester, request, now);
        let counts = move |approved: &&Approved| {
            let by = &approved.by;
            by != requester
                && self.users.get(by).is_some_and(|user| user.enabled)
                && self.leaving.as_ref() != Some(by)
                && !self.suspended.contains(&approved.key)
                && self
                    .check_unlocked(|| [LockTarget::User(by.clone())])
                    .is_ok()
        };
        approvals.filter(counts).map(|approved| &approved.by)
    }

    /// Whether somebody who asked in an earlier entry is the same and may still ask.
    pub fn still_asks(&self, requester: &UserName, asked: EntryIndex, now: Timestamp) -> bool {
        match self.users.get(requester) {
            Some(user) => user.enabled && user.since < asked,
            None => self
                .sessions
                .living(now)
                .any(|(_, session)| session.workload.is_some() && session.user == *requester),
        }
    }

    /// The user whom an account is linked to.
    pub fn linked(&self, account: &Account) -> Option<&User> {
        self.users.get(self.accounts.get(account)?)
    }

    /// From which user an administrator took an account, or whom it was when they were removed.
    pub fn barred(&self, account: &Account) -> Option<&UserName> {
        self.barred.get(account)
    }

    /// Whether a user of that name was removed, and not enrolled or linked since.
    pub fn was_removed(&self, name: &UserName) -> bool {
        self.removed.contains(name)
    }

    /// Whether a key is enrolled for somebody.
    pub fn is_enrolled(&self, fingerprint: &str) -> bool {
        self.owners.contains_key(fingerprint)
    }

    /// Whether a token that was issued then can still be told from one that was used.
    pub fn remembers_tokens_of(&self, issued: Timestamp) -> bool {
        issued > self.tokens_since.plus(MAX_SKEW)
    }

    /// The host that a token invites, given its SHA-256 in hexadecimal, so that it counts now: whoever
    /// invited it is not locked.
    pub fn invited(&self, token_sha256: &str, now: Timestamp) -> Option<&Host> {
        let (host, invitation) = self.hosts.invited(token_sha256, now)?;
        let by = || [LockTarget::User(invitation.by.clone())];
        self.check_unlocked(by).is_ok().then_some(host)
    }

    /// Whether a host that was identified is what it was then.
    pub fn is_still(&self, host: &KnownHost) -> bool {
        let fingerprint = &host.actor.fingerprint;
        let known = self.hosts.of_key(fingerprint);
        let same = known.is_some_and(|known| known.profile == host.profile);
        same && !self.suspended.contains(fingerprint)
    }

    /// Takes nothing from the keys that `event` would take away, or whose host it would change, until
    /// [`Self::resume`].
    pub fn suspend(&mut self, event: &Event) {
        match event {
            Event::UserDisabled { user, .. } | Event::UserRemoved { user, .. } => {
                let keys = self.users.get(user).map(|user| user.keys.keys());
                self.suspended.extend(keys.into_iter().flatten().cloned());
                self.leaving = Some(user.clone());
                self.suspend_sessions(|session| session.user == *user);
            }
            Event::UserUnlinked { user, account, .. } => {
                self.leaving = Some(user.clone());
                self.suspend_sessions(|session| session.account == *account);
            }
            Event::KeyRemoved { fingerprint, .. }
            | Event::SessionEnded { fingerprint, .. }
            | Event::Locked {
                target: LockTarget::Key(fingerprint),
                ..
            } => {
                self.suspended.insert(fingerprint.clone());
            }
            Event::Locked { target, .. } => self.locks.close(target),
            event => {
                let host = event.host().and_then(|host| self.hosts.find(host));
                let joined = host.and_then(|host| host.joined.as_ref());
                let key = joined.map(|joined| joined.fingerprint.clone());
                self.suspended.extend(key);
            }
        }
    }

    fn suspend_sessions(&mut self, which: impl Fn(&Session) -> bool) {
        let sessions = self.sessions.living(Timestamp::default());
        let keys = sessions.filter(|(_, session)| which(session));
        let keys = keys.map(|(fingerprint, _)| fingerprint.to_owned());
        self.suspended.extend(keys);
    }

    /// It is decided: what was applied counts.
    pub fn resume(&mut self) {
        self.suspended.clear();
        self.leaving = None;
        self.locks.decided();
    }

    /// All locks.
    pub fn locks(&self) -> impl Iterator<Item = &LockSummary> {
        self.locks.iter()
    }

    /// Checks that nothing of it is locked.
    ///
    /// # Errors
    /// Says what is, and why.
    pub fn check_unlocked<const N: usize>(
        &self,
        targets: impl FnOnce() -> [LockTarget; N],
    ) -> Result<(), Locked> {
        self.locks.check(targets)
    }

    /// Checks that no name is a locked host's.
    ///
    /// # Errors
    /// Says which is, and why.
    pub fn check_names_unlocked(&self, names: &[HostName]) -> Result<(), Locked> {
        self.locks.check_names(names, |host| self.names_of(host))
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
            None if self.sessions.of_key(&fingerprint).is_some() => {
                Err(EnrolmentError::SessionsKey { fingerprint })
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
            self.distrust(fingerprint);
        }
        if let LockTarget::Host(host) = &lock.target {
            self.locks.add_names(host, self.names_of(host));
        }
        self.locks.add(lock);
    }

    /// What a host is called, by us and by those who reach it.
    fn names_of(&self, host: &HostName) -> BTreeSet<HostName> {
        let found = self.hosts.find(host);
        let names = found.into_iter().flat_map(|host| &host.profile.names);
        names.chain([host]).map(HostName::canonical).collect()
    }

    /// Keeps nothing of a user, their keys and their sessions, but which accounts were theirs.
    fn forget(&mut self, user: &UserName) {
        self.owners.retain(|_, owner| owner != user);
        self.forget_given(user);
        self.sessions.end_those(|session| session.user == *user);
        let Some(removed) = self.users.remove(user) else {
            return;
        };
        for fingerprint in removed.keys.into_keys() {
            self.locks.remove(&LockTarget::Key(fingerprint));
        }
        for account in &removed.accounts {
            self.bar(account, user);
        }
    }

    /// What somebody approved and whom they invited counts no more, nor what was approved for them.
    fn forget_given(&mut self, user: &UserName) {
        self.approvals.forget(user);
        self.hosts.withdraw(|invitation| invitation.by == *user);
    }

    /// A key is somebody else's, or may be: what it approved and whom it invited counts no more.
    fn distrust(&mut self, fingerprint: &str) {
        self.approvals
            .forget_those(|_, approved| approved.key == fingerprint);
        self.hosts
            .withdraw(|invitation| invitation.key == fingerprint);
    }

    fn bar(&mut self, account: &Account, user: &UserName) {
        self.accounts.remove(account);
        self.barred.insert(account.clone(), user.clone());
        self.sessions
            .end_those(|session| session.account == *account);
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
    fn new(name: &UserName, groups: &[GroupName], entry: &Entry) -> Self {
        Self {
            name: name.clone(),
            groups: groups.to_vec(),
            enabled: true,
            keys: BTreeMap::new(),
            accounts: Vec::new(),
            enrolled: entry.time,
            since: entry.index,
        }
    }

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
            accounts: self.accounts.clone(),
            enrolled: self.enrolled,
        }
    }
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
    /// The key is a session's.
    #[error("key {fingerprint} signs for somebody who signed in: make a fresh one")]
    SessionsKey {
        /// The key's fingerprint.
        fingerprint: String,
    },
    /// The key is a host's.
    #[error("key {fingerprint} is a host's: every user and every host needs a key of their own")]
    HostsKey {
        /// The key's fingerprint.
        fingerprint: String,
    },
}
