//! The limits of routes: how many handlers of a route run at once, and how often a route runs for one key.
//!
//! Before the router runs a route with limits, it asks the route's [`RouteLimit`]. The route either gets a [`RunPermit`],
//! skips the event, or gets a [`Ticket`] and waits. A waiting route isn't part of the attempt, so its event occupies no
//! worker. When the limit lets the event run, it wakes the event through its inbox.

mod limited_attempt;
mod route_limit;
mod route_limits;
mod semaphore;
mod used_keys;

pub(crate) use self::limited_attempt::{LimitedAttempt, Permission, Postponed};
pub(crate) use self::route_limit::{Answer, RunPermit, Ticket};
pub(crate) use self::route_limits::RouteLimits;
pub(crate) use self::used_keys::{RunKey, UsedKey};
