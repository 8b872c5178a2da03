//! Outcomes of attempts: the outcome of each route, the report of all routes, and the attempt's state, which survives a lost
//! report.
//!
//! This module identifies routes by name and doesn't depend on events.

mod attempt_state;
mod handler_error;
mod into_outcome;
#[cfg(feature = "postgres")]
mod lease;
mod limits;
#[allow(clippy::module_inception)] // each type has its own file, and this type names the module
mod outcome;
mod report;
mod retry_policy;
mod route_options;
mod skip_reason;

pub(crate) use self::attempt_state::{AttemptEnd, AttemptState, RouterRun};
pub use self::handler_error::HandlerError;
pub use self::into_outcome::{HandlerResult, IntoOutcome};
#[cfg(feature = "postgres")]
pub(crate) use self::lease::Lease;
pub(crate) use self::limits::{
    LimitedAttempt, Permission, Postponed, RouteLimits, RunKey, RunPermit, Ticket, UsedKey,
};
pub use self::outcome::Outcome;
pub use self::report::Report;
pub(crate) use self::report::{RouteReport, SERVICE};
pub use self::retry_policy::RetryPolicy;
pub(crate) use self::route_options::RouteOptions;
pub use self::skip_reason::SkipReason;
