use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{Ca, Person};

/// Asks for an SSH certificate; whether it was granted.
pub(crate) fn issue(ca: &Ca, person: &Person) -> bool {
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "grüße"});
    let request = person.asks(ca, "POST", "/v1/certificates/ssh");
    let answer = request.ssh(&person.key, ask).try_send();
    answer.is_ok_and(|answer| answer.status == 200)
}

/// Several clients ask for certificates, until `during` is done or the server is gone.
pub(crate) fn under_load(ca: &Ca, person: &Person, during: impl FnOnce()) {
    let ask = || {
        // The log shall not outgrow what is read of it meanwhile.
        std::thread::sleep(Duration::from_millis(5));
        issue(ca, person)
    };
    while_asked(4, ask, during);
}

/// Several clients do something for as long as it works, until `during` is done.
pub(crate) fn while_asked(clients: usize, ask: impl Fn() -> bool + Sync, during: impl FnOnce()) {
    /// Also when it panics: nobody would wait for clients that never end.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        for _ in 0..clients {
            scope.spawn(|| {
                loop {
                    if done.load(Ordering::Relaxed) || !ask() {
                        break;
                    }
                }
            });
        }
        during();
    });
}

/// Locks something again and again while `ask` asks for hosts' certificates that it is in the way of:
/// in the log, none stands behind the lock.
#[track_caller]
pub(crate) fn assert_none_while_locked(
    ca: &Ca,
    admin: &Person,
    target: &str,
    ask: impl Fn() + Sync,
) {
    let asked = || {
        ask();
        true
    };
    while_asked(6, asked, || {
        for _ in 0..40 {
            let lock = json!({"target": target, "reason": "x"});
            let lock = admin.asks(ca, "POST", "/v1/locks").json(&lock);
            assert_eq!(lock.send().status, 200);
            let unlock = admin.asks(ca, "DELETE", &format!("/v1/locks/{target}"));
            assert_eq!(unlock.send().status, 204);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let (mut locked, mut issued) = (false, 0);
    for entry in ca.home.log() {
        match entry["event"]["kind"].as_str().expect("a kind") {
            "locked" => locked = true,
            "unlocked" => locked = false,
            "host-certificate-issued" => {
                assert!(!locked, "issued while {target} is locked: {entry}");
                issued += 1;
            }
            _ => {}
        }
    }
    assert!(issued > 10, "{issued} certificates");
}
