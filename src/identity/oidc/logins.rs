use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::model::{ProviderName, Timestamp, counted_source};

/// For how long somebody may take to sign in.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How many logins may wait at a time, and how many of one source: anybody can begin one.
const MOST: usize = 4096;
const MOST_OF_SOURCE: usize = 32;

/// How many may begin in a minute, and how many from one source: each has the provider asked.
const MOST_IN_A_MINUTE: usize = 600;
const MOST_OF_SOURCE_IN_A_MINUTE: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// Logins that wait for somebody to sign in. They are in memory alone: a restart ends them.
#[derive(Default)]
pub struct Logins {
    waiting: Mutex<HashMap<String, Begun>>,
    /// Who began one in the last minute, and when.
    recent: Mutex<VecDeque<(IpAddr, Timestamp)>>,
}

/// A login that waits. It belongs to the key that began it.
pub struct Begun {
    /// The fingerprint of that key.
    pub fingerprint: String,
    /// The address that it was begun from.
    pub source: IpAddr,
    /// With whom.
    pub provider: ProviderName,
    /// How somebody signs in.
    pub way: Way,
    /// Until when it waits.
    pub expires: Timestamp,
}

/// How somebody signs in.
pub enum Way {
    /// In a browser on the same machine.
    Redirect {
        /// Where the provider sends the browser.
        redirect: String,
        /// What must come back with it.
        state: String,
        /// What must stand in the token.
        nonce: String,
        /// What makes the code worth something (RFC 7636).
        verifier: Zeroizing<String>,
    },
    /// On another device.
    Device {
        /// What the provider is asked with.
        device_code: Zeroizing<String>,
        /// How long to wait between questions.
        interval: Duration,
        /// When the next one may come.
        next: Timestamp,
    },
}

/// Why there is no such login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLogin {
    /// Too many wait.
    #[error(
        "too many logins began from here or wait already: finish one, or try again in ten minutes"
    )]
    TooMany,
    /// It was never begun with this key, is done, or took too long.
    #[error("no such login waits for this key: begin again with `hallpass login`")]
    Unknown,
}

impl Logins {
    /// How long a login waits that begins now, when a provider gives it so long.
    pub fn lasts(given: Option<Duration>) -> Duration {
        given.map_or(PATIENCE, |given| given.min(PATIENCE))
    }

    /// Lets another begin from there, and counts it.
    ///
    /// # Errors
    /// When too many did lately, or wait.
    pub fn admit(&self, source: IpAddr, now: Timestamp) -> Result<(), NoLogin> {
        if !self.has_room(source, now) {
            return Err(NoLogin::TooMany);
        }
        let source = counted_source(source);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes nobody wait.
        recent.retain(|(_, when)| when.distance(now) < MINUTE);
        let of_source = recent.iter().filter(|(other, _)| *other == source);
        if recent.len() >= MOST_IN_A_MINUTE || of_source.count() >= MOST_OF_SOURCE_IN_A_MINUTE {
            return Err(NoLogin::TooMany);
        }
        recent.push_back((source, now));
        Ok(())
    }

    fn has_room(&self, source: IpAddr, now: Timestamp) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, login| now < login.expires);
        let source = counted_source(source);
        let of_source = waiting
            .values()
            .filter(|login| counted_source(login.source) == source);
        waiting.len() < MOST && of_source.count() < MOST_OF_SOURCE
    }

    /// Has one wait under a name that nobody can guess.
    ///
    /// # Errors
    /// When too many wait.
    pub fn begin(&self, id: String, login: Begun, now: Timestamp) -> Result<(), NoLogin> {
        if !self.has_room(login.source, now) {
            return Err(NoLogin::TooMany);
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(id, login);
        Ok(())
    }

    /// Takes one out: what it holds is good for one attempt.
    ///
    /// # Errors
    /// When it does not wait for that key.
    pub fn take(&self, id: &str, fingerprint: &str, now: Timestamp) -> Result<Begun, NoLogin> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = |login: &Begun| login.fingerprint == fingerprint && now < login.expires;
        if !waiting.get(id).is_some_and(theirs) {
            return Err(NoLogin::Unknown);
        }
        waiting.remove(id).ok_or(NoLogin::Unknown)
    }

    /// Puts one back that still waits: nobody has signed in on the other device yet.
    pub fn put_back(&self, id: String, login: Begun) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(id, login);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(source: &str, fingerprint: &str, expires: u64) -> Begun {
        Begun {
            fingerprint: fingerprint.to_owned(),
            source: source.parse().unwrap(),
            provider: "clinic".parse().unwrap(),
            way: Way::Device {
                device_code: Zeroizing::new("secret".to_owned()),
                interval: Duration::from_secs(5),
                next: Timestamp::default(),
            },
            expires: Timestamp::from_secs(expires),
        }
    }

    #[test]
    fn a_login_is_good_once_for_its_own_key_and_for_a_while() {
        let logins = Logins::default();
        let now = Timestamp::from_secs(100);
        let begin = |id: &str, expires| {
            let login = login("192.0.2.1", "SHA256:one", expires);
            logins.begin(id.to_owned(), login, now).unwrap();
        };
        begin("first", 200);
        begin("short", 101);
        assert!(logins.take("first", "SHA256:two", now).is_err());
        assert!(logins.take("other", "SHA256:one", now).is_err());
        let late = Timestamp::from_secs(101);
        assert!(logins.take("short", "SHA256:one", late).is_err());
        assert!(logins.take("first", "SHA256:one", late).is_ok());
        assert!(logins.take("first", "SHA256:one", late).is_err());
    }

    #[test]
    fn nobody_begins_for_ever() {
        let logins = Logins::default();
        let now = Timestamp::from_secs(1000);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let admitted = (0..100).filter(|_| logins.admit(one, now).is_ok());
        assert_eq!(admitted.count(), MOST_OF_SOURCE_IN_A_MINUTE);
        assert!(logins.admit(other, now).is_ok());
        assert!(logins.admit(one, now.plus(MINUTE)).is_ok());
        let many = (0..1000).filter(|n| {
            let source = std::net::Ipv4Addr::from_bits(*n).into();
            logins.admit(source, now.plus(MINUTE)).is_ok()
        });
        assert_eq!(many.count(), MOST_IN_A_MINUTE - 1);
    }

    #[test]
    fn one_source_does_not_keep_others_out() {
        let logins = Logins::default();
        let now = Timestamp::from_secs(100);
        for n in 0..MOST_OF_SOURCE {
            let one = login("192.0.2.1", "SHA256:one", 200);
            logins.begin(n.to_string(), one, now).unwrap();
        }
        let more = || login("192.0.2.1", "SHA256:one", 200);
        assert_eq!(
            logins.begin("more".to_owned(), more(), now),
            Err(NoLogin::TooMany)
        );
        let other = login("192.0.2.2", "SHA256:two", 200);
        assert!(logins.begin("other".to_owned(), other, now).is_ok());
        let later = Timestamp::from_secs(200);
        assert!(logins.begin("more".to_owned(), more(), later).is_ok());
    }
}
