use std::sync::Arc;

use super::{Answer, RouteLimits, RunKey, RunPermit, Ticket, UsedKey};
use crate::outcome::{RouteOptions, SkipReason};

/// The part of an attempt's state that routes with limits need.
#[derive(Debug)]
pub(crate) struct LimitedAttempt {
    limits: Arc<RouteLimits>,
    /// The number of the event in its inbox.
    event: u64,
    /// The tickets from earlier attempts.
    tickets: Vec<(Arc<str>, Ticket)>,
    postponed: Vec<Postponed>,
    used: Vec<UsedKey>,
}

/// A route that waits until its limits let it run. The route isn't part of the attempt.
#[derive(Debug)]
pub(crate) struct Postponed {
    pub(crate) route: Arc<str>,
    pub(crate) options: Arc<RouteOptions>,
    pub(crate) ticket: Ticket,
}

/// Whether a route with limits runs.
pub(crate) enum Permission {
    Run(RunPermit),
    Skip(SkipReason),
    Postpone,
}

impl LimitedAttempt {
    pub(crate) fn new(
        limits: Arc<RouteLimits>,
        event: u64,
        tickets: Vec<(Arc<str>, Ticket)>,
    ) -> Self {
        Self {
            limits,
            event,
            tickets,
            postponed: Vec::new(),
            used: Vec::new(),
        }
    }

    /// Returns the number of the event in its inbox.
    pub(crate) fn event(&self) -> u64 {
        self.event
    }

    /// Returns whether a route has waited for its limits before.
    pub(crate) fn has_waited(&self) -> bool {
        !self.tickets.is_empty()
    }

    /// Decides whether a route runs now.
    pub(crate) fn decide(
        &mut self,
        route: &Arc<str>,
        options: &Arc<RouteOptions>,
        key: Option<RunKey>,
    ) -> Permission {
        // If a layer calls the router again, the route asks again.
        let postponed = self.postponed.iter();
        let asked = postponed
            .map(|postponed| &postponed.route)
            .position(|each| each == route);
        let ticket = match asked {
            Some(index) => Some(self.postponed.swap_remove(index).ticket),
            None => {
                let index = self.tickets.iter().position(|(each, _)| each == route);
                index.map(|index| self.tickets.swap_remove(index).1)
            }
        };
        let concurrency = options.concurrency;
        match self.limits.ask(route, concurrency, self.event, key, ticket) {
            Answer::Run(permit) => Permission::Run(permit),
            Answer::Skip(reason) => Permission::Skip(reason),
            Answer::Wait(ticket) => {
                let (route, options) = (Arc::clone(route), Arc::clone(options));
                self.postponed.push(Postponed {
                    route,
                    options,
                    ticket,
                });
                Permission::Postpone
            }
        }
    }

    /// Records that a route with limits has handled the event at `now`, in milliseconds since the Unix epoch.
    pub(crate) fn succeed(&mut self, permit: &mut RunPermit, now: u64) {
        self.used.extend(permit.succeed(now));
    }

    /// Takes the routes that wait, and the tickets of the routes that didn't ask again. The caller drops these tickets: a user may
    /// keep the attempt's event, and a kept ticket would occupy its route.
    pub(crate) fn take_postponed(&mut self) -> (Vec<Postponed>, Vec<(Arc<str>, Ticket)>) {
        let (postponed, tickets) = (&mut self.postponed, &mut self.tickets);
        (std::mem::take(postponed), std::mem::take(tickets))
    }

    /// Takes the keys that the attempt used.
    pub(crate) fn take_used(&mut self) -> Vec<UsedKey> {
        std::mem::take(&mut self.used)
    }
}
