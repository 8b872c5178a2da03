use std::fmt;
use std::process::ExitCode;

/// The result of a command that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Success {
    /// Everything is as it should be.
    Good,
    /// The command did its work, and found or caused something bad.
    Bad,
}

impl Success {
    pub(crate) fn when(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }

    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Good => 0,
            Self::Bad => 1,
        })
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    message: String,
}

#[derive(Clone, Copy, Debug)]
enum FailureKind {
    Usage,
    Unavailable,
}

impl Failure {
    /// An argument or an input file is wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self {
            kind: FailureKind::Usage,
            message,
        }
    }

    /// The endpoint, or a file or folder, can't be reached or used.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self {
            kind: FailureKind::Unavailable,
            message,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            FailureKind::Usage => 2,
            FailureKind::Unavailable => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
