//! One delivery's life: an attempt of the event's routes within its time, the verdict, the hooks,
//! the counts.

mod attempt;
#[allow(clippy::module_inception)] // the type of the module, in a file of its own like every other
mod delivery;
mod duplicates;
mod hooks;
mod progress;
mod retry_policy;
mod stats;

pub(crate) use self::attempt::attempt;
pub use self::delivery::{Delivery, Verdict};
pub(crate) use self::duplicates::{Duplicates, Fingerprint, Fingerprints};
pub(crate) use self::hooks::Hooks;
pub(crate) use self::progress::{Next, Progress};
pub use self::retry_policy::RetryPolicy;
pub use self::stats::Stats;
