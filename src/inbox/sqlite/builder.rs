use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use tower_service::Service;

use super::command_queue::command_queue;
use super::settings::Settings;
use super::shared_inbox::SharedInbox;
use super::state::SharedState;
use super::writer::Writer;
use super::{SqliteInbox, error};
use crate::catch_panic::catch_panic;
use crate::delivery::{DeliverySettings, ErasedService, JobExecutor};
use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::inbox::{Monitor, Monitored};
use crate::outcome::Report;
use crate::runtime::Runtime;

/// Sets up a [`SqliteInbox`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteInboxBuilder {
    settings: Settings,
    delivery: DeliverySettings,
}

impl SqliteInboxBuilder {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            settings: Settings::new(path),
            delivery: DeliverySettings::new(),
        }
    }

    /// Sets how the inbox runs the handlers. The default is [`DeliverySettings::new`]. A second call replaces the first.
    pub fn delivery(mut self, settings: DeliverySettings) -> Self {
        self.delivery = settings;
        self
    }

    /// Sets how long [`open`](SqliteInboxBuilder::open) waits while another process has locked the file. The default is 0.
    ///
    /// A rolling deployment starts the new process before the old one has ended. A timeout of 30 s gives the old
    /// process time to drain.
    pub fn lock_timeout(mut self, wait: Duration) -> Self {
        self.settings.lock_timeout = wait;
        self
    }

    /// Sets the maximum number of events that the inbox holds, in memory and on disk. The default is 1,000,000. Beyond
    /// that, the receiver answers 503.
    pub fn max_events(mut self, events: u64) -> Self {
        self.settings.max_events.events = events;
        self
    }

    /// Sets the maximum total size of the bodies of the events that the inbox holds, in bytes. The default is 1 GiB.
    /// Beyond that, the receiver answers 503.
    ///
    /// The file also contains the dead letters and the message ids. The file doesn't shrink: SQLite reuses free pages.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_events.bytes = bytes;
        self
    }

    /// Sets the maximum number of events in memory. The default is 1,024. Other events wait on disk. Set a higher number
    /// than `concurrency`.
    pub fn max_events_in_memory(mut self, events: usize) -> Self {
        self.settings.max_in_memory.events = events.max(1) as u64;
        self
    }

    /// Sets the maximum total size of the bodies of the events in memory, in bytes. The default is 16 MiB. The last
    /// event may exceed this limit.
    pub fn max_bytes_in_memory(mut self, bytes: usize) -> Self {
        self.settings.max_in_memory.bytes = bytes as u64;
        self
    }

    /// Sets the maximum size of the write-ahead log during a long read by another process, in bytes. The default is 64
    /// MiB. Beyond that, the receiver answers 503.
    pub fn max_wal_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_wal_bytes = bytes;
        self
    }

    /// Sets how long the inbox remembers the `messageId` of an accepted event, including across restarts. The default
    /// is 7 days, because the sender retries for days. During this time, the receiver answers 200 to a copy, and the
    /// copy doesn't run. With 0, the inbox remembers no ids.
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.settings.duplicate_window = window;
        self
    }

    /// Sets the maximum number of message ids that the inbox remembers. The default is 1,000,000, at about 70 bytes of
    /// memory each. Beyond that, the inbox forgets the oldest ids before the duplicate window has passed, and logs a
    /// warning once.
    pub fn max_remembered_ids(mut self, ids: usize) -> Self {
        self.settings.max_remembered_ids = ids;
        self
    }

    /// Sets the maximum number of dead letters. The default is 100,000. Beyond that, the inbox drops the oldest dead
    /// letters and counts them as `dead_letters_dropped`. With 0, the inbox keeps no dead letters.
    pub fn max_dead_letters(mut self, letters: u64) -> Self {
        self.settings.max_dead_letters.events = letters;
        self
    }

    /// Sets the maximum total size of the bodies of all dead letters, in bytes. The default is 256 MiB. Beyond that,
    /// the inbox drops the oldest dead letters.
    pub fn max_dead_letter_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_dead_letters.bytes = bytes;
        self
    }

    /// Sets how long the inbox keeps dead letters. The default is 30 days.
    pub fn keep_dead_letters_for(mut self, time: Duration) -> Self {
        self.settings.keep_dead_letters = time;
        self
    }

    /// Keeps each handled or unhandled event for this time after it has ended, so that [`Handle::events`](crate::Handle::events)
    /// lists and replays it. The default is 0: the inbox deletes an event once all routes have handled it.
    ///
    /// The events are in the table `handled` of the file, with their bodies and attempts. The inbox writes each event once more,
    /// and deletes old events in small steps.
    pub fn keep_handled(mut self, time: Duration) -> Self {
        self.settings.keep_handled = time;
        self
    }

    /// Sets the maximum number of handled and unhandled events that the inbox keeps. The default is 100,000. Beyond that, the inbox
    /// deletes the oldest events.
    pub fn max_handled_events(mut self, events: u64) -> Self {
        self.settings.max_handled.events = events;
        self
    }

    /// Sets the maximum total size of the bodies of handled and unhandled events, in bytes. The default is 256 MiB. Beyond that,
    /// the inbox deletes the oldest events.
    pub fn max_handled_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_handled.bytes = bytes;
        self
    }

    /// Sets how many processes may crash while they run an event, before the event becomes a dead letter. The default
    /// is 3. A value of 0 counts as 1.
    ///
    /// The inbox doesn't count the crash of the process that accepted the event. So a poison message crashes one more
    /// process than this number.
    pub fn max_crashes(mut self, crashes: u32) -> Self {
        self.settings.max_crashes = crashes.max(1);
        self
    }

    /// Opens the inbox on the current tokio runtime, and starts to run its events. If the file doesn't exist, the inbox
    /// creates it. The folder must exist.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Locked`](crate::ErrorKind::Locked) if another process, or another inbox of this process,
    /// keeps the file locked for longer than [`lock_timeout`](SqliteInboxBuilder::lock_timeout).
    ///
    /// Returns [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if there is no tokio runtime, if the folder or a
    /// permission is missing, or if the file is unusable. A file is unusable if it is corrupt, isn't a database, belongs
    /// to another program, or was written by a newer version of this crate. The error message names the path. The inbox
    /// never overwrites or recreates a file.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the inbox closes.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn open<S>(self, service: S) -> Result<SqliteInbox, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        // The inbox's thread also spawns tasks, so the runtime needs a handle.
        let handle = tokio::runtime::Handle::try_current().map_err(error::runtime_missing)?;
        let runtime = crate::runtime::TokioRuntime::with_handle(handle);
        self.open_with(runtime, service).await
    }

    /// Opens the inbox on another runtime. The inbox's thread also calls the runtime.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`open`](SqliteInboxBuilder::open), and [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the
    /// runtime panics when the inbox's thread spawns a task.
    pub async fn open_with<S>(self, runtime: impl Runtime, service: S) -> Result<SqliteInbox, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        let (commands, received) = command_queue();
        let mut settings = self.settings;
        settings.path = std::path::absolute(&settings.path)
            .map_err(|error| error::caused(&settings.path, "the path can't be resolved", error))?;
        let executor = JobExecutor::new(ErasedService::new(service)?, runtime, self.delivery);
        let state = SharedState::new(&settings, &executor);
        let inbox = Arc::new(SharedInbox {
            path: settings.path.clone(),
            max_events: settings.max_events,
            keeps_handled: settings.keeps_handled(),
            commands,
            state: Arc::new(state),
            monitor: Monitor::new(Arc::clone(&executor.runtime)),
            executor,
        });
        let (opened, opening) = oneshot::channel();
        let weak = Arc::downgrade(&inbox);
        let run = move || {
            match Writer::open(settings, &weak) {
                // If the future was dropped, the inbox was dropped too, and `run` returns immediately.
                Ok(writer) => {
                    let _ = opened.send(Ok(()));
                    if catch_panic(|| writer.run(&received)).is_err() {
                        writer_ended(&weak);
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        thread::Builder::new()
            .name("botisimo-inbox".to_owned())
            .spawn(run)
            .map_err(error::thread_not_started)?;
        opening
            .await
            .unwrap_or_else(|_| Err(error::thread_ended()))?;
        if inbox.activity().is_active {
            Monitor::wake(&inbox);
        }
        Ok(SqliteInbox::from_shared(inbox))
    }
}

/// Records that the writer's thread has panicked. The inbox then stores nothing until the process restarts.
fn writer_ended(inbox: &Weak<SharedInbox>) {
    if let Some(inbox) = inbox.upgrade() {
        // The user's clock may have caused the panic.
        let at = catch_panic(|| inbox.state.clock.now()).unwrap_or(u64::MAX);
        inbox.state.update(|state| state.writer_ended = Some(at));
        Monitor::rouse(&(inbox as Arc<dyn Monitored>));
    }
}
