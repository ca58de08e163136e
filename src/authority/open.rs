use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::home::{Home, HomeError};
use super::in_force::{InForce, Keys, Open, StepError, Told};
use super::init::public_fingerprint;
use super::login::ProviderTwice;
use super::policies::{Heard, Policies, check_proven, log_policy};
use super::throttle::Throttle;
use super::{Authority, PolicySettings, SessionSettings, now};

use crate::access::Waiting;
use crate::audit::{
    Entry, Event, Log, LogError, NoteSigner, Opened, Reader, StoreError, VerifierKey,
};
use crate::certificate::CertificateError;
use crate::identity::{
    AttestationRoots, Counters, Directory, Logins, ReplayGuard, Verifier, Workloads,
};
use crate::keys::{self, KeyStore, Keyring, Opening, TokenKeys};
use crate::model::{EntryIndex, KeyId, KeyKind, Timestamp};
use crate::policy::{PolicyError, PolicySet};
use crate::witness::Witnesses;

/// What is thought of the machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// It must not be behind the log's newest entry, but for five minutes.
    FitsTheLog,
    /// An administrator says that it is right, whatever the log has.
    IsRight,
}

impl Authority {
    /// Opens a home: checks it, opens its keys, rebuilds what the log says, and logs the start.
    ///
    /// # Errors
    /// When anything is not right: says what and how to mend it.
    pub async fn open<'a>(
        home: &Home,
        opening: impl Into<Opening<'a>>,
        token: Option<TokenKeys>,
        clock: Clock,
        settings: PolicySettings,
    ) -> Result<Self, OpenError> {
        let now = now();
        let lock = home.lock()?;
        // Cheap checks before a passphrase's costly key derivation.
        let policy = PolicySet::load(&home.policies())?;
        if settings.require_proof {
            check_proven(&policy).await?;
        }
        let mut directory = Directory::default();
        let shared = Arc::new(RwLock::default());
        let live = Arc::clone(&shared);
        let mut told = Told::default();
        let mut heard = Heard::default();
        let each = |entry: Entry| {
            directory.apply(&entry);
            told.hear(&entry);
            heard.hear(&entry);
        };
        let mut opened = Log::open(&home.database(), &home.log_keys()?, now, each)?;
        let last_policy_set = heard.last.clone();
        if last_policy_set.as_deref() != Some(policy.digest.as_str()) {
            policy.check_roles(&home.policies())?;
        }
        let policies = Arc::new(Policies::new(policy, home.policies(), heard));
        let live_policies = Arc::clone(&policies);
        *shared.write().unwrap_or_else(PoisonError::into_inner) = directory;
        if let Some((index, source)) = told.no_step {
            return Err(OpenError::NoStep { index, source });
        }
        check_signed(&opened, &told.keyring)?;
        let reader = Reader::open(&home.database())?;

        let store = KeyStore::open(&home.keys(), opening)?.with_token(token);
        let open = open_keys(&store, &told.keyring, &opened.last_expiries)?;
        let in_force = InForce::new(told.keyring, &open, told.cross, told.version)
            .map_err(OpenError::Certificate)?;
        let signers = in_force.log.clone();
        let keys = Keys::new(in_force, open);
        let live_keys = keys.clone();

        let replays = ReplayGuard::new(std::mem::take(&mut opened.nonces), opened.forgotten, now);
        let counters = Counters::new(std::mem::take(&mut opened.counters), now);
        let (restored, forgotten) = (opened.restored, opened.forgotten);
        let log = opened.start(signers, move |entry| {
            let live: &RwLock<Directory> = &live;
            live.write()
                .unwrap_or_else(PoisonError::into_inner)
                .apply(entry);
            live_keys.apply(entry);
            live_policies.apply(entry);
        })?;
        if clock == Clock::IsRight
            && let Some(newest) = log.correct_clock(now)
        {
            tell(&log, &shared, Event::ClockCorrected { newest }, now).await?;
        }
        if let Some((size, backup)) = restored {
            tell(&log, &shared, Event::LogRestored { size, backup }, now).await?;
            // No request of the second of the restore is taken: nobody is told that this server
            // listens while that second lasts.
            if ReplayGuard::expiry(super::now().whole_secs()) <= forgotten {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        // What a stop in between left.
        match reader.clearable() {
            Ok(Some(before)) => log.clear_archived(before).await?,
            Ok(None) => {}
            Err(error @ StoreError::Archive { .. }) => {
                tracing::error!(%error, "archived entries stay in the database");
            }
            Err(error) => return Err(error.into()),
        }
        for path in reader.missing_archives()? {
            tracing::error!(
                ?path,
                "archived entries are missing: restore it from a backup"
            );
        }
        let policy = policies.now();
        if last_policy_set.as_deref() != Some(policy.digest.as_str()) {
            log_policy(&log, &policy, now).await?;
        }
        let started = Event::ServerStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            policy_set: policy.digest.clone(),
        };
        log.reserve(now)?.commit(started, None).await?;
        Ok(Self {
            keys,
            key_store: store,
            signed: Mutex::default(),
            policies,
            settings,
            names: Vec::new(),
            attestation_roots: AttestationRoots::default(),
            providers: Vec::new(),
            logins: Logins::default(),
            waiting: Waiting::default(),
            sessions: SessionSettings::default(),
            workloads: Workloads::default(),
            directory: shared,
            changes: Arc::default(),
            archiving: Arc::default(),
            verifier: Verifier::default(),
            replays,
            counters,
            strangers: Throttle::new(),
            known: Throttle::new(),
            refused_hosts: Throttle::new(),
            log,
            reader,
            witnesses: Witnesses::default(),
            _lock: lock,
        })
    }
}

/// Logs what is no state by itself, and changes what is believed all the same.
async fn tell(
    log: &Log,
    directory: &RwLock<Directory>,
    event: Event,
    now: Timestamp,
) -> Result<(), LogError> {
    let slot = log.reserve(now)?;
    let entry = Entry {
        index: slot.index(),
        time: now,
        event: event.clone(),
        salt: None,
    };
    slot.commit(event, None).await?;
    directory
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .apply(&entry);
    Ok(())
}

impl Home {
    /// The verifier keys of the log that are in `keys/`, those of the past included. Which of them
    /// signs, the log tells.
    ///
    /// # Errors
    /// When there is none, or one can't be read.
    pub fn log_keys(&self) -> Result<Vec<VerifierKey>, OpenError> {
        let keys = KeyStore::publics_in(&self.keys(), KeyKind::Log)?;
        let keys = keys.into_iter();
        keys.map(|(id, key)| key.parse().map_err(|_| OpenError::LogKey { id }))
            .collect()
    }
}

/// Checks that the newest checkpoint is signed by the key that the log itself says signs: not by one
/// that was retired or revoked, whoever may have that by now.
pub(super) fn check_signed(opened: &Opened, keyring: &Keyring) -> Result<(), OpenError> {
    let (id, key) = keyring.active(KeyKind::Log).ok_or(OpenError::Certificate(
        CertificateError::CaCertificate("no key signs the log"),
    ))?;
    let verifier: VerifierKey = key.public.parse().map_err(|_| OpenError::LogKey { id })?;
    if opened.is_signed_by(&verifier) {
        return Ok(());
    }
    Err(OpenError::OtherLogKey { id })
}

/// Opens the keys that sign or are about to. What lies beside each must be what the log introduced.
/// The roots' keys stay sealed: they only ever sign issuing CAs.
pub(super) fn open_keys(
    store: &KeyStore,
    keyring: &Keyring,
    last_expiries: &BTreeMap<String, Timestamp>,
) -> Result<Open, OpenError> {
    let open = Open::default();
    for (id, key) in keyring.iter() {
        if !key.state.is_trusted() {
            continue;
        }
        if store.public(id)?.trim_end() != key.public {
            return Err(OpenError::UnknownKey { id });
        }
        let signs = matches!(
            id.kind,
            KeyKind::SshUser | KeyKind::SshHost | KeyKind::X509Issuing | KeyKind::Log
        );
        if signs {
            let last_expiry = last_expiries.get(&public_fingerprint(&key.public)?);
            let signer = store.signer(id)?.signer;
            if id.kind == KeyKind::Log && NoteSigner::of(&key.public, signer.clone()).is_none() {
                return Err(OpenError::LogKey { id });
            }
            open.add(id, signer, last_expiry.copied().unwrap_or_default());
        }
    }
    Ok(open)
}

/// Why a home can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] keys::StoreError),
    /// A key is not the one that the log introduced.
    #[error(
        "the key {id} in keys/ is not the one that the audit log introduced: restore keys/ and \
         hallpass.db from the same backup"
    )]
    UnknownKey {
        /// Which.
        id: KeyId,
    },
    /// The log tells of a step that a CA key can't have taken.
    #[error("entry {index} of the audit log can't follow those before it: {source}")]
    NoStep {
        /// Which entry.
        index: EntryIndex,
        /// Why.
        source: StepError,
    },
    /// The log's key is none, or not the one beside it.
    #[error("keys/{id}.vkey is not the verifier key of keys/{id}.age: restore keys/ from a backup")]
    LogKey {
        /// Which.
        id: KeyId,
    },
    /// The log is signed by a key that is not its key any more, or not yet.
    #[error(
        "the newest checkpoint of the audit log is not signed by {id}, which the log says signs it: \
         restore keys/ and hallpass.db from the same backup"
    )]
    OtherLogKey {
        /// The key that should have signed it.
        id: KeyId,
    },
    /// A CA's certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The policies.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The providers.
    #[error(transparent)]
    Provider(#[from] ProviderTwice),
    /// The log's database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}
