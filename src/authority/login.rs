//! Who signs in: a provider vouches for somebody, and a fresh key signs for them for a while.
//! docs/login.md tells why in this order.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::enrolment::line;
use super::newcomers::NotBegun;
use super::{Authority, OpenError, Refusal, SessionSettings, now};
use crate::audit::{Event, LogError, NewSession, With};
use crate::identity::{
    Begun, Logins, NewcomersKey, Provider, Session, SignedRequest, Vouched, Way, Workloads,
};
use crate::keys::random_bytes;
use crate::model::{
    Account, DevicePrompt, LoginAnswer, LoginBegin, LoginBegun, LoginFinish, LoginWays,
    ProviderName, ProviderSummary, RedirectAnswer, SessionSummary, Timestamp, UserName,
};

impl Authority {
    /// The same, where people can sign in with these providers, and these workloads are let in. Sessions
    /// of others are over.
    ///
    /// # Errors
    /// When two providers are called the same, or the log can't be written.
    pub async fn with_logins(
        mut self,
        providers: Vec<Provider>,
        workloads: Workloads,
        sessions: SessionSettings,
    ) -> Result<Self, OpenError> {
        for (place, provider) in providers.iter().enumerate() {
            let same = |other: &Provider| other.name() == provider.name();
            if providers[..place].iter().any(same) {
                return Err(ProviderTwice(provider.name().clone()).into());
            }
        }
        self.providers = providers;
        self.workloads = workloads;
        self.sessions = sessions;
        self.end_unvouched(now()).await?;
        Ok(self)
    }

    /// Logs that the sessions are over for which nobody vouches here any more, so that they stay over
    /// when somebody does again.
    async fn end_unvouched(&self, now: Timestamp) -> Result<(), LogError> {
        let over: Vec<_> = {
            let directory = self.directory();
            let living = directory.sessions().living(now);
            let over = living.filter(|(_, session)| !self.vouches(session));
            over.map(|(fingerprint, session)| (fingerprint.to_owned(), session.user.clone()))
                .collect()
        };
        for (fingerprint, user) in over {
            tracing::info!(%user, fingerprint, "a session is over: hallpass.toml says so");
            let event = Event::SessionEnded {
                user,
                fingerprint,
                by: None,
            };
            self.log.reserve(now)?.commit(event, None).await?;
        }
        Ok(())
    }

    /// Whether a session can be one that begins here now, as far as what is known of it tells.
    fn vouches(&self, session: &Session) -> bool {
        if let Some(attributes) = &session.workload {
            return self.workloads.may_be(
                &session.user,
                &session.account,
                &session.groups,
                attributes,
            );
        }
        let mut providers = self.providers.iter();
        let provider = providers.find(|one| *one.name() == session.account.provider);
        provider.is_some_and(|provider| provider.may_say(&session.groups))
    }

    /// Who can sign in here.
    pub fn login_ways(&self) -> LoginWays {
        let providers = self.providers.iter();
        let providers = providers.map(|provider| ProviderSummary {
            name: provider.name().clone(),
            redirect_port: provider.redirect_port(),
        });
        LoginWays {
            providers: providers.collect(),
            workloads: !self.workloads.is_empty(),
        }
    }

    /// Begins a login for the key that signs the request. Anybody can.
    ///
    /// # Errors
    /// When the request can't be taken, or the provider can't be reached.
    pub async fn begin_login(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<LoginBegun, Refusal> {
        let now = now();
        let newcomer = self.stranger(request, source, now).await?;
        let begun = async {
            // Before anything is remembered, and before the provider is asked.
            self.logins.admit(source, now)?;
            let newcomer = self
                .admitted(request, source, newcomer.clone(), now)
                .await?;
            let ask: LoginBegin = self.parse(request)?;
            self.check_session_key(&newcomer)?;
            let provider = self.provider(ask.provider.as_ref())?;
            let id = secret()?;
            match ask.redirect {
                Some(redirect) => {
                    let begun =
                        self.begin_redirect(provider, &newcomer, source, redirect, &id, now);
                    begun.await
                }
                None => {
                    self.begin_device(provider, &newcomer, source, &id, now)
                        .await
                }
            }
        };
        match begun.await {
            Ok(begun) => Ok(begun),
            Err(error) => Err(self
                .not_signed_in(request, source, &newcomer, error, now)
                .await),
        }
    }

    async fn begin_redirect(
        &self,
        provider: &Provider,
        newcomer: &NewcomersKey,
        source: IpAddr,
        redirect: String,
        id: &str,
        now: Timestamp,
    ) -> Result<LoginBegun, NotBegun> {
        check_redirect(&redirect, provider.redirect_port())?;
        let (state, nonce, verifier) = (secret()?, secret()?, Zeroizing::new(secret()?));
        let url = provider.sign_in_url(&redirect, &state, &nonce, &verifier);
        let url = url.await?;
        let expires = now.plus(Logins::lasts(None));
        let login = Begun {
            fingerprint: newcomer.fingerprint.clone(),
            source,
            provider: provider.name().clone(),
            way: Way::Redirect {
                redirect,
                state: state.clone(),
                nonce,
                verifier,
            },
            expires,
        };
        self.logins.begin(id.to_owned(), login, now)?;
        Ok(LoginBegun {
            login: id.to_owned(),
            provider: provider.name().clone(),
            url: Some(url),
            state: Some(state),
            device: None,
            expires,
        })
    }

    async fn begin_device(
        &self,
        provider: &Provider,
        newcomer: &NewcomersKey,
        source: IpAddr,
        id: &str,
        now: Timestamp,
    ) -> Result<LoginBegun, NotBegun> {
        let grant = provider.begin_device().await?;
        let expires = now.plus(Logins::lasts(Some(grant.lasts)));
        let interval = Duration::from_secs(grant.interval);
        let login = Begun {
            fingerprint: newcomer.fingerprint.clone(),
            source,
            provider: provider.name().clone(),
            way: Way::Device {
                device_code: grant.device_code,
                interval,
                next: now.plus(interval),
            },
            expires,
        };
        self.logins.begin(id.to_owned(), login, now)?;
        Ok(LoginBegun {
            login: id.to_owned(),
            provider: provider.name().clone(),
            url: None,
            state: None,
            device: Some(DevicePrompt {
                url: grant.url,
                user_code: grant.user_code,
                complete_url: grant.complete_url,
                interval: grant.interval,
            }),
            expires,
        })
    }

    /// Ends a login: asks the provider who signed in, and has the key that signs the request sign
    /// for them from then on.
    ///
    /// # Errors
    /// When the provider does not vouch for anybody, or not for somebody who may come in.
    pub async fn finish_login(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<LoginAnswer, Refusal> {
        let now = now();
        let newcomer = self.stranger(request, source, now).await?;
        let finished = async {
            let ask: LoginFinish = self.parse(request)?;
            let login = self.logins.take(&ask.login, &newcomer.fingerprint, now)?;
            let newcomer = self
                .admitted(request, source, newcomer.clone(), now)
                .await?;
            let provider = self.provider(Some(&login.provider))?;
            let vouched = match self.signed_in(provider, login, &ask, now).await? {
                Ok(vouched) => vouched,
                Err(wait) => {
                    return Ok(LoginAnswer {
                        session: None,
                        wait: Some(wait),
                    });
                }
            };
            let on_device = ask.redirect.is_none();
            let session = self.begin_session(&newcomer, source, vouched, on_device, now);
            Ok(LoginAnswer {
                session: Some(session.await?),
                wait: None,
            })
        };
        match finished.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self
                .not_signed_in(request, source, &newcomer, error, now)
                .await),
        }
    }

    /// Who signed in, or how many seconds to wait before the next question.
    async fn signed_in(
        &self,
        provider: &Provider,
        mut login: Begun,
        ask: &LoginFinish,
        now: Timestamp,
    ) -> Result<Result<Vouched, u64>, NotBegun> {
        match (&mut login.way, &ask.redirect) {
            (
                Way::Redirect {
                    redirect,
                    state,
                    nonce,
                    verifier,
                },
                Some(answer),
            ) => {
                let RedirectAnswer {
                    code,
                    state: told,
                    iss,
                } = answer;
                if told != state {
                    return Err(Refusal::Denied {
                        code: "wrong-state",
                        detail: "the redirect belongs to another login: begin again".to_owned(),
                    }
                    .into());
                }
                provider.check_issuer(iss.as_deref()).await?;
                let vouched = provider.redeem(code, redirect, verifier, nonce, now);
                Ok(Ok(vouched.await?))
            }
            (
                Way::Device {
                    device_code,
                    interval,
                    next,
                },
                None,
            ) => {
                let early = now < *next;
                let asked = if early {
                    Ok(Err(Duration::ZERO))
                } else {
                    *next = now.plus(*interval);
                    provider.ask_device(device_code, now).await
                };
                let longer = match asked {
                    Ok(Ok(vouched)) => return Ok(Ok(vouched)),
                    Ok(Err(longer)) => longer,
                    Err(error) => {
                        // It may answer the next question.
                        if error.is_unavailable() {
                            self.logins.put_back(ask.login.clone(), login);
                        }
                        return Err(error.into());
                    }
                };
                *interval += longer;
                *next = (*next).plus(longer);
                let wait = interval.as_secs();
                self.logins.put_back(ask.login.clone(), login);
                Ok(Err(wait))
            }
            _ => Err(Refusal::illegal(
                "redirect: it belongs to a login that was begun with one, and to no other",
            )
            .into()),
        }
    }

    /// Logs a session for whom a provider vouches.
    async fn begin_session(
        &self,
        newcomer: &NewcomersKey,
        source: IpAddr,
        vouched: Vouched,
        on_device: bool,
        now: Timestamp,
    ) -> Result<SessionSummary, NotBegun> {
        // Kept until both entries are certain, also when nobody waits for them any more.
        let alone = Arc::new(Arc::clone(&self.changes).lock_owned().await);
        let key = self.check_session_key(newcomer)?;
        let (user, is_new) = self.user_of(&vouched)?;
        if is_new {
            let event = Event::UserLinked {
                user: user.clone(),
                account: vouched.account.clone(),
                by: None,
            };
            let with = With::holding(Arc::clone(&alone));
            self.append(event, None, with, now).await?;
        }
        let session = NewSession {
            user,
            account: vouched.account,
            public_key: line(&key).map_err(Refusal::from)?,
            groups: vouched.groups,
            mfa: vouched.mfa,
            on_device,
            workload: None,
            token: None,
            expires: now.plus(self.sessions.life.duration()),
            source,
        };
        let alone = With::holding(alone);
        Ok(self.log_session(newcomer, session, alone, now).await?)
    }

    /// Which user an account is, and whether that is to be logged first.
    fn user_of(&self, vouched: &Vouched) -> Result<(UserName, bool), Refusal> {
        let Vouched { account, name, .. } = vouched;
        let directory = self.directory();
        let denied = |code, detail| Refusal::Denied { code, detail };
        let Account { provider, subject } = account;
        let how = |name: &UserName| {
            let subject = shell_word(subject);
            format!("`hallpass user link {name} --provider {provider} --subject={subject}`")
        };
        if let Some(user) = directory.linked(account) {
            if !user.enabled {
                let detail = format!("user {} is disabled: ask an administrator", user.name);
                return Err(denied("user-disabled", detail));
            }
            return Ok((user.name.clone(), false));
        }
        let barred = directory.barred(account);
        let removed = || directory.was_removed(name).then_some(name);
        if let Some(name) = barred.or_else(removed) {
            let detail = format!(
                "this account at {provider} was taken away from {name}, or {name} was removed: an \
                 administrator lets you in again with {}",
                how(name)
            );
            return Err(denied("account-removed", detail));
        }
        if directory.find(name).is_some() || self.workloads.is_called(name) {
            let detail = format!(
                "there is a {name} already, who does not sign in with this account at {provider}: if \
                 that is you, an administrator says so with {}",
                how(name)
            );
            return Err(denied("name-in-use", detail));
        }
        Ok((name.clone(), true))
    }

    /// Checks that there is such a provider.
    pub(super) fn check_provider(&self, name: &ProviderName) -> Result<(), Refusal> {
        self.provider(Some(name)).map(|_| ())
    }

    fn provider(&self, name: Option<&ProviderName>) -> Result<&Provider, Refusal> {
        let names = || {
            let names: Vec<_> = self
                .providers
                .iter()
                .map(|one| one.name().as_str())
                .collect();
            names.join(", ")
        };
        match (name, &self.providers[..]) {
            (_, []) => Err(Refusal::NotFound(
                "nobody signs in here: this CA has no [[provider]] in its hallpass.toml".to_owned(),
            )),
            (None, [only]) => Ok(only),
            (None, _) => Err(Refusal::illegal(format!(
                "provider: there are several ({}): name one with --provider",
                names()
            ))),
            (Some(name), providers) => {
                let found = providers.iter().find(|provider| provider.name() == name);
                found.ok_or_else(|| {
                    Refusal::NotFound(format!("there is no provider {name}: use {}", names()))
                })
            }
        }
    }
}

/// Two providers are called the same.
#[derive(Debug, thiserror::Error)]
#[error("hallpass.toml: provider {0}: another [[provider]] has the same name: choose another")]
pub struct ProviderTwice(ProviderName);

/// 32 random bytes in base64url: what nobody can guess.
fn secret() -> Result<String, Refusal> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes::<32>()?))
}

/// A redirect to the machine of whoever signs in, and to nowhere else: a code must not be sent to
/// others.
fn check_redirect(redirect: &str, only: Option<NonZeroU16>) -> Result<(), Refusal> {
    let port = redirect
        .strip_prefix("http://127.0.0.1:")
        .and_then(|rest| rest.strip_suffix("/callback"));
    let legal = port.is_some_and(|port| {
        let digits = port.bytes().all(|c| c.is_ascii_digit()) && !port.starts_with('0');
        let port = port.parse().ok().filter(|_| digits);
        port.is_some_and(|port: NonZeroU16| only.is_none_or(|only| only == port))
    });
    if legal {
        return Ok(());
    }
    let port = only.map_or_else(|| "PORT".to_owned(), |only| only.to_string());
    Err(Refusal::illegal(format!(
        "redirect: use http://127.0.0.1:{port}/callback"
    )))
}

/// A word that a shell takes as it is; its text is visible ASCII.
fn shell_word(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:@/|+=".contains(&c);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
