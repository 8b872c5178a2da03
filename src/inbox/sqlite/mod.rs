//! The inbox on disk.
//!
//! ```text
//! accept ─▶ Admissions ─▶ Command::Accept ─▶ Writer ─ one transaction a turn ─▶ Store    200 after its commit
//!               │                             ▲  │
//!      a copy or a refusal:   Command::Complete  │ one update of the state a turn
//!       answered at once                      │  ▼
//!                              workers of `delivery` ◀─ Window ◀─ Loader
//! ```
//!
//! The clones of an inbox share [`shared_inbox`]. A lock guards the [`state`]: [`admissions`] decides which events the
//! inbox accepts, and [`window`] holds the events in memory. The thread of the [`writer`] owns the [`database`]:
//! [`command_queue`] gathers the commands of a turn, [`batch`] writes them, and [`outbox`] sends the answers. [`loader`] loads
//! events in the order of the [`schedule`]. Only [`store`] knows SQL.
//!
//! [`sqlite_file`] reads a file while a process owns it, and changes a file that no process owns.

mod admissions;
mod batch;
mod builder;
mod command;
mod command_queue;
mod database;
mod database_lock;
mod dead_letters;
mod error;
mod events;
mod file_events;
mod file_identity;
mod file_lock;
mod file_report;
mod health;
mod loader;
mod lock_owner;
mod matching;
mod monitored;
mod outbox;
mod park;
mod path;
mod schedule;
mod settings;
mod shared_inbox;
mod sqlite_file;
mod sqlite_inbox;
mod state;
mod store;
mod window;
mod writer;

pub use self::builder::SqliteInboxBuilder;
pub use self::file_report::{SqliteFileCheck, SqliteFileStats};
pub use self::sqlite_file::SqliteFile;
pub use self::sqlite_inbox::SqliteInbox;
use super::volume;
