use std::collections::HashMap;
use std::time::Duration;

use super::StartAt;
use super::subjects::is_plain;
use crate::delivery::DeliverySettings;
use crate::error::{Error, ErrorKind};
use crate::router::EventRouter;

/// The settings of a worker's group and consumers.
#[derive(Clone, Debug)]
pub(super) struct WorkerOptions {
    pub(super) group: String,
    pub(super) deliver_fallback: bool,
    pub(super) ack_wait: Duration,
    pub(super) first_start: StartAt,
    pub(super) new_routes: StartAt,
    pub(super) max_ack_pending: u32,
    pub(super) route_max_ack_pending: HashMap<String, u32>,
}

impl WorkerOptions {
    pub(super) fn new(group: String) -> Self {
        Self {
            group,
            deliver_fallback: false,
            ack_wait: Duration::from_secs(30),
            first_start: StartAt::Beginning,
            new_routes: StartAt::Now,
            max_ack_pending: 10_000,
            route_max_ack_pending: HashMap::new(),
        }
    }

    /// Returns an error if a consumer's name could clash with another group's, if the worker doesn't support an option, or if a
    /// setting names an unknown route.
    pub(super) fn check(
        &self,
        router: &EventRouter,
        delivery: &DeliverySettings,
    ) -> Result<(), Error> {
        let group = &self.group;
        // A hyphen separates the group from the route.
        if !is_plain(group) || group.contains('-') {
            let text = format!("a group is 1 to 64 characters from `A-Z a-z 0-9 _`, not {group:?}");
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        if delivery.order.is_set() {
            let text = "a JetStream worker doesn't support an ordering key: remove `ordering_key`, or use `SqliteInbox`";
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        if let Some(route) = router.routes().find(|route| route.is_once_per_key()) {
            let text = format!(
                "a JetStream worker doesn't support `once_per`, which the route {:?} has: remove the option, or use `SqliteInbox`",
                route.name()
            );
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        let mut names = self.route_max_ack_pending.keys();
        let unknown = names.find(|name| !router.routes().any(|route| route.name() == **name));
        match unknown {
            None => Ok(()),
            Some(name) => {
                let text =
                    format!("a setting names the route {name:?}, which the router doesn't have");
                Err(Error::new(ErrorKind::Route, text))
            }
        }
    }
}
