//! What can be asked without changing anything.

use std::net::IpAddr;

use serde_json::value::RawValue;

use super::{Authority, Refusal, now};
use crate::audit::Filter;
use crate::identity::{Requester, SignedRequest};
use crate::model::{
    Access, AuditPage, Circumstances, DatabaseUser, EntryIndex, Identity, PrincipalName, Purpose,
    PurposeSummary, Role, RoleSummary, Serial, Span, Timestamp, Ttl,
};
use crate::policy::{AdminAction, Ask, PolicySet};

/// An entry by its place or by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// By its index.
    Entry(EntryIndex),
    /// By its certificate's serial number.
    Serial(Serial),
}

impl Authority {
    /// Who the server takes the requester for.
    ///
    /// # Errors
    /// When the requester can't be identified.
    pub async fn whoami(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Identity, Refusal> {
        let now = now();
        let requester = self.identify(request, source, now).await?;
        self.read(&requester).await?;
        let session = self.session(&requester.actor.fingerprint, now);
        Ok(Identity {
            session,
            name: requester.actor.requester,
            groups: requester.groups,
            fingerprint: requester.actor.fingerprint,
            source_address: source.to_string(),
        })
    }

    /// The roles that policy grants the requester, with the purposes for which it does. It is told no
    /// reason: what it grants for certain reasons only is not among them.
    ///
    /// # Errors
    /// When the requester can't be identified.
    pub async fn roles(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Vec<RoleSummary>, Refusal> {
        let now = now();
        let requester = self.identify(request, source, now).await?;
        self.read(&requester).await?;
        let circumstances = self.circumstances(&requester, now);
        let policy = self.policy();
        Ok(policy
            .roles
            .iter()
            .filter_map(|role| summary(&policy, role, &requester, &circumstances))
            .collect())
    }

    /// One page of the log.
    ///
    /// # Errors
    /// When the requester may not read the log, or it can't be read.
    pub async fn entries(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        filter: &Filter,
        limit: usize,
    ) -> Result<AuditPage, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::ReadLog, now)
            .await?;
        self.read(&requester).await?;
        // On a thread that may wait for the disk.
        let found = tokio::task::block_in_place(|| self.reader.list(filter, limit))?;
        let entries = found
            .entries
            .into_iter()
            .map(|(_, body)| RawValue::from_string(body))
            .collect::<Result<_, _>>()
            .map_err(|error| Refusal::Internal(format!("an entry can't be read: {error}")))?;
        Ok(AuditPage {
            entries,
            next: found.next,
        })
    }

    /// Where the entries of a time stand in the log.
    ///
    /// # Errors
    /// When the requester may not read the log, or it can't be read.
    pub async fn span(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Span, Refusal> {
        let (requester, _) = self
            .administrator(request, source, AdminAction::ReadLog, now())
            .await?;
        self.read(&requester).await?;
        let (first, next) = tokio::task::block_in_place(|| self.reader.span(since, until))?;
        Ok(Span { first, next })
    }

    /// One entry.
    ///
    /// # Errors
    /// When there is none, or the requester may not read the log.
    pub async fn entry(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        which: Which,
    ) -> Result<Box<RawValue>, Refusal> {
        let (requester, _) = self
            .administrator(request, source, AdminAction::ReadLog, now())
            .await?;
        self.read(&requester).await?;
        let (_, body) = tokio::task::block_in_place(|| self.find(which))?;
        RawValue::from_string(body)
            .map_err(|error| Refusal::Internal(format!("an entry can't be read: {error}")))
    }

    /// Finds an entry. May wait for the disk.
    pub(super) fn find(&self, which: Which) -> Result<(EntryIndex, String), Refusal> {
        let filter = match which {
            Which::Entry(from) => Filter {
                from,
                ..Filter::default()
            },
            Which::Serial(serial) => Filter {
                serial: Some(serial),
                ..Filter::default()
            },
        };
        let found = self.reader.list(&filter, 1)?.entries.into_iter().next();
        match which {
            Which::Entry(index) => found
                .filter(|(found, _)| *found == index)
                .ok_or_else(|| Refusal::NotFound(format!("the log has no entry {index}"))),
            Which::Serial(serial) => found.ok_or_else(|| {
                Refusal::NotFound(format!(
                    "no certificate with serial {serial} was issued here"
                ))
            }),
        }
    }
}

fn summary(
    policy: &PolicySet,
    role: &Role,
    requester: &Requester,
    circumstances: &Circumstances,
) -> Option<RoleSummary> {
    let purposes: Vec<PurposeSummary> = role
        .purposes
        .iter()
        .filter_map(|purpose| {
            // As few approvals as it takes.
            (0..=2).find_map(|approvals| {
                let circumstances = Circumstances {
                    approvals,
                    ..circumstances.clone()
                };
                let max_ttl = longest(policy, role, purpose, requester, &circumstances)?;
                Some(PurposeSummary {
                    name: purpose.clone(),
                    max_ttl,
                    approvals,
                })
            })
        })
        .collect();
    if purposes.is_empty() {
        return None;
    }
    let (good_for, places) = match &role.access {
        Access::Ssh(access) => {
            let principals = access.principals.iter().map(PrincipalName::to_string);
            (principals.collect(), access.hosts.clone())
        }
        Access::Database(access) => (
            vec![DatabaseUser::to_string(&access.user)],
            access.databases.clone(),
        ),
    };
    Some(RoleSummary {
        name: role.name.clone(),
        kind: role.access.kind().to_owned(),
        description: role.description.clone(),
        good_for,
        places,
        purposes,
        default_ttl: role.default_ttl,
        reason: role.reason.to_string(),
    })
}

/// The longest lifetime that policy grants, found by halving: policies set upper bounds.
fn longest(
    policy: &PolicySet,
    role: &Role,
    purpose: &Purpose,
    requester: &Requester,
    circumstances: &Circumstances,
) -> Option<Ttl> {
    let granted = |seconds: u64| {
        let ttl = Ttl::from_secs(seconds).ok()?;
        let verdict = policy.engine.decide_request(&Ask {
            requester: &requester.actor.requester,
            role,
            purpose,
            reason: None,
            ttl,
            circumstances,
        });
        verdict.allowed.then_some(ttl)
    };
    let mut over = role.max_ttl.as_secs();
    if let Some(ttl) = granted(over) {
        return Some(ttl);
    }
    let mut longest = granted(1)?;
    while over - longest.as_secs() > 1 {
        let middle = longest.as_secs().midpoint(over);
        match granted(middle) {
            Some(ttl) => longest = ttl,
            None => over = middle,
        }
    }
    Some(longest)
}
