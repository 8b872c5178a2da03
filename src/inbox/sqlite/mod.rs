//! The inbox on disk.
//!
//! ```text
//! accept ─▶ Mailbox ─▶ Writer ─ one transaction ─▶ Store     the 200 comes after its commit
//!                        │ ▲
//!        what may run    │ │  what has ended or is to be tried again
//!                        ▼ │
//!                      Window ─▶ the workers of `delivery`
//! ```
//!
//! One thread owns the database: [`writer`] takes all that waits in its mailbox into one transaction,
//! and [`schedule`] says what is loaded next. Only a [`window`] of the events is in memory.

mod arrivals;
mod builder;
mod commit;
mod dead_letters;
mod desk;
mod events_table;
mod faults;
mod file;
mod graveyard;
mod health;
mod ids_table;
mod letters_table;
mod load;
mod mailbox;
mod opener;
mod prune;
mod schedule;
mod schema;
mod sqlite_inbox;
mod store;
mod stored;
mod window;
mod writer;

pub use self::builder::SqliteInboxBuilder;
pub use self::sqlite_inbox::SqliteInbox;
