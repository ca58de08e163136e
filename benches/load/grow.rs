//! A log that grows: what an issuance, a proof, a look-up, a start and a verification cost at each
//! of its sizes.
//!
//! Its entries are what the server would have written: each certificate is signed by the home's own
//! CA for a role of its policies, every one of another serial number, time, nonce and key, for many
//! people; one request in fifty is refused. Only the keys that are certified are random bytes,
//! since nobody will use them.

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hallpass::audit::{
    Actor, Asked, Checkpoint, Database, Decision, Event, Expected, Filter, Log, NoteSigner, Reader,
    RecordedCertificate, Refused, Slot, Spent, VerifierKey, verify,
};
use hallpass::certificate::{SshCa, SshUserGrant, Validity};
use hallpass::keys::random_bytes;
use hallpass::model::{Access, EntryIndex, Role, SourceAddress, Timestamp, UserName};
use hallpass::model::{KeyId, KeyKind};
use hallpass::policy::PolicySet;
use ssh_key::HashAlg;
use ssh_key::public::{Ed25519PublicKey, KeyData};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::CONNECTIONS;
use crate::client::{Hallpass, Signer, nonce, now};
use crate::home::{Home, circumstances};
use crate::stretch::{self, Certificates};
use crate::target::Kind;

/// How many people ask.
const PEOPLE: u64 = 500;
/// One who asks for nothing else than one certificate in so many.
const RARE: u64 = 100_000;
/// How many entries wait for the disk together while the log is filled.
const TOGETHER: usize = 512;
/// How often each question is put.
const QUESTIONS: u64 = 200;
/// Entries on a page, as the API gives them when nothing is said.
const PAGE: usize = 100;

/// One row for each size.
pub(crate) struct Curve(Vec<Point>);

struct Point {
    entries: u64,
    server_cpu_us: f64,
    p99_ms: f64,
    inclusion_ms: f64,
    show_ms: f64,
    /// The slowest kind of page.
    list_ms: f64,
    start_ms: f64,
    verified_per_second: f64,
    bytes_per_entry: f64,
}

pub(crate) fn measure(largest: u64, seconds: u32) -> Curve {
    let home = Home::new();
    let server = home.start();
    let on_call = home.enrol(&server);
    server.stop();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .build()
        .expect("threads");
    let mut sizes: Vec<u64> = (4..)
        .map(|power| 10_u64.pow(power))
        .take_while(|size| *size < largest)
        .collect();
    sizes.push(largest);
    let points = sizes.iter().map(|size| {
        fill(&home, &runtime, *size);
        Point::measure(&home, &on_call, seconds)
    });
    Curve(points.collect())
}

/// What writes entries.
struct Office {
    ssh_ca: SshCa,
    ca: String,
    policy: PolicySet,
    log: Log,
    people: Vec<UserName>,
}

/// Has the log grow to that size.
fn fill(home: &Home, runtime: &Runtime, size: u64) {
    let keys = home.keys();
    let signer =
        NoteSigner::open(&keys.signer(KeyId::first(KeyKind::Log)).expect("a key")).expect("a key");
    let opened = Log::open(&home.home.database(), signer.verifier(), now(), |_| {});
    let log = opened
        .and_then(|opened| opened.start(signer, |_| {}))
        .expect("the log");
    let newest = log.newest();
    let length = newest.borrow().as_ref().map_or(0, |newest| newest.size);
    let ssh_ca = SshCa::new(
        keys.signer(KeyId::first(KeyKind::SshUser))
            .expect("a key")
            .signer,
    )
    .expect("a CA");
    let office = Arc::new(Office {
        ca: ssh_ca.public_key().fingerprint(HashAlg::Sha256).to_string(),
        ssh_ca,
        policy: PolicySet::load(&home.home.policies()).expect("policies"),
        log,
        people: (0..=PEOPLE)
            .map(|person| format!("person-{person}").parse().expect("a legal name"))
            .collect(),
    });
    let next = Arc::new(AtomicU64::new(length));
    let begun = Instant::now();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..TOGETHER {
            let (office, next) = (Arc::clone(&office), Arc::clone(&next));
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= size {
                        return;
                    }
                    office.issue(number).await;
                    if number % 500_000 == 0 {
                        eprintln!("{number} entries after {:.0?}", begun.elapsed());
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("a task");
        }
    });
    let office = Arc::into_inner(office).expect("nobody else has it");
    office.log.close();
}

impl Office {
    async fn issue(&self, number: u64) {
        let now = now();
        let slot = self.log.reserve(now).expect("a place");
        let person = if number % RARE == RARE / 2 {
            PEOPLE
        } else {
            // Some ask much more often than others.
            (number * number * 31 + number) % PEOPLE
        };
        let by = Actor {
            requester: self.people[person as usize].clone(),
            method: "ssh-key".to_owned(),
            fingerprint: format!("SHA256:{}{}", nonce(), nonce())
                .chars()
                .take(50)
                .collect(),
            source: IpAddr::V4(Ipv4Addr::new(10, 1, (person >> 8) as u8, person as u8)),
            nonce: nonce(),
            counter: None,
        };
        let roles: Vec<&Role> = self
            .policy
            .roles
            .iter()
            .filter(|role| matches!(role.access, Access::Ssh(_)))
            .collect();
        let role = roles[(number / 7) as usize % roles.len()];
        let purposes: Vec<_> = role.purposes.iter().collect();
        let request = Asked {
            role: role.name.clone(),
            purpose: purposes[(number / 3) as usize % purposes.len()].clone(),
            reason: format!("INC-{}", 1000 + number / 11).parse().ok(),
            ttl: role.default_ttl.as_secs(),
        };
        // Expired, as most are in a log that took its time to grow.
        let spent = Spent::new(by.nonce.clone(), now);
        let event = if number % 50 == 49 {
            self.refused(by, request)
        } else {
            self.issued(&slot, by, request, role, now)
        };
        slot.commit(event, Some(spent)).await.expect("a commit");
    }

    fn decision(&self, by: &Actor, policies: &[&str]) -> Decision {
        Decision {
            policies: policies.iter().map(ToString::to_string).collect(),
            policy_set: self.policy.digest.clone(),
            action: None,
            approves: None,
            circumstances: Some(circumstances(by)),
        }
    }

    fn refused(&self, by: Actor, request: Asked) -> Event {
        let detail = format!(
            "no policy permits {} role {} for purpose {}",
            by.requester, request.role, request.purpose
        );
        let decision = self.decision(&by, &[]);
        Event::RequestRefused {
            by,
            request: Some(request),
            refused: Refused {
                request: "POST /v1/certificates/ssh".to_owned(),
                code: "denied".to_owned(),
                detail,
            },
            decision: Some(decision),
        }
    }

    fn issued(&self, slot: &Slot, by: Actor, request: Asked, role: &Role, now: Timestamp) -> Event {
        let Access::Ssh(access) = &role.access else {
            unreachable!("an SSH role")
        };
        let subject = KeyData::Ed25519(Ed25519PublicKey(random_bytes().expect("randomness")));
        let sources = match &access.source_address {
            SourceAddress::Requester => vec![by.source.into()],
            SourceAddress::Any => Vec::new(),
            SourceAddress::Networks(networks) => networks.clone(),
        };
        let validity = Validity::person(now, role.default_ttl);
        let grant = SshUserGrant {
            subject: &subject,
            serial: slot.serial(),
            entry: slot.index(),
            requester: &by.requester,
            role: &role.name,
            purpose: &request.purpose,
            principals: &access.principals,
            extensions: &access.extensions,
            force_command: access.force_command.as_deref(),
            source_addresses: &sources,
            validity,
            nonce: random_bytes().expect("randomness"),
        };
        let certificate = RecordedCertificate {
            form: "ssh-user".to_owned(),
            serial: grant.serial,
            key_id: grant.key_id(),
            valid_after: validity.after,
            valid_before: validity.before,
            ca: self.ca.clone(),
            certificate: self.ssh_ca.user_certificate(&grant).expect("a certificate"),
        };
        let decision = self.decision(&by, &["on-call-incident"]);
        Event::CertificateIssued {
            by,
            request,
            decision,
            certificate,
        }
    }
}

impl Point {
    fn measure(home: &Home, on_call: &Signer, seconds: u32) -> Self {
        // Once to have the file in memory as it is on a server that runs, then for the figure.
        home.start().stop();
        let server = home.start();
        let on_this = Signer::new(on_call.key().clone(), &server.audience);
        let mut certificates = Certificates::default();
        let [.., most] = CONNECTIONS;
        let hallpass = Hallpass {
            server: &server,
            signer: &on_this,
        };
        let cell = stretch::run(&hallpass, Kind::Ssh, most, seconds, &mut certificates);
        let start = server.stop();

        let path = home.home.database();
        let reader = Reader::open(&path).expect("the log");
        let key = fs::read_to_string(home.home.keys().join("log-1.vkey")).expect("a key");
        let key: VerifierKey = key.parse().expect("a key");
        let database = Database::open(&path).expect("the log");
        let note = database.newest().expect("the log").expect("a checkpoint");
        let newest = Checkpoint::open(&note, &key).expect("a checkpoint");
        let entries = newest.size;
        // Spread over the whole log, and never the same twice.
        let place = |question: u64| EntryIndex(question * 7_919_993 % entries);
        let inclusion_ms = median(|question| {
            black_box(reader.inclusion(place(question), entries).expect("a proof"));
        });
        let show_ms = median(|question| {
            let filter = Filter {
                from: place(question),
                ..Filter::default()
            };
            black_box(reader.list(&filter, 1).expect("an entry"));
        });
        let expected = Expected {
            newest,
            earlier: Vec::new(),
            keys: vec![key.clone()],
            certificates: false,
        };
        let begun = Instant::now();
        verify(&database, &expected, 1, &mut |_| {}).expect("a log that verifies");
        let verifying = begun.elapsed();
        let point = Self {
            entries,
            server_cpu_us: cell.server_cpu_us,
            p99_ms: cell.p99_ms,
            inclusion_ms,
            show_ms,
            list_ms: list(&reader, &place),
            start_ms: (start.before + start.after).as_secs_f64() * 1e3,
            verified_per_second: entries as f64 / verifying.as_secs_f64(),
            bytes_per_entry: fs::metadata(&path).expect("the log").len() as f64 / entries as f64,
        };
        eprintln!("{point}");
        point
    }
}

/// The slowest median of the kinds of page that somebody may ask for.
fn list(reader: &Reader, place: &impl Fn(u64) -> EntryIndex) -> f64 {
    let user = |name: String| Some(name.parse().expect("a legal name"));
    let kinds: [&dyn Fn(u64) -> Filter; 5] = [
        &|_| Filter::default(),
        &|question| Filter {
            user: user(format!("person-{}", question % PEOPLE)),
            ..Filter::default()
        },
        // Who asks rarely, for what is asked for often.
        &|_| Filter {
            user: user(format!("person-{PEOPLE}")),
            purpose: Some("incident".parse().expect("a legal word")),
            ..Filter::default()
        },
        // What never comes together: the page ends early.
        &|_| Filter {
            role: Some("server-operator".parse().expect("a legal word")),
            purpose: Some("deploy".parse().expect("a legal word")),
            ..Filter::default()
        },
        &|_| Filter {
            role: Some("server-operator".parse().expect("a legal word")),
            since: Some(now().minus(Duration::from_secs(60))),
            ..Filter::default()
        },
    ];
    kinds
        .iter()
        .map(|kind| {
            median(|question| {
                let filter = Filter {
                    from: place(question),
                    ..kind(question)
                };
                black_box(reader.list(&filter, PAGE).expect("a page"));
            })
        })
        .fold(0.0, f64::max)
}

/// In milliseconds.
fn median(mut ask: impl FnMut(u64)) -> f64 {
    let mut times: Vec<Duration> = (0..QUESTIONS)
        .map(|question| {
            let begun = Instant::now();
            ask(question);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10}  {:>10.1}  {:>7.2}  {:>9.3}  {:>7.3}  {:>7.2}  {:>8.1}  {:>13.0}  {:>5.0}",
            self.entries,
            self.server_cpu_us,
            self.p99_ms,
            self.inclusion_ms,
            self.show_ms,
            self.list_ms,
            self.start_ms,
            self.verified_per_second,
            self.bytes_per_entry,
        )
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A log that grows (server CPU in us per SSH certificate at {} connections; \
             verification on one core, without certificates)",
            CONNECTIONS[CONNECTIONS.len() - 1]
        )?;
        writeln!(
            f,
            "   entries  server CPU   p99 ms   proof ms  show ms  list ms  start ms     verified/s  bytes"
        )?;
        self.0.iter().try_for_each(|point| writeln!(f, "{point}"))
    }
}
