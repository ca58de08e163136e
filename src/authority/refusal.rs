use crate::audit::{LogError, ProofError, StoreError};
use crate::certificate::CertificateError;
use crate::keys::SignError;
use crate::policy::Verdict;

/// Why a request gets nothing. The text is for the person who asked and says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody was identified. It never says why: the log does.
    #[error(
        "the request was not accepted: check that your key is enrolled, your account enabled and \
         your clock right; an administrator finds the reason in the audit log"
    )]
    Unidentified,
    /// The request can't be read, or holds something illegal.
    #[error("{0}")]
    Illegal(String),
    /// The request can be read, and asks for what it may not have.
    #[error("{detail}")]
    Denied {
        /// A word that programs can rely on.
        code: &'static str,
        /// Why, and what would be granted.
        detail: String,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It is there already.
    #[error("{0}")]
    Conflict(String),
    /// Nothing is issued right now.
    #[error("{0}")]
    Unavailable(#[from] LogError),
    /// A CA key is out of reach.
    #[error("{0}")]
    NoKey(SignError),
    /// Whoever should vouch for somebody can't be asked.
    #[error("{0}")]
    NoProvider(String),
    /// A fault of ours.
    #[error("the server failed: {0}; its log says more")]
    Internal(String),
}

impl Refusal {
    /// A word that programs can rely on: the end of the problem's `type`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unidentified => "not-accepted",
            Self::Illegal(_) => "illegal-request",
            Self::Denied { code, .. } => code,
            Self::NotFound(_) => "not-found",
            Self::Conflict(_) => "conflict",
            Self::Unavailable(LogError::Busy) => "busy",
            Self::Unavailable(LogError::Illegal(_)) => "illegal-request",
            Self::Unavailable(_) | Self::NoKey(_) => "unavailable",
            Self::NoProvider(_) => "provider-unavailable",
            Self::Internal(_) => "internal",
        }
    }

    /// Whether the log should have an entry of it: what was asked of us, not our own faults.
    pub(super) fn is_logged(&self) -> bool {
        !matches!(
            self,
            Self::Unidentified | Self::Unavailable(_) | Self::NoKey(_) | Self::NoProvider(_)
        )
    }

    pub(super) fn illegal(detail: impl Into<String>) -> Self {
        Self::Illegal(detail.into())
    }

    /// Policy said no. `otherwise` says it when no policy has advice.
    pub(super) fn denied(verdict: &Verdict, otherwise: impl FnOnce() -> String) -> Self {
        let mut detail = if verdict.policies.is_empty() {
            otherwise()
        } else {
            format!("policy {} forbids it", verdict.policies.join(", "))
        };
        for advice in &verdict.advice {
            detail.push_str(": ");
            detail.push_str(advice);
        }
        Self::Denied {
            code: "denied",
            detail,
        }
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        if let CertificateError::Sign(error) = error {
            return error.into();
        }
        tracing::error!(%error, "a certificate could not be made");
        Self::Internal(error.to_string())
    }
}

impl From<SignError> for Refusal {
    fn from(error: SignError) -> Self {
        match error {
            SignError::NoRandomness => {
                tracing::error!(%error, "a certificate could not be made");
                Self::Internal(error.to_string())
            }
            // The token has told of itself: not once more with each request.
            SignError::Token(_) => {
                tracing::debug!(%error, "a certificate could not be made");
                Self::NoKey(error)
            }
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the audit log can't be read");
        Self::Unavailable(LogError::Unreadable(error.to_string()))
    }
}

impl From<ProofError> for Refusal {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::OutOfRange => Self::NotFound(format!("no proof: {error}")),
            error => {
                tracing::error!(%error, "the log's tree can't prove what it should");
                Self::Internal(format!("no proof: {error}"))
            }
        }
    }
}
