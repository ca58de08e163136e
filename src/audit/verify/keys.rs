//! Which keys a log was signed with when, as its own entries tell.

use crate::audit::checkpoint::{Checkpoint, VerifierKey};
use crate::audit::entry::Event;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tree::record_hash;
    use crate::audit::{LogSigners, NewCaKey, NoteKind, NoteSigner};
    use crate::keys::Signer;

    fn signer() -> NoteSigner {
        NoteSigner::new("log", NoteKind::Checkpoint, Signer::throwaway()).unwrap()
    }

    fn id(number: u32) -> KeyId {
        let kind = KeyKind::Log;
        KeyId { kind, number }
    }

    fn staged(number: u32, key: &NoteSigner) -> Event {
        let public = key.verifier().to_string();
        let key = id(number);
        Event::CaKeyStaged {
            new: NewCaKey { key, public },
            by: None,
        }
    }

    fn activated(number: u32, old: &NoteSigner, new: &NoteSigner) -> Event {
        Event::CaKeyActivated {
            key: id(number),
            issuing: None,
            cross: Some(old.sign_succession(new.verifier()).unwrap()),
            forced: None,
            by: None,
        }
    }

    fn retired(number: u32) -> Event {
        Event::CaKeyRetired {
            key: id(number),
            forced: None,
            by: crate::audit::Actor {
                requester: "alice".parse().unwrap(),
                method: "ssh-key".to_owned(),
                fingerprint: String::new(),
                source: "192.0.2.1".parse().unwrap(),
                nonce: String::new(),
                counter: None,
            },
        }
    }

    /// The keys after these entries, which stand at 10, 20, 30 and so on.
    fn over_time(first: &NoteSigner, given: &NoteSigner, events: &[Event]) -> KeysOverTime {
        let given = [given.verifier().clone()];
        let mut keys = KeysOverTime::new(&first.verifier().to_string(), &given).unwrap();
        for (place, event) in events.iter().enumerate() {
            keys.take(10 * (place as u64 + 1), event, &given).unwrap();
        }
        keys
    }

    fn at(size: u64, by: &NoteSigner) -> Checkpoint {
        LogSigners::from(by.clone())
            .checkpoint(size, record_hash(b"x"))
            .unwrap()
    }

    #[test]
    fn each_key_counts_while_the_log_had_it_and_those_that_were_vouched_for() {
        let [one, two, three, stranger] = [(); 4].map(|()| signer());
        let events = [
            staged(2, &two),
            activated(2, &one, &two),
            retired(1),
            staged(3, &three),
            activated(3, &two, &three),
        ];
        let keys = over_time(&one, &one, &events);
        for (size, key, fits) in [
            (10, &two, false),
            (11, &two, true),
            (30, &one, true),
            (31, &one, false),
            (99, &one, false),
            (99, &two, true),
            (99, &three, true),
            (99, &stranger, false),
        ] {
            for is_new in [true, false] {
                let checked = keys.check(&at(size, key), is_new);
                assert_eq!(checked.is_ok(), fits, "{size}: {checked:?}");
            }
        }
        // Who begins with a later key believes nothing new by an earlier one.
        let keys = over_time(&one, &three, &events);
        assert!(keys.check(&at(99, &three), true).is_ok());
        assert!(keys.check(&at(99, &two), true).is_err());
        assert!(keys.check(&at(11, &two), false).is_ok());
    }

    #[test]
    fn nobody_can_vouch_for_a_key_but_the_one_before_it() {
        let [one, two, thief] = [(); 3].map(|()| signer());
        for forged in [activated(2, &thief, &two), activated(2, &two, &two)] {
            let keys = over_time(&one, &one, &[staged(2, &two), forged]);
            let refused = keys.check(&at(99, &two), true).unwrap_err();
            assert!(refused.contains("no key that you know it by"), "{refused}");
        }
        let keys = over_time(&one, &thief, &[staged(2, &two), activated(2, &one, &two)]);
        assert!(!keys.knows_any(&[thief.verifier().clone()]));
        assert!(keys.check(&at(99, &two), true).is_err());
        let mut keys = over_time(&one, &one, &[]);
        let elsewhere =
            NoteSigner::new("elsewhere", NoteKind::Checkpoint, Signer::throwaway()).unwrap();
        assert!(keys.take(10, &staged(2, &elsewhere), &[]).is_err());
        assert!(keys.take(10, &retired(7), &[]).is_err());
    }
}
