/// The routes that a replay runs.
///
/// A replay runs the routes that match the event at the time of the replay. A route that has been
/// renamed counts as another route.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay {
    /// All routes except the routes that have handled the event.
    Remaining,
    /// All routes, including the routes that have handled the event.
    All,
    /// Only the route with this name, even if the route has handled the event. Other routes keep their results, so a dead letter
    /// stays dead if another route failed.
    Only(String),
}
