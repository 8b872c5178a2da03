use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::command::Command;
use super::connection::Connection;
use super::error::Failure;
use super::settings::Settings;
use super::shared_inbox::SharedInbox;
use super::store::Store;
use crate::catch_panic::discard;
use crate::delivery::spawn_workers;
use crate::inbox::{Monitor, Monitored};
use crate::runtime::Runtime;
use crate::telemetry;

/// The time between two counts of the rows.
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// The time between two deletions of old rows.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// The task that extends the worker's lease, counts the rows, and deletes old rows.
///
/// The task has its own connection, so a slow write doesn't end the lease.
pub(super) struct LeaseKeeper {
    inbox: Weak<SharedInbox>,
    connection: Connection,
    runtime: Arc<dyn Runtime>,
    store: Store,
    settings: Settings,
    worker: Arc<AtomicI64>,
    measured_at: Option<Instant>,
    pruned_at: Option<Instant>,
}

/// Returns the id of a new worker: a random positive number.
pub(super) fn new_worker_id() -> i64 {
    fastrand::i64(1..=i64::MAX)
}

impl LeaseKeeper {
    pub(super) fn new(inbox: &Arc<SharedInbox>, worker: Arc<AtomicI64>) -> Self {
        Self {
            inbox: Arc::downgrade(inbox),
            connection: inbox.connection(),
            runtime: Arc::clone(&inbox.executor.runtime),
            store: inbox.store.clone(),
            settings: inbox.settings.clone(),
            worker,
            // `open` has just counted the rows.
            measured_at: Some(inbox.executor.runtime.now()),
            pruned_at: None,
        }
    }

    /// Runs until the inbox is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let Some(inbox) = self.inbox.upgrade() else {
                return;
            };
            let result = self.beat(&inbox).await;
            if let Err(failure) = result {
                let now = inbox.state.clock.now();
                inbox.state.lock().health.lease_failing(&failure.error, now);
                Monitor::rouse(&(Arc::clone(&inbox) as Arc<dyn Monitored>));
            }
            discard([inbox]);
            self.runtime.sleep(self.settings.heartbeat_period()).await;
        }
    }

    async fn beat(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        if self.settings.runs_events {
            self.heartbeat(inbox).await?;
        }
        let now = self.runtime.now();
        let is_due = |last: Option<Instant>, every| {
            last.is_none_or(|last| now.saturating_duration_since(last) >= every)
        };
        if is_due(self.measured_at, MEASURE_EVERY) {
            self.measure(inbox).await?;
            self.measured_at = Some(now);
        }
        if is_due(self.pruned_at, PRUNE_EVERY) {
            self.prune(inbox).await?;
            self.pruned_at = Some(now);
        }
        inbox.state.lock().health.lease_recovered();
        Ok(())
    }

    async fn heartbeat(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let worker = self.worker.load(Ordering::Relaxed);
        let sent_at = self.runtime.now();
        let lease = self.settings.lease;
        let beat = self
            .store
            .heartbeat(&mut self.connection, worker, lease)
            .await?;
        if beat.released > 0 {
            telemetry::events_released(beat.released);
        }
        if !beat.is_alive {
            return self.replace_worker(inbox).await;
        }
        let must_wake = {
            let mut state = inbox.state.lock();
            let was_over = self.runtime.now() >= state.leased_until;
            // The server's lease ends later, because it began later.
            state.leased_until = sent_at + lease;
            state.may_claim |= beat.is_ready;
            was_over || state.may_claim
        };
        if must_wake {
            drop(inbox.commands.send(Command::Wake));
            spawn_workers(inbox);
        }
        Ok(())
    }

    /// Registers a new worker, because other workers have the events of the previous worker.
    async fn replace_worker(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let worker = new_worker_id();
        let sent_at = self.runtime.now();
        let lease = self.settings.lease;
        self.store
            .register(&mut self.connection, worker, lease)
            .await?;
        let lost = inbox.state.update(|state, counts| {
            let lost = state.take_idle(counts);
            state.worker = worker;
            state.leased_until = sent_at + lease;
            state.may_claim = true;
            self.worker.store(worker, Ordering::Relaxed);
            lost
        });
        telemetry::lease_lost(lost.len() as u64);
        discard(lost);
        drop(inbox.commands.send(Command::Wake));
        Ok(())
    }

    async fn measure(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let before = inbox.state.lock().growth();
        let measured = self.store.measure(&mut self.connection).await?;
        inbox.state.lock().measure(measured, before);
        Ok(())
    }

    /// Deletes old rows in small steps.
    async fn prune(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let dropped = self
            .store
            .prune(&mut self.connection, &self.settings)
            .await?;
        if dropped > 0 {
            inbox.state.update(|state, counts| {
                state.stats.dead_letters_dropped += dropped;
                counts.dead_letters_dropped(dropped);
            });
        }
        Ok(())
    }
}
