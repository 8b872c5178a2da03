//! The inbox in memory.
//!
//! - [`MemoryInbox`] is the public type. It shares [`Inner`](inner::Inner) with its workers.
//! - [`accept`]: an event comes in, is admitted, becomes a job in the queue and gets a worker if one is free.
//! - [`Queue`](queue::Queue): the jobs, the ids, the counts and the dead letters, under one lock. No user code runs under it.
//! - [`job_source`]: a worker takes a job and returns it after the attempt. [`retry`] lets the job wait for the next attempt.
//! - [`DeadLetterQueue`](dead_letter_queue::DeadLetterQueue): the dead letters, within limits of their own.
//! - [`control`] and [`dead_letters`]: what the handle does.

mod accept;
mod builder;
mod control;
mod dead_letter_queue;
mod dead_letters;
mod inner;
#[cfg(all(test, shuttle))]
mod interleavings;
mod job_source;
mod memory_inbox;
mod queue;
mod retry;

pub use self::builder::MemoryInboxBuilder;
pub use self::memory_inbox::MemoryInbox;
