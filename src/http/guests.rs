use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::counted_source;

/// How many connections each source has, so that no one source takes them all.
#[derive(Clone, Default)]
pub(super) struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that is counted until this is dropped.
pub(super) struct Guest {
    guests: Guests,
    source: IpAddr,
}

impl Guests {
    /// Counts a connection, when its source has fewer than `most`.
    pub(super) fn admit(&self, source: IpAddr, most: usize) -> Option<Guest> {
        let source = counted_source(source);
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(source).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Guest {
            guests: self.clone(),
            source,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = guests.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_share_and_others_theirs() {
        let guests = Guests::default();
        let (one, same, other): (IpAddr, IpAddr, IpAddr) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
            "192.0.2.1".parse().unwrap(),
        );
        let first = guests.admit(one, 2);
        let second = guests.admit(same, 2);
        assert!(first.is_some() && second.is_some());
        assert!(guests.admit(one, 2).is_none());
        assert!(guests.admit(other, 2).is_some());
        drop(first);
        assert!(guests.admit(same, 2).is_some());
        drop(second);
        assert!(guests.0.lock().unwrap().is_empty());
    }
}
