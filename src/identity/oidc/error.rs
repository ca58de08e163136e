use std::path::PathBuf;

use super::provider::MOST_GROUPS;
use crate::identity::JwtError;
use crate::model::{Invalid, ProviderName};
use crate::outbound::RootsError;

/// Why nobody signed in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The provider gives no answer.
    #[error(
        "the provider {provider} can't be reached: {why}; try again later, or use another provider \
         or an enrolled key"
    )]
    Unreachable {
        /// Which.
        provider: ProviderName,
        /// Why.
        why: String,
    },
    /// It answers in a way that makes no sense.
    #[error("the provider {provider} can't be used: {why}; this is for an administrator to mend")]
    Strange {
        /// Which.
        provider: ProviderName,
        /// Why.
        why: String,
    },
    /// It says no.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// It does not do that.
    #[error(
        "the provider {0} has no logins on another device: run `hallpass login` where there is a \
         browser"
    )]
    NoDevice(ProviderName),
    /// The redirect comes from somebody else.
    #[error("the redirect does not come from the provider that was asked")]
    MixUp,
    /// Its token does not count.
    #[error("the provider's token is not accepted: {0}")]
    Token(#[from] JwtError),
    /// Its token does not say who it is.
    #[error(
        "the provider's token has no {0}: an administrator allows that claim there, or names \
         another as name_claim"
    )]
    NoName(String),
    /// The address may be anybody's.
    #[error("the provider has not verified the e-mail address that should be the user's name")]
    UnverifiedEmail,
    /// What it says can't be a name here.
    #[error("the provider's name for you: {0}")]
    Name(Invalid),
    /// More groups than anybody needs.
    #[error(
        "the provider puts you in {0} groups, {MOST_GROUPS} at most are taken: an administrator \
         says in [provider.group_names] which of them count"
    )]
    TooManyGroups(usize),
    /// The client's secret is gone.
    #[error("{0}")]
    Secret(ProviderError),
}

impl LoginError {
    /// A word for programs that read the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } | Self::Strange { .. } | Self::Secret(_) => {
                "provider-unavailable"
            }
            Self::Refused(_) => "provider-refused",
            Self::NoDevice(_) => "no-device-login",
            Self::MixUp => "provider-mix-up",
            Self::Token(error) => error.code(),
            Self::NoName(_) | Self::UnverifiedEmail | Self::Name(_) => "no-name",
            Self::TooManyGroups(_) => "too-many-groups",
        }
    }

    /// Whether it is the provider's or this server's fault, and not that of whoever signs in.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Strange { .. } | Self::Secret(_)
        )
    }
}

/// Why nobody can sign in with a provider.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Its name says something else already.
    #[error(
        "[[provider]] {0}: this name stands for enrolled keys or for workloads: choose another"
    )]
    Name(ProviderName),
    /// Its issuer is none.
    #[error("[[provider]] {0}: issuer: it has no query: use it as it stands in its tokens")]
    Issuer(ProviderName),
    /// There are no root certificates.
    #[error("[[provider]] {0}: {1}")]
    Roots(ProviderName, RootsError),
    /// The secret can't be read.
    #[error("client_secret_file {path}: {source}")]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error(
        "others can read client_secret_file {path}: run chmod 600 {path} and chown it to the \
         server's user"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// There is none in it.
    #[error("client_secret_file {path}: its first line is empty")]
    NoSecret {
        /// The file.
        path: PathBuf,
    },
}
