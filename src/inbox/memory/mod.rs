//! The inbox in memory.
//!
//! One lock guards the queue with its bounds and counts; user code never runs under it. While fewer
//! than N events are in delivery an accepted one gets a worker of its own, a task that takes the
//! oldest event that waits, delivers it, and goes on to the next until none waits. So there is no
//! dispatcher, and nothing to wake.

mod builder;
mod memory_inbox;
mod queue;
mod shared;
mod worker;

pub use self::builder::MemoryInboxBuilder;
pub use self::memory_inbox::MemoryInbox;
