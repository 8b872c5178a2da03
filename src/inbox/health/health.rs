use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::HealthProblem;

/// The health of an inbox and its receivers at one moment: a list of problems, which is empty if all is well.
///
/// [`Handle::health`](crate::Handle::health) returns the health, and hooks of
/// [`on_health_change`](crate::Handle::on_health_change) receive it.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{EventRouter, WebhookLayer};
///
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", EventRouter::new());
/// for problem in webhooks.handle().health().problems() {
///     eprintln!("{problem}");
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Health {
    problems: Arc<[HealthProblem]>,
}

impl Health {
    /// Returns the health with these problems. The most severe kinds come first.
    pub(super) fn new(mut problems: Vec<HealthProblem>) -> Self {
        problems.sort_by(|a, b| (a.kind(), a.route()).cmp(&(b.kind(), b.route())));
        Self {
            problems: problems.into(),
        }
    }

    /// Returns whether there is no problem.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns the problems, ordered by kind.
    #[must_use]
    pub fn problems(&self) -> &[HealthProblem] {
        &self.problems
    }

    /// Returns whether the inbox accepts new events. Use this for a readiness probe.
    ///
    /// Returns false while the inbox drains, is full or can't store events. Requests that a client sends without the secret
    /// don't change the result.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.problems.iter().any(HealthProblem::refuses_events)
    }

    /// Returns whether the process should continue. Use this for a liveness probe.
    ///
    /// Returns false only if the thread of a `SqliteInbox` has ended, because then a restart solves the problem and loses
    /// nothing.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.problems.iter().any(HealthProblem::needs_restart)
    }
}

/// Writes `ok`, or one line for each problem.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            return f.write_str("ok");
        }
        for (i, problem) in self.problems.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

/// Serializes the members `ok`, `ready`, `live` and `problems`.
impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut health = serializer.serialize_struct("Health", 4)?;
        health.serialize_field("ok", &self.is_ok())?;
        health.serialize_field("ready", &self.is_ready())?;
        health.serialize_field("live", &self.is_live())?;
        health.serialize_field("problems", self.problems())?;
        health.end()
    }
}
