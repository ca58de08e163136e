use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{HostName, LockSummary, LockTarget};

/// What nothing is issued for, rebuilt from the audit log's entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    locks: BTreeMap<LockTarget, LockSummary>,
    /// Which locked hosts a name is of: those that they had when they were locked and were given since,
    /// or who may invite and remove them would take their names out of the lock.
    names: HashMap<HostName, BTreeSet<HostName>>,
    /// What nothing is issued for while it is decided whether it is locked.
    closing: Option<LockTarget>,
}

impl Locks {
    pub(super) fn add(&mut self, lock: LockSummary) {
        self.locks.insert(lock.target.clone(), lock);
    }

    /// Has the lock of a host hold for these names of its as well.
    pub(super) fn add_names(&mut self, host: &HostName, names: BTreeSet<HostName>) {
        for name in names {
            self.names.entry(name).or_default().insert(host.clone());
        }
    }

    pub(super) fn remove(&mut self, target: &LockTarget) {
        self.locks.remove(target);
        if let LockTarget::Host(host) = target {
            self.names.retain(|_, hosts| {
                hosts.remove(host);
                !hosts.is_empty()
            });
        }
    }

    pub(super) fn has(&self, target: &LockTarget) -> bool {
        self.locks.contains_key(target)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LockSummary> {
        self.locks.values()
    }

    /// Issues nothing for it until it is [decided](Self::decided).
    pub(super) fn close(&mut self, target: &LockTarget) {
        self.closing = Some(target.clone());
    }

    pub(super) fn decided(&mut self) {
        self.closing = None;
    }

    /// Checks that nothing of it is locked.
    pub(super) fn check<const N: usize>(
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

    /// Checks that no name is a locked host's. `names_of` tells what a host is called.
    pub(super) fn check_names(
        &self,
        names: &[HostName],
        names_of: impl FnOnce(&HostName) -> BTreeSet<HostName>,
    ) -> Result<(), Locked> {
        let closing = match &self.closing {
            Some(LockTarget::Host(host)) => names_of(host),
            _ if self.names.is_empty() => return Ok(()),
            _ => BTreeSet::new(),
        };
        for name in names.iter().map(HostName::canonical) {
            let hosts = self.names.get(&name);
            let host = hosts.and_then(BTreeSet::first).cloned();
            let lock = host.and_then(|host| self.locks.get(&LockTarget::Host(host)));
            if let Some(lock) = lock.cloned() {
                return Err(Locked::Name { name, lock });
            }
            if closing.contains(&name) {
                return Err(Locked::Closing);
            }
        }
        Ok(())
    }
}

/// Why nothing is issued for a role, a user or a host, or no request by a key is taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Locked {
    /// It is locked.
    #[error("{0}; an administrator unlocks it with `hallpass unlock {target}`", target = .0.target)]
    Since(LockSummary),
    /// It is a name of a host that is locked.
    #[error(
        "{name} is a name of a locked host: {lock}; an administrator unlocks it with `hallpass unlock \
         {target}`",
        target = .lock.target
    )]
    Name {
        /// The name.
        name: HostName,
        /// Its host's lock.
        lock: LockSummary,
    },
    /// It is about to be.
    #[error("it is being locked right now: ask again in a moment")]
    Closing,
}
