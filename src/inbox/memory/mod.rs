//! The inbox in memory.
//!
//! One lock guards the queue with its bounds, counts and dead letters; user code never runs under it.

mod builder;
mod dead_letter_queue;
mod dead_letters;
mod deliveries;
mod inner;
#[cfg(all(test, shuttle))]
mod interleavings;
mod memory_inbox;
mod queue;
mod retrying;

pub use self::builder::MemoryInboxBuilder;
pub use self::memory_inbox::MemoryInbox;
