use std::mem::take;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::sync::mpsc::UnboundedReceiver;

use super::accepting::refusal;
use super::command::{Accept, Command, Complete, Reply};
use super::connection::Connection;
use super::error::Failure;
use super::settings::Settings;
use super::shared_inbox::SharedInbox;
use super::store::Store;
use crate::catch_panic::discard;
use crate::delivery::spawn_workers;
use crate::inbox::{AcceptError, AcceptErrorKind, Monitor, Monitored};
use crate::runtime::Runtime;

/// The maximum number of commands in one turn.
const MAX_BATCH: usize = 512;

/// The shortest and the longest time between two tries while the server fails.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long after a claim the writer polls for further events, and the time between two polls. Otherwise, the heartbeat looks for events.
const POLL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(50));

/// The longest time without a turn.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The task that writes to the database: accepted events, the results of attempts, and claims.
///
/// The task runs one statement after another. So it knows each event that its statements lease, unless an answer was lost.
pub(super) struct Writer {
    pub(super) inbox: Weak<SharedInbox>,
    pub(super) commands: UnboundedReceiver<Command>,
    pub(super) connection: Connection,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) store: Store,
    pub(super) settings: Settings,
    pub(super) worker: Arc<AtomicI64>,
    /// The events to store.
    pub(super) accepts: Vec<Accept>,
    /// Copies of events whose answers were lost. If the worker adopts the event, the writer answers the copy as new.
    pub(super) resent: Vec<Accept>,
    /// Results that aren't recorded yet.
    pub(super) unwritten: Vec<Complete>,
    /// Whether results may be recorded although their answer was lost.
    pub(super) may_be_recorded: bool,
    /// Whether the worker may have leased events that this process doesn't know, because an answer was lost.
    pub(super) must_adopt: bool,
    /// Leased events to load.
    pub(super) unblocked: Vec<i64>,
    /// When the next try begins, while the server fails or an event is locked.
    pub(super) next_try: Option<Instant>,
    pub(super) backoff: Duration,
    /// When the writer last claimed events.
    pub(super) claimed_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        inbox: &Arc<SharedInbox>,
        commands: UnboundedReceiver<Command>,
        worker: Arc<AtomicI64>,
    ) -> Self {
        Self {
            inbox: Arc::downgrade(inbox),
            commands,
            connection: inbox.connection(),
            runtime: Arc::clone(&inbox.executor.runtime),
            store: inbox.store.clone(),
            settings: inbox.settings.clone(),
            worker,
            accepts: Vec::new(),
            resent: Vec::new(),
            unwritten: Vec::new(),
            may_be_recorded: false,
            must_adopt: false,
            unblocked: Vec::new(),
            next_try: None,
            backoff: BACKOFF.0,
            claimed_at: None,
        }
    }

    /// Takes commands and writes them in turns, until the inbox is dropped. Then releases the worker's events.
    pub(super) async fn run(mut self) {
        let mut wait = Duration::ZERO;
        let (mut commands, mut unparked) = (Vec::new(), Vec::new());
        loop {
            let sleep = self.runtime.sleep(wait);
            let receive = Box::pin(self.commands.recv_many(&mut commands, MAX_BATCH));
            if let Either::Left((0, _)) = select(receive, sleep).await {
                break;
            }
            for command in commands.drain(..) {
                match command {
                    Command::Accept(accept) => self.accepts.push(accept),
                    Command::Complete(complete) => self.unwritten.push(complete),
                    Command::Unpark(id) => unparked.push(id),
                    Command::Wake => {}
                }
            }
            let Some(inbox) = self.inbox.upgrade() else {
                break;
            };
            wait = self.turn(&inbox, &mut unparked).await;
            discard([inbox]);
        }
        let worker = self.worker.load(Ordering::Relaxed);
        // The database may be gone: another worker then takes the events when the lease has ended.
        let _ = self.store.leave(&mut self.connection, worker).await;
    }

    /// Writes the commands. Returns how long the writer may wait for further commands.
    async fn turn(&mut self, inbox: &Arc<SharedInbox>, unparked: &mut Vec<u64>) -> Duration {
        let now = self.runtime.now();
        let failing = inbox.state.lock().failing;
        if failing && self.next_try.is_some_and(|next| next > now) {
            self.refuse(inbox, false);
        } else {
            self.next_try = None;
            match self.work(inbox, failing).await {
                Ok(()) => self.backoff = BACKOFF.0,
                Err(failure) => self.failed(inbox, &failure),
            }
        }
        let now = self.runtime.now();
        let next_due = inbox.state.update(|state, _| {
            for id in unparked.drain(..) {
                state.unpark(id, now);
            }
            state.take_due(now)
        });
        spawn_workers(inbox);
        let next_poll = self.next_poll(inbox, now);
        let next = [next_due, self.next_try, next_poll];
        let next = next.into_iter().flatten().min();
        next.map_or(IDLE_TIMEOUT, |next| {
            next.saturating_duration_since(now).min(IDLE_TIMEOUT)
        })
    }

    /// Returns when the writer polls for events without an owner, if it claimed some recently.
    fn next_poll(&self, inbox: &SharedInbox, now: Instant) -> Option<Instant> {
        let claimed_at = self.claimed_at?;
        if now.saturating_duration_since(claimed_at) >= POLL.0 {
            return None;
        }
        inbox.state.lock().may_claim = true;
        now.checked_add(POLL.1)
    }

    /// Reports a failure, and refuses the events that the failed statement can't have stored.
    fn failed(&mut self, inbox: &Arc<SharedInbox>, failure: &Failure) {
        if failure.may_be_committed {
            self.must_adopt = true;
            self.may_be_recorded = true;
        }
        let now = inbox.state.clock.now();
        inbox.state.update(|state, _| {
            state.failing = true;
            state.health.failing(&failure.error, now);
        });
        self.refuse(inbox, failure.may_be_committed);
        self.next_try = self.runtime.now().checked_add(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        Monitor::rouse(&(Arc::clone(inbox) as Arc<dyn Monitored>));
    }

    /// Refuses the waiting events, except the events that may be stored.
    fn refuse(&mut self, inbox: &SharedInbox, sent: bool) {
        let accepts = take(&mut self.accepts);
        let (keep, refused): (Vec<_>, Vec<_>) = accepts
            .into_iter()
            .partition(|accept| accept.may_be_stored || sent && accept.refusal.is_none());
        self.accepts = keep;
        for accept in &mut self.accepts {
            accept.may_be_stored = true;
        }
        let unavailable = AcceptError::new(AcceptErrorKind::Unavailable);
        let replies = inbox.state.update(|state, counts| {
            let refused = refused.into_iter();
            let replies = refused.map(|accept| refusal(state, counts, accept, unavailable.clone()));
            replies.collect::<Vec<_>>()
        });
        replies.into_iter().for_each(Reply::send);
    }

    async fn work(&mut self, inbox: &Arc<SharedInbox>, failing: bool) -> Result<(), Failure> {
        if failing {
            self.store.probe(&mut self.connection).await?;
            inbox.state.update(|state, _| {
                state.failing = false;
                state.health.recovered();
            });
        }
        self.drop_lost(inbox);
        self.answer_copies(inbox).await?;
        self.write(inbox).await?;
        self.record(inbox).await?;
        self.park(inbox).await?;
        if self.must_adopt {
            self.adopt(inbox).await?;
        }
        self.load_unblocked(inbox).await?;
        self.release(inbox).await?;
        self.claim(inbox).await
    }
}
