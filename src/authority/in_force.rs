//! The CA keys at work, and what follows from them: what signs, what is trusted, what requests must
//! be addressed to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use super::Refusal;
use crate::audit::{Entry, Event, LogError, LogSigners, NewCaKey, NoteSigner, VerifierKey};
use crate::certificate::{CertificateError, IssuingCa, SshCa, fingerprint_of_pem};
use crate::identity::key_fingerprint;
use crate::keys::{CaKey, Keyring, NewKey, Signer, Since, Step};
use crate::model::{EntryIndex, KeyId, KeyKind, KeyState, Timestamp, TrustBundle, Written};

/// The CA keys as they stand after some entry of the log.
pub(super) struct InForce {
    /// Where each key stands.
    pub(super) keyring: Keyring,
    pub(super) ssh_user: AtWork<SshCa>,
    pub(super) ssh_host: AtWork<SshCa>,
    pub(super) x509: AtWork<IssuingCa>,
    /// What signs the log's checkpoints, and what hosts are told to trust: all of the log's keys
    /// that are trusted, the one that is about to sign and the one that no longer does included.
    pub(super) log: LogSigners,
    /// What hosts, databases and clients must trust.
    pub(super) trust: Written<TrustBundle>,
    /// What requests must be addressed to: the fingerprints of the root certificates, the one that
    /// signs first. Those of retired ones, too, by which people know this CA who have not asked for
    /// a certificate since; not those that others may have.
    pub(super) audiences: Vec<String>,
    /// What else the server shows of itself, so that those who only know an older root trust it:
    /// newer roots' certificates by the roots before them, then the root's own.
    pub(super) above: String,
    /// Roots' certificates by the roots before them.
    cross: BTreeMap<KeyId, String>,
}

/// What signs the log, the key that signs when there is no rotation first.
pub(super) fn log_signers(keyring: &Keyring, open: &Open) -> Result<LogSigners, CertificateError> {
    let mut keys: Vec<_> = keyring
        .iter()
        .filter(|(id, key)| id.kind == KeyKind::Log && key.state.is_trusted())
        .collect();
    keys.sort_by_key(|(_, key)| key.state != KeyState::Active);
    let signers = keys.into_iter().map(|(id, key)| {
        let (signer, _) = open.get(id)?;
        NoteSigner::of(&key.public, signer).ok_or(CertificateError::CaCertificate(
            "the log's key belongs to another verifier key",
        ))
    });
    LogSigners::new(signers.collect::<Result<Vec<_>, _>>()?)
        .ok_or(CertificateError::CaCertificate("no key signs the log"))
}

/// A CA that signs.
pub(super) struct AtWork<C> {
    pub(super) ca: C,
    pub(super) id: KeyId,
    /// As the log names it.
    pub(super) fingerprint: String,
    last_expiry: Arc<AtomicU64>,
}

impl<C> AtWork<C> {
    /// Notes, before it signs, until when what it signs will be good.
    fn promise(&self, until: Timestamp) {
        self.last_expiry
            .fetch_max(until.as_millis(), Ordering::Relaxed);
    }
}

/// The keys that are open, with when the last certificate of each expires.
#[derive(Clone, Default)]
pub(super) struct Open(Arc<Mutex<BTreeMap<KeyId, OpenKey>>>);

struct OpenKey {
    signer: Arc<Signer>,
    last_expiry: Arc<AtomicU64>,
}

impl Open {
    /// Takes in a key that signs or is about to, with when the last certificate that it signed so
    /// far expires.
    pub(super) fn add(&self, id: KeyId, signer: Arc<Signer>, last_expiry: Timestamp) {
        let last_expiry = Arc::new(AtomicU64::new(last_expiry.as_millis()));
        let key = OpenKey {
            signer,
            last_expiry,
        };
        self.with(|keys| keys.insert(id, key));
    }

    fn get(&self, id: KeyId) -> Result<(Arc<Signer>, Arc<AtomicU64>), CertificateError> {
        self.with(|keys| {
            let key = keys.get(&id)?;
            Some((Arc::clone(&key.signer), Arc::clone(&key.last_expiry)))
        })
        .ok_or(CertificateError::CaCertificate("its key is not open"))
    }

    fn keep_trusted(&self, keyring: &Keyring) {
        let is_trusted = |id| keyring.find(id).is_some_and(|key| key.state.is_trusted());
        self.with(|keys| keys.retain(|id, _| is_trusted(*id)));
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<KeyId, OpenKey>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl InForce {
    /// What follows from where the keys stand, after the entry at that index.
    pub(super) fn new(
        keyring: Keyring,
        open: &Open,
        cross: BTreeMap<KeyId, String>,
        after: EntryIndex,
    ) -> Result<Self, CertificateError> {
        let active = |kind| {
            let active = keyring.active(kind);
            active.ok_or(CertificateError::CaCertificate("no key of its kind signs"))
        };
        let ssh = |kind| {
            let (id, key) = active(kind)?;
            let (signer, last_expiry) = open.get(id)?;
            let ca = SshCa::new(signer)?;
            // What signs must be what the log introduced.
            if ca.public_key().to_openssh()? != key.public {
                return Err(CertificateError::CaCertificate("it belongs to another key"));
            }
            Ok(AtWork {
                fingerprint: key_fingerprint(ca.public_key().key_data()),
                ca,
                id,
                last_expiry,
            })
        };
        let pem = |pem: String| format!("{}\n", pem.trim_end());
        let (id, issuing) = active(KeyKind::X509Issuing)?;
        let (signer, last_expiry) = open.get(id)?;
        let x509 = AtWork {
            ca: IssuingCa::new(&pem(issuing.public.clone()), signer)?,
            id,
            fingerprint: fingerprint_of_pem(&issuing.public)?,
            last_expiry,
        };
        let trusted = |kind| -> Vec<String> {
            let keys = keyring.trusted(kind).into_iter();
            keys.map(str::to_owned).collect()
        };
        let roots: Vec<String> = trusted(KeyKind::X509Root).into_iter().map(pem).collect();
        let retired = keyring
            .iter()
            .filter(|(id, key)| id.kind == KeyKind::X509Root && key.state == KeyState::Retired);
        let retired = retired.map(|(_, key)| &key.public);
        let audiences = roots
            .iter()
            .chain(retired)
            .map(|root| fingerprint_of_pem(root))
            .collect::<Result<_, _>>()?;
        let crossed: String = keyring
            .iter()
            .filter(|(id, key)| id.kind == KeyKind::X509Root && key.state.is_trusted())
            .filter_map(|(id, _)| cross.get(&id).map(String::as_str))
            .collect();
        let above = format!("{crossed}{}", roots.first().map_or("", String::as_str));
        let log = log_signers(&keyring, open)?;
        let revoked = keyring
            .iter()
            .filter(|(id, key)| id.kind == KeyKind::SshUser && key.state == KeyState::Revoked);
        let trust = TrustBundle {
            version: after.0,
            ssh_user: trusted(KeyKind::SshUser),
            ssh_host: trusted(KeyKind::SshHost),
            x509: roots,
            ssh_revoked: revoked.map(|(_, key)| key.public.clone()).collect(),
            log: log.first().verifier().to_string(),
            log_keys: trusted(KeyKind::Log),
        };
        Ok(Self {
            ssh_user: ssh(KeyKind::SshUser)?,
            ssh_host: ssh(KeyKind::SshHost)?,
            x509,
            trust: Written::new(trust)
                .map_err(|_| CertificateError::CaCertificate("it can't be told as JSON"))?,
            log,
            audiences,
            above,
            cross,
            keyring,
        })
    }

    /// The same after one more entry; nothing when the entry is about something else.
    ///
    /// # Errors
    /// When the entry can't follow.
    pub(super) fn after(&self, entry: &Entry, open: &Open) -> Result<Self, StepError> {
        let mut keyring = self.keyring.clone();
        let mut cross = self.cross.clone();
        take(&mut keyring, &mut cross, entry)?;
        Ok(Self::new(keyring, open, cross, entry.index)?)
    }

    /// The key that the log is about to be signed with alone, while several sign it.
    pub(super) fn coming_log_key(&self) -> Option<VerifierKey> {
        let trusted =
            |(id, key): &(KeyId, &CaKey)| id.kind == KeyKind::Log && key.state.is_trusted();
        let mut newest_first: Vec<_> = self.keyring.iter().filter(trusted).collect();
        newest_first.reverse();
        let (_, coming) = newest_first.first().filter(|_| newest_first.len() > 1)?;
        coming.public.parse().ok()
    }

    /// Until when something is good that the key signed.
    pub(super) fn last_expiry(&self, id: KeyId, open: &Open) -> Option<Timestamp> {
        let (_, last_expiry) = open.get(id).ok()?;
        let millis = last_expiry.load(Ordering::Relaxed);
        (millis > 0).then(|| Timestamp::from_millis(millis))
    }
}

/// What the entries of a log have told of the CA keys so far.
#[derive(Default)]
pub(super) struct Told {
    pub(super) keyring: Keyring,
    pub(super) cross: BTreeMap<KeyId, String>,
    /// The last entry that told something.
    pub(super) version: EntryIndex,
    /// The first that can't follow those before it, and why.
    pub(super) no_step: Option<(EntryIndex, StepError)>,
}

impl Told {
    /// Takes in the next entry.
    pub(super) fn hear(&mut self, entry: &Entry) {
        if let Event::AuthorityCreated { keys, .. } = &entry.event {
            let keys = keys
                .iter()
                .filter_map(|key| Some((key.purpose.parse().ok()?, key.public.clone())));
            self.keyring = Keyring::new(keys, since(entry));
        }
        if entry.event.changes_ca_keys() {
            self.version = entry.index;
            if let Err(error) = take(&mut self.keyring, &mut self.cross, entry) {
                self.no_step.get_or_insert((entry.index, error));
            }
        }
    }
}

/// Takes an entry into what is known of the CA keys.
fn take(
    keyring: &mut Keyring,
    cross: &mut BTreeMap<KeyId, String>,
    entry: &Entry,
) -> Result<(), StepError> {
    let Some(step) = step(&entry.event) else {
        return Ok(());
    };
    keyring.take(&step, since(entry))?;
    if let Event::CaKeyActivated {
        key,
        cross: Some(pem),
        ..
    } = &entry.event
        && key.kind == KeyKind::X509Root
    {
        cross.insert(*key, pem.clone());
    }
    Ok(())
}

/// The moment of an entry.
fn since(entry: &Entry) -> Since {
    Since {
        time: entry.time,
        entry: entry.index,
    }
}

/// The step that an event is.
pub(super) fn step(event: &Event) -> Option<Step> {
    let new = |new: &NewCaKey| -> NewKey { (new.key, new.public.clone()) };
    Some(match event {
        Event::CaKeyStaged { new: staged, .. } => Step::Stage(new(staged)),
        Event::CaKeyActivated { key, issuing, .. } => {
            Step::Activate(*key, issuing.as_ref().map(new))
        }
        Event::CaKeyRetired { key, .. } => Step::Retire(*key),
        Event::CaKeyCancelled { key, .. } => Step::Cancel(*key),
        Event::CaKeyRevoked {
            key, successors, ..
        } => Step::Revoke(*key, successors.iter().map(new).collect()),
        _ => return None,
    })
}

/// Why an entry of the log can't follow those before it.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It is no step that a key can take.
    #[error(transparent)]
    NoStep(#[from] crate::keys::NoStep),
    /// A key can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The CA keys at work in a server, exchanged by the log's writer once a change is on disk.
#[derive(Clone)]
pub(super) struct Keys {
    state: Arc<RwLock<State>>,
    pub(super) open: Open,
    /// The version in force, as soon as it signs.
    version: watch::Sender<u64>,
}

struct State {
    now: Arc<InForce>,
    /// While it is open whether a key is revoked, none of that kind signs.
    suspended: Option<KeyKind>,
}

impl Keys {
    pub(super) fn new(now: InForce, open: Open) -> Self {
        let version = watch::Sender::new(now.trust.version);
        let state = State {
            now: Arc::new(now),
            suspended: None,
        };
        Self {
            state: Arc::new(RwLock::new(state)),
            open,
            version,
        }
    }

    /// As they stand now.
    pub(super) fn now(&self) -> Arc<InForce> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state.now)
    }

    /// As they stand now, for a certificate that `which` will sign and that is good until then.
    /// Whoever retires the key sees it from this moment on, and who revokes it sees nothing later.
    pub(super) fn to_sign<C>(
        &self,
        which: impl FnOnce(&InForce) -> &AtWork<C>,
        until: Timestamp,
    ) -> Result<Arc<InForce>, Refusal> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let at_work = which(&state.now);
        if state.suspended == Some(at_work.id.kind) {
            return Err(Refusal::Unavailable(LogError::Busy));
        }
        at_work.promise(until);
        Ok(Arc::clone(&state.now))
    }

    /// Takes in an entry that is on disk.
    pub(super) fn apply(&self, entry: &Entry) {
        if !entry.event.changes_ca_keys() {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match state.now.after(entry, &self.open) {
            Ok(next) => state.now = Arc::new(next),
            // It was tried before it was logged.
            Err(error) => tracing::error!(%error, "a CA key can't be taken into use: restart"),
        }
    }

    /// Tells of each change from now on, once the keys sign that are in force then.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Closes the keys that will not sign any more, and those that did not get into the log.
    pub(super) fn close_untrusted(&self) {
        self.open.keep_trusted(&self.now().keyring);
    }

    /// While it is open whether a step is taken, nothing is signed that a revoked key vouches for. As
    /// soon as what is returned goes, keys are closed that are not trusted then.
    pub(super) fn stepping(&self, event: &Event) -> Stepping {
        if let Event::CaKeyRevoked { key, .. } = event {
            // What is signed for people and hosts under a root is signed by an issuing CA.
            let signs = match key.kind {
                KeyKind::X509Root => KeyKind::X509Issuing,
                kind => kind,
            };
            self.set_suspended(Some(signs));
        }
        Stepping(self.clone())
    }

    fn set_suspended(&self, kind: Option<KeyKind>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.suspended = kind;
    }
}

/// A step that may be taken or not.
pub(super) struct Stepping(Keys);

impl Drop for Stepping {
    fn drop(&mut self) {
        self.0.set_suspended(None);
        self.0.close_untrusted();
        let version = self.0.now().trust.version;
        self.0.version.send_if_modified(|told| {
            let is_new = *told != version;
            *told = version;
            is_new
        });
    }
}
