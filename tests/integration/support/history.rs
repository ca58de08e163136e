use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use hallpass::audit::{
    Actor, Asked, Decision, Event, Log, NoteSigner, RecordedCertificate, Refused,
};
use hallpass::keys::{KeyStore, Passphrase};
use hallpass::model::{KeyId, KeyKind};
use hallpass::model::{Serial, Timestamp};
use hallpass::policy::PolicySet;
use zeroize::Zeroizing;

use super::ca::new_key;
use super::{Folder, Home, PASSPHRASE, Ran, run};

const DAY: Duration = Duration::from_secs(86_400);

/// How many entries [`Home::with_history`] has at least.
const HISTORY: u64 = 2400;

impl Home {
    /// A home that was made 800 days ago and has worked since, until two days ago: certificates,
    /// refusals, and `carol`, who was enrolled and disabled in between. Its clock was once corrected
    /// by 20 days.
    pub(crate) fn with_history() -> Self {
        static TEMPLATE: OnceLock<Folder> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| {
            let home = Self::made_days_ago(800);
            append_history(&home);
            let folder = Folder::new();
            copy(&home, &folder);
            folder
        });
        let home = Self::new();
        std::fs::remove_dir_all(home.path()).expect("a home of ours");
        run(
            "cp",
            ["-a", path(&template.join("home")), path(&home.path())],
        )
        .ok();
        home
    }

    /// Writes that the policies on disk came into force, as a version did that took them.
    pub(crate) fn put_policies_in_force(&self) {
        let policy = PolicySet::load(&self.path().join("policies")).expect("policies");
        let (log, now) = writer(self);
        let loaded = Event::PolicyLoaded {
            policy_set: policy.digest,
            files: Vec::new(),
            by: None,
        };
        let commit = log.reserve(now).expect("a place").commit(loaded, None);
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        assert!(runtime.block_on(commit).is_ok());
        log.close();
    }

    fn made_days_ago(days: u32) -> Self {
        let home = Self::new();
        std::fs::remove_dir_all(home.path()).expect("a home of ours");
        Ran::of(
            Command::new(env!("CARGO_BIN_EXE_hallpass"))
                .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1")
                .env("FAKETIME", format!("-{days}d"))
                .args(["init", "--admin", "alice", "--home"])
                .arg(home.path())
                .arg("--ssh-key")
                .arg(home.folder.join("admin.pub"))
                .arg("--passphrase-file")
                .arg(home.folder.join("passphrase")),
        )
        .ok();
        home
    }
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("a plain path")
}

fn copy(home: &Home, folder: &Folder) {
    run("cp", ["-a", path(&home.path()), path(&folder.join("home"))]).ok();
}

/// The log's own writer, and the time.
fn writer(home: &Home) -> (Log, Timestamp) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a time after 1970");
    let now = Timestamp::from_millis(now.as_millis() as u64);
    let passphrase = Passphrase::new(Zeroizing::new(PASSPHRASE.to_owned())).expect("long enough");
    let keys = KeyStore::open(&home.path().join("keys"), &passphrase).expect("the keys");
    let signer = NoteSigner::open(
        &keys
            .signer(KeyId::first(KeyKind::Log))
            .expect("the log's key"),
    );
    let signer = signer.expect("the log's key");
    let opened = Log::open(&home.database(), signer.verifier(), now, |_| {}).expect("the log");
    (opened.start(signer, |_| {}).expect("a thread"), now)
}

/// Writes at times that have passed.
fn append_history(home: &Home) {
    let (log, now) = writer(home);
    let log = Arc::new(log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .build()
        .expect("threads");
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..HISTORY {
            // Some 8 hours apart; 20 days are lived through twice.
            let ahead = if (1140..1200).contains(&number) {
                20
            } else {
                0
            };
            let time = now
                .minus(799 * DAY)
                .plus(797 * DAY / HISTORY as u32 * number as u32)
                .plus(ahead * DAY);
            let corrected = (number == 1200).then(|| log.correct_clock(time));
            let slot = log.reserve(time).expect("a place");
            let event = match corrected.flatten() {
                Some(newest) => Event::ClockCorrected { newest },
                None => event(number, slot.serial()),
            };
            tasks.spawn(slot.commit(event, None));
            // Not more than may wait for the disk.
            if number % 512 == 511 || number == HISTORY - 1 {
                while let Some(done) = tasks.join_next().await {
                    assert!(done.expect("a task").is_ok());
                }
            }
        }
    });
    Arc::into_inner(log).expect("the only one").close();
}

fn event(number: u64, serial: Serial) -> Event {
    let by = |requester: &str| Actor {
        requester: requester.parse().expect("a name"),
        method: "ssh-key".to_owned(),
        fingerprint: "SHA256:AAAA".to_owned(),
        source: "192.0.2.7".parse().expect("an address"),
        nonce: format!("nonce-{number:020}"),
        counter: None,
    };
    let decision = Decision {
        policies: vec!["on-call-operates-servers".to_owned()],
        policy_set: "sha256:0".to_owned(),
        action: None,
        approves: None,
        circumstances: None,
    };
    let request = Asked {
        role: "server-operator".parse().expect("a role"),
        purpose: "incident".parse().expect("a purpose"),
        reason: "=1+1".parse().ok(),
        ttl: 600,
    };
    match number {
        300 => {
            let folder = Folder::new();
            new_key(&folder.join("key"), &["-t", "ed25519"]);
            let line = std::fs::read_to_string(folder.join("key.pub")).expect("a key");
            Event::UserEnrolled {
                user: "carol".parse().expect("a name"),
                groups: vec!["on-call".parse().expect("a group")],
                public_key: line.trim_end().to_owned(),
                attestation: None,
                by: Some(by("alice")),
            }
        }
        600 => Event::UserDisabled {
            user: "carol".parse().expect("a name"),
            by: by("alice"),
        },
        number if number % 5 == 4 => Event::RequestRefused {
            by: by("dave"),
            request: Some(request),
            refused: Refused {
                request: "POST /v1/certificates/ssh".to_owned(),
                code: "denied".to_owned(),
                detail: "no policy permits it".to_owned(),
            },
            decision: Some(decision),
        },
        _ => Event::CertificateIssued {
            by: by("bob"),
            request,
            decision,
            certificate: RecordedCertificate {
                form: "ssh-user".to_owned(),
                serial,
                key_id: format!("user=bob role=server-operator entry={number}"),
                valid_after: Timestamp::default(),
                valid_before: Timestamp::default(),
                ca: "SHA256:AAAA".to_owned(),
                certificate: format!("ssh-ed25519-cert-v01@openssh.com {number:0400}"),
            },
        },
    }
}
