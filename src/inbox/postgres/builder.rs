use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::mpsc;
use tower_service::Service;

use super::connection::Connection;
use super::lease::{LeaseKeeper, new_worker_id};
use super::settings::Settings;
use super::shared_inbox::SharedInbox;
use super::state::SharedState;
use super::store::{Store, check_name, migrate};
use super::writer::Writer;
use super::{PostgresInbox, error};
use crate::catch_panic::CatchPanic;
use crate::delivery::{DeliverySettings, ErasedService, JobExecutor};
use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::inbox::Monitor;
use crate::outcome::Report;
use crate::router::EventRouter;
use crate::runtime::{Runtime, TokioRuntime};

/// The minimum size of the pool: two connections for the inbox's tasks, and one for queries.
const MIN_POOL_SIZE: usize = 3;

/// Sets up a [`PostgresInbox`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PostgresInboxBuilder {
    pool: Pool,
    settings: Settings,
    delivery: DeliverySettings,
}

impl PostgresInboxBuilder {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool,
            settings: Settings::new(),
            delivery: DeliverySettings::new(),
        }
    }

    /// Sets how this process runs the handlers. The default is [`DeliverySettings::new`]. A second call replaces the first.
    ///
    /// `concurrency` limits the events of this process. Use the same ordering key in all processes that share the schema, because the
    /// process that accepts an event decides its key.
    pub fn delivery(mut self, settings: DeliverySettings) -> Self {
        self.delivery = settings;
        self
    }

    /// Sets the name of the schema. The default is `botisimo`. Inboxes with the same database and schema share their events.
    ///
    /// The name consists of at most 63 lowercase letters, digits and underscores.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.settings.schema = name.into();
        self
    }

    /// Only accepts events, and leaves them to other processes. By default, each process also runs events.
    ///
    /// Other processes look for events every second, and every 50 ms for 2 s after they found one.
    ///
    /// [`Stats::published`](crate::Stats::published) counts the accepted events. A process that only runs events needs no setting: don't
    /// pass its inbox to a receiver.
    pub fn receive_only(mut self) -> Self {
        self.settings.runs_events = false;
        self
    }

    /// Sets the maximum number of events in the database that haven't ended. The default is 1,000,000. Beyond that, the receiver answers
    /// 503.
    ///
    /// Each process counts the rows every 10 s, and counts its own events in between. So several processes may exceed the limit by the
    /// events that they accept in 10 s.
    pub fn max_events(mut self, events: u64) -> Self {
        self.settings.max_events.events = events;
        self
    }

    /// Sets the maximum total size of the bodies of the events that haven't ended, in bytes. The default is 1 GiB. Beyond that, the
    /// receiver answers 503. The limit is as exact as the limit of [`max_events`](Self::max_events).
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_events.bytes = bytes;
        self
    }

    /// Sets the maximum number of events that this process leases and holds in memory. The default is 1,024. Other events wait in the
    /// database. Set a higher number than `concurrency`.
    pub fn max_events_in_memory(mut self, events: usize) -> Self {
        self.settings.max_in_memory.events = events.max(1) as u64;
        self
    }

    /// Sets the maximum total size of the bodies of the events in memory, in bytes. The default is 16 MiB. The last events may exceed this
    /// limit.
    pub fn max_bytes_in_memory(mut self, bytes: usize) -> Self {
        self.settings.max_in_memory.bytes = bytes as u64;
        self
    }

    /// Sets how long the inbox remembers the `messageId` of an accepted event. The default is 7 days, because the sender retries for
    /// days. During this time, the receiver answers 200 to a copy, and the copy doesn't run. With 0, the inbox remembers no ids.
    ///
    /// Use the same window in all processes that share the schema.
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.settings.duplicate_window = window;
        self
    }

    /// Sets the maximum number of dead letters. The default is 100,000. Once a minute, the inbox drops the oldest dead letters beyond
    /// that, and counts them as `dead_letters_dropped`.
    pub fn max_dead_letters(mut self, letters: u64) -> Self {
        self.settings.max_dead_letters = letters;
        self
    }

    /// Sets how long the inbox keeps dead letters. The default is 30 days.
    pub fn keep_dead_letters_for(mut self, time: Duration) -> Self {
        self.settings.keep_dead_letters = time;
        self
    }

    /// Keeps each handled or unhandled event for this time after it has ended, so that [`Handle::events`](crate::Handle::events)
    /// can list and replay it. The default is 0: the inbox deletes an event once all routes have handled it.
    ///
    /// The events are in the table `handled`, with their bodies and attempts. Once a minute, the inbox deletes old events in small steps.
    pub fn keep_handled(mut self, time: Duration) -> Self {
        self.settings.keep_handled = time;
        self
    }

    /// Sets the maximum number of handled and unhandled events that the inbox keeps. The default is 100,000. Once a minute, the inbox
    /// deletes the oldest events beyond that.
    pub fn max_handled_events(mut self, events: u64) -> Self {
        self.settings.max_handled = events;
        self
    }

    /// Sets how many processes may end while they lease an event, before the event becomes a dead letter. The default is 3. A value
    /// of 0 counts as 1.
    ///
    /// The inbox doesn't count the end of the process that accepted the event. A retry resets the count.
    pub fn max_crashes(mut self, crashes: u32) -> Self {
        self.settings.max_crashes = crashes.max(1);
        self
    }

    /// Sets how long a process that dies or loses its connection keeps its leased events. The default is 6 s. Values below 1 s count as
    /// 1 s.
    ///
    /// The process extends its lease every second. If the lease ends, other processes run the events. Use the same lease in all processes
    /// that share the schema.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_secs(1));
        self
    }

    /// Opens the inbox on the current tokio runtime, and starts to run its events. Creates or migrates the schema if necessary.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) in these cases:
    ///
    /// - There is no tokio runtime.
    /// - The pool's `max_size` is less than 3.
    /// - The server can't be reached, or refuses the role.
    /// - The role may not create the schema, or the schema's name isn't valid.
    /// - The encoding of the database isn't UTF8.
    /// - A newer version of this crate created the schema.
    ///
    /// Returns the same kind if a route has [`once_per`](EventRouter::once_per), because this inbox doesn't support the option.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the inbox isn't opened.
    pub async fn open<S>(self, service: S) -> Result<PostgresInbox, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let handle = tokio::runtime::Handle::try_current().map_err(error::runtime_missing)?;
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::with_handle(handle));
        let Self {
            pool,
            settings,
            delivery,
        } = self;
        check_name(&settings.schema)?;
        let size = pool.status().max_size;
        if size < MIN_POOL_SIZE {
            let why = format!("the pool's `max_size` is {size}: use at least {MIN_POOL_SIZE}");
            return Err(error::not_opened(&settings.schema, why));
        }
        let executor = JobExecutor::new(ErasedService::new(service)?, runtime, delivery);
        check_routes(&executor)?;
        let store = Store::new(&settings);
        let runtime = Arc::clone(&executor.runtime);
        migrate(&pool, runtime, &store, &settings.schema).await?;
        let worker = if settings.runs_events {
            new_worker_id()
        } else {
            0
        };
        let state = SharedState::new(&settings, &executor, worker);
        let mut connection = Connection::new(pool.clone(), Arc::clone(&executor.runtime));
        let opened = async {
            let before = executor.runtime.now();
            if settings.runs_events {
                let lease = settings.lease;
                store.register(&mut connection, worker, lease).await?;
            }
            let measured = store.measure(&mut connection).await?;
            let mut state = state.lock();
            state.measure(measured, (0, 0));
            state.leased_until = before + settings.lease;
            Ok(())
        };
        let opened = opened.await;
        opened.map_err(|failure: error::Failure| {
            error::open_failed(&settings.schema, &failure.error)
        })?;
        drop(connection);
        let (commands, received) = mpsc::unbounded_channel();
        let inbox = Arc::new(SharedInbox {
            pool,
            store,
            commands,
            state,
            monitor: Monitor::new(Arc::clone(&executor.runtime)),
            settings,
            executor,
        });
        let worker = Arc::new(AtomicI64::new(worker));
        let runtime = &inbox.executor.runtime;
        let writer = Writer::new(&inbox, received, Arc::clone(&worker));
        let keeper = LeaseKeeper::new(&inbox, worker);
        runtime.spawn(Box::pin(async {
            drop(CatchPanic::new(writer.run()).await);
        }));
        runtime.spawn(Box::pin(async {
            drop(CatchPanic::new(keeper.run()).await);
        }));
        Monitor::wake(&inbox);
        Ok(PostgresInbox::from_shared(inbox))
    }
}

/// Returns an error if a route has an option that the inbox doesn't support.
fn check_routes(executor: &JobExecutor) -> Result<(), Error> {
    let mut routes = executor.router().into_iter().flat_map(EventRouter::routes);
    if let Some(route) = routes.find(|route| route.is_once_per_key()) {
        return Err(error::route_option(route.name(), "once_per"));
    }
    Ok(())
}
