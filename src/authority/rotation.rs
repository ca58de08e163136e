//! CA keys and their rotation: trust the new key everywhere, sign with it, wait out what the old one
//! signed, distrust it. Each step is one entry of the log, and in force once that is on disk.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::in_force::InForce;
use super::init::{public_fingerprint, random_serial, ssh_line};
use super::{Authority, InitError, Refusal, now};
use crate::audit::{Actor, Entry, Event, Filter, NewCaKey};
use crate::certificate::{
    cross_certificate, is_issued_by, issuing_certificate, revocation_list, root_certificate,
};
use crate::identity::SignedRequest;
use crate::keys::{CaKey, KeyStore, Keyring, OpenedKey, Signer};
use crate::model::{
    EntryIndex, HostTtl, KeyId, KeyKind, KeyRevocation, KeyState, KeyStep, KeySummary,
    LivingCertificate, RevokedKey, Role, Timestamp,
};
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
        let kind = rotatable(kind)?;
        let mut made = None;
        let staged = self
            .step(request, source, |keys, by| {
                if let Some(staged) = keys.keyring.staged(kind) {
                    return Err(crate::keys::NoStep::Busy(staged).into());
                }
                let new = self.make_key(keys, kind, &mut made)?;
                let by = Some(by);
                Ok((new.key, Event::CaKeyStaged { new, by }))
            })
            .await;
        if let (Err(_), Some(id)) = (&staged, made) {
            self.keys.open.close(id);
        }
        staged
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
        let mut made = None;
        let activated = self
            .step(request, source, |keys, by| {
                let forced = self.forced(request, keys, id, KeyState::Staged)?;
                let (mut issuing, mut cross) = (None, None);
                match id.kind {
                    KeyKind::X509Root => {
                        cross = self.cross(keys, id)?;
                        issuing = Some(self.issuing_under(keys, id, &mut made)?);
                    }
                    KeyKind::X509Issuing => stands_under_no_staged_root(keys, id)?,
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
            .await;
        if let (Err(_), Some(id)) = (&activated, made) {
            self.keys.open.close(id);
        }
        activated
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

    /// Has a key that others may have not be trusted any more, and a fresh one sign in its place, in
    /// one step. Gives what it signed that is still good.
    ///
    /// # Errors
    /// When the requester may not, or the key is not trusted anyway.
    pub async fn revoke_key(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        id: &str,
    ) -> Result<RevokedKey, Refusal> {
        let id = named(id)?;
        let reason = self.parse::<KeyRevocation>(request).map(|ask| ask.reason);
        let mut made = Vec::new();
        let revoked = self
            .step(request, source, |keys, by| {
                let reason = reason?.to_string();
                let mut successors = Vec::new();
                let signs = keys
                    .keyring
                    .find(id)
                    .is_some_and(|key| key.state == KeyState::Active);
                // An issuing CA can't be distrusted but with its root.
                let kind = match id.kind {
                    KeyKind::X509Issuing => KeyKind::X509Root,
                    kind => kind,
                };
                if signs || id.kind == KeyKind::X509Issuing {
                    let mut key = None;
                    successors.push(self.make_key(keys, kind, &mut key)?);
                    made.extend(key);
                }
                if signs_for_hosts(&successors) {
                    let root = self.key_store.signer(successors[0].key)?;
                    let mut key = None;
                    successors.push(self.make_issuing(keys, &root, &mut key)?);
                    made.extend(key);
                }
                let event = Event::CaKeyRevoked {
                    key: id,
                    reason,
                    successors,
                    by,
                };
                Ok((id, event))
            })
            .await;
        let key = match revoked {
            Ok(key) => key,
            Err(refusal) => {
                for id in made {
                    self.keys.open.close(id);
                }
                return Err(refusal);
            }
        };
        let living = tokio::task::block_in_place(|| self.living(id))?;
        Ok(RevokedKey { key, living })
    }

    /// Lists of what is revoked, in PEM, for those who want a backstop: one by each trusted root and
    /// each trusted issuing CA, as `ssl_crl_file` needs them.
    ///
    /// # Errors
    /// When the requester may not have it.
    pub async fn revocation_lists(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<String, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::ManageKeys, now)
            .await?;
        self.read(&requester).await?;
        let keys = self.keys.now();
        tokio::task::block_in_place(|| {
            let x509 = |id: &KeyId| matches!(id.kind, KeyKind::X509Root | KeyKind::X509Issuing);
            let of_x509 = || keys.keyring.iter().filter(|(id, _)| x509(id));
            let mut lists = String::new();
            let trusted = of_x509().filter(|(_, key)| key.state.is_trusted());
            // A root that is kept elsewhere signs its own.
            for (id, issuer) in trusted.filter(|(id, _)| self.key_store.has_private(*id)) {
                let mut revoked = Vec::new();
                for (_, key) in of_x509().filter(|(_, key)| !key.state.is_trusted()) {
                    if is_issued_by(&key.public, &issuer.public)? && key.public != issuer.public {
                        revoked.push((key.public.as_str(), key.since.time));
                    }
                }
                let signer = self.key_store.signer(id)?.signer;
                let list = revocation_list(&issuer.public, signer, &revoked, now);
                lists += &list.map_err(|error| {
                    Refusal::Conflict(format!(
                        "{id} can't sign a list of revoked certificates: {error}"
                    ))
                })?;
            }
            Ok(lists)
        })
    }

    /// One step: checked, logged and taken, with no other in between.
    async fn step(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        make: impl FnOnce(&InForce, Actor) -> Result<(KeyId, Event), Refusal>,
    ) -> Result<KeySummary, Refusal> {
        let id = self
            .change(
                request,
                source,
                AdminAction::ManageKeys,
                |by| {
                    let keys = self.keys.now();
                    let (id, event) = tokio::task::block_in_place(|| make(&keys, by))?;
                    self.try_out(&keys, &event)?;
                    Ok((id, event))
                },
                |event| match event {
                    Event::CaKeyRevoked { key, .. } => Some(Box::new(self.keys.suspend(*key))),
                    _ => None,
                },
            )
            .await?;
        let keys = self.keys.now();
        let gone = || Refusal::Internal("the key is gone again".to_owned());
        let key = keys.keyring.find(id).ok_or_else(gone)?;
        self.summarize(&keys, id, key, now())
    }

    /// Whether the event can follow, before it is logged.
    fn try_out(&self, keys: &InForce, event: &Event) -> Result<(), Refusal> {
        let entry = Entry {
            index: EntryIndex(keys.trust.version + 1),
            time: now(),
            event: event.clone(),
        };
        keys.after(&entry, &self.keys.open)?;
        Ok(())
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
        let key = keys
            .keyring
            .find(id)
            .ok_or(crate::keys::NoStep::Unknown(id))?;
        if key.state != from {
            let state = key.state;
            return Err(crate::keys::NoStep::Stands { id, state }.into());
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
    fn make_key(
        &self,
        keys: &InForce,
        kind: KeyKind,
        made: &mut Option<KeyId>,
    ) -> Result<NewCaKey, Refusal> {
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
                return self.make_issuing(keys, &self.root(root)?, made);
            }
            KeyKind::Log | KeyKind::Witness => return Err(not_rotatable(kind)),
        };
        Ok(self.take_in(id, opened, made))
    }

    /// Generates an issuing CA under a root.
    fn make_issuing(
        &self,
        keys: &InForce,
        root: &OpenedKey,
        made: &mut Option<KeyId>,
    ) -> Result<NewCaKey, Refusal> {
        let id = keys.keyring.next(KeyKind::X509Issuing);
        let opened = self.key_store.generate(id, |signer: &Arc<Signer>| {
            let (root_signer, signer) = (Arc::clone(&root.signer), Arc::clone(signer));
            let serial = random_serial()?;
            issuing_certificate(&root.public, root_signer, signer, serial, now())
                .map_err(InitError::from)
        })?;
        Ok(self.take_in(id, opened, made))
    }

    /// A root signs again only when an issuing CA is made, and is opened for that.
    fn take_in(&self, id: KeyId, opened: OpenedKey, made: &mut Option<KeyId>) -> NewCaKey {
        if id.kind != KeyKind::X509Root {
            self.keys.open.add(id, opened.signer, Timestamp::default());
            *made = Some(id);
        }
        NewCaKey {
            key: id,
            public: opened.public.trim_end().to_owned(),
        }
    }

    /// The issuing CA that a new root brings along: the one that is staged under it, or a new one.
    fn issuing_under(
        &self,
        keys: &InForce,
        root: KeyId,
        made: &mut Option<KeyId>,
    ) -> Result<NewCaKey, Refusal> {
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
        self.make_issuing(keys, &self.root(root)?, made)
    }

    /// A root with its private key, when that is here.
    fn root(&self, id: KeyId) -> Result<OpenedKey, Refusal> {
        if !self.key_store.has_private(id) {
            return Err(Refusal::Conflict(format!(
                "the private key of {id} is elsewhere, and only there an issuing CA can be signed \
                 under it: `hallpass key import x509-issuing` brings one in, `hallpass key rotate \
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

    fn summarize(
        &self,
        keys: &InForce,
        id: KeyId,
        key: &CaKey,
        now: Timestamp,
    ) -> Result<KeySummary, Refusal> {
        Ok(KeySummary {
            key: id,
            state: key.state,
            since: key.since.time,
            fingerprint: public_fingerprint(&key.public)?,
            public: key.public.clone(),
            last_expiry: keys
                .last_expiry(id, &self.keys.open)
                .filter(|last| *last > now),
            waits_for: self.waits_for(keys, id, key, now)?,
        })
    }

    /// What must come before the key's next step is safe.
    fn waits_for(
        &self,
        keys: &InForce,
        id: KeyId,
        key: &CaKey,
        now: Timestamp,
    ) -> Result<Vec<String>, Refusal> {
        match key.state {
            KeyState::Staged => Ok(self.waits_to_sign(id, key, now)),
            KeyState::Retiring => self.waits_to_retire(keys, id, key, now),
            _ => Ok(Vec::new()),
        }
    }

    /// Whoever asks for a certificate learns what to trust. So when everything has expired that was
    /// issued before the key was staged, everybody who logs in has asked since.
    fn waits_to_sign(&self, id: KeyId, key: &CaKey, now: Timestamp) -> Vec<String> {
        let clients_learn = matches!(id.kind, KeyKind::SshHost | KeyKind::X509Root);
        let longest = self.policy.roles.iter().map(longest_life).max();
        let known = key.since.time.plus(longest.unwrap_or_default());
        let mut waits_for = Vec::new();
        if clients_learn && known > now {
            waits_for.push(format!(
                "until {} for the last who asked for a certificate before it was staged, and may \
                 not know it yet",
                known.whole_secs()
            ));
        }
        let hosts = self.unconfirmed(key.since.entry.0, |host| match id.kind {
            KeyKind::SshUser => host.ssh,
            KeyKind::X509Root => host.database,
            // A host's own certificate is for clients, and an issuing CA comes with what it signs.
            _ => false,
        });
        let hosts = hosts.iter();
        waits_for.extend(hosts.map(|host| format!("for host {host} to confirm that it trusts it")));
        waits_for
    }

    fn waits_to_retire(
        &self,
        keys: &InForce,
        id: KeyId,
        key: &CaKey,
        now: Timestamp,
    ) -> Result<Vec<String>, Refusal> {
        if id.kind == KeyKind::X509Root {
            let mut below = Vec::new();
            for (issuing, ca) in keys.keyring.iter() {
                if issuing.kind == KeyKind::X509Issuing
                    && ca.state.is_trusted()
                    && is_issued_by(&ca.public, &key.public)?
                {
                    below.push(format!(
                        "for {issuing}, which stands under it, to be retired"
                    ));
                }
            }
            return Ok(below);
        }
        let last = keys.last_expiry(id, &self.keys.open);
        Ok(last
            .filter(|last| *last > now)
            .map(|last| format!("until {last} for the last certificate that it signed to expire"))
            .into_iter()
            .collect())
    }

    /// What a key signed that is still good, by requester.
    fn living(&self, id: KeyId) -> Result<Vec<LivingCertificate>, Refusal> {
        let now = now();
        let keys = self.keys.now();
        let Some(key) = keys.keyring.find(id) else {
            return Ok(Vec::new());
        };
        let ca = public_fingerprint(&key.public)?;
        let filter = Filter {
            since: Some(now.minus(HostTtl::MAX.duration())),
            ..Filter::default()
        };
        let mut living = BTreeMap::new();
        let mut from = EntryIndex(0);
        loop {
            let found = self.reader.list(
                &Filter {
                    from,
                    ..filter.clone()
                },
                PAGE,
            )?;
            for (index, body) in found.entries {
                // Much cheaper to tell than what an entry says; JSON escapes nothing of it.
                if !body.contains(&ca) {
                    continue;
                }
                let entry: Entry = serde_json::from_str(&body)
                    .map_err(|error| Refusal::Internal(format!("entry {index}: {error}")))?;
                if let Some(certificate) = entry.event.certificate()
                    && certificate.ca == ca
                    && certificate.valid_before > now
                {
                    let requester = entry.event.requester().cloned();
                    living.insert((requester, index), certificate.clone());
                }
            }
            match found.next {
                Some(next) => from = next,
                None => break,
            }
        }
        let living = living.into_iter();
        Ok(living
            .map(|((requester, entry), certificate)| LivingCertificate {
                requester,
                entry,
                serial: certificate.serial,
                key_id: certificate.key_id,
                valid_before: certificate.valid_before,
            })
            .collect())
    }
}

/// Whether an issuing CA comes with what is new.
fn signs_for_hosts(successors: &[NewCaKey]) -> bool {
    let mut kinds = successors.iter().map(|new| new.key.kind);
    kinds.any(|kind| kind == KeyKind::X509Root)
}

/// How many entries are read at a time.
const PAGE: usize = 1000;

fn longest_life(role: &Role) -> std::time::Duration {
    role.max_ttl.duration()
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

fn rotatable(kind: &str) -> Result<KeyKind, Refusal> {
    let kind: KeyKind = kind
        .parse()
        .map_err(|error: crate::model::Invalid| Refusal::NotFound(error.to_string()))?;
    match kind {
        KeyKind::Log | KeyKind::Witness => Err(not_rotatable(kind)),
        _ => Ok(kind),
    }
}

fn not_rotatable(kind: KeyKind) -> Refusal {
    Refusal::Conflict(format!("the {kind} key is not rotated"))
}

fn named(id: &str) -> Result<KeyId, Refusal> {
    id.parse().map_err(|_| {
        let id: String = id.chars().take(64).collect();
        Refusal::NotFound(format!(
            "there is no key {id:?}: `hallpass key list` shows all"
        ))
    })
}

impl From<crate::keys::NoStep> for Refusal {
    fn from(why: crate::keys::NoStep) -> Self {
        match why {
            crate::keys::NoStep::Unknown(_) => Self::NotFound(why.to_string()),
            _ => Self::Conflict(why.to_string()),
        }
    }
}

impl From<super::in_force::StepError> for Refusal {
    fn from(error: super::in_force::StepError) -> Self {
        match error {
            super::in_force::StepError::NoStep(why) => why.into(),
            super::in_force::StepError::Certificate(error) => error.into(),
        }
    }
}

impl From<InitError> for Refusal {
    fn from(error: InitError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<crate::keys::StoreError> for Refusal {
    fn from(error: crate::keys::StoreError) -> Self {
        use crate::keys::{SignError, StoreError};
        match error {
            StoreError::NotMade(error) => error.into(),
            StoreError::Token { source, .. } => SignError::Token(source).into(),
            error => Self::Internal(error.to_string()),
        }
    }
}
