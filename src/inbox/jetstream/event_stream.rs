use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::connection::State;
use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::StreamSettings;
use super::attempt_log::AttemptLog;
use super::checkpoints::{begin, nanos};
use super::connection::{Connection, failed, stored};
use super::consumer_position::{MaxByProgress, Position, route_of};
use super::event_index::{DELETED, EventIndex, mark_subject, newest};
use super::headers;
use super::route_consumer::{RouteSelection, fnv};
use super::worker_inner::WorkerInner;
use crate::delivery::{AttemptRecord, EventRecord, EventState, Replay, RouteResult, StoredRecord};
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Traceparent};
use crate::inbox::{EventFilter, EventStore};
use crate::router::Route;
use crate::runtime::BoxFuture;
use crate::telemetry::Metrics;

/// The event log over the stream of events. The inbox's log has the events of all groups, and a worker's log has the events of its
/// group.
///
/// An event and its replays are one record. The id is the sequence of the event.
pub(super) struct EventStream {
    connection: Arc<Connection>,
    worker: Option<Arc<WorkerInner>>,
    log: Arc<LogState>,
}

/// The state that the clones of a log share.
pub(super) struct LogState {
    pub(super) attempts: AttemptLog,
    index: tokio::sync::Mutex<EventIndex>,
    replayed: AtomicU64,
    metrics: Metrics,
}

/// The streams and the positions of the consumers, as read at the begin of a request.
struct View {
    stream: Stream,
    /// The identity of the stream.
    created: u64,
    /// Absent until a worker has created the stream.
    dead_letters: Option<Stream>,
    consumers: Vec<Position>,
    /// The consumers of other groups. Empty in the view of an inbox, whose `consumers` belong to all groups.
    others: Vec<Position>,
}

/// An event, its replays and its letters.
struct Parts {
    id: u64,
    event: Option<StreamMessage>,
    replays: Vec<StreamMessage>,
    /// Each letter with its consumer.
    letters: Vec<(EventRecord, String)>,
    /// Whether an operator deleted a letter of the event.
    is_deleted: bool,
}

impl Default for LogState {
    fn default() -> Self {
        Self {
            attempts: AttemptLog::default(),
            index: tokio::sync::Mutex::default(),
            replayed: AtomicU64::new(0),
            metrics: Metrics::without_router(),
        }
    }
}

impl LogState {
    pub(super) fn replayed(&self) -> u64 {
        // Nothing else depends on this count.
        self.replayed.load(Ordering::Relaxed)
    }
}

/// Stores a record in the dead-letter stream: the message `replay` replays the event. With this record, the log finds the replay
/// without a search. If `replay` is [`DELETED`], the record says that the event or a letter was deleted.
pub(super) async fn mark_replay(
    connection: &Connection,
    event: u64,
    replay: u64,
    stream: u64,
) -> Result<(), Error> {
    let message = PublishMessage::build().headers(headers::of_mark(event, replay, stream));
    let subject = mark_subject(&connection.settings);
    let marked = connection.store(StreamSettings::dead_letters, subject, message);
    marked.await.map(drop)
}

impl EventStream {
    pub(super) fn new(
        connection: Arc<Connection>,
        worker: Option<Arc<WorkerInner>>,
        log: Arc<LogState>,
    ) -> Self {
        Self {
            connection,
            worker,
            log,
        }
    }

    /// Reads the positions of the consumers and the new dead letters.
    async fn view(&self) -> Result<View, Error> {
        if self.connection.context.client().connection_state() != State::Connected {
            // The client would buffer the request.
            let text = "the client isn't connected to the server";
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        let stream = self.connection.events().await?;
        let created = nanos(SystemTime::from(stream.cached_info().created));
        let prefix = match &self.worker {
            None => format!("{}-dead.", self.connection.settings.prefix),
            Some(worker) => {
                let (prefix, group) = (&self.connection.settings.prefix, &worker.options.group);
                format!("{prefix}-dead.{group}.")
            }
        };
        let (consumers, others) = self.consumers(&stream).await?;
        let mut index = self.log.index.lock().await;
        let dead_letters = index.refresh(&self.connection, created, &prefix).await?;
        Ok(View {
            stream,
            created,
            dead_letters,
            consumers,
            others,
        })
    }

    /// Returns the positions of the log's consumers, and of the consumers of other groups.
    async fn consumers(&self, stream: &Stream) -> Result<(Vec<Position>, Vec<Position>), Error> {
        let found: Result<Vec<_>, _> = stream.consumers().try_collect().await;
        let found = found.map_err(|error| failed("the consumers can't be listed", error))?;
        let is_group = |name: &str| name.contains('-');
        let found = found.into_iter().filter(|info| {
            let is_durable = info.config.durable_name.is_some();
            is_durable && info.config.ack_policy == AckPolicy::Explicit && is_group(&info.name)
        });
        let mut positions: Vec<_> = found
            .map(|info| Position {
                route: route_of(&info.name),
                filter: info.config.filter_subject.clone(),
                begin: begin(&info.config).unwrap_or(1),
                acked: info.ack_floor.stream_sequence,
                delivered: info.delivered.stream_sequence,
                name: info.name,
            })
            .collect();
        let Some(worker) = &self.worker else {
            return Ok((positions, Vec::new()));
        };
        // A worker knows its routes, even while a consumer is missing.
        let mut own = Vec::new();
        for route in &worker.routes {
            let found = positions
                .iter()
                .position(|found| found.name == route.consumer);
            let floor = || worker.checkpoints.position(&route.consumer);
            let position = found.map(|found| positions.swap_remove(found));
            let position = position.unwrap_or_else(|| {
                let floor = floor().map_or(0, |(_, floor)| floor);
                Position {
                    name: route.consumer.clone(),
                    route: None,
                    filter: route.filter.clone(),
                    begin: 1,
                    acked: floor,
                    delivered: floor,
                }
            });
            let name = match &route.selection {
                RouteSelection::Rest(_) => None,
                RouteSelection::One | RouteSelection::Fallback => Some(Arc::clone(&route.name)),
            };
            own.push(Position {
                route: name,
                ..position
            });
        }
        let group = format!("{}-", worker.options.group);
        positions.retain(|position| !position.name.starts_with(&group));
        Ok((own, positions))
    }

    /// Reads the letters and the replays of an event.
    async fn parts(
        &self,
        view: &View,
        id: u64,
        event: Option<StreamMessage>,
    ) -> Result<Parts, Error> {
        let (letter_ids, replay_ids, is_deleted) = {
            let index = self.log.index.lock().await;
            (index.letters(id), index.replays(id), index.is_deleted(id))
        };
        let (mut letters, mut replays) = (Vec::new(), Vec::new());
        if let Some(stream) = &view.dead_letters {
            for letter in letter_ids {
                let Some(message) = stored(stream.get_raw_message(letter).await)? else {
                    self.log.index.lock().await.remove_letter(id, letter);
                    continue;
                };
                let consumer = headers::consumer(&message.headers).to_owned();
                letters.push((headers::letter(&message), consumer));
            }
        }
        for replay in replay_ids {
            let message = stored(view.stream.get_raw_message(replay).await)?;
            let message = message.filter(|found| headers::replay_of(&found.headers) == Some(id));
            replays.extend(message);
        }
        if let Some(event) = &event {
            // A new stream reuses the sequences of the old stream.
            let event = message_record(id, event);
            letters.retain(|(letter, _)| letter.message_id() == event.message_id());
        }
        Ok(Parts {
            id,
            event,
            replays,
            letters,
            is_deleted,
        })
    }

    async fn find(&self, view: &View, id: u64) -> Result<Option<Parts>, Error> {
        if id == 0 {
            return Ok(None);
        }
        let event = stored(view.stream.get_raw_message(id).await)?;
        if event
            .as_ref()
            .is_some_and(|event| headers::replay_of(&event.headers).is_some())
        {
            return Ok(None);
        }
        let parts = self.parts(view, id, event).await?;
        Ok((parts.event.is_some() || !parts.letters.is_empty()).then_some(parts))
    }

    /// Returns the state of a message for a consumer that gets it, or `None` if the consumer has finished it.
    fn pending(
        &self,
        view: &View,
        at: &Position,
        id: u64,
        message: &StreamMessage,
    ) -> Option<EventState> {
        let sequence = message.sequence;
        if sequence <= at.acked {
            return None;
        }
        if sequence > at.delivered {
            return Some(EventState::Waiting);
        }
        let Some(worker) = &self.worker else {
            return Some(EventState::Running);
        };
        let published = nanos(SystemTime::from(message.time));
        if worker.checkpoints.stream() == view.created
            && worker
                .checkpoints
                .has_finished(&at.name, (sequence, published))
        {
            return None;
        }
        let route = worker.routes.iter().find(|route| route.consumer == at.name);
        if route.is_some_and(|route| route.is_running(sequence)) {
            return Some(EventState::Running);
        }
        let attempts = self.log.attempts.of(view.created, id);
        let mut results = attempts.iter().filter(|(message, _)| *message == sequence);
        let has_failed = results.any(|(_, attempt)| {
            let mut routes = attempt.routes().iter();
            routes.any(|result| {
                at.route
                    .as_deref()
                    .is_none_or(|route| route == result.route())
            })
        });
        Some(match has_failed {
            true => EventState::Retrying,
            false => EventState::Running,
        })
    }

    /// Returns the record of an event, or `None` if the event ended as a dead letter that an operator deleted.
    fn listed(&self, view: &View, parts: &Parts) -> Option<EventRecord> {
        let record = self.record(view, parts);
        let is_listed = !parts.is_deleted || !parts.letters.is_empty();
        (is_listed || record.state().is_in_flight()).then_some(record)
    }

    fn record(&self, view: &View, parts: &Parts) -> EventRecord {
        let Parts { id, letters, .. } = parts;
        let mut state: Option<EventState> = None;
        let mut results: BTreeMap<Arc<str>, RouteResult> = BTreeMap::new();
        let mut is_matched = false;
        for at in &view.consumers {
            let mut gets = false;
            for message in parts.event.iter().chain(&parts.replays) {
                if !at.gets(message) {
                    continue;
                }
                let pending = self.pending(view, at, *id, message);
                state = state.max_by_progress(pending);
                // A replay that isn't meant for a consumer is only acknowledged.
                gets |= headers::is_meant_for(&message.headers, &at.name) && pending.is_none();
            }
            if !gets || self.is_unused_fallback(at, parts) {
                continue;
            }
            let routes = match &at.route {
                Some(route) => vec![Arc::clone(route)],
                None => self.routes_of_long(parts),
            };
            // The inbox has no router, so it can't know whether a route matches a long type.
            let has_route = !routes.is_empty() || self.worker.is_none();
            is_matched |= has_route && at.filter != self.connection.settings.subjects().all();
            for route in routes {
                let result = RouteResult::handled_by(&route);
                results.insert(route, result);
            }
        }
        if view.consumers.is_empty() && letters.is_empty() {
            state = Some(EventState::Waiting);
        }
        for result in letters.iter().flat_map(|(letter, _)| letter.routes()) {
            results.insert(Arc::from(result.route()), result.clone());
        }
        let attempts = self.log.attempts.of(view.created, *id);
        let last = attempts.iter().map(|(message, _)| *message).max();
        let mut current = attempts
            .iter()
            .filter(|(message, _)| Some(*message) == last);
        let number = current.next_back().map(|(_, attempt)| attempt.number());
        let dead = letters.iter().map(|(letter, _)| letter.attempts()).max();
        let position = |name: &str| self.position_of(name);
        let ended = attempts
            .iter()
            .filter_map(|(_, attempt)| attempt.ended_at());
        let ended = ended.chain(letters.iter().filter_map(|(letter, _)| letter.ended_at()));
        let history: Vec<AttemptRecord> = attempts
            .iter()
            .map(|(_, attempt)| attempt.clone().sorted(position))
            .collect();
        let mut routes: Vec<_> = results.into_values().collect();
        routes.sort_by_key(|result| position(result.route()));
        let ended_at = ended
            .max()
            .or(parts.event.as_ref().map(|event| event.time.into()));
        let causes: Vec<_> = letters
            .iter()
            .filter_map(|(letter, _)| letter.cause())
            .collect();
        let head = match &parts.event {
            Some(event) => message_record(*id, event),
            None => letters[0].0.clone(),
        };
        let traceparent = head.event().ok().and_then(Event::traceparent);
        EventRecord::stored(StoredRecord {
            id: *id,
            message_id: head.message_id(),
            body: head.body(),
            traceparent: traceparent.and_then(Traceparent::parse),
            state: state.unwrap_or(match (letters.is_empty(), is_matched) {
                (false, _) => EventState::Dead,
                (true, true) => EventState::Handled,
                (true, false) => EventState::Unhandled,
            }),
            received_at: head.received_at(),
            ended_at: ended_at.filter(|_| state.is_none()),
            attempts: number.or(dead).unwrap_or(0),
            routes,
            history,
            cause: (!causes.is_empty()).then(|| Arc::from(causes.join("; "))),
        })
    }

    /// Returns whether the consumer belongs to a fallback that doesn't run the event.
    fn is_unused_fallback(&self, at: &Position, parts: &Parts) -> bool {
        let Some(worker) = &self.worker else {
            return false;
        };
        let mut routes = worker.routes.iter();
        let is_fallback = routes.any(|route| {
            route.consumer == at.name && matches!(route.selection, RouteSelection::Fallback)
        });
        let record = parts
            .event
            .as_ref()
            .map(|event| message_record(parts.id, event));
        let event = record.as_ref().and_then(|record| record.event().ok());
        is_fallback
            && event.is_some_and(|event| {
                let matching = worker.router.matching_routes(event.event_type().clone());
                matching
                    .iter()
                    .all(|route| Some(route.name()) != at.route.as_deref())
            })
    }

    /// Returns the routes that the consumer of long names runs for an event.
    fn routes_of_long(&self, parts: &Parts) -> Vec<Arc<str>> {
        let message = parts.event.as_ref();
        let record = message.map(|event| message_record(parts.id, event));
        let event = record.as_ref().and_then(|record| record.event().ok());
        let (Some(worker), Some(event)) = (&self.worker, event) else {
            return Vec::new();
        };
        let matching = worker.router.matching_routes(event.event_type().clone());
        let patterned = worker.router.routes().filter(|route| {
            let name = route.name();
            route.pattern().is_some() && matching.iter().any(|each| each.name() == name)
        });
        patterned.map(Route::shared_name).collect()
    }

    /// Returns the place of a route in the router.
    fn position_of(&self, name: &str) -> usize {
        let routes = self.worker.iter().flat_map(|worker| worker.router.routes());
        let mut names = routes.map(|route| route.name() == name);
        names.position(|is_same| is_same).unwrap_or(usize::MAX)
    }

    /// Calls `visit` with each record that matches the filter, newest first, until it returns false.
    async fn visit(
        &self,
        view: &View,
        filter: &EventFilter,
        mut visit: impl FnMut(EventRecord) -> bool,
    ) -> Result<(), Error> {
        use EventState::{Handled, Retrying, Running, Unhandled, Waiting};

        let others = [Waiting, Running, Retrying, Handled, Unhandled];
        let only_dead = !others.iter().any(|state| filter.may_match(*state));
        let all = self.connection.settings.subjects().all();
        let mut upper = filter.first_before();
        while upper > 1 {
            let (mut messages, lower) = match only_dead {
                true => (Vec::new(), 1),
                false => newest(&view.stream, &all, upper).await?,
            };
            let lower = if messages.is_empty() { 1 } else { lower };
            // A letter remains if its event is deleted.
            let mut ids = self.log.index.lock().await.dead(lower..upper);
            messages.retain(|message| headers::replay_of(&message.headers).is_none());
            ids.extend(messages.iter().map(|message| message.sequence));
            ids.sort_unstable_by(|one, other| other.cmp(one));
            ids.dedup();
            for id in ids {
                let found = messages.iter().position(|message| message.sequence == id);
                let parts = match found {
                    Some(found) => {
                        let message = messages.swap_remove(found);
                        Some(self.parts(view, id, Some(message)).await?)
                    }
                    None => self.find(view, id).await?,
                };
                let record = parts.and_then(|parts| self.listed(view, &parts));
                if let Some(record) = record
                    && filter.matches(&record)
                    && !visit(record)
                {
                    return Ok(());
                }
            }
            upper = lower;
        }
        Ok(())
    }

    /// Returns the ids of the ended events that match the filter and the condition, oldest first.
    async fn ended(
        &self,
        filter: &EventFilter,
        is_chosen: impl Fn(&EventRecord) -> bool,
    ) -> Result<Vec<u64>, Error> {
        let view = self.view().await?;
        let mut ids = Vec::new();
        let visit = |record: EventRecord| {
            if !record.state().is_in_flight() && is_chosen(&record) {
                ids.push(record.id());
            }
            true
        };
        self.visit(&view, filter, visit).await?;
        ids.reverse();
        Ok(ids)
    }

    /// Returns an error if the log can't replay now, or if no consumer belongs to the only route to replay.
    fn check_replay(&self, view: &View, routes: &Replay) -> Result<(), Error> {
        if self.connection.is_draining() {
            let text = "the event can't be replayed now: the inbox is draining";
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        let Replay::Only(route) = routes else {
            return Ok(());
        };
        let is_known = match &self.worker {
            Some(worker) => worker.router.routes().any(|each| each.name() == route),
            None => view.consumers.iter().any(|at| at.is_of(route)),
        };
        match is_known {
            true => Ok(()),
            false => {
                let text = format!("no consumer belongs to a route named {route:?}");
                Err(Error::new(ErrorKind::Route, text))
            }
        }
    }

    /// Returns the consumers that a replay is meant for.
    fn targets(
        &self,
        view: &View,
        parts: &Parts,
        record: &EventRecord,
        routes: &Replay,
    ) -> Vec<String> {
        let subject = record.event().ok().map(|event| event.event_type());
        let subject = subject.map(|event_type| self.connection.settings.subjects().of(event_type));
        let matching = view.consumers.iter().filter(|at| {
            let subject = subject.as_deref().unwrap_or_default();
            at.takes(subject)
        });
        let names = |consumers: Vec<&Position>| -> Vec<String> {
            consumers.into_iter().map(|at| at.name.clone()).collect()
        };
        match routes {
            Replay::All => names(matching.collect()),
            Replay::Remaining => {
                let failed = |at: &&Position| {
                    let mut letters = parts.letters.iter();
                    letters.any(|(_, consumer)| *consumer == at.name)
                };
                let is_new = |at: &&Position| at.begin > parts.id;
                names(matching.filter(|at| failed(at) || is_new(at)).collect())
            }
            Replay::Only(route) => {
                let matching: Vec<_> = matching.collect();
                let own = matching.iter().filter(|at| at.is_of(route));
                let own: Vec<_> = own.copied().collect();
                if !own.is_empty() {
                    return names(own);
                }
                let runs = match (&self.worker, record.event()) {
                    (Some(worker), Ok(event)) => {
                        let routes = worker.router.matching_routes(event.event_type().clone());
                        routes.iter().any(|each| each.name() == route)
                    }
                    _ => false,
                };
                let long = matching.into_iter().filter(|at| at.route.is_none() && runs);
                names(long.collect())
            }
        }
    }

    async fn replay_event(&self, id: u64, routes: &Replay) -> Result<bool, Error> {
        let view = self.view().await?;
        self.check_replay(&view, routes)?;
        let Some(parts) = self.find(&view, id).await? else {
            return Ok(false);
        };
        let Some(record) = self.listed(&view, &parts) else {
            return Ok(false);
        };
        let targets = self.targets(&view, &parts, &record, routes);
        if record.state().is_in_flight() || (targets.is_empty() && *routes != Replay::All) {
            return Ok(false);
        }
        if record.body().is_empty() {
            let text = "the dead letter was stored without its body";
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        let event = record.event().map_err(Clone::clone)?;
        let only = match routes {
            Replay::Only(route) => Some(route.as_str()),
            Replay::Remaining | Replay::All => None,
        };
        let replaced = parts.letters.iter().filter(|(letter, consumer)| {
            // The consumer of long names runs several routes. A letter with the failure of another route stays.
            let mut failed = letter.routes().iter().filter(|result| result.is_failure());
            let is_replayed = failed.all(|result| only.is_none_or(|only| only == result.route()));
            targets.contains(consumer) && is_replayed
        });
        let replaced: Vec<_> = replaced.map(|(letter, _)| letter).collect();
        let finished = match routes {
            Replay::Remaining => handled(&replaced),
            Replay::All | Replay::Only(_) => Vec::new(),
        };
        // If the letters can't be deleted, the same replay has the same id, so the stream recognises that replay as a copy.
        let message_id = match replaced.is_empty() {
            true => format!("=replay.{id}.{:016x}", fastrand::u64(..)),
            false => {
                let letters: Vec<_> = replaced.iter().map(|letter| letter.id()).collect();
                let content = fnv(&format!("{letters:?} {targets:?} {finished:?} {only:?}"));
                format!("=replay.{id}.letter.{content:016x}")
            }
        };
        let settings = &self.connection.settings;
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(event.body().as_bytes()))
            .headers(headers::of_event_replay(
                event, id, &targets, &finished, only,
            ))
            .message_id(message_id)
            .expected_stream(&settings.name);
        let subject = settings.subjects().of(event.event_type());
        let published = self
            .connection
            .store(StreamSettings::events, subject, message);
        let replay = published.await?;
        self.log.index.lock().await.add_replay(id, replay);
        self.log.replayed.fetch_add(1, Ordering::Relaxed);
        self.log.metrics.replayed();
        mark_replay(&self.connection, id, replay, view.created).await?;
        for letter in replaced {
            self.delete_letter(&view, id, letter.id()).await?;
        }
        Ok(true)
    }

    async fn delete_letter(&self, view: &View, event: u64, id: u64) -> Result<(), Error> {
        if let Some(stream) = &view.dead_letters {
            delete(stream, id).await?;
        }
        self.log.index.lock().await.remove_letter(event, id);
        Ok(())
    }

    async fn delete_event(&self, id: u64) -> Result<bool, Error> {
        let view = self.view().await?;
        let Some(parts) = self.find(&view, id).await? else {
            return Ok(false);
        };
        let record = self.listed(&view, &parts);
        if record.is_none_or(|record| record.state().is_in_flight()) {
            return Ok(false);
        }
        let messages = parts.event.iter().chain(&parts.replays);
        let (kept, unused): (Vec<_>, Vec<_>) =
            messages.partition(|message| view.others_need(message));
        // The letters go last: until then, the event is a dead letter.
        for message in unused {
            delete(&view.stream, message.sequence).await?;
        }
        if !kept.is_empty() {
            // The stream keeps the event for the other groups, and the log omits the event.
            mark_replay(&self.connection, id, DELETED, view.created).await?;
        }
        for (letter, _) in &parts.letters {
            self.delete_letter(&view, id, letter.id()).await?;
        }
        Ok(true)
    }
}

impl View {
    /// Returns whether a consumer of another group may not have finished a message.
    fn others_need(&self, message: &StreamMessage) -> bool {
        self.others.iter().any(|at| {
            let is_meant = headers::is_meant_for(&message.headers, &at.name);
            at.gets(message) && message.sequence > at.acked && is_meant
        })
    }
}

/// Returns the record of a message.
fn message_record(id: u64, message: &StreamMessage) -> EventRecord {
    let received_at = headers::received_at(&message.headers);
    EventRecord::stored(StoredRecord {
        id,
        message_id: &headers::message_id(&message.headers).unwrap_or_default(),
        body: &String::from_utf8_lossy(&message.payload),
        traceparent: headers::traceparent(&message.headers),
        state: EventState::Waiting,
        received_at: received_at.unwrap_or_else(|| message.time.into()),
        ended_at: None,
        attempts: 0,
        routes: Vec::new(),
        history: Vec::new(),
        cause: None,
    })
}

/// Returns the routes that handled the event, according to its letters.
fn handled(letters: &[&EventRecord]) -> Vec<Arc<str>> {
    let results = || letters.iter().flat_map(|letter| letter.routes());
    let has_failed =
        |route: &str| results().any(|result| result.route() == route && result.is_failure());
    let handled = results().filter(|result| !has_failed(result.route()));
    handled.map(|result| Arc::clone(&result.route)).collect()
}

/// Deletes a message, if the stream has it.
async fn delete(stream: &Stream, sequence: u64) -> Result<(), Error> {
    match stream.delete_message(sequence).await {
        Ok(_) => Ok(()),
        // Another process may have deleted the message.
        Err(_) if stored(stream.get_raw_message(sequence).await)?.is_none() => Ok(()),
        Err(error) => Err(failed("a stored message can't be deleted", error)),
    }
}

impl EventStore for EventStream {
    fn list(
        self: Arc<Self>,
        filter: EventFilter,
        limit: usize,
    ) -> BoxFuture<Result<Vec<EventRecord>, Error>> {
        Box::pin(async move {
            let mut records = Vec::new();
            if limit == 0 {
                return Ok(records);
            }
            let view = self.view().await?;
            let visit = |record| {
                records.push(record);
                records.len() < limit
            };
            self.visit(&view, &filter, visit).await?;
            Ok(records)
        })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<EventRecord>, Error>> {
        Box::pin(async move {
            let view = self.view().await?;
            let parts = self.find(&view, id).await?;
            Ok(parts.and_then(|parts| self.listed(&view, &parts)))
        })
    }

    fn replay(self: Arc<Self>, id: u64, routes: Replay) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move { self.replay_event(id, &routes).await })
    }

    fn replay_matching(
        self: Arc<Self>,
        filter: EventFilter,
        routes: Replay,
    ) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            self.check_replay(&self.view().await?, &routes)?;
            let mut replayed = 0;
            // No route can run an event without its body, or with a body that can't be decoded.
            let can_run = |record: &EventRecord| record.event().is_ok();
            for id in self.ended(&filter, can_run).await? {
                replayed += u64::from(self.replay_event(id, &routes).await?);
            }
            Ok(replayed)
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move { self.delete_event(id).await })
    }

    fn delete_matching(self: Arc<Self>, filter: EventFilter) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let mut deleted = 0;
            for id in self.ended(&filter, |_| true).await? {
                deleted += u64::from(self.delete_event(id).await?);
            }
            Ok(deleted)
        })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let view = self.view().await?;
            // Ages use the server's clock, because a wrong clock on this machine must not delete a letter.
            self.connection.read_clock().await;
            let limit = self.connection.server_time().checked_sub(older_than);
            let (Some(limit), Some(stream)) = (limit, &view.dead_letters) else {
                return Ok(0);
            };
            let dead = self.log.index.lock().await.dead(1..u64::MAX);
            let mut pruned = 0;
            for id in dead {
                let letters = self.log.index.lock().await.letters(id);
                let mut is_old = !letters.is_empty();
                for letter in letters {
                    let message = stored(stream.get_raw_message(letter).await)?;
                    is_old &= message.is_none_or(|found| SystemTime::from(found.time) < limit);
                }
                if is_old && self.delete_event(id).await? {
                    pruned += 1;
                }
            }
            Ok(pruned)
        })
    }
}
