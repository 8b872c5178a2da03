//! Runs accepted events: attempts, retries, ordering keys, dead letters and counts, for every inbox.
//!
//! - An inbox stores an event as a [`Job`] and spawns a [`worker`] if its [`WorkerPool`] has a free slot.
//! - The worker takes one job after another from its [`JobSource`], which is the inbox.
//! - The [`JobExecutor`] makes an attempt ([`run_attempt`]): it calls the [`ErasedService`] within `attempt_timeout`.
//! - The job's [`Progress`] applies the [`RetryPolicy`](crate::RetryPolicy) and decides whether to retry. The [`Hooks`] receive an [`Attempt`].
//! - The worker returns the job to its source. The source counts the [`EventOutcome`] in [`Stats`], stores a [`DeadLetter`],
//!   or holds the job until its next attempt.
//!
//! Inboxes share two more types: [`KeyedQueue`] orders jobs, and [`SeenIds`] remembers the ids of accepted events.

mod attempt;
mod attempt_record;
mod erased_service;
mod event_outcome;
mod event_record;
mod event_state;
mod hooks;
mod job;
mod job_executor;
mod keyed_queue;
mod order_by;
mod progress;
mod replay;
mod route_failures;
mod route_result;
mod run_attempt;
mod seen_ids;
mod settings;
mod stats;
mod unmatched;
mod worker;
mod worker_pool;

pub use self::attempt::Attempt;
pub use self::attempt_record::AttemptRecord;
pub(crate) use self::erased_service::ErasedService;
pub use self::event_outcome::EventOutcome;
pub(crate) use self::event_record::StoredRecord;
pub use self::event_record::{EventRecord, EventRecord as DeadLetter};
pub use self::event_state::EventState;
pub(crate) use self::hooks::Hooks;
pub(crate) use self::job::{Job, OrderKey};
pub(crate) use self::job_executor::JobExecutor;
pub(crate) use self::keyed_queue::KeyedQueue;
pub(crate) use self::order_by::OrderBy;
pub(crate) use self::progress::{Next, Progress, Wait, Waiting};
pub use self::replay::Replay;
pub(crate) use self::route_failures::RouteFailures;
pub use self::route_result::RouteResult;
pub(crate) use self::run_attempt::run_attempt;
pub(crate) use self::seen_ids::{Admission, Fingerprint, Fingerprints, SeenIds};
pub use self::settings::DeliverySettings;
pub use self::stats::Stats;
pub(crate) use self::worker::{AttemptResult, JobSource, spawn, spawn_workers};
pub(crate) use self::worker_pool::{WorkerPool, WorkerSlot};
