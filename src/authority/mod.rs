//! The use cases, and the only place where identity, policy, keys, certificates and the log meet.
//!
//! An [`Authority`] is handed signed requests, never somebody's conclusion about who asked. Each
//! use case identifies the requester, decides, signs, logs, and only then lets anything out.

mod approvals;
mod archiving;
mod backup;
mod enrolment;
mod explaining;
mod fleet;
mod home;
mod hosts;
mod importing;
mod in_force;
mod init;
mod issue;
mod locks;
mod login;
mod newcomers;
mod offline_root;
mod open;
mod policies;
mod proving;
mod reading;
mod refusal;
mod restore;
mod revocation;
mod rotation;
mod sessions;
mod tailing;
mod throttle;
mod waiting;
mod witnessing;
mod workloads;

pub use backup::{BackedUp, BackupError};
pub use home::{
    Config, Fido2Settings, Home, HomeError, LogFormat, PolicySettings, SessionSettings,
};
pub use importing::{ImportError, Incoming, KeyImport, KeyImported};
pub use init::{Created, InitError, Inventory};
pub use login::ProviderTwice;
pub use offline_root::KeyInstall;
pub use open::{Clock, OpenError};
pub use reading::Which;
pub use refusal::Refusal;
pub use restore::{RestoreError, Restored};
pub use tailing::Tail;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::access::Waiting;
use crate::audit::{
    Actor, Checkpoint, Decision, Event, Log, Reader, RecordedCertificate, Refused, Slot, Spent,
    With,
};
use crate::identity::{
    self, Accepted, AttestationRoots, Authentic, Counters, Directory, Logins, Provider,
    ReplayGuard, Requester, SignedRequest, Unidentified, Verifier, Workloads,
};
use crate::keys::KeyStore;
use crate::model::{
    Circumstances, EntryIndex, HostName, SignedTrust, Timestamp, TrustBundle, Written,
};
use crate::policy::{AdminAction, PolicySet, Verdict};
use crate::witness::Witnesses;
use in_force::Keys;
use policies::Policies;
use throttle::Throttle;

/// A certificate authority at work.
pub struct Authority {
    /// The CA keys. Changed by the log alone, once a change is on disk.
    keys: Keys,
    /// Where new ones are kept.
    key_store: KeyStore,
    /// The newest of what hosts are told to trust, signed, and for which version.
    signed: Mutex<Option<(u64, SignedTrust)>>,
    policies: Arc<Policies>,
    settings: PolicySettings,
    /// What clients reach it by. No other TLS server is certified under these.
    names: Vec<HostName>,
    /// Whose word counts when a FIDO2 key is enrolled.
    attestation_roots: AttestationRoots,
    /// With whom people sign in.
    providers: Vec<Provider>,
    /// Those who are about to.
    logins: Logins,
    /// Requests that wait for approval.
    waiting: Waiting,
    sessions: SessionSettings,
    /// Which workloads are let in.
    workloads: Workloads,
    /// Changed by the log alone, once a change is on disk.
    directory: Arc<RwLock<Directory>>,
    /// Makes checking a change, logging it and taking it in one step.
    changes: Arc<tokio::sync::Mutex<()>>,
    /// Lets one at a time move entries out of the log's database.
    archiving: Arc<tokio::sync::Mutex<()>>,
    verifier: Verifier,
    replays: ReplayGuard,
    counters: Counters,
    /// For refusals of strangers.
    strangers: Throttle,
    /// For refusals of keys that are enrolled, so that no noise hides them.
    known: Throttle,
    /// For refusals of hosts, by their names: none hides another's.
    refused_hosts: Throttle<HostName>,
    log: Log,
    reader: Reader,
    witnesses: Witnesses,
    /// Keeps other servers off this home for as long as it is open.
    _lock: std::fs::File,
}

impl Authority {
    /// The same, which clients reach by these names.
    pub fn with_names(mut self, names: Vec<HostName>) -> Self {
        self.names = names;
        self
    }

    /// The same, which believes the makers of FIDO2 keys that these certificates are of.
    pub fn with_attestation_roots(mut self, roots: AttestationRoots) -> Self {
        self.attestation_roots = roots;
        self
    }

    /// The fingerprint that clients pin: that of the root certificate whose key signs.
    pub fn fingerprint(&self) -> String {
        self.keys.now().audiences[0].clone()
    }

    /// The public keys that hosts, databases and clients must trust.
    pub fn trust(&self) -> Written<TrustBundle> {
        self.keys.now().trust.clone()
    }

    /// Tells of each change of the CA keys from now on, by the entry that made it.
    pub fn key_changes(&self) -> watch::Receiver<u64> {
        self.keys.changes()
    }

    /// The newest checkpoint, from now on. It changes with each commit.
    pub fn newest(&self) -> watch::Receiver<Option<Checkpoint>> {
        self.log.newest()
    }

    /// Whether it can do its work.
    ///
    /// # Errors
    /// Says what is wrong when it can't.
    pub async fn check(&self) -> Result<(), Refusal> {
        self.log.check(now()).await?;
        let keys = self.keys.now();
        keys.ssh_user.ca.check()?;
        keys.ssh_host.ca.check()?;
        Ok(keys.x509.ca.check()?)
    }

    /// What is wrong while it can do its work all the same.
    pub fn trouble(&self) -> Option<String> {
        let log = self.log.trouble().map(|trouble| trouble.to_string());
        let troubles: Vec<String> = log.into_iter().chain(self.policies.trouble()).collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    /// Waits until the log has what was handed to it, and closes it.
    pub fn close(self) {
        let Self { log, reader, .. } = self;
        // The last to close the database brings the write-ahead log into it and removes that, which
        // a reader may not.
        drop(reader);
        log.close();
    }

    /// Finds who signed the request, and logs it when nobody did.
    async fn identify(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Requester, Refusal> {
        let found = self.authenticate(request, now).await.and_then(|authentic| {
            let directory = self.directory();
            authentic.requester(source, &directory, &self.replays, &self.counters, now)
        });
        match found {
            Ok(requester) => Ok(requester),
            Err(refusal) => Err(self.unidentified(request, source, refusal, now).await?),
        }
    }

    async fn authenticate<'a>(
        &self,
        request: &'a SignedRequest,
        now: Timestamp,
    ) -> Result<Authentic<'a>, identity::Refusal> {
        // Whose signature is verified together with others' has an entry coming, mostly.
        let _coming = self.log.coming();
        identity::authenticate(request, &self.keys.now().audiences, &self.verifier, now).await
    }

    /// The same, with nobody else changing anything until what comes with it is dropped.
    async fn identify_alone(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<(Requester, OwnedMutexGuard<()>), Refusal> {
        let mut requester = self.identify(request, source, now).await?;
        let alone = Arc::clone(&self.changes).lock_owned().await;
        // Whoever was first may have disabled the requester or removed the key.
        match self.accepted(&requester, now, |_, accepted| accepted.groups()) {
            Ok(groups) => requester.groups = groups,
            Err(refusal) => {
                return Err(self.unidentified(request, source, refusal, now).await?);
            }
        }
        Ok((requester, alone))
    }

    /// Logs that nobody was identified, and gives what they are told.
    async fn unidentified(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        refusal: identity::Refusal,
        now: Timestamp,
    ) -> Result<Refusal, Refusal> {
        let refused = || Refused {
            request: request_line(request),
            code: refusal.why.code().to_owned(),
            detail: refusal.why.to_string(),
        };
        if let identity::Refusal {
            why:
                Unidentified::CounterWentBack {
                    user,
                    counter,
                    newest,
                },
            fingerprint: Some(fingerprint),
        } = &refusal
        {
            tracing::warn!(%source, fingerprint, "{}", refusal.why);
            let event = Event::CounterWentBack {
                user: user.clone(),
                fingerprint: fingerprint.clone(),
                counter: *counter,
                newest: *newest,
                source,
                refused: refused(),
            };
            // Nothing is waited for before it is handed to the log: who asked may hang up at once. And
            // nobody is accepted meanwhile: see there.
            let slot = {
                let _alone = self
                    .directory
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                self.log.reserve(now)?
            };
            slot.commit(event, None).await?;
            return Ok(Refusal::Unidentified);
        }
        let fingerprint = refusal.fingerprint.clone();
        self.log_stranger(source, fingerprint, refused(), now)
            .await?;
        Ok(Refusal::Unidentified)
    }

    /// Logs that somebody was refused of whom nothing is known but perhaps a key, unless there are
    /// too many such refusals.
    async fn log_stranger(
        &self,
        source: IpAddr,
        fingerprint: Option<String>,
        refused: Refused,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let known = fingerprint
            .as_ref()
            .is_some_and(|fingerprint| self.directory().knows(fingerprint));
        let throttle = if known { &self.known } else { &self.strangers };
        if let Some(unlisted) = throttle.list_address(source, now) {
            tracing::info!(%source, why = refused.detail, fingerprint, "refused");
            let event = Event::UnauthenticatedRefused {
                source,
                fingerprint,
                host: None,
                refused,
                unlisted,
            };
            self.log.reserve(now)?.commit(event, None).await?;
        }
        Ok(())
    }

    /// Takes a place in the log for what a requester was granted. From the moment that somebody
    /// disables or locks them or removes their key, there is none: what was issued stands in the log
    /// before that, and nothing after it.
    async fn reserve(
        &self,
        request: &SignedRequest,
        requester: &Requester,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        self.reserve_for_names(request, requester, &[], now).await
    }

    /// The same for what is certified under names of hosts, none of which is locked.
    async fn reserve_for_names(
        &self,
        request: &SignedRequest,
        requester: &Requester,
        names: &[HostName],
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let reserved = self.accepted(requester, now, |directory, _| {
            directory.check_unlocked(|| [requester.lock()])?;
            directory.check_names_unlocked(names)?;
            Ok::<_, Refusal>(self.log.reserve(now)?)
        });
        match reserved {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(refusal)) => Err(self
                .refuse(requester, request, None, None, refusal, now)
                .await),
            Err(refusal) => {
                let source = requester.actor.source;
                Err(self.unidentified(request, source, refusal, now).await?)
            }
        }
    }

    /// Does something while a requester who was identified is still accepted.
    fn accepted<T>(
        &self,
        requester: &Requester,
        now: Timestamp,
        act: impl FnOnce(&Directory, &Accepted<'_>) -> T,
    ) -> Result<T, identity::Refusal> {
        let fingerprint = &requester.actor.fingerprint;
        let directory = self.directory();
        let counter = requester.counter.as_ref();
        let why = match directory.accepted(fingerprint, now) {
            // Its lock comes into the log when nobody reads the directory: what is done here stands
            // before that.
            Ok(accepted) if counter.is_some_and(|counter| self.counters.went_back(counter)) => {
                Unidentified::KeyLocked(accepted.name.clone())
            }
            // So does the one of the session's second factor.
            Ok(accepted) if accepted.session.is_some() && lost(&accepted, requester) => {
                Unidentified::KeyLocked(accepted.name.clone())
            }
            Ok(accepted) if *accepted.name == requester.actor.requester => {
                return Ok(act(&directory, &accepted));
            }
            Ok(_) => Unidentified::UnknownKey,
            Err(why) => why,
        };
        Err(identity::Refusal {
            why,
            fingerprint: Some(fingerprint.clone()),
        })
    }

    /// Reads the body of an identified request.
    fn parse<T: DeserializeOwned>(&self, request: &SignedRequest) -> Result<T, Refusal> {
        // What a message quotes is answered and logged; this must not be.
        const KEY: &[u8] = b"PRIVATE KEY-----";
        if request.body.windows(KEY.len()).any(|bytes| bytes == KEY) {
            let error = crate::certificate::SubjectError::PrivateKey;
            return Err(Refusal::illegal(format!("the body: {error}")));
        }
        // A struct would be read from an array too.
        if request.body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Refusal::illegal("the body: send a JSON object"));
        }
        let mut reader = serde_json::Deserializer::from_slice(&request.body);
        let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            let error = error.into_inner();
            if !error.is_data() {
                return Refusal::illegal(format!("the body: {error}"));
            }
            // The path tells more than line and column do.
            let position = format!(" at line {} column {}", error.line(), error.column());
            let what = error.to_string().replace(&position, "");
            let place = if path == "." { "the body" } else { &path };
            Refusal::illegal(format!("{}: {}", cut(place), cut(&what)))
        })?;
        reader
            .end()
            .map_err(|error| Refusal::illegal(format!("the body: {error}")))?;
        Ok(parsed)
    }

    /// Identifies the requester and has policy decide on an administrative act. Refusals are
    /// logged; the caller logs the rest.
    async fn administrator(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        action: AdminAction,
        now: Timestamp,
    ) -> Result<(Requester, Decision), Refusal> {
        let requester = self.identify(request, source, now).await?;
        let decision = self.permit(&requester, request, action, now).await?;
        Ok((requester, decision))
    }

    /// One change of what the log rebuilds: checked, logged and taken in, with no other in between.
    /// `with` gives what comes with its entry.
    async fn change<T>(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        action: AdminAction,
        make: impl FnOnce(Actor) -> Result<(T, Event), Refusal>,
        with: impl FnOnce(&Event) -> With,
    ) -> Result<T, Refusal> {
        self.change_own(request, source, action, |_| false, make, with)
            .await
    }

    /// The same, which everybody may do whose own it is that is changed.
    async fn change_own<T>(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        action: AdminAction,
        is_own: impl FnOnce(&Actor) -> bool,
        make: impl FnOnce(Actor) -> Result<(T, Event), Refusal>,
        with: impl FnOnce(&Event) -> With,
    ) -> Result<T, Refusal> {
        let now = now();
        let (requester, alone) = self.identify_alone(request, source, now).await?;
        let is_own = is_own(&requester.actor);
        if !is_own {
            self.permit(&requester, request, action, now).await?;
        }
        let (made, event) = match make(requester.actor.clone()) {
            Ok(made) => made,
            Err(refusal) => {
                return Err(self
                    .refuse(&requester, request, None, None, refusal, now)
                    .await);
            }
        };
        let With { held, signers } = with(&event);
        let held = Box::new((held, alone));
        let slot = if is_own {
            // It may be the end of the very key that signs this.
            self.log.reserve(now)?
        } else {
            self.reserve(request, &requester, now).await?
        };
        slot.commit_with(
            event,
            Some(spent(&requester)),
            With {
                held: Some(held),
                signers,
            },
        )
        .await?;
        Ok(made)
    }

    /// Has policy decide on an administrative act, which is nobody's who is locked.
    async fn permit(
        &self,
        requester: &Requester,
        request: &SignedRequest,
        action: AdminAction,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        let circumstances = self.circumstances(requester, now);
        let policy = self.policy();
        let engine = &policy.engine;
        let verdict = engine.decide_admin(&requester.actor.requester, action, &circumstances);
        let mut decision = decision(&policy, &verdict, circumstances);
        decision.action = Some(action.as_str().to_owned());
        let refusal = if verdict.allowed {
            match self.directory().check_unlocked(|| [requester.lock()]) {
                Ok(()) => return Ok(decision),
                Err(locked) => locked.into(),
            }
        } else {
            Refusal::denied(&verdict, || {
                format!(
                    "no policy permits {} to {}",
                    requester.actor.requester,
                    action.as_str()
                )
            })
        };
        Err(self
            .refuse(requester, request, None, Some(decision), refusal, now)
            .await)
    }

    /// Logs a refusal, with the request's nonce, and gives it back. When it can't be logged, that
    /// is what the requester is told.
    async fn refuse(
        &self,
        requester: &Requester,
        request: &SignedRequest,
        asked: Option<crate::audit::Asked>,
        decision: Option<Decision>,
        refusal: Refusal,
        now: Timestamp,
    ) -> Refusal {
        if !refusal.is_logged() {
            return refusal;
        }
        let logged = self.log_refusal(requester, request, asked, decision, &refusal, now);
        match logged.await {
            Ok(_) => refusal,
            Err(error) => error,
        }
    }

    /// Logs a refusal, with the request's nonce, and gives its entry.
    async fn log_refusal(
        &self,
        requester: &Requester,
        request: &SignedRequest,
        asked: Option<crate::audit::Asked>,
        decision: Option<Decision>,
        refusal: &Refusal,
        now: Timestamp,
    ) -> Result<EntryIndex, Refusal> {
        let event = Event::RequestRefused {
            by: requester.actor.clone(),
            request: asked,
            refused: Refused {
                request: request_line(request),
                code: refusal.code().to_owned(),
                detail: cut(&refusal.to_string()),
            },
            decision,
        };
        let slot = self.log.reserve(now)?;
        let place = slot.commit(event, Some(spent(requester))).await?;
        Ok(place.index)
    }

    /// Keeps what a request has spent that only reads.
    async fn read(&self, requester: &Requester) -> Result<(), Refusal> {
        Ok(self.log.spend(spent(requester)).await?)
    }

    /// How and when somebody asks, as policy sees it.
    fn circumstances(&self, requester: &Requester, now: Timestamp) -> Circumstances {
        requester.circumstances(now, self.settings.time_zone.local(now))
    }

    fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the second factor that a requester was believed to have shown does not count any more.
fn lost(accepted: &Accepted<'_>, requester: &Requester) -> bool {
    requester.mfa.is_some() && accepted.mfa().is_none()
}

/// What the log keeps of a decision.
fn decision(policy: &PolicySet, verdict: &Verdict, circumstances: Circumstances) -> Decision {
    Decision {
        policies: verdict.policies.clone(),
        policy_set: policy.digest.clone(),
        action: None,
        approves: None,
        circumstances: Some(circumstances),
    }
}

/// What the log keeps of a certificate.
fn recorded(
    form: &str,
    serial: crate::model::Serial,
    key_id: String,
    validity: crate::certificate::Validity,
    ca: String,
    certificate: String,
) -> RecordedCertificate {
    RecordedCertificate {
        form: form.to_owned(),
        serial,
        key_id,
        valid_after: validity.after,
        valid_before: validity.before,
        ca,
        certificate,
    }
}

fn spent(requester: &Requester) -> Spent {
    Spent {
        nonce: requester.actor.nonce.clone(),
        expires: ReplayGuard::expiry(requester.signed),
        counter: requester.counter.clone(),
    }
}

/// Method and target: a stranger chose them.
fn request_line(request: &SignedRequest) -> String {
    // What is not left over need not be escaped.
    let target = cut(&request.target).escape_default().to_string();
    format!("{} {}", cut(&request.method), cut(&target))
}

/// What others wrote, short enough for a log that nothing is ever deleted from, which has it as JSON.
fn cut(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut length = 0;
    let over = text.char_indices().find(|(_, c)| {
        length += match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            c if c.is_ascii_control() => r"\u0000".len(),
            c => c.len_utf8(),
        };
        length > LONGEST
    });
    match over {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn now() -> Timestamp {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(since_1970.as_millis() as u64)
}
