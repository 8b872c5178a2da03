//! Outcomes of attempts: the outcome of each route, the report of all routes, and the attempt's state, which survives a lost
//! report.
//!
//! This module knows routes by their names, and doesn't know events.

mod attempt_state;
mod handler_error;
mod into_outcome;
#[allow(clippy::module_inception)] // the type of the module, in a file of its own like every other
mod outcome;
mod report;

pub(crate) use self::attempt_state::{AttemptEnd, AttemptState, RouterRun};
pub use self::handler_error::HandlerError;
pub use self::into_outcome::{HandlerResult, IntoOutcome};
pub use self::outcome::Outcome;
pub(crate) use self::report::SERVICE;
pub use self::report::{Report, RouteReport};
