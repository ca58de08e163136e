//! Who may ask at all.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ssh_key::PublicKey;

use super::{Authority, Refusal, now};
use crate::audit::{Actor, Event, With};
use crate::certificate::{check_ssh_key, parse_public_key};
use crate::identity::{Directory, EnrolmentError, SignedRequest, User, attest};
use crate::model::{
    Account, Attestation, NewAttestation, NewKey, NewUser, Timestamp, UserName, UserSummary,
};
use crate::policy::AdminAction;

const MOST_KEYS: usize = 20;
const MOST_GROUPS: usize = 50;

impl Authority {
    /// Everybody who is enrolled.
    ///
    /// # Errors
    /// When the requester may not know, or can't be served.
    pub async fn users(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<Vec<UserSummary>, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::ManageUsers, now)
            .await?;
        self.read(&requester).await?;
        Ok(self.directory().iter().map(User::summary).collect())
    }

    /// One enrolled user.
    ///
    /// # Errors
    /// When there is none of that name, or the requester may not know.
    pub async fn user(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
    ) -> Result<UserSummary, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::ManageUsers, now)
            .await?;
        self.read(&requester).await?;
        let directory = self.directory();
        Ok(enrolled(&directory, name)?.summary())
    }

    /// Enrols a user.
    ///
    /// # Errors
    /// When the name or the key is illegal or in use.
    pub async fn enrol(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<UserSummary, Refusal> {
        self.change_user(request, source, |directory, by| {
            let mut new: NewUser = self.parse(request)?;
            let key = enrollable(&new.public_key)?;
            directory.check_new_user(&new.name, &key)?;
            self.check_no_workload(&new.name)?;
            if new.groups.len() > MOST_GROUPS {
                return Err(Refusal::illegal(format!(
                    "groups: give at most {MOST_GROUPS}"
                )));
            }
            new.groups.sort();
            new.groups.dedup();
            let event = Event::UserEnrolled {
                user: new.name.clone(),
                groups: new.groups,
                public_key: line(&key)?,
                attestation: self.attestation(&key, new.attestation.as_ref(), now())?,
                by: Some(by),
            };
            Ok((new.name, event))
        })
        .await?
        .ok_or_else(|| Refusal::Internal("the user is gone again".to_owned()))
    }

    /// Stops taking a user's requests.
    ///
    /// # Errors
    /// When there is no such user, or it is the requester.
    pub async fn disable(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
    ) -> Result<UserSummary, Refusal> {
        self.change_user(request, source, |directory, by| {
            let user = enrolled(directory, name)?.name.clone();
            not_oneself(&user, &by)?;
            Ok((user.clone(), Event::UserDisabled { user, by }))
        })
        .await?
        .ok_or_else(|| nobody(name))
    }

    /// Takes a user's requests again.
    ///
    /// # Errors
    /// When there is no such user.
    pub async fn enable(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
    ) -> Result<UserSummary, Refusal> {
        self.change_user(request, source, |directory, by| {
            let user = enrolled(directory, name)?.name.clone();
            Ok((user.clone(), Event::UserEnabled { user, by }))
        })
        .await?
        .ok_or_else(|| nobody(name))
    }

    /// Removes a user and all keys of theirs. The log keeps what they did.
    ///
    /// # Errors
    /// When there is no such user, or it is the requester.
    pub async fn remove(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
    ) -> Result<(), Refusal> {
        self.change_user(request, source, |directory, by| {
            let user = enrolled(directory, name)?.name.clone();
            not_oneself(&user, &by)?;
            Ok((user.clone(), Event::UserRemoved { user, by }))
        })
        .await?;
        Ok(())
    }

    /// Enrols another key of a user.
    ///
    /// # Errors
    /// When there is no such user, or the key is illegal or in use.
    pub async fn enrol_key(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
    ) -> Result<UserSummary, Refusal> {
        self.change_user(request, source, |directory, by| {
            let user = enrolled(directory, name)?;
            if user.keys.len() >= MOST_KEYS {
                let detail = format!("user {name} has {MOST_KEYS} keys already: remove one first");
                return Err(Refusal::Conflict(detail));
            }
            let new: NewKey = self.parse(request)?;
            let key = enrollable(&new.public_key)?;
            directory.check_new_key(&key)?;
            let user = user.name.clone();
            let event = Event::KeyEnrolled {
                user: user.clone(),
                public_key: line(&key)?,
                attestation: self.attestation(&key, new.attestation.as_ref(), now())?,
                by,
            };
            Ok((user, event))
        })
        .await?
        .ok_or_else(|| nobody(name))
    }

    /// Removes a key of a user.
    ///
    /// # Errors
    /// When there is no such user or key, or it is the key that signed the request.
    pub async fn remove_key(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
        fingerprint: &str,
    ) -> Result<UserSummary, Refusal> {
        self.change_user(request, source, |directory, by| {
            let user = enrolled(directory, name)?;
            if !user.keys.contains_key(fingerprint) {
                let detail = format!("user {name} has no such key: `hallpass user show {name}`");
                return Err(Refusal::NotFound(detail));
            }
            if by.fingerprint == fingerprint {
                let detail = "this key signs your requests: sign this one with another key of \
                              yours, or leave it to another administrator";
                return Err(Refusal::Conflict(detail.to_owned()));
            }
            let user = user.name.clone();
            let fingerprint = fingerprint.to_owned();
            Ok((
                user.clone(),
                Event::KeyRemoved {
                    user,
                    fingerprint,
                    by,
                },
            ))
        })
        .await?
        .ok_or_else(|| nobody(name))
    }

    /// Makes an account at a provider a user's: who signs in there is that user. A user who was removed
    /// is one again.
    ///
    /// # Errors
    /// When there is no such user or provider, or the account is somebody's.
    pub async fn link(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
    ) -> Result<UserSummary, Refusal> {
        self.change_user(request, source, |directory, by| {
            // Who was removed and has no key comes back by this alone.
            let removed = name.parse().ok().filter(|name| directory.was_removed(name));
            let user = match removed {
                Some(name) => {
                    self.check_no_workload(&name)?;
                    name
                }
                None => {
                    let user = enrolled(directory, name)?;
                    if user.accounts.len() >= MOST_KEYS {
                        let detail = format!("user {name} has {MOST_KEYS} accounts already");
                        return Err(Refusal::Conflict(detail));
                    }
                    user.name.clone()
                }
            };
            let account: Account = self.parse(request)?;
            check_subject(&account)?;
            self.check_provider(&account.provider)?;
            if let Some(owner) = directory.linked(&account) {
                let detail = format!("this account signs in as user {} already", owner.name);
                return Err(Refusal::Conflict(detail));
            }
            let event = Event::UserLinked {
                user: user.clone(),
                account,
                by: Some(by),
            };
            Ok((user, event))
        })
        .await?
        .ok_or_else(|| nobody(name))
    }

    /// A workload and a user never share a name.
    fn check_no_workload(&self, name: &UserName) -> Result<(), Refusal> {
        if self.workloads.is_called(name) {
            let detail = format!("a workload is called {name}: choose another name");
            return Err(Refusal::Conflict(detail));
        }
        Ok(())
    }

    /// Takes an account away from a user. Its sessions end.
    ///
    /// # Errors
    /// When it is not the user's.
    pub async fn unlink(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        name: &str,
        account: Account,
    ) -> Result<UserSummary, Refusal> {
        self.change_user(request, source, |directory, by| {
            let user = enrolled(directory, name)?;
            if !user.accounts.contains(&account) {
                let detail =
                    format!("user {name} has no such account: `hallpass user show {name}`");
                return Err(Refusal::NotFound(detail));
            }
            if by.method == account.provider.as_str() && by.requester == user.name {
                let detail = "you may be signed in with this account: leave it to another \
                              administrator";
                return Err(Refusal::Conflict(detail.to_owned()));
            }
            let user = user.name.clone();
            let event = Event::UserUnlinked {
                user: user.clone(),
                account,
                by,
            };
            Ok((user, event))
        })
        .await?
        .ok_or_else(|| nobody(name))
    }

    /// What the maker of a key says of it.
    fn attestation(
        &self,
        key: &PublicKey,
        new: Option<&NewAttestation>,
        now: Timestamp,
    ) -> Result<Option<Attestation>, Refusal> {
        let Some(new) = new else {
            return Ok(None);
        };
        let decoded = |name: &str, text: &str| {
            let bytes = STANDARD.decode(text);
            bytes.map_err(|_| Refusal::illegal(format!("attestation.{name}: it is no base64")))
        };
        let attestation = decoded("attestation", &new.attestation)?;
        let challenge = decoded("challenge", &new.challenge)?;
        let roots = &self.attestation_roots;
        attest(key.key_data(), &attestation, &challenge, roots, now)
            .map(Some)
            .map_err(|error| Refusal::illegal(format!("attestation: {error}")))
    }

    /// One change of the directory. Gives the user as changed, when there still is one.
    async fn change_user(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        make: impl FnOnce(&Directory, Actor) -> Result<(UserName, Event), Refusal>,
    ) -> Result<Option<UserSummary>, Refusal> {
        let user = self
            .change(
                request,
                source,
                AdminAction::ManageUsers,
                |by| make(&self.directory(), by),
                |event| With::holding(Suspension::begin(&self.directory, event)),
            )
            .await?;
        Ok(self.directory().find(&user).map(User::summary))
    }
}

/// While it is open whether a change gets into the log, nothing is taken from those whom it would
/// shut out.
pub(super) struct Suspension(Arc<RwLock<Directory>>);

impl Suspension {
    pub(super) fn begin(directory: &Arc<RwLock<Directory>>, event: &Event) -> Self {
        directory
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .suspend(event);
        Self(Arc::clone(directory))
    }
}

impl Drop for Suspension {
    fn drop(&mut self) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .resume();
    }
}

/// Reads a key that a user may have.
pub(super) fn enrollable(text: &str) -> Result<PublicKey, Refusal> {
    let illegal = |error| Refusal::illegal(format!("public_key: {error}"));
    let key = parse_public_key(text).map_err(illegal)?;
    check_ssh_key(key.key_data()).map_err(illegal)?;
    Ok(key)
}

/// A key as the log keeps it: without its comment, which anybody may have written.
pub(super) fn line(key: &PublicKey) -> Result<String, ssh_key::Error> {
    PublicKey::from(key.key_data().clone()).to_openssh()
}

/// A subject as OpenID Connect Core 1.0, section 2, has it: what can be shown and logged.
fn check_subject(account: &Account) -> Result<(), Refusal> {
    let subject = &account.subject;
    if (1..=255).contains(&subject.len()) && subject.bytes().all(|c| (b' '..=b'~').contains(&c)) {
        return Ok(());
    }
    Err(Refusal::illegal(
        "subject: use the `sub` of the provider's tokens: 1 to 255 visible ASCII characters",
    ))
}

/// Keeps at least one administrator.
pub(super) fn not_oneself(user: &UserName, by: &Actor) -> Result<(), Refusal> {
    if *user == by.requester {
        let detail = "you can't do this to yourself: leave it to another administrator";
        return Err(Refusal::Conflict(detail.to_owned()));
    }
    Ok(())
}

fn enrolled<'a>(directory: &'a Directory, name: &str) -> Result<&'a User, Refusal> {
    name.parse()
        .ok()
        .and_then(|name: UserName| directory.find(&name))
        .ok_or_else(|| nobody(name))
}

fn nobody(name: &str) -> Refusal {
    let name: String = name.chars().take(64).collect();
    Refusal::NotFound(format!(
        "there is no user {:?}: `hallpass user list` shows all",
        name
    ))
}

impl From<ssh_key::Error> for Refusal {
    fn from(error: ssh_key::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<EnrolmentError> for Refusal {
    fn from(error: EnrolmentError) -> Self {
        Self::Conflict(error.to_string())
    }
}
