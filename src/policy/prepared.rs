use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{Entities, EntityUid, PolicySet};

/// How many of a kind are kept. Past it, all are forgotten and made again as they are needed.
const MOST: usize = 16_384;

/// What Cedar needs to know of a requester and what they ask for. It is the same each time, and
/// making it costs more than the decision.
pub(super) struct Asked {
    pub(super) principal: EntityUid,
    pub(super) action: EntityUid,
    pub(super) resource: EntityUid,
    pub(super) entities: Entities,
    /// Those whose heads fit.
    pub(super) policies: Arc<PolicySet>,
}

/// Values that are made once for each key.
pub(super) struct Prepared<K, V> {
    kept: RwLock<HashMap<K, V>>,
}

impl<K, V> Default for Prepared<K, V> {
    fn default() -> Self {
        Self {
            kept: RwLock::default(),
        }
    }
}

impl<K: Eq + Hash, V: Clone> Prepared<K, V> {
    /// The value of a key; made when there is none, and kept when that works.
    pub(super) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = kept.get(&key) {
            return Ok(value.clone());
        }
        drop(kept);
        let value = make()?;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(key, value.clone());
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_value_and_not_all_are_kept() {
        let prepared = Prepared::default();
        for key in 0..MOST + 10 {
            assert_eq!(prepared.get(key, || Ok::<_, ()>(key * 2)), Ok(key * 2));
        }
        assert_eq!(prepared.kept.read().unwrap().len(), 10);
        assert_eq!(prepared.get(MOST, || Err(())), Ok(MOST * 2));
        assert_eq!(prepared.get(0, || Err(())), Err(()));
    }
}
