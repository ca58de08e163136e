//! Having the log cosigned, and giving out what was.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Authority, OpenError, Refusal};
use crate::audit::{Checkpoint, VerifierKey};
use crate::identity::SignedRequest;
use crate::model::{KeyKind, KeyState};
use crate::witness::Witnesses;

impl Authority {
    /// With witnesses to ask, and what they cosigned before.
    ///
    /// # Errors
    /// When that can't be read.
    pub fn with_witnesses(mut self, witnesses: Witnesses) -> Result<Self, OpenError> {
        // Also what was signed by a key that is retired by now, but not by one that others have.
        let keys = self.keys.now();
        let signed = keys.keyring.iter().filter(|(id, key)| {
            let signed = key.state.is_trusted() || key.state == KeyState::Retired;
            id.kind == KeyKind::Log && signed
        });
        let signed: Vec<VerifierKey> = signed
            .filter_map(|(_, key)| key.public.parse().ok())
            .collect();
        witnesses.restore(&self.reader, &signed)?;
        self.witnesses = witnesses;
        Ok(self)
    }

    /// Begins to ask the witnesses. Shut the tasks down before the authority is closed.
    pub fn ask_witnesses(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let places = self.witnesses.keys().count();
        for place in 0..places {
            let authority = Arc::clone(self);
            tasks.spawn(async move {
                let Self {
                    witnesses,
                    log,
                    reader,
                    ..
                } = &*authority;
                let coming = || authority.keys.now().coming_log_key();
                witnesses.ask(place, log, reader, coming).await;
            });
        }
        if places > 0 {
            let authority = Arc::clone(self);
            tasks.spawn(async move { authority.witnesses.offer(&authority.log).await });
        }
        tasks
    }

    /// The signed note of the newest checkpoint that all of these witnesses cosigned, with all the
    /// cosignatures that it has; that any of them did, when none is named.
    ///
    /// # Errors
    /// When the requester can't be identified, or there is none.
    pub async fn cosigned(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        witnesses: &[String],
    ) -> Result<String, Refusal> {
        self.identify_anybody(request, source).await?;
        Ok(self.newest_cosigned(witnesses)?.note().to_owned())
    }

    pub(super) fn newest_cosigned(&self, witnesses: &[String]) -> Result<Checkpoint, Refusal> {
        let names: Vec<&str> = self.witnesses.keys().map(VerifierKey::name).collect();
        if names.is_empty() {
            return Err(Refusal::NotFound(
                "this CA has no witnesses: list some in its hallpass.toml".to_owned(),
            ));
        }
        if let Some(other) = witnesses
            .iter()
            .find(|name| !names.contains(&name.as_str()))
        {
            return Err(Refusal::NotFound(format!(
                "this CA has no witness {other}; it has {}",
                names.join(", ")
            )));
        }
        let newest = self.witnesses.cosigned().newest(witnesses).cloned();
        newest.ok_or_else(|| {
            let whose = if witnesses.is_empty() {
                "the witnesses".to_owned()
            } else {
                witnesses.join(" and ")
            };
            Refusal::NotFound(format!(
                "no checkpoint is cosigned by {whose} yet: try again in a moment; if that lasts, \
                 the server's own log says why"
            ))
        })
    }
}
