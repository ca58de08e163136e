//! Jobs and services: a platform vouches for one, once, and a fresh key signs for it for a while.

use std::net::IpAddr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::enrolment::line;
use super::fleet::hash;
use super::newcomers::NotBegun;
use super::{Authority, Refusal, now};
use crate::audit::{NewSession, SpentToken, With};
use crate::identity::{NewcomersKey, SignedRequest, VouchedWorkload};
use crate::model::{LONGEST_SESSION, SessionSummary, Timestamp, WorkloadLogin};

impl Authority {
    /// Begins a workload's session: has the key that signs the request sign for whom its token
    /// vouches.
    ///
    /// # Errors
    /// When the token vouches for no workload that is let in.
    pub async fn begin_workload(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<SessionSummary, Refusal> {
        let now = now();
        let newcomer = self.stranger(request, source, now).await?;
        let ask: WorkloadLogin = self.parse(request)?;
        let token = Zeroizing::new(ask.token);
        let begun = async {
            let vouched = self.workloads.identify(&token, now).await?;
            // A stranger never gets here, and so fills no memory.
            let newcomer = self
                .admitted(request, source, newcomer.clone(), now)
                .await?;
            let spent = SpentToken {
                sha256: token_hash(&token),
                expires: vouched.expires,
            };
            self.log_workload(&newcomer, source, vouched, spent, now)
                .await
        };
        match begun.await {
            Ok(session) => Ok(session),
            Err(error) => Err(self
                .not_signed_in(request, source, &newcomer, error, now)
                .await),
        }
    }

    async fn log_workload(
        &self,
        newcomer: &NewcomersKey,
        source: IpAddr,
        vouched: VouchedWorkload,
        token: SpentToken,
        now: Timestamp,
    ) -> Result<SessionSummary, NotBegun> {
        let denied = |code, detail: &str| Refusal::Denied {
            code,
            detail: detail.to_owned(),
        };
        if vouched.expires > now.plus(LONGEST_SESSION) {
            let detail = "the token is good for more than a day: have one made that is not";
            return Err(denied("token-too-long", detail).into());
        }
        let alone = Arc::clone(&self.changes).lock_owned().await;
        let key = self.check_session_key(newcomer)?;
        {
            let directory = self.directory();
            if !directory.remembers_tokens_of(vouched.issued) {
                let detail = "what tokens of that time were used for is forgotten: have a new one made in a minute";
                return Err(denied("token-forgotten", detail).into());
            }
            if directory.sessions().has_spent(&token.sha256) {
                let detail = "the token was used before, and is good once: have a new one made";
                return Err(denied("token-replayed", detail).into());
            }
            if directory.find(&vouched.name).is_some() {
                let detail = "there is a user of the workload's name: an administrator renames one";
                return Err(denied("name-in-use", detail).into());
            }
        }
        let session = NewSession {
            user: vouched.name,
            account: vouched.account,
            public_key: line(&key).map_err(Refusal::from)?,
            groups: vouched.groups,
            mfa: None,
            on_device: false,
            workload: Some(vouched.attributes),
            token: Some(token),
            expires: now.plus(vouched.life.duration()),
            source,
        };
        let alone = With::holding(alone);
        Ok(self.log_session(newcomer, session, alone, now).await?)
    }
}

/// What a token is known by once it was used: not by its signature, of which there can be several.
fn token_hash(token: &str) -> String {
    hash(token.rsplit_once('.').map_or(token, |(signed, _)| signed))
}
