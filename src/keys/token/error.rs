use std::path::PathBuf;

use cryptoki::error::{Error, RvError};

/// Why a token or a key in it can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The module can't be loaded.
    #[error(
        "the PKCS#11 module {module} can't be loaded: {detail}: install the package that has it, or \
         name another (`module` under [token] in hallpass.toml, `--token` of hallpass init)"
    )]
    Module {
        /// The module.
        module: PathBuf,
        /// Why.
        detail: String,
    },
    /// The module was loaded and does not work.
    #[error(
        "the PKCS#11 module {module} can't start: {detail}: check its own configuration and that \
         its token can be reached"
    )]
    NoStart {
        /// The module.
        module: PathBuf,
        /// Its answer.
        detail: String,
    },
    /// Others can change the module, which runs as a part of us.
    #[error("others can change the PKCS#11 module {module}: run chmod go-w {module}")]
    Exposed {
        /// The module.
        module: PathBuf,
    },
    /// The module has no such token.
    #[error(
        "the PKCS#11 module {module} has no token {wanted}, but {there}: plug it in or start it, or \
         name another (`label` and `serial` under [token] in hallpass.toml)"
    )]
    NoToken {
        /// The module.
        module: PathBuf,
        /// The token that was wanted.
        wanted: String,
        /// Those that there are, in words.
        there: String,
    },
    /// It has several.
    #[error(
        "the PKCS#11 module {module} has several tokens {wanted}: {there}: say which by `serial` \
         under [token] in hallpass.toml"
    )]
    SeveralTokens {
        /// The module.
        module: PathBuf,
        /// The token that was wanted.
        wanted: String,
        /// Those that fit, in words.
        there: String,
    },
    /// The token does not take the PIN.
    #[error("the token {token:?} refuses the PIN: {state}")]
    WrongPin {
        /// The token's label.
        token: String,
        /// How many tries are left, in words, and what to do.
        state: &'static str,
    },
    /// The key is not in the token.
    #[error(
        "the key {key:?} (id {id}) is not in the token {token:?}, behind {module}: restore the \
         token from its backup, or name the token that has the key"
    )]
    NoKey {
        /// The module.
        module: PathBuf,
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
        /// The key's `CKA_ID` in hexadecimal.
        id: String,
    },
    /// The key could be taken out.
    #[error(
        "the key {key:?} in the token {token:?} can be copied out of it, and may have been: make a \
         new one"
    )]
    Extractable {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
    /// The token can't do what the key needs.
    #[error(
        "the token {token:?}, behind {module}, does not have {mechanism}, which the key {key:?} \
         needs: choose another algorithm, keep this key in a file, or use another token"
    )]
    NoMechanism {
        /// The module.
        module: PathBuf,
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
        /// What is missing, by its name in PKCS#11.
        mechanism: &'static str,
    },
    /// What the token gives for the key is not legal.
    #[error("the token {token:?} is of no use for the key {key:?}: {detail}")]
    Strange {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
        /// What is wrong.
        detail: &'static str,
    },
    /// It failed at something.
    #[error(
        "the token {token:?}, behind {module}, can't {task}: {detail}: check that it is there and \
         works; it is tried again with the next request"
    )]
    Failed {
        /// The module.
        module: PathBuf,
        /// The token's label.
        token: String,
        /// What it should have done.
        task: &'static str,
        /// Its answer.
        detail: String,
    },
}

/// A failed use of a session.
pub(super) enum Fault {
    /// The token may have been lost: worth another try on a new connection.
    Lost(TokenError),
    /// The same would come again.
    Lasting(TokenError),
}

impl Fault {
    pub(super) fn into_error(self) -> TokenError {
        match self {
            Self::Lost(error) | Self::Lasting(error) => error,
        }
    }
}

/// Whether the token is gone, or has forgotten us. A restarted or unplugged token gives all kinds of
/// answers; opening it anew is cheap and changes nothing where that was not it.
pub(super) fn means_lost(error: &Error) -> bool {
    let Error::Pkcs11(code, _) = error else {
        return false;
    };
    matches!(
        code,
        RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::DeviceRemoved
            | RvError::DeviceError
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::UserNotLoggedIn
            | RvError::CryptokiNotInitialized
            | RvError::SlotIdInvalid
            | RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid
            | RvError::GeneralError
            | RvError::FunctionFailed
    )
}

/// Whether what it was asked to use is not there, or not any more.
pub(super) fn means_no_object(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid, _)
    )
}

/// An error as PKCS#11 names it: `CKR_DEVICE_REMOVED (C_Sign)`.
pub(super) fn in_words(error: &Error) -> String {
    match error {
        Error::LibraryLoading(error) => error.to_string(),
        Error::MissingSymbol(name) => format!("it has no {name}, so it is no PKCS#11 module"),
        Error::Pkcs11(RvError::VendorDefined(code), function) => {
            format!("CKR_VENDOR_DEFINED + {code:#x} (C_{function:?})")
        }
        Error::Pkcs11(code, function) => format!("CKR_{} (C_{function:?})", shouted(code)),
        other => other.to_string(),
    }
}

fn shouted(code: &RvError) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn an_error_has_the_name_that_can_be_looked_up() {
        let error = Error::Pkcs11(RvError::TokenNotPresent, Function::OpenSession);
        assert_eq!(in_words(&error), "CKR_TOKEN_NOT_PRESENT (C_OpenSession)");
        assert!(means_lost(&error));
        let error = Error::Pkcs11(RvError::MechanismInvalid, Function::SignInit);
        assert!(!means_lost(&error));
    }
}
