//! The inbox in PostgreSQL, which any number of processes share.
//!
//! ```text
//! accept ─▶ Command::Accept ─▶ Writer ─ one statement a turn ─▶ PostgreSQL    200 after its commit
//!                               ▲  │
//!             Command::Complete │  ▼ leased events
//!                              workers of `delivery`          LeaseKeeper ─ heartbeat ─▶ PostgreSQL
//! ```
//!
//! The clones of an inbox share [`shared_inbox`]. A lock guards the [`state`], which has the events that this process has leased.
//!
//! The task of the [`writer`] stores events ([`accepting`]), records results ([`recording`]) and claims events ([`leasing`]), one statement
//! after another. The task of [`lease`] extends the lease of this process's worker, and releases the events of workers that died. Only
//! [`store`] contains SQL.

mod accepting;
mod builder;
mod command;
mod completion;
mod connection;
mod dead_letters;
mod error;
mod events;
mod health;
mod lease;
mod leasing;
mod monitored;
mod postgres_inbox;
mod recording;
mod settings;
mod shared_inbox;
mod state;
mod store;
mod writer;

pub use self::builder::PostgresInboxBuilder;
pub use self::completion::Completion;
pub use self::postgres_inbox::PostgresInbox;
use super::volume;
