//! The seam between the front door and the deliveries: who owns an event once it is answered.

mod dead_letters;
mod handle;
#[allow(clippy::module_inception)] // the trait of the module, in a file of its own like every type
mod inbox;
mod into_inbox;
#[cfg(feature = "jetstream")]
mod jetstream;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use self::dead_letters::{DeadLetterStore, DeadLetters};
pub use self::handle::{Drained, Handle, InboxControl};
pub use self::inbox::{AcceptError, AcceptErrorKind, Accepted, Inbox};
pub use self::into_inbox::IntoInbox;
#[cfg(feature = "jetstream")]
pub use self::jetstream::{
    JetStreamInbox, JetStreamInboxBuilder, JetStreamWorker, JetStreamWorkerBuilder, StartAt,
    StreamSettings, WorkerStats,
};
pub use self::memory::{MemoryInbox, MemoryInboxBuilder};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteInbox, SqliteInboxBuilder};
