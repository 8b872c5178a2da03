//! From an event to the closures that are registered for it: the rules are in the docs of
//! [`EventRouter`].
//!
//! The table of routes is built as they are registered: for each documented event type it holds the
//! list of its routes, and for other names a tree of segments. So to find an event's routes takes
//! the same time among ten as among ten thousand, and allocates nothing for a documented event
//! type.

mod event_router;
mod future;
mod handler;
mod pattern;
mod route;
mod table;

pub use self::event_router::EventRouter;
pub use self::future::RouterFuture;
pub use self::pattern::Pattern;
pub use self::route::Route;
