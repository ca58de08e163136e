use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

/// Values that are made once for each key: `MOST` at a time. Past it, all are forgotten and made again
/// as they are needed.
pub(crate) struct Prepared<K, V, const MOST: usize = 16_384> {
    kept: RwLock<HashMap<K, V>>,
}

impl<K, V, const MOST: usize> Default for Prepared<K, V, MOST> {
    fn default() -> Self {
        Self {
            kept: RwLock::default(),
        }
    }
}

impl<K: Eq + Hash, V: Clone, const MOST: usize> Prepared<K, V, MOST> {
    /// The value of a key; made when there is none, and kept when that works.
    pub(crate) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
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
        const MOST: usize = 100;
        let prepared = Prepared::<_, _, MOST>::default();
        for key in 0..MOST + 10 {
            assert_eq!(prepared.get(key, || Ok::<_, ()>(key * 2)), Ok(key * 2));
        }
        assert_eq!(prepared.kept.read().unwrap().len(), 10);
        assert_eq!(prepared.get(MOST, || Err(())), Ok(MOST * 2));
        assert_eq!(prepared.get(0, || Err(())), Err(()));
    }
}
