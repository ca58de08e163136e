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

/// Several clients ask, until `during` is done or the server is gone.
pub(crate) fn under_load(ca: &Ca, person: &Person, during: impl FnOnce()) {
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
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) && issue(ca, person) {
                    // The log shall not outgrow what is read of it meanwhile.
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        during();
    });
}
