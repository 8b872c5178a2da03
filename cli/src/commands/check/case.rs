use futures_util::future::BoxFuture;

use super::checker::Checker;

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// A failure loses events, or gets the endpoint disabled.
    Must,
    /// A failure is a risk, or makes mistakes harder to find.
    Should,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
        }
    }
}

/// One question to an endpoint.
pub(super) struct Case {
    pub(super) id: &'static str,
    pub(super) level: Level,
    pub(super) title: &'static str,
    /// Why the case matters for this sender.
    pub(super) why: &'static str,
    /// If a gate fails, all later cases would fail for the same reason, so they are skipped.
    pub(super) is_gate: bool,
    pub(super) run: for<'a> fn(&'a Checker) -> BoxFuture<'a, Finding>,
}

/// The result of a case, with a text about the endpoint's answer.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    Passed(String),
    Failed(String),
    Skipped(String),
}

impl Finding {
    pub(super) fn when(good: bool, got: impl Into<String>) -> Self {
        match good {
            true => Self::Passed(got.into()),
            false => Self::Failed(got.into()),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
        }
    }

    pub(super) fn got(&self) -> &str {
        match self {
            Self::Passed(got) | Self::Failed(got) | Self::Skipped(got) => got,
        }
    }
}
