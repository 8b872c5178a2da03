//! Finds and runs the handlers of an event. The docs of [`EventRouter`] contain the rules.
//!
//! Registering a route builds the table. The table has a list of routes for each documented event
//! type, and a tree of segments for all other names. So finding the routes of an event takes the
//! same time with ten routes as with ten thousand. For a documented event type, the search
//! allocates nothing.

mod event_router;
mod future;
mod handler;
mod once_per;
mod pattern;
mod route;
mod routes;
mod run_options;
mod run_timeout;
mod suggest;
mod table;

pub use self::event_router::EventRouter;
pub use self::future::RouterFuture;
pub use self::pattern::Pattern;
pub use self::route::Route;
