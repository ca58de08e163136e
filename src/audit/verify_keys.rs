//! Which keys a log was signed with when, as its own entries tell.

use super::checkpoint::{Checkpoint, VerifierKey};
use super::entry::Event;
use crate::model::{KeyId, KeyKind};

/// The keys of a log over its life.
pub(super) struct KeysOverTime {
    keys: Vec<Lived>,
    /// The one that signs when there is no rotation.
    active: usize,
}

/// A key of the log.
struct Lived {
    id: KeyId,
    key: VerifierKey,
    /// The entry that introduced it.
    from: u64,
    /// The entry from which on it signs nothing more.
    until: Option<u64>,
    /// Whether it was given, or a key that was given vouches for it.
    believed: bool,
}

impl KeysOverTime {
    /// Begins with the key of the first entry; nothing when it is none. `given` are the keys that
    /// somebody who verifies the log knows it by.
    pub(super) fn new(first: &str, given: &[VerifierKey]) -> Option<Self> {
        let key: VerifierKey = first.parse().ok()?;
        let first = Lived {
            id: KeyId::first(KeyKind::Log),
            from: 0,
            until: None,
            believed: given.contains(&key),
            key,
        };
        Some(Self {
            keys: vec![first],
            active: 0,
        })
    }

    /// The log's name.
    pub(super) fn name(&self) -> &str {
        self.keys[0].key.name()
    }

    /// Takes in an entry that changes the log's keys.
    pub(super) fn take(
        &mut self,
        index: u64,
        event: &Event,
        given: &[VerifierKey],
    ) -> Result<(), String> {
        for new in event.new_ca_keys() {
            let key: VerifierKey = new
                .public
                .parse()
                .map_err(|_| format!("{} is no key of a log", new.key))?;
            if key.name() != self.name() {
                return Err(format!("{} is a key of another log", new.key));
            }
            self.keys.push(Lived {
                id: new.key,
                from: index,
                until: None,
                believed: given.contains(&key),
                key,
            });
        }
        match event {
            Event::CaKeyActivated { key, cross, .. } => {
                let place = self.find(*key)?;
                let old = &self.keys[self.active];
                let vouched = cross.as_ref().is_some_and(|note| {
                    old.believed && old.key.signed_succession(&self.keys[place].key, note)
                });
                self.keys[place].believed |= vouched;
                self.active = place;
            }
            Event::CaKeyRetired { key, .. } | Event::CaKeyCancelled { key, .. } => {
                self.end(*key, index)?;
            }
            Event::CaKeyRevoked {
                key, successors, ..
            } => {
                self.end(*key, index)?;
                if let Some(new) = successors.first() {
                    self.active = self.find(new.key)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn find(&self, id: KeyId) -> Result<usize, String> {
        let place = self.keys.iter().position(|key| key.id == id);
        place.ok_or_else(|| format!("there is no key {id} before it"))
    }

    fn end(&mut self, id: KeyId, index: u64) -> Result<(), String> {
        let place = self.find(id)?;
        self.keys[place].until = Some(index);
        Ok(())
    }

    /// Whether one of the keys that were given is the log's at all.
    pub(super) fn knows_any(&self, given: &[VerifierKey]) -> bool {
        self.keys.iter().any(|key| given.contains(&key.key))
    }

    /// Whether a checkpoint is signed by a key that the log had then; for one that nobody saw
    /// before, by a key that is believed.
    pub(super) fn check(&self, checkpoint: &Checkpoint, is_new: bool) -> Result<(), String> {
        let size = checkpoint.size;
        let had = |key: &&Lived| key.from < size && key.until.is_none_or(|until| until >= size);
        let mut doubted = None;
        for key in self.keys.iter().filter(had) {
            let signed = checkpoint.is_signed_by(&key.key);
            if signed.map_err(|error| error.to_string())? {
                if key.believed || !is_new {
                    return Ok(());
                }
                doubted = Some(key);
            }
        }
        let Some(key) = doubted else {
            return Err(format!(
                "the checkpoint of {size} entries is signed by no key that the log had then"
            ));
        };
        Err(format!(
            "the log is signed by {} by now ({}), and no key that you know it by has vouched for \
             that: the one before was revoked, or this is a forgery. Take the new key from somebody \
             who knows",
            key.id, key.key
        ))
    }
}
