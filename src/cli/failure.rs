//! Why a command ends without success, and the exit code that says so (sysexits.h).

use std::fmt::Display;
use std::process::ExitCode;

use super::output::clean;
use crate::client::{
    ApiError, ConfigError, ConnectError, ExportFailed, FileError, HistoryError, KeyError,
    LoginFailed, OpenError, RunError, RuntimeError, SessionError, SubjectKeyError,
};

/// A message for a person and an exit code for a program.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The command line is wrong.
    pub(super) const USAGE: u8 = 64;
    /// What was named can't be read.
    pub(super) const NO_INPUT: u8 = 66;
    const UNAVAILABLE: u8 = 69;

    /// The answer to what was asked is no; what was printed says it.
    pub(super) fn no() -> Self {
        Self::new(1, "")
    }

    /// What was given is not legal.
    pub(super) fn data(message: impl Display) -> Self {
        Self::new(65, message)
    }

    /// A file that was named can't be read.
    pub(super) fn no_input(message: impl Display) -> Self {
        Self::new(Self::NO_INPUT, message)
    }

    /// The CA can't be reached, or can't issue now.
    pub(super) fn unavailable(message: impl Display) -> Self {
        Self::new(Self::UNAVAILABLE, message)
    }

    /// A fault of ours.
    pub(super) fn internal(message: impl Display) -> Self {
        Self::new(70, message)
    }

    /// Output can't be written.
    pub(super) fn output(message: impl Display) -> Self {
        Self::new(73, message)
    }

    /// The log is not what it was, or does not prove what it should.
    pub(super) fn log(message: impl Display) -> Self {
        Self::new(76, message)
    }

    /// Refused: by policy, or since nobody was identified.
    pub(super) fn refused(message: impl Display) -> Self {
        Self::new(77, message)
    }

    /// The home or the client's configuration is not right.
    pub(super) fn config(message: impl Display) -> Self {
        Self::new(78, message)
    }

    /// This one, with the words of another.
    pub(super) fn and(self, other: &Self) -> Self {
        Self::new(
            self.code,
            format!("{}. And: {}", self.message, other.message),
        )
    }

    /// Whether it may be better in a while.
    pub(super) fn is_passing(&self) -> bool {
        self.code == Self::UNAVAILABLE
    }

    /// What a person sees.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// What a program sees.
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    fn new(code: u8, message: impl Display) -> Self {
        // A server's words and files' names may be in it. Our own line breaks stay.
        let message = message.to_string();
        let lines: Vec<_> = message.lines().map(clean).collect();
        Self {
            message: lines.join("\n"),
            code,
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Config(error) => error.into(),
            OpenError::Key(error) => error.into(),
            error @ (OpenError::NotSignedIn | OpenError::SessionOver(_)) => Self::refused(error),
        }
    }
}

impl From<LoginFailed> for Failure {
    fn from(error: LoginFailed) -> Self {
        match error {
            LoginFailed::Open(error) => error.into(),
            LoginFailed::Api(error) => error.into(),
            LoginFailed::Runtime(error) => error.into(),
            LoginFailed::File(error) => error.into(),
            LoginFailed::Random(error) => Self::internal(error),
            LoginFailed::Ssh(error) => Self::internal(error),
            LoginFailed::NoTouch | LoginFailed::NotFido2(_) | LoginFailed::Token(_) => {
                Self::no_input(error)
            }
            LoginFailed::NoCallback { .. } => Self::unavailable(error),
            LoginFailed::Late | LoginFailed::Refused(_) => Self::refused(error),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::config(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unreadable { .. } | KeyError::NotSigned { .. } => Self::no_input(error),
            KeyError::NotAKey { .. }
            | KeyError::NoPublicPart { .. }
            | KeyError::OtherKey { .. } => Self::data(error),
            KeyError::Exposed { .. } | KeyError::NoSshKeygen { .. } => Self::config(error),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused {
                status: 401 | 403, ..
            } => Self::refused(error),
            ApiError::Refused {
                status: 429 | 500..,
                ..
            } => Self::unavailable(error),
            ApiError::Refused { .. } => Self::data(error),
            ApiError::Unreachable { .. } | ApiError::Strange { .. } => Self::unavailable(error),
            ApiError::Untrusted { .. } => Self::refused(error),
            ApiError::Key(error) => error.into(),
            ApiError::Random(_) => Self::internal(error),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::OtherCa { .. } => Self::refused(error),
            ConnectError::NoKey => Self::no_input(error),
            ConnectError::Config(error) => error.into(),
            ConnectError::Key(error) => error.into(),
            ConnectError::Api(error) => error.into(),
            ConnectError::File(error) => error.into(),
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Api(error) => error.into(),
            SessionError::History(error) => error.into(),
            SessionError::Subject(error) => error.into(),
            SessionError::Runtime(error) => error.into(),
            SessionError::File(error) => error.into(),
            SessionError::Config(error) => error.into(),
            SessionError::Occupied { .. } => Self::output(error),
        }
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Rewritten { .. }
            | HistoryError::Checkpoint(_)
            | HistoryError::Unproven { .. } => Self::log(error),
            HistoryError::Unreadable { .. } | HistoryError::Damaged { .. } => Self::config(error),
            HistoryError::Config(error) => error.into(),
            HistoryError::Api(error) => error.into(),
            HistoryError::File(error) => error.into(),
        }
    }
}

impl From<ExportFailed> for Failure {
    fn from(error: ExportFailed) -> Self {
        match error {
            ExportFailed::Occupied { .. } => Self::output(error),
            ExportFailed::Bundle { .. } => Self::unavailable(error),
            ExportFailed::Unproven(_) => Self::log(error),
            ExportFailed::History(error) => error.into(),
            ExportFailed::Api(error) => error.into(),
            ExportFailed::File(error) => error.into(),
        }
    }
}

impl From<SubjectKeyError> for Failure {
    fn from(error: SubjectKeyError) -> Self {
        match error {
            SubjectKeyError::Key(error) => error.into(),
            SubjectKeyError::Unreadable { .. } => Self::no_input(error),
            SubjectKeyError::NotPkcs8 { .. } | SubjectKeyError::WrongKind => Self::data(error),
            SubjectKeyError::Random(_) | SubjectKeyError::Ssh(_) | SubjectKeyError::X509(_) => {
                Self::internal(error)
            }
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::output(error)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::config(error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::unavailable(error)
    }
}
