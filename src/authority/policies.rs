//! The policy set in force: loaded all or nothing, logged before it decides anything, and kept, so
//! that old decisions can be explained.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::issue::Declined;
use super::{Authority, Refusal, now};
use crate::audit::{Actor, Entry, Event, Log, LogError, Reader, StoreError, With};
use crate::identity::{Requester, SignedRequest};
use crate::model::{EntryIndex, PolicyInForce, Timestamp};
use crate::policy::{AdminAction, Outcome, PolicyError, PolicySet, Prover, Stamp};

/// How often it is looked whether the files are others.
const LOOK: Duration = Duration::from_secs(2);

/// The policy set in force, and where the log has those before it.
pub(super) struct Policies {
    /// Changed by the log alone, once the change is on disk.
    now: ArcSwap<PolicySet>,
    /// Where its files are.
    folder: PathBuf,
    heard: Mutex<Heard>,
    /// The longest lifetime in seconds of any role since the server began.
    longest: AtomicU64,
    /// Whether its files are others and were not loaded.
    behind: AtomicBool,
    /// Lets one set at a time come into force: what was read later comes later.
    loading: Arc<tokio::sync::Mutex<()>>,
}

/// What the log has told of policies.
#[derive(Default)]
pub(super) struct Heard {
    texts: BTreeMap<String, Vec<EntryIndex>>,
    loaded: BTreeSet<String>,
    /// The digest of the last that was loaded.
    pub(super) last: Option<String>,
    /// What comes into force when the log says so.
    coming: Option<Arc<PolicySet>>,
}

impl Heard {
    /// Takes in the next entry, and gives the set that comes into force with it.
    pub(super) fn hear(&mut self, entry: &Entry) -> Option<Arc<PolicySet>> {
        match &entry.event {
            Event::PolicyText { policy_set, .. } => {
                let texts = self.texts.entry(policy_set.clone()).or_default();
                texts.push(entry.index);
                None
            }
            Event::PolicyLoaded { policy_set, .. } => {
                self.loaded.insert(policy_set.clone());
                self.last = Some(policy_set.clone());
                self.coming.take_if(|coming| coming.digest == *policy_set)
            }
            _ => None,
        }
    }
}

impl Policies {
    /// With the set in force, and what the log has told so far.
    pub(super) fn new(now: PolicySet, folder: PathBuf, heard: Heard) -> Self {
        Self {
            longest: AtomicU64::new(now.roles.longest().as_secs()),
            behind: AtomicBool::new(false),
            now: ArcSwap::from_pointee(now),
            folder,
            heard: Mutex::new(heard),
            loading: Arc::default(),
        }
    }

    /// The set in force.
    pub(super) fn now(&self) -> Arc<PolicySet> {
        self.now.load_full()
    }

    /// The longest that any certificate for a person may have lived since the server began.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_secs(self.longest.load(Ordering::Relaxed))
    }

    /// What is wrong when what is on disk is not in force. Strangers read it: it quotes no policy.
    pub(super) fn trouble(&self) -> Option<String> {
        self.behind.load(Ordering::Relaxed).then(|| {
            "the policies on disk were not loaded, the old ones stay in force: the server's log \
             and `hallpass policy reload` say why"
                .to_owned()
        })
    }

    /// Takes in an entry that is on disk.
    pub(super) fn apply(&self, entry: &Entry) {
        if let Some(coming) = self.heard().hear(entry) {
            let longest = coming.roles.longest().as_secs();
            self.longest.fetch_max(longest, Ordering::Relaxed);
            self.now.store(coming);
        }
    }

    /// Whether all of a set's text is in the log.
    fn knows(&self, policy_set: &str) -> bool {
        self.heard().loaded.contains(policy_set)
    }

    /// The files of a set that was in force.
    fn files(
        &self,
        policy_set: &str,
        reader: &Reader,
    ) -> Result<Option<BTreeMap<String, String>>, StoreError> {
        if !self.knows(policy_set) {
            return Ok(None);
        }
        let texts = self.heard().texts.get(policy_set).cloned();
        let mut parts = BTreeMap::new();
        for index in texts.into_iter().flatten() {
            let body = reader.range(index, 1)?;
            let entry = body
                .first()
                .and_then(|body| serde_json::from_str(body).ok());
            if let Some(Entry {
                event:
                    Event::PolicyText {
                        file, part, text, ..
                    },
                ..
            }) = entry
            {
                parts.insert((file, part), text);
            }
        }
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for ((file, _), text) in parts {
            files.entry(file).or_default().push_str(&text);
        }
        Ok(Some(files))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authority {
    /// The policy set in force.
    pub(super) fn policy(&self) -> Arc<PolicySet> {
        self.policies.now()
    }

    /// Loads the policies from their files, for an administrator.
    ///
    /// # Errors
    /// When the requester may not, or the files are not a sound set: then the old one stays.
    pub async fn reload_policy(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<PolicyInForce, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::ManagePolicy, now)
            .await?;
        let loaded = self.load_policy(Some((request, &requester))).await;
        if loaded.is_ok() {
            self.policies.behind.store(false, Ordering::Relaxed);
        }
        match loaded {
            Ok(Some(policy_set)) => Ok(PolicyInForce {
                policy_set,
                changed: true,
            }),
            Ok(None) => {
                self.read(&requester).await?;
                Ok(PolicyInForce {
                    policy_set: self.policy().digest.clone(),
                    changed: false,
                })
            }
            Err(refusal) => {
                let declined = Declined::new(None, None, refusal);
                Err(self.decline(&requester, request, declined, now).await)
            }
        }
    }

    /// Loads the policies when their files change or `hurry` says so, for ever. Files that somebody
    /// is writing just now are not read yet; those that were not loaded are tried again and again,
    /// because the cause may go away without a change of theirs.
    pub async fn keep_policy_fresh(&self, mut hurry: impl AsyncFnMut()) {
        let stamp = || Stamp::of(&self.policies.folder).ok();
        // They may have changed since the start read them.
        let (mut loaded, mut before) = (None, None);
        let mut failed: Option<(Option<Stamp>, String)> = None;
        let mut rest = Instant::now();
        loop {
            let hurried = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                () = hurry() => true,
            };
            let seen = stamp();
            let quiet = seen == before;
            let same = seen.is_some() && seen == loaded;
            let tried = failed.as_ref().is_some_and(|(files, _)| *files == seen);
            let resting = tried && Instant::now() < rest;
            before.clone_from(&seen);
            if !hurried && (same || !quiet || resting) {
                continue;
            }
            let began = Instant::now();
            let outcome = self.load_policy(None).await;
            self.policies
                .behind
                .store(outcome.is_err(), Ordering::Relaxed);
            match outcome {
                Ok(changed) => {
                    let had_failed = failed.is_some();
                    (loaded, failed) = (seen, None);
                    match changed {
                        Some(policy_set) => {
                            tracing::info!(policy_set, "the policies are others now");
                        }
                        None if hurried || had_failed => {
                            tracing::info!("the policies are what they were");
                        }
                        None => {}
                    }
                }
                Err(error) => {
                    // Proofs may take seconds of all cores.
                    rest = Instant::now() + 10 * began.elapsed();
                    let error = error.to_string();
                    let told = failed.is_some_and(|(_, before)| before == error);
                    if hurried || !told {
                        tracing::error!(
                            %error,
                            "the policies were not loaded: the old ones stay in force"
                        );
                    }
                    failed = Some((seen, error));
                }
            }
        }
    }

    /// Loads the policies from their files, and gives their digest when it is another.
    async fn load_policy(
        &self,
        asked: Option<(&SignedRequest, &Requester)>,
    ) -> Result<Option<String>, Refusal> {
        let loading = Arc::clone(&self.policies.loading).lock_owned().await;
        let folder = &self.policies.folder;
        let policy = Arc::new(tokio::task::block_in_place(|| PolicySet::load(folder))?);
        policy.check_roles(folder)?;
        if policy.digest == self.policy().digest {
            return Ok(None);
        }
        // It may take seconds: administration goes on meanwhile.
        if self.settings.require_proof {
            check_proven(&policy).await?;
        }
        let alone = Arc::clone(&self.changes).lock_owned().await;
        let now = now();
        if !self.policies.knows(&policy.digest) {
            log_policy_text(&self.log, &policy, now).await?;
        }
        let (slot, spent, by) = match asked {
            Some((request, requester)) => {
                let slot = self.reserve(request, requester, now).await?;
                let by = Some(requester.actor.clone());
                (slot, Some(super::spent(requester)), by)
            }
            None => (self.log.reserve(now)?, None, None),
        };
        // It comes into force with its entry, whoever still waits for that then: a decision by
        // policies that the log does not have could not be explained.
        self.policies.heard().coming = Some(Arc::clone(&policy));
        let with = With::holding((loading, alone));
        slot.commit_with(loaded(&policy, by), spent, with).await?;
        Ok(Some(policy.digest.clone()))
    }

    /// A policy set that is or was in force.
    pub(super) fn policy_of(&self, policy_set: &str) -> Result<Arc<PolicySet>, Refusal> {
        let current = self.policy();
        if current.digest == policy_set {
            return Ok(current);
        }
        let files = self.policies.files(policy_set, &self.reader)?;
        let files = files
            .ok_or_else(|| Refusal::NotFound(format!("the log has no policy set {policy_set}")))?;
        let policy = PolicySet::from_files(files, Path::new("")).map_err(|error| {
            Refusal::Conflict(format!(
                "this version of Hallpass can't read the policies of that day: {error}"
            ))
        })?;
        if policy.digest != policy_set {
            let text = format!("the log's text of policy set {policy_set} is not what was loaded");
            return Err(Refusal::Internal(text));
        }
        Ok(Arc::new(policy))
    }
}

/// Proves the invariants of a policy set.
///
/// # Errors
/// When one can't be proven.
pub(super) async fn check_proven(policy: &PolicySet) -> Result<(), PolicyError> {
    let proofs = async { Prover::start()?.prove(policy).await };
    let proofs = proofs.await.map_err(|error| PolicyError::Unproven {
        message: format!("policy.require_proof is set, and {error}"),
    })?;
    let broken: Vec<String> = proofs
        .into_iter()
        .filter_map(|proof| {
            let why = match proof.outcome {
                Outcome::Proven => return None,
                Outcome::Broken { example } => format!("not for {example}"),
                Outcome::Undecided { why } => why,
            };
            let (id, says) = (proof.invariant, proof.says);
            Some(format!("invariant {id} ({says}) is not proven: {why}"))
        })
        .collect();
    if broken.is_empty() {
        Ok(())
    } else {
        Err(PolicyError::Unproven {
            message: broken.join("; "),
        })
    }
}

/// Logs a policy set that comes into force, with all of its text.
pub(super) async fn log_policy(
    log: &Log,
    policy: &PolicySet,
    now: Timestamp,
) -> Result<(), LogError> {
    log_policy_text(log, policy, now).await?;
    log.reserve(now)?.commit(loaded(policy, None), None).await?;
    Ok(())
}

async fn log_policy_text(log: &Log, policy: &PolicySet, now: Timestamp) -> Result<(), LogError> {
    for (file, text) in &policy.files {
        let pieces = pieces(text);
        for (place, piece) in pieces.iter().enumerate() {
            let event = Event::PolicyText {
                policy_set: policy.digest.clone(),
                file: file.clone(),
                part: place + 1,
                parts: pieces.len(),
                text: (*piece).to_owned(),
            };
            log.reserve(now)?.commit(event, None).await?;
        }
    }
    Ok(())
}

/// A text in pieces that each fit an entry, whatever is escaped in them.
fn pieces(text: &str) -> Vec<&str> {
    const LONGEST: usize = 8 << 10;
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > LONGEST {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(LONGEST));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

fn loaded(policy: &PolicySet, by: Option<Actor>) -> Event {
    Event::PolicyLoaded {
        policy_set: policy.digest.clone(),
        files: policy.files.keys().cloned().collect(),
        by,
    }
}

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Self {
        Self::Conflict(format!(
            "the policies were not loaded, the old ones stay in force: {error}"
        ))
    }
}
