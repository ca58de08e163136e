use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use serde::{Deserialize, Serialize};

use super::error::{Fault, in_words, means_lost};
use super::{Pin, TokenError};
use crate::keys::is_ours_to_change;

/// How many sign at a time. More do not make a token faster.
const MOST_SESSIONS: u64 = 16;

/// Which token: the `[token]` table of `hallpass.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// The PKCS#11 module: a shared library, by its path, or by its name where the linker looks.
    pub module: PathBuf,
    /// The token's label.
    pub label: String,
    /// The token's serial number, where several have the same label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A token that is logged in to.
pub struct Token {
    settings: TokenSettings,
    /// To log in again after a loss.
    pin: Pin,
    pkcs11: Pkcs11,
    /// Whoever uses a session reads it. Opening the module anew writes it: `C_Finalize` must not run
    /// beside any other call.
    connection: RwLock<Connection>,
}

struct Connection {
    /// Counts the times that it was opened. Object handles are good within one of them.
    generation: u64,
    /// When it was last tried to open it anew.
    tried: Option<Instant>,
    sessions: Result<Sessions, TokenError>,
}

impl Token {
    /// How long a lost token is left alone before it is tried again. Meanwhile requests fail at once.
    pub(super) const REST: Duration = Duration::from_secs(1);

    /// Loads the module, finds the token and logs in.
    ///
    /// # Errors
    /// Says which of these failed, and what to do.
    pub fn open(settings: TokenSettings, pin: Pin) -> Result<Arc<Self>, TokenError> {
        let module = &settings.module;
        // A bare name is looked for in the system's folders, which are root's.
        if fs::metadata(module).is_ok_and(|metadata| !is_ours_to_change(&metadata)) {
            return Err(TokenError::Exposed {
                module: module.clone(),
            });
        }
        let pkcs11 = Pkcs11::new(module).map_err(|error| TokenError::Module {
            module: module.clone(),
            detail: in_words(&error),
        })?;
        let sessions = connect(&pkcs11, &settings, &pin)?;
        let connection = RwLock::new(Connection {
            generation: 1,
            tried: None,
            sessions: Ok(sessions),
        });
        Ok(Arc::new(Self {
            settings,
            pin,
            pkcs11,
            connection,
        }))
    }

    /// Which token it is.
    pub fn settings(&self) -> &TokenSettings {
        &self.settings
    }

    /// Whether the token has a mechanism.
    pub(super) fn has(&self, mechanism: MechanismType) -> Result<bool, TokenError> {
        let connection = self
            .connection
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let slot = connection.sessions.as_ref().map_err(Clone::clone)?.slot;
        let list = self.pkcs11.get_mechanism_list(slot);
        let list = list.map_err(|error| self.fault("list its mechanisms", &error).into_error())?;
        Ok(list.contains(&mechanism))
    }

    /// Does something with a session of its own; once more on a new connection when the token was
    /// lost. `work` is told the connection's generation.
    pub(super) fn with_session<T>(
        &self,
        work: impl Fn(&Session, Attempt) -> Result<T, Fault>,
    ) -> Result<T, TokenError> {
        let (seen, why) = match self.attempt(&work, false) {
            Ok(done) => return Ok(done),
            Err((_, Fault::Lasting(why))) => return Err(why),
            Err((seen, Fault::Lost(why))) => (seen, why),
        };
        self.reconnect(seen, why)?;
        self.attempt(&work, true)
            .map_err(|(_, fault)| fault.into_error())
    }

    /// Does something that writes to the token, once.
    pub(super) fn with_writing_session<T>(
        &self,
        work: impl FnOnce(&Session) -> Result<T, Fault>,
    ) -> Result<T, TokenError> {
        let connection = self
            .connection
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let slot = connection.sessions.as_ref().map_err(Clone::clone)?.slot;
        let session = self.pkcs11.open_rw_session(slot);
        let session = session.map_err(|error| self.fault("open a session", &error).into_error())?;
        work(&session).map_err(Fault::into_error)
    }

    fn attempt<T>(
        &self,
        work: impl Fn(&Session, Attempt) -> Result<T, Fault>,
        is_last: bool,
    ) -> Result<T, (u64, Fault)> {
        let connection = self
            .connection
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let generation = connection.generation;
        let done = match &connection.sessions {
            Err(why) => Err(Fault::Lost(why.clone())),
            Ok(sessions) => match sessions.lend(&self.pkcs11) {
                Err(error) => Err(self.fault("open a session", &error)),
                Ok(lent) => {
                    let attempt = Attempt {
                        generation,
                        is_last,
                    };
                    let done = work(&lent, attempt);
                    if done.is_ok() {
                        lent.give_back();
                    }
                    done
                }
            },
        };
        done.map_err(|fault| (generation, fault))
    }

    /// Opens the module anew, unless that happened since generation `seen`.
    fn reconnect(&self, seen: u64, why: TokenError) -> Result<(), TokenError> {
        let mut connection = self
            .connection
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if connection.generation != seen {
            return Ok(());
        }
        // More tries would have the token lock the PIN.
        if let Err(refused @ TokenError::WrongPin { .. }) = &connection.sessions {
            return Err(refused.clone());
        }
        if connection
            .tried
            .is_some_and(|tried| tried.elapsed() < Self::REST)
        {
            return Err(why);
        }
        let was_lost = connection.sessions.is_err();
        if !was_lost {
            tracing::warn!(%why, "the token failed: it is opened anew");
        }
        connection.generation += 1;
        // Closes its sessions.
        connection.sessions = Err(why);
        // Modules look for tokens once, when they are initialized. An error says that it is not.
        self.pkcs11.clone().finalize().ok();
        connection.sessions = connect(&self.pkcs11, &self.settings, &self.pin);
        connection.tried = Some(Instant::now());
        match &connection.sessions {
            Ok(_) => {
                tracing::info!(token = self.settings.label, "the token is open again");
                Ok(())
            }
            Err(why) => {
                if !was_lost {
                    tracing::error!(%why, "the token is lost: nothing is signed with its keys");
                }
                Err(why.clone())
            }
        }
    }

    pub(super) fn fault(&self, task: &'static str, error: &Error) -> Fault {
        let failed = failed(&self.settings, task, error);
        if means_lost(error) {
            Fault::Lost(failed)
        } else {
            Fault::Lasting(failed)
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let connection = self.connection.get_mut();
        let connection = connection.unwrap_or_else(PoisonError::into_inner);
        // Sessions before their module. It lets go of a lock or a device, where it has one.
        connection.sessions = Err(TokenError::NoStart {
            module: self.settings.module.clone(),
            detail: "it was closed".to_owned(),
        });
        self.pkcs11.clone().finalize().ok();
    }
}

/// One of the two times that something is tried.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    /// Of the connection.
    pub(super) generation: u64,
    /// On a connection that was just opened.
    pub(super) is_last: bool,
}

fn failed(settings: &TokenSettings, task: &'static str, error: &Error) -> TokenError {
    TokenError::Failed {
        module: settings.module.clone(),
        token: settings.label.clone(),
        task,
        detail: in_words(error),
    }
}

fn connect(pkcs11: &Pkcs11, settings: &TokenSettings, pin: &Pin) -> Result<Sessions, TokenError> {
    let no_start = |error: &Error| TokenError::NoStart {
        module: settings.module.clone(),
        detail: in_words(error),
    };
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(no_start(&error)),
    }
    let (slot, info) = find(pkcs11, settings, no_start)?;
    let failed = |task, error: &Error| failed(settings, task, error);
    let session = pkcs11
        .open_ro_session(slot)
        .map_err(|error| failed("open a session", &error))?;
    match session.login(UserType::User, Some(&pin.0)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
        Err(error) => {
            let info = pkcs11.get_token_info(slot).ok();
            let state = pin_state(&error, info.as_ref());
            return Err(match state {
                Some(state) => TokenError::WrongPin {
                    token: settings.label.clone(),
                    state,
                },
                None => failed("log in", &error),
            });
        }
    }
    Ok(Sessions::new(slot, session, &info))
}

fn find(
    pkcs11: &Pkcs11,
    settings: &TokenSettings,
    no_start: impl Fn(&Error) -> TokenError,
) -> Result<(Slot, TokenInfo), TokenError> {
    let slots = pkcs11.get_slots_with_token();
    let all: Vec<(Slot, TokenInfo)> = slots
        .map_err(|error| no_start(&error))?
        .into_iter()
        // One that can't even be asked is not the one that is wanted.
        .filter_map(|slot| Some((slot, pkcs11.get_token_info(slot).ok()?)))
        .filter(|(_, info)| info.token_initialized())
        .collect();
    let fits = |info: &TokenInfo| {
        let serial = settings.serial.as_deref();
        info.label() == settings.label && serial.is_none_or(|serial| serial == info.serial_number())
    };
    let (found, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, info)| fits(info));
    let module = settings.module.clone();
    let wanted = match &settings.serial {
        Some(serial) => format!("{:?} (serial {serial})", settings.label),
        None => format!("{:?}", settings.label),
    };
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(TokenError::NoToken {
            module,
            wanted,
            there: list(&others),
        }),
        several => Err(TokenError::SeveralTokens {
            module,
            wanted,
            there: list(several),
        }),
    }
}

fn list(tokens: &[(Slot, TokenInfo)]) -> String {
    if tokens.is_empty() {
        return "none at all".to_owned();
    }
    let names: Vec<String> = tokens
        .iter()
        .map(|(_, info)| format!("{:?} (serial {})", info.label(), info.serial_number()))
        .collect();
    names.join(", ")
}

/// How it stands with a PIN that was not taken, or nothing when it was not for the PIN.
fn pin_state(error: &Error, info: Option<&TokenInfo>) -> Option<&'static str> {
    let Error::Pkcs11(code, _) = error else {
        return None;
    };
    let has = |flag: fn(&TokenInfo) -> bool| info.is_some_and(flag);
    Some(match code {
        RvError::UserPinNotInitialized => {
            "no user PIN is set: set one with the tool that came with the token"
        }
        RvError::PinExpired => "it has expired: set a new one",
        RvError::PinLocked => LOCKED,
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => {
            if has(TokenInfo::user_pin_locked) {
                LOCKED
            } else if has(TokenInfo::user_pin_final_try) {
                "it is wrong, and one try is left before the token locks it: make sure of it first"
            } else if has(TokenInfo::user_pin_count_low) {
                "it is wrong, and the token locks it after some more tries: give the right one"
            } else {
                "it is wrong: give the token's user PIN"
            }
        }
        _ => return None,
    })
}

const LOCKED: &str = "the token has locked it after too many tries: unlock it with the SO PIN";

/// The sessions of one connection.
struct Sessions {
    slot: Slot,
    /// Never used, only kept: the token logs out when the last session closes.
    _login: Mutex<Session>,
    most: u64,
    shared: Mutex<Shared>,
    returned: Condvar,
}

struct Shared {
    /// Open and not lent.
    idle: Vec<Session>,
    lent: u64,
}

impl Sessions {
    fn new(slot: Slot, login: Session, info: &TokenInfo) -> Self {
        let limit: Option<u64> = info.max_session_count().into();
        let most = limit.map_or(MOST_SESSIONS, |limit| {
            limit.saturating_sub(1).clamp(1, MOST_SESSIONS)
        });
        let (idle, lent) = (Vec::new(), 0);
        Self {
            slot,
            _login: Mutex::new(login),
            most,
            shared: Mutex::new(Shared { idle, lent }),
            returned: Condvar::new(),
        }
    }

    /// Waits for a session that nobody else has, or opens one.
    fn lend(&self, pkcs11: &Pkcs11) -> Result<Lent<'_>, Error> {
        let mut shared = self.lock();
        while shared.lent >= self.most {
            shared = self
                .returned
                .wait(shared)
                .unwrap_or_else(PoisonError::into_inner);
        }
        shared.lent += 1;
        let idle = shared.idle.pop();
        drop(shared);
        let mut lent = Lent {
            from: self,
            session: idle,
        };
        if lent.session.is_none() {
            lent.session = Some(pkcs11.open_ro_session(self.slot)?);
        }
        Ok(lent)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that one has. It is closed at the end, since something may be half done in it, unless
/// it is given back.
struct Lent<'a> {
    from: &'a Sessions,
    session: Option<Session>,
}

impl Lent<'_> {
    fn give_back(mut self) {
        let session = self.session.take();
        self.from.lock().idle.extend(session);
    }
}

impl Deref for Lent<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("lent with a session")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        drop(self.session.take());
        self.from.lock().lent -= 1;
        self.from.returned.notify_one();
    }
}
