//! One delivery's life: an attempt of the event's routes within its time, the verdict, the hooks, the
//! counts; and what inboxes share that deliver by themselves: the workers, the line of events that wait
//! and their order, the ids that were taken.
//!
//! A worker is a task that takes the oldest event that waits, delivers it, hands it back to its inbox,
//! and goes on to the next until none waits.

mod attempt;
mod crew;
mod dead_letter;
mod deliverer;
#[allow(clippy::module_inception)] // the type of the module, in a file of its own like every other
mod delivery;
mod duplicates;
mod hooks;
mod job;
mod line;
mod progress;
mod retry_policy;
mod route_end;
mod settings;
mod stats;
mod worker;

pub(crate) use self::attempt::attempt;
pub(crate) use self::crew::{Crew, Hire};
pub use self::dead_letter::DeadLetter;
pub(crate) use self::deliverer::{Deliverer, EventService};
pub use self::delivery::{Delivery, Verdict};
pub(crate) use self::duplicates::{Duplicates, Fingerprint, Fingerprints};
pub(crate) use self::hooks::Hooks;
pub(crate) use self::job::{Job, OrderKey};
pub(crate) use self::line::Line;
pub(crate) use self::progress::{Next, Progress};
pub use self::retry_policy::RetryPolicy;
pub use self::route_end::RouteEnd;
pub(crate) use self::settings::{OrderBy, Settings, settings};
pub use self::stats::Stats;
pub(crate) use self::worker::{Desk, spawn, staff};
