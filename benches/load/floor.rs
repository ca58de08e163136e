//! The least that an issuance can cost: the same records of TLS opened and made, the same signatures
//! verified, the same policies asked, the same certificate signed and the same entry committed, with
//! the functions that the server uses and nothing around them: no HTTP, no JSON read, no waking of tasks.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use hallpass::audit::{Event, Log, NoteSigner, Spent};
use hallpass::certificate::{
    ClientGrant, CsrSubject, IssuingCa, SshCa, SshUserGrant, Validity, parse_public_key,
};
use hallpass::identity::{
    POSSESSION_NAMESPACE, Proof, REQUEST_NAMESPACE, ReplayGuard, possession_message,
    request_message, verify,
};
use hallpass::keys::{KeyStore, random_bytes};
use hallpass::model::{Access, EntryIndex, Role, Serial, Timestamp};
use hallpass::model::{KeyId, KeyKind};
use hallpass::policy::{Ask, PolicySet};
use ssh_key::SshSig;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::client::{Signed, Signer, Subject, nonce, now};
use crate::home::{Home, circumstances};
use crate::records::Ends;
use crate::target::Kind;
use crate::{process, stretch};

/// Each part is measured that often; the median counts.
const ROUNDS: usize = 7;
/// How much a round verifies and signs.
const REQUESTS: usize = 1000;
/// The most that the log lets wait for the disk.
const ENTRIES: usize = 1024;
/// Transactions in a round, as far as `ENTRIES` allows.
const TRANSACTIONS: usize = 128;

/// What each part costs.
pub(crate) struct Floor {
    pub(crate) ssh: Parts,
    pub(crate) x509: Parts,
    /// How long a commit of one entry takes, the disk included.
    pub(crate) commit: Duration,
}

/// CPU time per issuance in microseconds, of all threads.
pub(crate) struct Parts {
    /// The request's signature, and the proof that the key to be certified is held.
    pub(crate) verify: f64,
    /// The request read over TLS from a socket, and its answer written.
    pub(crate) tls: f64,
    /// The policies' decision.
    pub(crate) decide: f64,
    /// The certificate.
    pub(crate) sign: f64,
    /// Its entry, with as many committed together as there are connections.
    pub(crate) commit: [f64; 3],
}

impl Parts {
    pub(crate) fn sums(&self) -> [f64; 3] {
        let Self {
            verify,
            tls,
            decide,
            sign,
            ..
        } = self;
        self.commit
            .map(|commit| verify + tls + decide + sign + commit)
    }

    /// With the cheapest commit.
    pub(crate) fn least(&self) -> f64 {
        self.sums().into_iter().fold(f64::INFINITY, f64::min)
    }
}

/// Measures on the log that the server has left, with the entries that it wrote.
/// `answers` are the lengths of the answers for SSH and X.509.
pub(crate) fn measure(
    home: &Home,
    signer: &Signer,
    log: &[Event],
    answers: [usize; 2],
    together: [usize; 3],
) -> Floor {
    let keys = home.keys();
    let opened = |kind| keys.signer(KeyId::first(kind)).expect("a key");
    let ssh_ca = SshCa::new(opened(KeyKind::SshUser).signer).expect("a CA");
    let issuing = opened(KeyKind::X509Issuing);
    let x509_ca = IssuingCa::new(&issuing.public, issuing.signer).expect("a CA");
    let policy = PolicySet::load(&home.home.policies()).expect("policies");

    let event = |kind| last(log, kind);
    let role = |kind| {
        let asked = event(kind).request().expect("a request");
        policy.roles.find(&asked.role).expect("a role")
    };
    let [ssh, x509] = [Kind::Ssh, Kind::X509].map(|kind| Subject::new(kind, &[]));
    let ssh_sign = sign_ssh(&ssh_ca, &ssh, event(Kind::Ssh), role(Kind::Ssh));
    let x509_sign = sign_x509(&x509_ca, &x509, event(Kind::X509), role(Kind::X509));

    let committer = Committer::open(home, &keys);
    let commit = |kind| together.map(|together| committer.cpu(event(kind), together));
    let floor = Floor {
        ssh: Parts {
            verify: verify_ssh(signer, &ssh),
            tls: tls(signer, &ssh, answers[0]),
            decide: decide(&policy, event(Kind::Ssh), role(Kind::Ssh)),
            sign: ssh_sign,
            commit: commit(Kind::Ssh),
        },
        x509: Parts {
            verify: verify_x509(signer, &x509),
            tls: tls(signer, &x509, answers[1]),
            decide: decide(&policy, event(Kind::X509), role(Kind::X509)),
            sign: x509_sign,
            commit: commit(Kind::X509),
        },
        commit: committer.wait(event(Kind::Ssh)),
    };
    committer.log.close();
    floor
}

fn verify_ssh(signer: &Signer, subject: &Subject) -> f64 {
    verifying(signer, subject, |request| {
        let signature = SshSig::from_pem(&request.proof).expect("an SSHSIG");
        let message = possession_message(&signer.audience, &signer.fingerprint, &request.nonce);
        verify(&signature, POSSESSION_NAMESPACE, message.as_bytes()).expect("possession");
    })
}

fn verify_x509(signer: &Signer, subject: &Subject) -> f64 {
    verifying(signer, subject, |request| {
        black_box(CsrSubject::from_pem(&request.proof).expect("a CSR"));
    })
}

fn verifying(signer: &Signer, subject: &Subject, possession: impl Fn(&Signed) + Sync) -> f64 {
    let requests: Vec<Signed> = (0..REQUESTS).map(|_| signer.ask(subject)).collect();
    median(requests.len(), || {
        on_all_cores(|| {
            for request in &requests {
                let Signed {
                    target,
                    body,
                    time,
                    nonce,
                    signature,
                    ..
                } = request;
                let proof = Proof::parse(time, nonce, signature).expect("headers");
                let message =
                    request_message(&signer.audience, "POST", target, body, proof.time, nonce);
                verify(&proof.signature, REQUEST_NAMESPACE, message.as_bytes())
                    .expect("a signature");
                possession(request);
            }
        })
    })
}

/// A request read from a socket and its records opened, an answer's made and written.
fn tls(signer: &Signer, subject: &Subject, answer: usize) -> f64 {
    let answer = vec![b'a'; answer];
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| signer.ask(subject).bytes().to_vec())
        .collect();
    // The thread's own time alone: the other end is the clients'.
    median(REQUESTS, || Ends::new().serve(&requests, &answer))
}

fn decide(policy: &PolicySet, event: &Event, role: &Role) -> f64 {
    let (by, asked) = said(event);
    let circumstances = circumstances(by);
    median(REQUESTS, || {
        on_all_cores(|| {
            for _ in 0..REQUESTS {
                let verdict = policy.engine.decide_request(&Ask {
                    requester: &by.requester,
                    role,
                    purpose: &asked.purpose,
                    reason: asked.reason.as_ref(),
                    ttl: role.default_ttl,
                    circumstances: &circumstances,
                });
                assert!(black_box(verdict).allowed, "permitted");
            }
        })
    })
}

fn sign_ssh(ca: &SshCa, subject: &Subject, event: &Event, role: &Role) -> f64 {
    let (Subject::Ssh { line, .. }, Access::Ssh(access)) = (subject, &role.access) else {
        unreachable!("an SSH key for an SSH role")
    };
    let (by, asked) = said(event);
    let key = parse_public_key(line).expect("a public key");
    signing(
        |serial, validity| {
            let grant = SshUserGrant {
                subject: key.key_data(),
                serial,
                entry: EntryIndex(serial.get()),
                requester: &by.requester,
                role: &asked.role,
                purpose: &asked.purpose,
                principals: &access.principals,
                extensions: &access.extensions,
                force_command: None,
                source_addresses: &[],
                validity,
                nonce: random_bytes().expect("randomness"),
            };
            ca.user_certificate(&grant).expect("a certificate")
        },
        role,
    )
}

fn sign_x509(ca: &IssuingCa, subject: &Subject, event: &Event, role: &Role) -> f64 {
    let (Subject::X509 { csr }, Access::Database(access)) = (subject, &role.access) else {
        unreachable!("a CSR for a database role")
    };
    let (by, asked) = said(event);
    let subject = CsrSubject::from_pem(csr).expect("a CSR");
    signing(
        |serial, validity| {
            let grant = ClientGrant {
                subject: &subject,
                serial,
                entry: EntryIndex(serial.get()),
                requester: &by.requester,
                role: &asked.role,
                purpose: &asked.purpose,
                user: &access.user,
                validity,
            };
            ca.client_certificate(&grant).expect("a certificate")
        },
        role,
    )
}

fn signing(sign: impl Fn(Serial, Validity) -> String + Sync, role: &Role) -> f64 {
    let validity = Validity::person(now(), role.default_ttl);
    // As long as those that the server gives out.
    let first = now().as_millis() << 16;
    median(REQUESTS, || {
        on_all_cores(|| {
            for number in 0..REQUESTS as u64 {
                let serial = Serial::new(first + number).expect("a serial number");
                black_box(sign(serial, validity));
            }
        })
    })
}

/// Commits to the log as the server does.
struct Committer {
    log: Log,
    runtime: Runtime,
}

impl Committer {
    fn open(home: &Home, keys: &KeyStore) -> Self {
        let key = keys
            .signer(KeyId::first(KeyKind::Log))
            .expect("the log's key");
        let signer = NoteSigner::open(&key).expect("the log's key");
        let opened = Log::open(&home.home.database(), signer.verifier(), now(), |_| {});
        let log = opened.and_then(|opened| opened.start(signer, |_| {}));
        Self {
            log: log.expect("the log"),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime"),
        }
    }

    fn cpu(&self, event: &Event, together: usize) -> f64 {
        let count = (TRANSACTIONS * together).min(ENTRIES);
        median(count, || {
            let entries = copies(event, count);
            cpu(|| self.commit(entries, together))
        })
    }

    fn wait(&self, event: &Event) -> Duration {
        let mut waits: Vec<Duration> = copies(event, TRANSACTIONS)
            .into_iter()
            .map(|entry| {
                let begin = Instant::now();
                self.commit(vec![entry], 1);
                begin.elapsed()
            })
            .collect();
        waits.sort_unstable();
        waits[waits.len() / 2]
    }

    fn commit(&self, mut entries: Vec<(Event, String)>, together: usize) {
        let now = now();
        while !entries.is_empty() {
            let transaction = entries.split_off(entries.len().saturating_sub(together));
            self.runtime.block_on(self.transaction(transaction, now));
        }
    }

    async fn transaction(&self, entries: Vec<(Event, String)>, now: Timestamp) {
        let taken: Vec<_> = entries
            .into_iter()
            .map(|entry| (self.log.reserve(now).expect("a place"), entry))
            .collect();
        let mut commits = JoinSet::new();
        // The writer begins when it has the first place, which therefore comes last.
        for (slot, (mut event, nonce)) in taken.into_iter().rev() {
            if let Event::CertificateIssued { certificate, .. } = &mut event {
                certificate.serial = slot.serial();
            }
            commits.spawn(slot.commit(event, Some(Spent::new(nonce, ReplayGuard::expiry(now)))));
        }
        while let Some(commit) = commits.join_next().await {
            commit.expect("a task").expect("a commit");
        }
    }
}

/// Copies of an entry, each with a nonce of its own.
fn copies(event: &Event, count: usize) -> Vec<(Event, String)> {
    let copy = || {
        let mut event = event.clone();
        let fresh = nonce();
        if let Event::CertificateIssued { by, .. } = &mut event {
            by.nonce.clone_from(&fresh);
        }
        (event, fresh)
    };
    (0..count).map(|_| copy()).collect()
}

/// The entry of the last certificate of that kind.
fn last(log: &[Event], kind: Kind) -> &Event {
    let of_kind = |event: &&Event| {
        let certificate = event.certificate().expect("a certificate");
        certificate.form.starts_with(kind.name())
    };
    log.iter().rfind(of_kind).expect("an entry")
}

fn said(event: &Event) -> (&hallpass::audit::Actor, &hallpass::audit::Asked) {
    let by = event.by().expect("a requester");
    (by, event.request().expect("a request"))
}

/// The median of some rounds of `count` each, in microseconds.
fn median(count: usize, mut round: impl FnMut() -> Duration) -> f64 {
    let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2].as_secs_f64() * 1e6 / count as f64
}

/// What it costs one core while every other does the same: under load none is idle, and two that
/// share a core's units slow each other down.
fn on_all_cores(work: impl Fn() + Sync) -> Duration {
    let cores = stretch::cores();
    let all = cpu(|| {
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(&work);
            }
        });
    });
    all / cores as u32
}

/// What it costs this process: the log's writer is a thread of its own.
fn cpu(work: impl FnOnce()) -> Duration {
    let own = std::process::id();
    let from = process::cpu(own);
    work();
    process::cpu(own) - from
}
