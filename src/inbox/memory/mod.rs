//! The inbox in memory.
//!
//! - [`MemoryInbox`] is the public type. The inbox shares [`MemoryInner`](inner::MemoryInner) with its workers.
//! - [`accept`] admits an event, queues a job for it, and spawns a worker if a slot is free.
//! - [`Queue`](queue::Queue) holds the jobs, the ids, the counts and the dead letters, under one lock. No user code runs
//!   under the lock.
//! - [`job_source`]: a worker takes a job and returns the job after the attempt. [`retry`] holds the job until the next
//!   attempt.
//! - [`DeadLetterQueue`](dead_letter_queue::DeadLetterQueue) holds the dead letters, within separate limits.
//! - [`Log`](log::Log) holds the events that have started, and the handled events that ended last.
//! - [`Ages`](ages::Ages) knows the age of the oldest event in flight.
//! - [`control`] and [`events`] implement the operations of the handle, and [`monitored`] finds problems.

mod accept;
mod ages;
mod builder;
mod control;
mod dead_letter_queue;
mod entry;
mod events;
mod inner;
#[cfg(all(test, shuttle))]
mod interleavings;
mod job_source;
mod limits;
mod log;
mod memory_inbox;
mod monitored;
mod park;
mod parked;
mod queue;
mod retry;

pub use self::builder::MemoryInboxBuilder;
pub use self::memory_inbox::MemoryInbox;
