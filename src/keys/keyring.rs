//! Which CA keys there are and where each stands in its life: the rules of a rotation.
//!
//! The safe order is: trust the new key everywhere (staged), then sign with it (active), then wait
//! out what the old key signed (retiring), then distrust it (retired). Whether a step is safe yet
//! is for the caller to find out; whether it is a step at all is decided here.

use std::collections::BTreeMap;

use crate::model::{EntryIndex, KeyId, KeyKind, KeyState, Timestamp};

/// The CA keys of a home, those of the past included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    keys: BTreeMap<KeyId, CaKey>,
}

/// What is known of a CA key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaKey {
    /// Where it stands.
    pub state: KeyState,
    /// Since when.
    pub since: Since,
    /// An OpenSSH line, a certificate in PEM, or a verifier key.
    pub public: String,
}

/// A moment in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The entry's time.
    pub time: Timestamp,
    /// The entry that says so.
    pub entry: EntryIndex,
}

/// A key that is new, with its public part.
pub type NewKey = (KeyId, String);

/// One step in the life of CA keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new key is trusted from now on.
    Stage(NewKey),
    /// A staged key signs from now on, and what signed before no longer does. A new issuing CA, or
    /// the one that is staged, comes with a root, because the one before stands under another.
    Activate(KeyId, Option<NewKey>),
    /// A key that no longer signs is not trusted any more.
    Retire(KeyId),
    /// A staged key is given up.
    Cancel(KeyId),
    /// A key that others may have is not trusted any more. In place of one that signs, new ones do.
    /// An issuing CA can't be distrusted but with its root: all of X.509 begins anew.
    Revoke(KeyId, Vec<NewKey>),
}

impl Keyring {
    /// The keys that a home was made with.
    pub fn new(keys: impl IntoIterator<Item = (KeyKind, String)>, at: Since) -> Self {
        let active = |public| CaKey {
            state: KeyState::Active,
            since: at,
            public,
        };
        let keys = keys.into_iter();
        Self {
            keys: keys
                .map(|(kind, public)| (KeyId::first(kind), active(public)))
                .collect(),
        }
    }

    /// All keys, by kind and number.
    pub fn iter(&self) -> impl Iterator<Item = (KeyId, &CaKey)> {
        self.keys.iter().map(|(id, key)| (*id, key))
    }

    /// A key.
    pub fn find(&self, id: KeyId) -> Option<&CaKey> {
        self.keys.get(&id)
    }

    /// The one key of its kind that signs.
    pub fn active(&self, kind: KeyKind) -> Option<(KeyId, &CaKey)> {
        self.of(kind).find(|(_, key)| key.state == KeyState::Active)
    }

    /// The key of its kind that is about to sign.
    pub fn staged(&self, kind: KeyKind) -> Option<KeyId> {
        let mut of_kind = self.of(kind);
        of_kind
            .find(|(_, key)| key.state == KeyState::Staged)
            .map(|(id, _)| id)
    }

    /// The keys of a kind that hosts and clients must trust now, the one that signs first.
    pub fn trusted(&self, kind: KeyKind) -> Vec<&str> {
        let mut keys: Vec<(bool, &str)> = self
            .of(kind)
            .filter(|(_, key)| key.state.is_trusted())
            .map(|(_, key)| (key.state != KeyState::Active, key.public.as_str()))
            .collect();
        keys.sort_by_key(|(signs_not, _)| *signs_not);
        keys.into_iter().map(|(_, public)| public).collect()
    }

    /// The id for the next key of a kind.
    pub fn next(&self, kind: KeyKind) -> KeyId {
        let last = self.of(kind).last().map_or(0, |(id, _)| id.number);
        KeyId {
            kind,
            number: last + 1,
        }
    }

    /// Takes a step, or says why it is none and changes nothing.
    ///
    /// # Errors
    /// When keys don't stand where the step begins.
    pub fn take(&mut self, step: &Step, at: Since) -> Result<(), NoStep> {
        let mut after = self.clone();
        match step {
            Step::Stage(new) => {
                if let Some(staged) = self.staged(new.0.kind) {
                    return Err(NoStep::Busy(staged));
                }
                after.add(new, KeyState::Staged, at)?;
            }
            Step::Activate(id, issuing) => {
                after.stands(*id, &[KeyState::Staged])?;
                after.make_room(id.kind, KeyState::Retiring, at);
                after.set(*id, KeyState::Active, at);
                let needed = id.kind == KeyKind::X509Root;
                after.put_issuing(needed, issuing.as_slice(), KeyState::Retiring, at)?;
            }
            Step::Retire(id) => {
                after.stands(*id, &[KeyState::Retiring])?;
                after.set(*id, KeyState::Retired, at);
            }
            Step::Cancel(id) => {
                after.stands(*id, &[KeyState::Staged])?;
                after.set(*id, KeyState::Cancelled, at);
            }
            Step::Revoke(id, new) => {
                let state = after.stands(
                    *id,
                    &[KeyState::Staged, KeyState::Active, KeyState::Retiring],
                )?;
                if id.kind == KeyKind::X509Issuing {
                    after.begin_x509_anew(*id, new, at)?;
                    *self = after;
                    return Ok(());
                }
                after.set(*id, KeyState::Revoked, at);
                let (own, rest): (Vec<_>, Vec<_>) = new
                    .iter()
                    .cloned()
                    .partition(|(new, _)| new.kind == id.kind);
                if (own.len() == 1) != (state == KeyState::Active) || own.len() > 1 {
                    return Err(NoStep::Successor(*id));
                }
                for new in &own {
                    after.add(new, KeyState::Active, at)?;
                }
                // What stands under a root that others may have can't be relied on either.
                let needed = id.kind == KeyKind::X509Root && !own.is_empty();
                after.put_issuing(needed, &rest, KeyState::Revoked, at)?;
            }
        }
        *self = after;
        Ok(())
    }

    /// A new root and an issuing CA under it come in place of all that is trusted.
    fn begin_x509_anew(&mut self, id: KeyId, new: &[NewKey], at: Since) -> Result<(), NoStep> {
        let kinds = [KeyKind::X509Root, KeyKind::X509Issuing];
        if !new.iter().map(|(new, _)| new.kind).eq(kinds) {
            return Err(NoStep::Successor(id));
        }
        for (old, key) in &mut self.keys {
            if kinds.contains(&old.kind) && key.state.is_trusted() {
                (key.state, key.since) = (KeyState::Revoked, at);
            }
        }
        new.iter()
            .try_for_each(|new| self.add(new, KeyState::Active, at))
    }

    /// The issuing CA that a new root signs comes in place of the one under the old root, which
    /// goes to `before`.
    fn put_issuing(
        &mut self,
        needed: bool,
        new: &[NewKey],
        before: KeyState,
        at: Since,
    ) -> Result<(), NoStep> {
        if new.len() != usize::from(needed)
            || new.iter().any(|(id, _)| id.kind != KeyKind::X509Issuing)
        {
            return Err(NoStep::Issuing);
        }
        for new in new {
            let staged = self.staged(KeyKind::X509Issuing);
            if staged == Some(new.0) && self.find(new.0).is_some_and(|key| key.public == new.1) {
                // It came together with the root.
                self.make_room(KeyKind::X509Issuing, before, at);
                self.set(new.0, KeyState::Active, at);
                continue;
            }
            // One that is staged stands under the old root as well.
            if let Some(staged) = staged {
                self.set(staged, KeyState::Cancelled, at);
            }
            self.make_room(KeyKind::X509Issuing, before, at);
            self.add(new, KeyState::Active, at)?;
        }
        Ok(())
    }

    fn of(&self, kind: KeyKind) -> impl DoubleEndedIterator<Item = (KeyId, &CaKey)> {
        let ends = [1, u32::MAX].map(|number| KeyId { kind, number });
        self.keys
            .range(ends[0]..=ends[1])
            .map(|(id, key)| (*id, key))
    }

    fn add(&mut self, (id, public): &NewKey, state: KeyState, at: Since) -> Result<(), NoStep> {
        if *id != self.next(id.kind) {
            return Err(NoStep::Number(*id));
        }
        let key = CaKey {
            state,
            since: at,
            public: public.clone(),
        };
        self.keys.insert(*id, key);
        Ok(())
    }

    fn stands(&self, id: KeyId, where_: &[KeyState]) -> Result<KeyState, NoStep> {
        let state = self.keys.get(&id).ok_or(NoStep::Unknown(id))?.state;
        if where_.contains(&state) {
            Ok(state)
        } else {
            Err(NoStep::Stands { id, state })
        }
    }

    fn make_room(&mut self, kind: KeyKind, state: KeyState, at: Since) {
        if let Some((id, _)) = self.active(kind) {
            self.set(id, state, at);
        }
    }

    fn set(&mut self, id: KeyId, state: KeyState, at: Since) {
        if let Some(key) = self.keys.get_mut(&id) {
            (key.state, key.since) = (state, at);
        }
    }
}

/// Why a step can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStep {
    /// There is no such key.
    #[error("there is no key {0}: `hallpass key list` shows all")]
    Unknown(KeyId),
    /// It stands elsewhere.
    #[error("key {id} is {state}: {}", next(*state, *id))]
    Stands {
        /// Which key.
        id: KeyId,
        /// Where it stands.
        state: KeyState,
    },
    /// One rotation of a kind at a time.
    #[error(
        "key {0} is staged already: `hallpass key activate {0}` goes on with it, `hallpass key \
         cancel {0}` gives it up"
    )]
    Busy(KeyId),
    /// Numbers are given out in order.
    #[error("key {0} is not the next of its kind")]
    Number(KeyId),
    /// Exactly the key that signs has a successor when it is revoked, and an issuing CA a root with
    /// it.
    #[error("the successors of key {0} are not those that it needs")]
    Successor(KeyId),
    /// Exactly a new root has a new issuing CA.
    #[error("an issuing CA comes with a root and with nothing else")]
    Issuing,
}

/// What can be done with a key that stands there.
fn next(state: KeyState, id: KeyId) -> String {
    match state {
        KeyState::Staged => format!("`hallpass key activate {id}` or `cancel {id}` comes next"),
        KeyState::Active => format!(
            "it signs until another takes its place: `hallpass key rotate {}`",
            id.kind
        ),
        KeyState::Retiring => format!("`hallpass key retire {id}` comes next"),
        KeyState::Retired | KeyState::Cancelled | KeyState::Revoked => {
            "nothing is to be done with it any more".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [KeyKind; 5] = [
        KeyKind::SshUser,
        KeyKind::SshHost,
        KeyKind::X509Root,
        KeyKind::X509Issuing,
        KeyKind::Log,
    ];

    fn id(kind: KeyKind, number: u32) -> KeyId {
        KeyId { kind, number }
    }

    fn since(second: u64) -> Since {
        Since {
            time: Timestamp::from_secs(second),
            entry: EntryIndex(second),
        }
    }

    fn new(id: KeyId) -> NewKey {
        (id, format!("the public part of {id}"))
    }

    fn ring() -> Keyring {
        let keys = KINDS.map(|kind| (kind, new(KeyId::first(kind)).1));
        Keyring::new(keys, since(1))
    }

    #[test]
    fn a_key_is_rotated_all_the_way_round() {
        let mut ring = ring();
        let kind = KeyKind::SshUser;
        let (old, fresh) = (id(kind, 1), id(kind, 2));
        let mut take = |step: &Step| {
            ring.take(step, since(2)).map(|()| {
                (
                    ring.active(kind).unwrap().0.number,
                    ring.trusted(kind).len(),
                )
            })
        };
        assert_eq!(take(&Step::Stage(new(fresh))), Ok((1, 2)));
        assert_eq!(
            take(&Step::Stage(new(id(kind, 3)))),
            Err(NoStep::Busy(fresh))
        );
        let too_early = take(&Step::Retire(old)).unwrap_err();
        assert_eq!(
            too_early.to_string(),
            "key ssh-user-1 is active: it signs until another takes its place: `hallpass key \
             rotate ssh-user`"
        );
        assert_eq!(take(&Step::Activate(fresh, None)), Ok((2, 2)));
        assert_eq!(take(&Step::Retire(old)), Ok((2, 1)));
        for step in [
            Step::Retire(old),
            Step::Activate(old, None),
            Step::Cancel(old),
        ] {
            assert!(take(&step).is_err(), "{step:?}");
        }
    }

    #[test]
    fn a_new_root_brings_an_issuing_ca_and_nothing_else_does() {
        let mut ring = ring();
        let time = since(2);
        let root = id(KeyKind::X509Root, 2);
        let issuing = |number| new(id(KeyKind::X509Issuing, number));
        ring.take(&Step::Stage(new(root)), time).unwrap();
        ring.take(&Step::Stage(issuing(2)), time).unwrap();
        let without = ring.take(&Step::Activate(root, None), time);
        assert_eq!(without, Err(NoStep::Issuing));
        ring.take(&Step::Activate(root, Some(issuing(3))), time)
            .unwrap();
        let stands = |number| ring.find(issuing(number).0).unwrap().state;
        assert_eq!(
            [1, 2, 3].map(stands),
            [KeyState::Retiring, KeyState::Cancelled, KeyState::Active]
        );
        ring.take(&Step::Stage(new(id(KeyKind::SshHost, 2))), time)
            .unwrap();
        let with = Step::Activate(id(KeyKind::SshHost, 2), Some(issuing(4)));
        assert_eq!(ring.take(&with, time), Err(NoStep::Issuing));
    }

    #[test]
    fn a_root_takes_along_the_issuing_ca_that_is_staged_under_it() {
        let mut ring = ring();
        let time = since(2);
        let root = id(KeyKind::X509Root, 2);
        let issuing = new(id(KeyKind::X509Issuing, 2));
        ring.take(&Step::Stage(new(root)), time).unwrap();
        ring.take(&Step::Stage(issuing.clone()), time).unwrap();
        let other = (issuing.0, "another".to_owned());
        assert!(ring.take(&Step::Activate(root, Some(other)), time).is_err());
        ring.take(&Step::Activate(root, Some(issuing.clone())), time)
            .unwrap();
        for (kind, active) in [(KeyKind::X509Root, root), (KeyKind::X509Issuing, issuing.0)] {
            assert_eq!(ring.active(kind).unwrap().0, active);
            assert_eq!(ring.trusted(kind).len(), 2);
        }
    }

    #[test]
    fn a_key_that_signs_is_revoked_with_a_successor_and_others_without() {
        let mut ring = ring();
        let time = since(2);
        let kind = KeyKind::SshUser;
        let alone = Step::Revoke(id(kind, 1), Vec::new());
        assert_eq!(ring.take(&alone, time), Err(NoStep::Successor(id(kind, 1))));
        let step = Step::Revoke(id(kind, 1), vec![new(id(kind, 2))]);
        ring.take(&step, time).unwrap();
        assert_eq!(ring.trusted(kind), ["the public part of ssh-user-2"]);
        ring.take(&Step::Stage(new(id(kind, 3))), time).unwrap();
        let with = Step::Revoke(id(kind, 3), vec![new(id(kind, 4))]);
        assert_eq!(ring.take(&with, time), Err(NoStep::Successor(id(kind, 3))));
        ring.take(&Step::Revoke(id(kind, 3), Vec::new()), time)
            .unwrap();
        assert_eq!(ring.trusted(kind).len(), 1);
    }

    #[test]
    fn an_issuing_ca_is_revoked_with_all_that_its_root_vouches_for() {
        let mut ring = ring();
        let (root, issuing) = (id(KeyKind::X509Root, 2), id(KeyKind::X509Issuing, 2));
        let alone = Step::Revoke(id(KeyKind::X509Issuing, 1), vec![new(issuing)]);
        assert!(ring.take(&alone, since(2)).is_err());
        let step = Step::Revoke(id(KeyKind::X509Issuing, 1), vec![new(root), new(issuing)]);
        ring.take(&step, since(2)).unwrap();
        for kind in [KeyKind::X509Root, KeyKind::X509Issuing] {
            assert_eq!(ring.find(id(kind, 1)).unwrap().state, KeyState::Revoked);
            assert_eq!(ring.trusted(kind).len(), 1);
        }
        assert_eq!(ring.trusted(KeyKind::SshUser).len(), 1);
    }

    /// A step with ids that often fit.
    fn any_step() -> impl Strategy<Value = Step> {
        let key = || (0..KINDS.len(), 1..6_u32).prop_map(|(kind, number)| id(KINDS[kind], number));
        let issuing = || (1..9_u32).prop_map(|number| new(id(KeyKind::X509Issuing, number)));
        prop_oneof![
            key().prop_map(|key| Step::Stage(new(key))),
            (key(), proptest::option::of(issuing()))
                .prop_map(|(key, issuing)| Step::Activate(key, issuing)),
            key().prop_map(Step::Retire),
            key().prop_map(Step::Cancel),
            (key(), proptest::collection::vec(key().prop_map(new), 0..3))
                .prop_map(|(key, new)| Step::Revoke(key, new)),
        ]
    }

    proptest! {
        /// Whatever is tried in whatever order: one key of each kind signs, one at most is about to,
        /// none comes back, and a step that is none changes nothing.
        #[test]
        fn one_of_each_kind_signs_whatever_happens(
            steps in proptest::collection::vec(any_step(), 0..80)
        ) {
            let mut ring = ring();
            for (at, step) in steps.iter().enumerate() {
                let before = ring.clone();
                if ring.take(step, since(2 + at as u64)).is_err() {
                    prop_assert_eq!(&ring, &before);
                    continue;
                }
                for kind in KINDS {
                    let count = |state| ring.of(kind).filter(|(_, key)| key.state == state).count();
                    prop_assert_eq!(count(KeyState::Active), 1);
                    prop_assert!(count(KeyState::Staged) <= 1);
                    prop_assert_eq!(ring.trusted(kind)[0], &ring.active(kind).unwrap().1.public);
                }
                for (id, key) in before.iter() {
                    let after = ring.find(id).unwrap();
                    prop_assert_eq!(&after.public, &key.public);
                    // States only ever go on, and what is not trusted never is again.
                    prop_assert!(after.state >= key.state);
                    prop_assert!(key.state.is_trusted() || after == key);
                    // A key that signed is waited for before it is distrusted, unless it is revoked.
                    if key.state == KeyState::Active {
                        prop_assert_ne!(after.state, KeyState::Retired);
                        prop_assert_ne!(after.state, KeyState::Cancelled);
                    }
                }
            }
        }
    }
}
