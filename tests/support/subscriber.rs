//! A tracing subscriber for one test, beside others in the same process.

use std::sync::OnceLock;

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};

/// Tells `subscriber` what this thread logs, until the guard is dropped.
///
/// With a single subscriber in the process, whether a line is logged at all is up to the thread that comes to it first,
/// which may be that of a test without one: so there is a second subscriber throughout.
pub(crate) fn set<S>(subscriber: S) -> DefaultGuard
where
    S: tracing::Subscriber + Send + Sync + 'static,
{
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(NoSubscriber::default()));
    set_default(subscriber)
}
