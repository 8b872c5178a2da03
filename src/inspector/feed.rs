//! The live feed: server-sent events with the events that changed, as rows of a page or as JSON.
//!
//! One task reads the newest events every second while there are watchers. All watchers share the rows, and a watcher that reads
//! slowly skips versions, so a watcher costs a few hundred bytes.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::pages;
use super::source::Source;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::EventRecord;
use crate::inbox::{EventFilter, HealthProblemKind};

/// The time between two reads of the newest events.
const PERIOD: Duration = Duration::from_secs(1);

/// The number of events that the feed reads. A change of an older event appears when the page is loaded again.
const EVENTS: usize = 50;

/// The maximum number of watchers.
const MAX_WATCHERS: usize = 256;

/// The number of periods between two comments, which find closed connections.
const PING_EVERY: u32 = 15;

/// After this number of periods, a watcher ends. The browser connects again, and the access rule decides again: 15 minutes.
const MAX_PERIODS: u32 = 900;

/// If the server doesn't read a watcher's messages for this many periods, the watcher is dropped. The browser connects again.
const MAX_UNREAD: u32 = 30;

pub(super) struct Feed {
    source: Arc<Source>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_running: bool,
    /// The number of reads that have started.
    reads: u64,
    /// The number of the read that the rows are from.
    read: u64,
    /// The version of the newest change.
    version: u64,
    rows: Vec<Row>,
    /// The events that left the inbox in the last versions, each with its version.
    gone: Vec<(u64, u64)>,
    /// Why the newest events couldn't be read.
    error: Option<Arc<str>>,
    watchers: HashMap<u64, Watching>,
    next_watcher: u64,
}

struct Row {
    record: EventRecord,
    /// The serialized record, which has no body.
    json: String,
    /// A JSON object with the id and the row's HTML.
    html: String,
    /// The version in which the row changed last.
    changed: u64,
}

/// A watcher in the feed's list. A watcher that isn't in the list has ended.
#[derive(Default)]
struct Watching {
    waker: Option<Waker>,
    unread: u32,
    /// The number of periods since the watcher connected.
    periods: u32,
    is_pinged: bool,
}

/// The content of a watcher's messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// The rows of a page.
    Rows,
    /// Serialized records.
    Events,
}

/// The body of one connection.
pub(super) struct Watcher {
    feed: Arc<Feed>,
    filter: EventFilter,
    content: Content,
    id: u64,
    /// The watcher gets rows from reads after this number, so its first message isn't older than its connection.
    after: u64,
    /// The version that the watcher has read, or `None` before the first message.
    seen: Option<u64>,
    error: Option<Arc<str>>,
}

impl Feed {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a watcher of the events that match the filter. Returns `None` if there are too many watchers.
    pub(super) fn watch(
        self: &Arc<Self>,
        filter: EventFilter,
        content: Content,
    ) -> Option<Watcher> {
        let (id, after, starts) = {
            let mut state = self.state();
            if state.watchers.len() >= MAX_WATCHERS {
                return None;
            }
            let id = state.next_watcher;
            state.next_watcher += 1;
            state.watchers.insert(id, Watching::default());
            let starts = !std::mem::replace(&mut state.is_running, true);
            (id, state.reads, starts)
        };
        if starts {
            let guard = Running(Arc::clone(self));
            let task = Box::pin(async move { guard.0.run().await });
            // If the runtime can't spawn, the guard is dropped, and the watchers end.
            let _ = catch_panic(|| self.source.runtime.spawn(task));
        }
        Some(Watcher {
            feed: Arc::clone(self),
            filter,
            content,
            id,
            after,
            seen: None,
            error: None,
        })
    }

    /// Reads the newest events until there are no watchers, or until the inbox drains. A server that shuts down waits for open
    /// connections.
    async fn run(&self) {
        for period in 0_u32.. {
            if self.is_draining() || !self.read().await {
                return;
            }
            self.wake(period % PING_EVERY == PING_EVERY - 1);
            let sleep = catch_panic(|| self.source.runtime.sleep(PERIOD));
            let Ok(Ok(())) = (match sleep {
                Ok(sleep) => Ok(CatchPanic::new(sleep).await),
                Err(panic) => Err(panic),
            }) else {
                return;
            };
        }
    }

    fn is_draining(&self) -> bool {
        let health = self.source.health();
        let mut problems = health.problems().iter();
        problems.any(|problem| problem.kind() == HealthProblemKind::Draining)
    }

    /// Reads the newest events. Returns false if there are no watchers.
    async fn read(&self) -> bool {
        let read = {
            let mut state = self.state();
            if state.watchers.is_empty() {
                return false;
            }
            state.reads += 1;
            state.reads
        };
        let records = self.source.events.list(&EventFilter::new(), EVENTS).await;
        let mut state = self.state();
        match records {
            Ok(records) => {
                state.error = None;
                state.read = read;
                state.update(records);
            }
            Err(error) => state.error = Some(Arc::from(error.to_string())),
        }
        true
    }

    /// Wakes the watchers, and drops the watchers that don't read or have been connected for too long.
    fn wake(&self, pings: bool) {
        let mut wakers = Vec::new();
        self.state().watchers.retain(|_, watching| {
            watching.unread += 1;
            watching.periods += 1;
            watching.is_pinged |= pings;
            wakers.extend(watching.waker.take());
            watching.unread <= MAX_UNREAD && watching.periods <= MAX_PERIODS
        });
        // A waker runs the executor's code, so no lock is held.
        for waker in wakers {
            let _ = catch_panic(|| waker.wake());
        }
    }

    fn stop(&self) {
        let watchers = {
            let mut state = self.state();
            state.is_running = false;
            // Without watchers, the feed keeps no bodies, and the next watcher gets no old rows.
            state.rows = Vec::new();
            std::mem::take(&mut state.watchers)
        };
        for waker in watchers.into_values().filter_map(|watching| watching.waker) {
            let _ = catch_panic(|| waker.wake());
        }
    }
}

/// Ends the watchers when the feed's task ends, however it ends.
struct Running(Arc<Feed>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl State {
    /// Replaces the rows, and numbers the rows that changed.
    fn update(&mut self, records: Vec<EventRecord>) {
        let next = self.version + 1;
        let from = start(&records, EventRecord::id);
        let mut before = std::mem::take(&mut self.rows).into_iter().peekable();
        let mut rows = Vec::with_capacity(records.len());
        for record in records {
            let id = record.id();
            let json = serde_json::to_string(&record).unwrap_or_default();
            // Both lists are ordered by id, the highest first.
            while let Some(row) = before.next_if(|row| row.record.id() > id) {
                self.version = next;
                self.gone.push((row.record.id(), next));
            }
            let same = before.next_if(|row| row.record.id() == id);
            rows.push(same.filter(|row| row.json == json).unwrap_or_else(|| {
                self.version = next;
                let html = pages::row(&record).into_string();
                Row {
                    html: json!({ "id": id, "html": html }).to_string(),
                    json,
                    record,
                    changed: next,
                }
            }));
        }
        for row in before.filter(|row| row.record.id() >= from) {
            self.version = next;
            self.gone.push((row.record.id(), next));
        }
        self.rows = rows;
        // A watcher that hasn't read for longer than this is dropped.
        self.gone
            .retain(|(_, version)| version + u64::from(MAX_UNREAD) >= next);
    }

    /// Returns a message with the events that changed after the version `seen`, if the watcher needs a message.
    fn message(&self, filter: &EventFilter, content: Content, seen: Option<u64>) -> Option<Bytes> {
        match content {
            Content::Rows => self.changed_rows(filter, seen),
            Content::Events => Some(self.changed_events(filter, seen)),
        }
    }

    fn changed_rows(&self, filter: &EventFilter, seen: Option<u64>) -> Option<Bytes> {
        let is_unseen = |version: u64| seen.is_some_and(|seen| version > seen);
        let left = self.gone.iter().filter(|(_, version)| is_unseen(*version));
        let (mut rows, mut gone) = (Vec::new(), left.map(|(id, _)| *id).collect::<Vec<_>>());
        for row in self.rows.iter().filter(|row| row.is_newer(seen)) {
            if filter.matches(&row.record) {
                rows.push(&*row.html);
            } else {
                gone.push(row.record.id());
            }
        }
        let is_empty = rows.is_empty() && gone.is_empty();
        let data = || format!("{{\"rows\":[{}],\"gone\":{}}}", rows.join(","), json!(gone));
        (!is_empty).then(|| message("rows", &data()))
    }

    /// The ids of all rows that match tell the client which events no longer match or have left the inbox, even if the watcher
    /// skipped versions.
    fn changed_events(&self, filter: &EventFilter, seen: Option<u64>) -> Bytes {
        let from = start(&self.rows, |row| row.record.id());
        let (mut ids, mut events) = (Vec::new(), Vec::new());
        for row in self.rows.iter().filter(|row| filter.matches(&row.record)) {
            ids.push(row.record.id());
            if row.is_newer(seen) {
                events.push(&*row.json);
            }
        }
        let mut data = format!("{{\"from\":{from},\"ids\":{},\"events\":[", json!(ids));
        // Writing to a string doesn't fail.
        let _ = write!(data, "{}]}}", events.join(","));
        message("events", &data)
    }
}

impl Row {
    fn is_newer(&self, seen: Option<u64>) -> bool {
        seen.is_none_or(|seen| self.changed > seen)
    }
}

/// Returns the lowest id that the feed covers: all ids, unless the log may have older events.
fn start<T>(newest: &[T], id: impl Fn(&T) -> u64) -> u64 {
    let oldest = newest.last().filter(|_| newest.len() >= EVENTS);
    oldest.map_or(0, id)
}

/// Returns a server-sent event. JSON text contains no line break.
fn message(name: &str, data: &str) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

impl Watcher {
    /// Returns the next message, or `None` if the feed has ended.
    pub(super) fn poll_message(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        // Cloning and dropping a waker runs the executor's code, so no lock is held.
        let waker = cx.waker().clone();
        let feed = Arc::clone(&self.feed);
        let (message, _old) = {
            let mut state = feed.state();
            let Some(watching) = state.watchers.get_mut(&self.id) else {
                return Poll::Ready(None);
            };
            let old = watching.waker.replace(waker);
            watching.unread = 0;
            let is_pinged = std::mem::take(&mut watching.is_pinged);
            (self.next(&state, is_pinged), old)
        };
        message.map_or(Poll::Pending, |message| Poll::Ready(Some(message)))
    }

    /// Returns the message that the watcher hasn't read yet.
    fn next(&mut self, state: &State, is_pinged: bool) -> Option<Bytes> {
        if self.error != state.error {
            self.error.clone_from(&state.error);
            let text = state.error.as_deref().unwrap_or_default();
            return Some(message("trouble", &json!(text).to_string()));
        }
        let is_new = state.read > self.after && self.seen != Some(state.version);
        let message = is_new.then(|| {
            let seen = self.seen.replace(state.version);
            state.message(&self.filter, self.content, seen)
        });
        let ping = || is_pinged.then(|| Bytes::from_static(b": ping\n\n"));
        message.flatten().or_else(ping)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let watching = self.feed.state().watchers.remove(&self.id);
        // Dropping a waker runs the executor's code, so no lock is held.
        let _ = catch_panic(|| drop(watching));
    }
}
