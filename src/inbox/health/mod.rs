//! The health of an inbox and its receivers: what is wrong, since when, and what to do.
//!
//! Inboxes, receivers and workers implement [`HealthSource`]. The monitor (`src/inbox/monitor.rs`) collects their [`Findings`].

mod findings;
mod fullness;
#[allow(clippy::module_inception)] // each type has its own file, and this type names the module
mod health;
mod limits;
mod problem;

pub(crate) use self::findings::{Findings, HealthSource};
pub(crate) use self::fullness::Fullness;
pub use self::health::Health;
pub use self::limits::HealthLimits;
pub use self::problem::{HealthProblem, HealthProblemKind};
