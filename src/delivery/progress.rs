use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{EventOutcome, Replay, RouteResult};
use crate::event::Event;
use crate::outcome::{
    AttemptEnd, AttemptState, Outcome, Postponed, Report, RetryPolicy, RouteOptions, RouteReport,
    SERVICE, SkipReason, Ticket, UsedKey,
};
use crate::runtime::SystemClock;

/// The progress of an event: the number of its next attempt, and the routes that don't run again.
///
/// Only the names of finished routes are kept. A retry runs the routes that match the event at that time, except the
/// finished routes. If a route was renamed since the last attempt, the route may run twice, but no route is skipped.
#[derive(Debug)]
pub(crate) struct Progress {
    attempt: NonZeroU32,
    /// Absent until a route finishes or fails, so an event that is waiting for its first attempt needs no allocation.
    routes: Option<Box<RouteProgress>>,
}

#[derive(Debug, Default)]
struct RouteProgress {
    /// The results of the finished routes.
    results: Vec<RouteResult>,
    /// The routes that will run: they failed, or they wait for their limits.
    waiting: Vec<Waiting>,
    /// The tickets of the routes that wait for their limits.
    tickets: Vec<(Arc<str>, Ticket)>,
    /// How long the event has waited for limits since its last attempt that counts.
    waited: Duration,
    /// The keys that the last attempt used. A durable inbox stores them with the attempt's result.
    used_keys: Vec<UsedKey>,
    /// The only route that may run, if a replay names one.
    only: Option<Arc<str>>,
}

/// A route that failed and will be retried, or that waits for its limits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) route: Arc<str>,
    /// The number of attempts that the route has had.
    pub(crate) attempts: u32,
    /// How long the route isn't due after the event's next attempt. 0 if the route runs in that attempt.
    pub(crate) delay: Duration,
    /// Absent if the route has no options, or if the inbox has reloaded the event since the route ran.
    options: Option<Arc<RouteOptions>>,
}

impl Waiting {
    /// Returns a route that an inbox has stored.
    pub(crate) fn stored(route: Arc<str>, attempts: u32, delay: Duration) -> Self {
        Self {
            route,
            attempts,
            delay,
            options: None,
        }
    }
}

/// Represents waiting routes whose names weren't stored: the routes that match when the event runs again.
const OTHERS: &str = "the remaining routes";

/// The next step after an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Another attempt follows after this delay.
    Retry(Duration),
    /// A route waits for its limits. Another attempt follows when a limit lets the route run.
    Wait(Wait),
    /// The event has ended.
    End(EventOutcome),
}

/// How an event waits for the limits of a route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Whether a route ran in the attempt. Otherwise, the attempt doesn't count.
    pub(crate) has_run: bool,
    /// The delay after which another route of the event is due, if one is retried.
    pub(crate) retry: Option<Duration>,
}

impl Progress {
    /// Returns the progress of an event before its first attempt.
    pub(crate) fn new() -> Self {
        Self {
            attempt: NonZeroU32::MIN,
            routes: None,
        }
    }

    /// Returns the progress of a stored event. `waiting` is true if further routes wait for the attempt.
    pub(crate) fn restored(attempt: NonZeroU32, results: Vec<RouteResult>, waiting: bool) -> Self {
        let others = waiting.then(|| {
            let attempts = attempt.get() - 1;
            Waiting::stored(Arc::from(OTHERS), attempts, Duration::ZERO)
        });
        let waiting: Vec<_> = others.into_iter().collect();
        let nothing = results.is_empty() && waiting.is_empty();
        Self {
            attempt,
            routes: (!nothing).then(|| {
                Box::new(RouteProgress {
                    results,
                    waiting,
                    ..RouteProgress::default()
                })
            }),
        }
    }

    /// Returns the progress with these waiting routes, if there are any.
    pub(crate) fn with_waiting(mut self, waiting: Vec<Waiting>) -> Self {
        if !waiting.is_empty() {
            self.routes.get_or_insert_default().waiting = waiting;
        }
        self
    }

    /// Returns the progress with `only` as the only route that may run.
    pub(crate) fn limited_to(mut self, only: Option<Arc<str>>) -> Self {
        if only.is_some() {
            self.routes.get_or_insert_default().only = only;
        }
        self
    }

    /// Returns the progress of a replayed event whose routes ended with these results.
    pub(crate) fn replay(results: &[RouteResult], routes: &Replay) -> Self {
        let stays = |result: &&RouteResult| match routes {
            Replay::Remaining => !result.is_failure(),
            Replay::All => false,
            Replay::Only(route) => *result.route != **route,
        };
        let results = results.iter().filter(stays).cloned().collect();
        let only = match routes {
            Replay::Only(route) => Some(Arc::from(route.as_str())),
            Replay::Remaining | Replay::All => None,
        };
        Self::restored(NonZeroU32::MIN, results, false).limited_to(only)
    }

    /// Returns the state of the next attempt.
    pub(crate) fn attempt_state(&self, clock: SystemClock) -> AttemptState {
        let finished = self
            .results()
            .iter()
            .map(|result| &result.route)
            .chain(self.not_due())
            .cloned();
        let only = self.routes.as_ref().and_then(|routes| routes.only.clone());
        let state = AttemptState::new(self.attempt, finished.collect());
        state.limited_to(only).with_clock(clock)
    }

    /// Adds the report of an attempt at the event, and returns the next step. `postponed` contains the routes that wait for their
    /// limits. `default` is the policy of routes without a policy.
    pub(crate) fn advance(
        &mut self,
        report: &Report,
        postponed: Vec<Postponed>,
        default: &RetryPolicy,
        event: &Event,
        clock: &SystemClock,
        duration: Duration,
    ) -> Next {
        if self.routes.is_none() && postponed.is_empty() && report.is_success() {
            return Next::End(self.event_outcome(report));
        }
        let attempt = self.attempt;
        let routes = self.routes.get_or_insert_default();
        let earlier = std::mem::take(&mut routes.waiting);
        let mut retries = Retries::default();
        for each in report.routes() {
            let known = earlier.iter().find(|known| *known.route == *each.route());
            let number = known.map_or(attempt, Waiting::next_attempt);
            let outcome = each.outcome();
            let policy = RouteOptions::policy(each.options().map(|options| &**options), default);
            if policy.is_last(number) || !outcome.is_retryable() {
                routes.finish(each, report);
                continue;
            }
            let requested = match outcome {
                Outcome::Failed(error) => error.delay(),
                _ => None,
            };
            if let Some(options) = each.options() {
                let delay = policy.delay(number, event.id(), requested);
                let age_at_retry = || event.age(clock.now()).saturating_add(delay);
                if let Some(reason) = options.skips(age_at_retry) {
                    let result = RouteResult::skipped_after(each.name(), &reason, outcome);
                    routes.results.push(result);
                    continue;
                }
            }
            retries.add(each.name(), each.options().cloned(), number, requested);
        }
        let has_run = !report.routes().is_empty() || postponed.is_empty();
        // A layer may call the router twice at once. The second call then waited for the first.
        let postponed = postponed.into_iter();
        for each in postponed.filter(|each| report.get(&each.route).is_none()) {
            let known = earlier.iter().find(|known| known.route == each.route);
            routes.waiting.push(Waiting {
                route: Arc::clone(&each.route),
                attempts: known.map_or(attempt.get() - 1, |known| known.attempts),
                delay: Duration::ZERO,
                options: Some(each.options),
            });
            routes.tickets.push((each.route, each.ticket));
        }
        for waiting in earlier {
            if report.get(&waiting.route).is_some() || routes.has_ticket(&waiting.route) {
                continue;
            }
            if !waiting.delay.is_zero() {
                let delay = waiting.delay.saturating_sub(duration);
                routes.waiting.push(Waiting { delay, ..waiting });
                continue;
            }
            if !report.is_routerless() {
                // The route no longer matches the event.
                continue;
            }
            // A layer didn't call the router, so the route didn't run. The attempt still counts.
            let number = waiting.next_attempt();
            let policy = RouteOptions::policy(waiting.options.as_deref(), default);
            if policy.is_last(number) {
                // The route has no outcome. It fails with the outcome that kept the router from running.
                let outcome = report.failures().next().map(|each| each.outcome().clone());
                let outcome = outcome.unwrap_or(Outcome::Dropped);
                let failed = RouteResult::failed(waiting.route, &outcome);
                routes.results.push(failed);
            } else {
                retries.add(waiting.route, waiting.options, number, None);
            }
        }
        routes.waiting.extend(retries.waiting(default, event.id()));
        if !routes.tickets.is_empty() {
            let retry = routes.retrying().map(|waiting| waiting.delay).min();
            if has_run {
                self.attempt = self.attempt.saturating_add(1);
                routes.waited = Duration::ZERO;
            }
            return Next::Wait(Wait { has_run, retry });
        }
        let Some(delay) = routes.waiting.iter().map(|waiting| waiting.delay).min() else {
            return Next::End(self.event_outcome(report));
        };
        for waiting in &mut routes.waiting {
            waiting.delay -= delay;
        }
        self.attempt = self.attempt.saturating_add(1);
        Next::Retry(delay)
    }

    /// Adds the report of the last attempt, regardless of the retry policy.
    pub(crate) fn fail(&mut self, report: &Report, postponed: Vec<Postponed>) -> EventOutcome {
        let routes = self.routes.get_or_insert_default();
        let waiting = std::mem::take(&mut routes.waiting);
        routes.tickets.clear();
        for each in postponed {
            let failed = RouteResult::failed(each.route, &Outcome::Dropped);
            routes.results.push(failed);
        }
        for each in report.routes() {
            routes.finish(each, report);
        }
        // The routes that weren't due didn't run.
        for waiting in waiting
            .into_iter()
            .filter(|waiting| !waiting.delay.is_zero())
        {
            let failed = RouteResult::failed(waiting.route, &Outcome::Dropped);
            routes.results.push(failed);
        }
        self.event_outcome(report)
    }

    /// Ends an attempt that the runtime dropped and that will be repeated. Adds its handled routes and the keys that it used, and
    /// gives up the places in the queues of routes.
    pub(crate) fn interrupt(&mut self, attempt_state: &AttemptState) -> Report {
        let report = attempt_state.close(&AttemptEnd::Lost(Outcome::Dropped));
        let handled = report.routes().iter();
        let handled = handled.filter(|each| each.outcome().is_handled());
        let routes = self.routes.get_or_insert_default();
        routes
            .results
            .extend(handled.map(|each| RouteResult::done(each.name())));
        self.add_used_keys(attempt_state.take_used());
        drop(attempt_state.take_postponed());
        report
    }

    /// Returns the number of the attempt that `next` follows.
    pub(crate) fn last_attempt(&self, next: Next) -> u32 {
        // If another attempt follows, this progress has already counted it.
        let is_counted = match next {
            Next::Retry(_) => true,
            Next::Wait(wait) => wait.has_run,
            Next::End(_) => false,
        };
        self.attempts() - u32::from(is_counted)
    }

    /// Ends the event and drops the routes that are waiting for the next attempt.
    pub(crate) fn abandon(&mut self) -> Report {
        let routes = self.routes.get_or_insert_default();
        let waiting = std::mem::take(&mut routes.waiting).into_iter();
        let report = Report::dropped(waiting.map(|waiting| waiting.route));
        self.fail(&report, Vec::new());
        // The attempt that `advance` counted never started.
        self.attempt = NonZeroU32::new(self.attempt.get() - 1).unwrap_or(NonZeroU32::MIN);
        report
    }

    /// Takes the tickets of the routes that wait for their limits.
    pub(crate) fn take_tickets(&mut self) -> Vec<(Arc<str>, Ticket)> {
        let tickets = self.routes.as_mut().map(|routes| &mut routes.tickets);
        tickets.map(std::mem::take).unwrap_or_default()
    }

    /// Returns whether a route waits for its limits.
    pub(crate) fn is_waiting_for_limits(&self) -> bool {
        let routes = self.routes.as_ref();
        routes.is_some_and(|routes| !routes.tickets.is_empty())
    }

    /// Lets the limits of the routes call the event from now on. Returns whether a route may run now.
    pub(crate) fn park(&self) -> bool {
        let tickets = self.routes.iter().flat_map(|routes| &routes.tickets);
        tickets.fold(false, |called, (_, ticket)| ticket.park() || called)
    }

    /// Continues an event that has waited for the limits of a route. Subtracts the time from the delays of the routes that are
    /// retried.
    pub(crate) fn elapse(&mut self, waited: Duration) {
        let Some(routes) = &mut self.routes else {
            return;
        };
        routes.waited = routes.waited.saturating_add(waited);
        for waiting in &mut routes.waiting {
            waiting.delay = waiting.delay.saturating_sub(waited);
        }
    }

    /// Returns the tickets to an event that an inbox has loaded again.
    #[cfg(feature = "sqlite")]
    pub(crate) fn set_tickets(&mut self, tickets: Vec<(Arc<str>, Ticket)>) {
        self.routes.get_or_insert_default().tickets = tickets;
    }

    /// Returns how long the event has waited for limits since its last attempt that counts.
    #[cfg(feature = "sqlite")]
    pub(crate) fn waited(&self) -> Duration {
        let routes = self.routes.as_ref();
        routes.map_or(Duration::ZERO, |routes| routes.waited)
    }

    /// Adds the keys that an attempt used.
    pub(crate) fn add_used_keys(&mut self, used: Vec<UsedKey>) {
        if !used.is_empty() {
            self.routes.get_or_insert_default().used_keys.extend(used);
        }
    }

    /// Takes the keys that the last attempt used.
    #[cfg(feature = "sqlite")]
    pub(crate) fn take_used_keys(&mut self) -> Vec<UsedKey> {
        let used = self.routes.as_mut().map(|routes| &mut routes.used_keys);
        used.map(std::mem::take).unwrap_or_default()
    }

    /// Returns the number of the next attempt, or of the last attempt if none follows.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempt.get()
    }

    /// Returns whether routes of a router wait for the next attempt.
    pub(crate) fn is_routed(&self) -> bool {
        let mut waiting = self.routes.iter().flat_map(|routes| &routes.waiting);
        waiting.any(|waiting| *waiting.route != *SERVICE)
    }

    /// Returns the routes that aren't due in the next attempt.
    fn not_due(&self) -> impl Iterator<Item = &Arc<str>> {
        let waiting = self.routes.iter().flat_map(|routes| &routes.waiting);
        let not_due = waiting.filter(|waiting| !waiting.delay.is_zero());
        not_due.map(|waiting| &waiting.route)
    }

    /// Returns how long after the event's next attempt the next attempt of a route is due, or `None` if the route isn't retried.
    pub(crate) fn delay_of(&self, route: &str) -> Option<Duration> {
        let mut waiting = self.routes.iter().flat_map(|routes| &routes.waiting);
        let waiting = waiting.find(|waiting| *waiting.route == *route)?;
        Some(waiting.delay)
    }

    /// Returns the waiting routes, if one of them has other delays or other attempts than the event.
    pub(crate) fn uneven(&self) -> Option<&[Waiting]> {
        let waiting = &self.routes.as_ref()?.waiting;
        let is_uneven =
            |each: &Waiting| !each.delay.is_zero() || each.next_attempt() != self.attempt;
        waiting.iter().any(is_uneven).then_some(waiting)
    }

    /// Returns the results of the finished routes.
    pub(crate) fn results(&self) -> &[RouteResult] {
        self.routes.as_ref().map_or(&[], |routes| &routes.results)
    }

    /// Returns why a route that failed doesn't run again, if an option of the route decided so.
    pub(crate) fn skip(&self, route: &str) -> Option<SkipReason> {
        let mut results = self.results().iter();
        let skipped = results.any(|result| *result.route == *route && result.is_skipped());
        // Only the age of the event ends a route after its handler ran.
        skipped.then_some(SkipReason::Stale)
    }

    fn event_outcome(&self, report: &Report) -> EventOutcome {
        if self.results().iter().any(RouteResult::is_failure) {
            EventOutcome::Dead
        } else if report.is_unhandled() {
            EventOutcome::Unhandled
        } else {
            EventOutcome::Handled
        }
    }
}

impl Waiting {
    /// Returns the number of the route's next attempt.
    fn next_attempt(&self) -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(self.attempts)
    }
}

/// The routes that failed in an attempt and will be retried.
#[derive(Default)]
struct Retries {
    routes: Vec<(Waiting, Option<Duration>)>,
    /// The number of the last attempt of the routes without options, and the longest delay that they requested. These routes
    /// are retried together.
    together: Option<(NonZeroU32, Option<Duration>)>,
}

impl Retries {
    /// Adds a route whose attempt with this number failed and that requested a delay.
    fn add(
        &mut self,
        route: Arc<str>,
        options: Option<Arc<RouteOptions>>,
        number: NonZeroU32,
        requested: Option<Duration>,
    ) {
        if options.is_none() {
            let (last, longest) = self.together.unwrap_or((number, None));
            self.together = Some((last.max(number), longest.max(requested)));
        }
        let waiting = Waiting {
            route,
            attempts: number.get(),
            delay: Duration::ZERO,
            options,
        };
        self.routes.push((waiting, requested));
    }

    /// Returns the routes with their delays.
    fn waiting(self, default: &RetryPolicy, id: &str) -> impl Iterator<Item = Waiting> {
        let together = self.together;
        let together = together.map(|(number, requested)| default.delay(number, id, requested));
        self.routes.into_iter().map(move |(waiting, requested)| {
            let delay = match (&waiting.options, together) {
                (None, Some(delay)) => delay,
                (options, _) => {
                    let policy = RouteOptions::policy(options.as_deref(), default);
                    let number = NonZeroU32::new(waiting.attempts).unwrap_or(NonZeroU32::MIN);
                    policy.delay(number, id, requested)
                }
            };
            Waiting { delay, ..waiting }
        })
    }
}

impl RouteProgress {
    fn has_ticket(&self, route: &str) -> bool {
        self.tickets.iter().any(|(waiting, _)| **waiting == *route)
    }

    /// Returns the routes that failed and will be retried.
    fn retrying(&self) -> impl Iterator<Item = &Waiting> {
        let waiting = self.waiting.iter();
        waiting.filter(|waiting| !self.has_ticket(&waiting.route))
    }

    /// Adds the result of a route that won't run again.
    fn finish(&mut self, route: &RouteReport, report: &Report) {
        let result = match route.outcome() {
            Outcome::Handled => RouteResult::done(route.name()),
            outcome => RouteResult::failed(route.name(), outcome),
        };
        // A service that calls no router counts as one route. If a layer doesn't call the router, each attempt reports that
        // route again.
        let mut known = self.results.iter_mut().filter(|_| report.is_routerless());
        match known.find(|known| known.route == result.route) {
            None => self.results.push(result),
            Some(known) if result.reason.is_some() => *known = result,
            Some(_) => {}
        }
    }
}
