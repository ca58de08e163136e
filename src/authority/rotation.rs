//! CA keys and their rotation: trust the new key everywhere, sign with it, wait out what the old one
//! signed, distrust it. Each step is one entry of the log, and in force once that is on disk. When the
//! next step is safe is in waiting.rs, the bad day in revocation.rs.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::in_force::{InForce, StepError};
use super::init::{log_key, random_serial, ssh_line};
use super::{Authority, InitError, Refusal, now};
use crate::audit::{Actor, Entry, Event, IllegalKey, NewCaKey, VerifierKey, With};
use crate::certificate::{cross_certificate, is_issued_by, issuing_certificate, root_certificate};
use crate::identity::SignedRequest;
use crate::keys::{KeyStore, Keyring, NoStep, OpenedKey, SignError, Signer, StoreError};
use crate::model::{EntryIndex, KeyId, KeyKind, KeyState, KeyStep, KeySummary, Timestamp};
use crate::policy::AdminAction;

impl Authority {
    /// All CA keys, those of the past included.
    ///
    /// # Errors
    /// When the requester may not know.
    pub async fn ca_keys(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Vec<KeySummary>, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::ManageKeys, now)
            .await?;
        self.read(&requester).await?;
        let keys = self.keys.now();
        keys.keyring
            .iter()
            .map(|(id, key)| self.summarize(&keys, id, key, now))
            .collect()
    }

    /// Makes a new key of a kind and has it trusted.
    ///
    /// # Errors
    /// When the requester may not, or a rotation of that kind has begun already.
    pub async fn stage_key(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        kind: &str,
    ) -> Result<KeySummary, Refusal> {
        let kind = of_a_ca(kind)?;
        self.step(request, source, |keys, by| {
            if let Some(staged) = keys.keyring.staged(kind) {
                return Err(NoStep::Busy(staged).into());
            }
            let new = self.make_key(keys, kind)?;
            let by = Some(by);
            Ok((new.key, Event::CaKeyStaged { new, by }))
        })
        .await
    }

    /// Has a staged key sign from now on.
    ///
    /// # Errors
    /// When the requester may not, the key is not staged, or it is not known to be trusted by all who
    /// must trust it, and no reason is given to do it all the same.
    pub async fn activate_key(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        id: &str,
    ) -> Result<KeySummary, Refusal> {
        let id = named(id)?;
        self.step(request, source, |keys, by| {
            let forced = self.forced(request, keys, id, KeyState::Staged)?;
            let (mut issuing, mut cross) = (None, None);
            match id.kind {
                KeyKind::X509Root => {
                    cross = self.cross(keys, id)?;
                    issuing = Some(self.issuing_under(keys, id)?);
                }
                KeyKind::X509Issuing => stands_under_no_staged_root(keys, id)?,
                KeyKind::Log => cross = Some(succession(keys, id)?),
                _ => {}
            }
            let event = Event::CaKeyActivated {
                key: id,
                issuing,
                cross,
                forced,
                by: Some(by),
            };
            Ok((id, event))
        })
        .await
    }

    /// Has a key that no longer signs not be trusted any more.
    ///
    /// # Errors
    /// When the requester may not, the key still signs, or something is still good that it signed
    /// and no reason is given to do it all the same.
    pub async fn retire_key(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        id: &str,
    ) -> Result<KeySummary, Refusal> {
        let id = named(id)?;
        self.step(request, source, |keys, by| {
            let forced = self.forced(request, keys, id, KeyState::Retiring)?;
            let key = id;
            Ok((id, Event::CaKeyRetired { key, forced, by }))
        })
        .await
    }

    /// Gives a staged key up.
    ///
    /// # Errors
    /// When the requester may not, or the key is not staged.
    pub async fn cancel_key(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        id: &str,
    ) -> Result<KeySummary, Refusal> {
        let id = named(id)?;
        self.step(request, source, |_, by| {
            Ok((id, Event::CaKeyCancelled { key: id, by }))
        })
        .await
    }

    /// One step: checked, logged and taken, with no other in between.
    pub(super) async fn step(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        make: impl FnOnce(&InForce, Actor) -> Result<(KeyId, Event), Refusal>,
    ) -> Result<KeySummary, Refusal> {
        let signers = OnceLock::new();
        let id = self
            .change(
                request,
                source,
                AdminAction::ManageKeys,
                |by| {
                    let keys = self.keys.now();
                    let made = tokio::task::block_in_place(|| make(&keys, by));
                    made.and_then(|(id, event)| {
                        let next = self.try_out(&keys, &event)?;
                        if event.changes_log_keys() {
                            signers.get_or_init(|| next.log);
                        }
                        Ok((id, event))
                    })
                    .inspect_err(|_| self.keys.close_untrusted())
                },
                |event| With {
                    signers: signers.get().cloned(),
                    ..With::holding(self.keys.stepping(event))
                },
            )
            .await?;
        let keys = self.keys.now();
        let gone = || Refusal::Internal("the key is gone again".to_owned());
        let key = keys.keyring.find(id).ok_or_else(gone)?;
        self.summarize(&keys, id, key, now())
    }

    /// The keys as they will be when the event follows, before it is logged.
    fn try_out(&self, keys: &InForce, event: &Event) -> Result<InForce, Refusal> {
        let entry = Entry {
            index: EntryIndex(keys.trust.version + 1),
            time: now(),
            event: event.clone(),
            salt: None,
        };
        Ok(keys.after(&entry, &self.keys.open)?)
    }

    /// The reason to go on although something is waited for; nothing when there is nothing to wait
    /// for.
    fn forced(
        &self,
        request: &SignedRequest,
        keys: &InForce,
        id: KeyId,
        from: KeyState,
    ) -> Result<Option<String>, Refusal> {
        let ask: KeyStep = if request.body.is_empty() {
            KeyStep::default()
        } else {
            self.parse(request)?
        };
        let key = keys.keyring.find(id).ok_or(NoStep::Unknown(id))?;
        if key.state != from {
            let state = key.state;
            return Err(NoStep::Stands { id, state }.into());
        }
        let waits_for = self.waits_for(keys, id, key, now())?;
        match (waits_for.is_empty(), ask.force) {
            (true, _) => Ok(None),
            (false, Some(reason)) => Ok(Some(reason.to_string())),
            (false, None) => Err(Refusal::Conflict(format!(
                "key {id} waits: {}; `--force REASON` does not wait, and logins may fail",
                waits_for.join("; ")
            ))),
        }
    }

    /// Generates a key of a kind, seals it and opens it for use.
    pub(super) fn make_key(&self, keys: &InForce, kind: KeyKind) -> Result<NewCaKey, Refusal> {
        let id = keys.keyring.next(kind);
        let opened = match kind {
            KeyKind::SshUser | KeyKind::SshHost => self.key_store.generate(id, ssh_line)?,
            KeyKind::X509Root => self.key_store.generate(id, |signer| {
                let serial = random_serial()?;
                Ok::<_, InitError>(root_certificate(Arc::clone(signer), serial, now())?)
            })?,
            KeyKind::X509Issuing => {
                let (root, _) = keys
                    .keyring
                    .active(KeyKind::X509Root)
                    .ok_or_else(|| Refusal::Internal("no root signs".to_owned()))?;
                return self.make_issuing(keys, &self.root(root)?);
            }
            KeyKind::Log => {
                let log = keys.log.first().verifier().name().to_owned();
                self.key_store
                    .generate(id, |signer| log_key(&log, signer))?
            }
            KeyKind::Witness => return Err(not_of_a_ca(kind)),
        };
        Ok(self.take_in(id, opened))
    }

    /// Generates an issuing CA under a root.
    pub(super) fn make_issuing(
        &self,
        keys: &InForce,
        root: &OpenedKey,
    ) -> Result<NewCaKey, Refusal> {
        let id = keys.keyring.next(KeyKind::X509Issuing);
        let opened = self.key_store.generate(id, |signer: &Arc<Signer>| {
            let (root_signer, signer) = (Arc::clone(&root.signer), Arc::clone(signer));
            let serial = random_serial()?;
            issuing_certificate(&root.public, root_signer, signer, serial, now())
                .map_err(InitError::from)
        })?;
        Ok(self.take_in(id, opened))
    }

    /// A root signs again only when an issuing CA is made, and is opened for that.
    fn take_in(&self, id: KeyId, opened: OpenedKey) -> NewCaKey {
        if id.kind != KeyKind::X509Root {
            self.keys.open.add(id, opened.signer, Timestamp::default());
        }
        NewCaKey {
            key: id,
            public: opened.public.trim_end().to_owned(),
        }
    }

    /// The issuing CA that a new root brings along: the one that is staged under it, or a new one.
    fn issuing_under(&self, keys: &InForce, root: KeyId) -> Result<NewCaKey, Refusal> {
        let staged = keys.keyring.staged(KeyKind::X509Issuing);
        if let Some((id, issuing)) = staged.and_then(|id| Some((id, keys.keyring.find(id)?)))
            && let Some(root) = keys.keyring.find(root)
            && is_issued_by(&issuing.public, &root.public)?
        {
            return Ok(NewCaKey {
                key: id,
                public: issuing.public.clone(),
            });
        }
        self.make_issuing(keys, &self.root(root)?)
    }

    /// A root with its private key, when that is here.
    fn root(&self, id: KeyId) -> Result<OpenedKey, Refusal> {
        if !self.key_store.has_private(id) {
            return Err(Refusal::Conflict(format!(
                "the private key of {id} is elsewhere, and only there an issuing CA can be signed \
                 under it: `hallpass key csr x509-issuing` requests it, `hallpass key rotate \
                 x509-root` makes a root here"
            )));
        }
        Ok(self.key_store.signer(id)?)
    }

    /// The certificate of a new root by an older one's key, for those who only know that.
    fn cross(&self, keys: &InForce, new: KeyId) -> Result<Option<String>, Refusal> {
        let old = root_that_crosses(&keys.keyring, &self.key_store, new);
        let (Some(old), Some(new)) = (old, keys.keyring.find(new)) else {
            return Ok(None);
        };
        let old = self.key_store.signer(old)?;
        let serial = random_serial()?;
        let cross = cross_certificate(&old.public, old.signer, &new.public, serial, now())?;
        Ok(Some(cross))
    }
}

/// The root that can vouch for a new one: the one that signs, or another that is still trusted, and
/// of which the private key is here.
pub(super) fn root_that_crosses(keyring: &Keyring, store: &KeyStore, new: KeyId) -> Option<KeyId> {
    let here = |id: &KeyId| *id != new && store.has_private(*id);
    let active = keyring.active(KeyKind::X509Root).map(|(id, _)| id);
    active.filter(here).or_else(|| {
        let mut roots = keyring.iter();
        roots
            .find(|(id, key)| {
                id.kind == KeyKind::X509Root && key.state == KeyState::Retiring && here(id)
            })
            .map(|(id, _)| id)
    })
}

/// An issuing CA under a root that is not in use yet comes with that root.
fn stands_under_no_staged_root(keys: &InForce, issuing: KeyId) -> Result<(), Refusal> {
    let staged = keys.keyring.staged(KeyKind::X509Root);
    if let Some(root) = staged
        && let (Some(issuing_key), Some(root_key)) =
            (keys.keyring.find(issuing), keys.keyring.find(root))
        && is_issued_by(&issuing_key.public, &root_key.public)?
    {
        return Err(Refusal::Conflict(format!(
            "{issuing} stands under {root}, which is not active yet: `hallpass key activate {root}` \
             takes both into use"
        )));
    }
    Ok(())
}

fn of_a_ca(kind: &str) -> Result<KeyKind, Refusal> {
    let kind: KeyKind = kind
        .parse()
        .map_err(|error: crate::model::Invalid| Refusal::NotFound(error.to_string()))?;
    match kind {
        KeyKind::Witness => Err(not_of_a_ca(kind)),
        _ => Ok(kind),
    }
}

fn not_of_a_ca(kind: KeyKind) -> Refusal {
    Refusal::Conflict(format!("a CA has no {kind} key"))
}

/// What the log's key says of the one that takes its place, so that who verifies the log with the
/// old key alone knows the new one for the log's.
fn succession(keys: &InForce, new: KeyId) -> Result<String, Refusal> {
    let new = keys.keyring.find(new).ok_or(NoStep::Unknown(new))?;
    let new: VerifierKey = new
        .public
        .parse()
        .map_err(|error: IllegalKey| Refusal::Internal(format!("the log's new key: {error}")))?;
    Ok(keys.log.first().sign_succession(&new)?)
}

pub(super) fn named(id: &str) -> Result<KeyId, Refusal> {
    id.parse().map_err(|_| {
        let id: String = id.chars().take(64).collect();
        Refusal::NotFound(format!(
            "there is no key {id:?}: `hallpass key list` shows all"
        ))
    })
}

impl From<NoStep> for Refusal {
    fn from(why: NoStep) -> Self {
        match why {
            NoStep::Unknown(_) => Self::NotFound(why.to_string()),
            _ => Self::Conflict(why.to_string()),
        }
    }
}

impl From<StepError> for Refusal {
    fn from(error: StepError) -> Self {
        match error {
            StepError::NoStep(why) => why.into(),
            StepError::Certificate(error) => error.into(),
        }
    }
}

impl From<InitError> for Refusal {
    fn from(error: InitError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotMade(error) => error.into(),
            StoreError::Token { source, .. } => SignError::Token(source).into(),
            error => Self::Internal(error.to_string()),
        }
    }
}
