use std::collections::HashMap;
use std::sync::Mutex;

use hallpass::audit::{Checkpoint, Database, Expected, VerifierKey, verify};
use serde_json::{Value, json};

use super::{Ca, Home, Person};

/// What clients received from a CA that is made to fail.
#[derive(Default)]
pub(crate) struct Received {
    /// Certificates by serial number.
    certificates: Mutex<HashMap<String, String>>,
    /// The checkpoints that came with them, as signed notes.
    checkpoints: Mutex<Vec<String>>,
}

impl Received {
    /// Asks for a certificate. Gives the status; nothing when there was no whole answer.
    pub(crate) fn ask(&self, ca: &Ca, person: &Person) -> Option<u16> {
        let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
        let request = person
            .asks(ca, "POST", "/v1/certificates/ssh")
            .ssh(&person.key, ask);
        let answer = request.try_send().ok()?;
        // Cut off in the middle of the answer.
        let body: Value = serde_json::from_str(&answer.body).ok()?;
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(!answer.body.contains("-cert-v01"), "{answer:?}");
            return Some(503);
        }
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let before = self
            .certificates
            .lock()
            .expect("a lock")
            .insert(text(&body["serial"]), text(&body["certificate"]));
        assert_eq!(before, None, "a serial twice");
        self.checkpoints
            .lock()
            .expect("a lock")
            .push(text(&body["receipt"]["checkpoint"]));
        Some(200)
    }

    /// How many certificates.
    pub(crate) fn count(&self) -> usize {
        self.certificates.lock().expect("a lock").len()
    }

    /// Checks that the log has each certificate once, that it verifies, and that it continues
    /// every checkpoint that anybody ever got.
    pub(crate) fn check(&self, home: &Home) {
        let mut logged = HashMap::new();
        for (place, entry) in home.log().iter().enumerate() {
            assert_eq!(entry["index"], place, "no gap, no overlap");
            let certificate = &entry["event"]["certificate"];
            if let Some(serial) = certificate["serial"].as_str() {
                let text = certificate["certificate"]
                    .as_str()
                    .expect("text")
                    .to_owned();
                let before = logged.insert(serial.to_owned(), text);
                assert_eq!(before, None, "a serial twice");
            }
        }
        for (serial, certificate) in self.certificates.lock().expect("a lock").iter() {
            let kept = logged.get(serial);
            assert_eq!(kept, Some(certificate), "not in the log: {serial}");
        }

        let key = std::fs::read_to_string(home.path().join("keys/log-1.vkey"));
        let key: VerifierKey = key.expect("a key").parse().expect("a key");
        let open = |note: &str| Checkpoint::open(note, &key).expect("a checkpoint");
        let database = Database::open(&home.database()).expect("the log");
        let newest = database.newest().expect("the log").expect("a checkpoint");
        let checkpoints = self.checkpoints.lock().expect("a lock");
        let expected = Expected {
            newest: open(&newest),
            earlier: checkpoints.iter().map(|note| open(note)).collect(),
            keys: vec![key.clone()],
            certificates: true,
        };
        verify(&database, &expected, 2, &mut |_| {}).expect("a log that verifies");
    }
}
