//! One delivery's life: an attempt of the event's routes within its time, the event_outcome, the hooks, the
//! counts; and what inboxes share that deliver by themselves: the workers, the line of events that wait
//! and their order, the ids that were taken.
//!
//! A worker is a task that takes the oldest event that waits, delivers it, hands it back to its inbox,
//! and goes on to the next until none waits.

mod attempt;
mod job_executor;
mod keyed_queue;
mod route_result;
mod run_attempt;
mod seen_ids;
mod worker_pool;

mod dead_letter;

mod erased_service;
mod hooks;
mod job;

mod progress;
mod retry_policy;

mod settings;
mod stats;
mod worker;

pub use self::attempt::{Attempt, EventOutcome};
pub use self::dead_letter::DeadLetter;
pub(crate) use self::erased_service::ErasedService;
pub(crate) use self::hooks::Hooks;
pub(crate) use self::job::{Job, OrderKey};
pub(crate) use self::job_executor::JobExecutor;
pub(crate) use self::keyed_queue::KeyedQueue;
pub(crate) use self::progress::{Next, Progress};
pub use self::retry_policy::RetryPolicy;
pub use self::route_result::RouteResult;
pub(crate) use self::run_attempt::run_attempt;
pub(crate) use self::seen_ids::{Admission, Fingerprint, Fingerprints, SeenIds};
pub(crate) use self::settings::{OrderBy, Settings, settings};
pub use self::stats::Stats;
pub(crate) use self::worker::{JobSource, spawn, spawn_workers};
pub(crate) use self::worker_pool::{WorkerPool, WorkerSlot};
