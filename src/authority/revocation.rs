//! The bad day: a CA key that others may have is not trusted any more, and a fresh one signs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::init::public_fingerprint;
use super::rotation::named;
use super::{Authority, Refusal, now};
use crate::audit::{Entry, Event, Filter};
use crate::certificate::{is_issued_by, revocation_list};
use crate::identity::SignedRequest;
use crate::model::{
    EntryIndex, HostTtl, KeyId, KeyKind, KeyRevocation, KeyState, LivingCertificate, RevokedKey,
};
use crate::policy::AdminAction;

/// How many entries are read at a time.
const PAGE: usize = 1000;

impl Authority {
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
        let key = self
            .step(request, source, |keys, by| {
                let reason = self.parse::<KeyRevocation>(request)?.reason.to_string();
                let key = keys.keyring.find(id);
                let signs = key.is_some_and(|key| key.state == KeyState::Active);
                let mut successors = Vec::new();
                match id.kind {
                    // An issuing CA can't be distrusted but with its root.
                    KeyKind::X509Issuing | KeyKind::X509Root
                        if signs || id.kind == KeyKind::X509Issuing =>
                    {
                        let root = self.make_key(keys, KeyKind::X509Root)?;
                        let opened = self.key_store.signer(root.key)?;
                        let issuing = self.make_issuing(keys, &opened)?;
                        successors.extend([root, issuing]);
                    }
                    kind if signs => successors.push(self.make_key(keys, kind)?),
                    _ => {}
                }
                let event = Event::CaKeyRevoked {
                    key: id,
                    reason,
                    successors,
                    by,
                };
                Ok((id, event))
            })
            .await?;
        let living = tokio::task::block_in_place(|| self.living(id))?;
        Ok(RevokedKey { key, living })
    }

    /// Lists of what is revoked, in PEM, for those who want a backstop: one by each trusted root and
    /// each trusted issuing CA, as `ssl_crl_file` needs them.
    ///
    /// # Errors
    /// When the requester may not have it, or a CA may not sign such a list.
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

    /// What a revoked key signed that is still good, by requester, and those that went with it.
    fn living(&self, id: KeyId) -> Result<Vec<LivingCertificate>, Refusal> {
        let now = now();
        let keys = self.keys.now();
        let Some(key) = keys.keyring.find(id) else {
            return Ok(Vec::new());
        };
        // With a root goes what stands under it, and the other way round.
        let gone = keys.keyring.iter().filter(|(_, other)| {
            other.state == KeyState::Revoked && other.since.entry == key.since.entry
        });
        let cas = gone
            .map(|(_, key)| public_fingerprint(&key.public))
            .collect::<Result<Vec<_>, _>>()?;
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
                if !cas.iter().any(|ca| body.contains(ca)) {
                    continue;
                }
                let entry: Entry = serde_json::from_str(&body)
                    .map_err(|error| Refusal::Internal(format!("entry {index}: {error}")))?;
                if let Some(certificate) = entry.event.certificate()
                    && cas.contains(&certificate.ca)
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
