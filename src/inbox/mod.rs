//! The interface between the receiver and the workers: an inbox stores each event before the sender gets a 200.

mod accept_error;
mod accepted;
mod dead_letters;
mod event_filter;
mod event_log;
mod event_rate;
mod handle;
mod health;
#[allow(clippy::module_inception)] // each type has its own file, and this type names the module
mod inbox;
mod inbox_info;
mod into_inbox;
#[cfg(feature = "jetstream")]
mod jetstream;
mod memory;
mod monitor;
#[cfg(feature = "postgres")]
mod postgres;
mod shutdown;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod stored_json;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod volume;

pub use self::accept_error::{AcceptError, AcceptErrorKind};
pub use self::accepted::Accepted;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::dead_letters::DeadEvents;
pub(crate) use self::dead_letters::DeadLetterStore;
pub use self::dead_letters::DeadLetters;
pub use self::event_filter::EventFilter;
pub use self::event_log::EventLog;
pub(crate) use self::event_log::EventStore;
pub(crate) use self::handle::InboxControl;
pub use self::handle::{Drained, Handle};
pub(crate) use self::health::{Findings, Fullness, HealthSource};
pub use self::health::{Health, HealthLimits, HealthProblem, HealthProblemKind};
pub use self::inbox::Inbox;
pub(crate) use self::inbox_info::InboxInfo;
pub use self::into_inbox::IntoInbox;
#[cfg(feature = "jetstream")]
pub use self::jetstream::{
    JetStreamInbox, JetStreamInboxBuilder, JetStreamWorker, JetStreamWorkerBuilder, StartAt,
    StreamSettings, WorkerStats,
};
pub use self::memory::{MemoryInbox, MemoryInboxBuilder};
pub(crate) use self::monitor::{Activity, Monitor, Monitored, evaluate};
#[cfg(feature = "postgres")]
pub use self::postgres::{Completion, PostgresInbox, PostgresInboxBuilder};
pub(crate) use self::shutdown::Drain;
pub use self::shutdown::Shutdown;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{
    SqliteFile, SqliteFileCheck, SqliteFileStats, SqliteInbox, SqliteInboxBuilder,
};
