use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use tower_service::Service;

use super::SqliteInbox;
use super::desk::SqliteDesk;
use super::opener::{Opener, Setup};
use super::window::{Shared, Window, WindowLimits};
use super::writer::Bounds;
use crate::catch_panic::catch_panic;
use crate::delivery::{ErasedService, JobExecutor, Settings, WorkerPool, settings};
use crate::error::{BoxError, Error, ErrorKind};
use crate::event::Event;
use crate::outcome::Report;
use crate::runtime::{Clock, Runtime};

/// Sets up a [`SqliteInbox`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteInboxBuilder {
    setup: Setup,
    window: WindowLimits,
    delivery: Settings,
}

impl SqliteInboxBuilder {
    pub(super) fn new(path: &Path) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            setup: Setup {
                path: path.to_owned(),
                lock_timeout: Duration::ZERO,
                bounds: Bounds {
                    events: 1_000_000,
                    bytes: 1 << 30,
                    letters: 100_000,
                    letter_bytes: 256 << 20,
                    keep_letters: DAY * 30,
                    crashes: 3,
                },
                max_log: 64 << 20,
                max_ids: 1_000_000,
                duplicate_window: DAY * 7,
            },
            window: WindowLimits {
                events: 1024,
                bytes: 16 << 20,
                unwritten: 512,
            },
            delivery: Settings::default(),
        }
    }

    settings!();

    /// Sets for how long to wait while another process has the inbox. The default is not at all.
    ///
    /// With a rolling deployment the new process is started before the old one has ended: 30 s are
    /// time enough for that to drain.
    pub fn lock_timeout(mut self, wait: Duration) -> Self {
        self.setup.lock_timeout = wait;
        self
    }

    /// Sets how many events are held at once, in memory and on disk. The default is 1,000,000. The
    /// next one is refused.
    pub fn max_events(mut self, events: u64) -> Self {
        self.setup.bounds.events = events;
        self
    }

    /// Sets how many bytes the bodies of all held events may have. The default is 1 GiB.
    ///
    /// The file is somewhat larger than these, the dead letters' and the ids that are remembered
    /// together, and doesn't shrink when they do: SQLite fills the room again.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.setup.bounds.bytes = bytes;
        self
    }

    /// Sets how many events are in memory at once, out of those held. The default is 1,024. Those
    /// beyond it wait on disk. It should be more than `concurrency`.
    pub fn max_events_in_memory(mut self, events: usize) -> Self {
        self.window.events = events.max(1);
        self.window.unwritten = (events / 2).max(1);
        self
    }

    /// Sets how many bytes the bodies of the events in memory may have; the last one may go over
    /// it. The default is 16 MiB.
    pub fn max_bytes_in_memory(mut self, bytes: usize) -> Self {
        self.window.bytes = bytes;
        self
    }

    /// Sets how large the log beside the database may be while somebody reads from it and keeps it
    /// from being emptied. The default is 64 MiB. Past it events are answered 503.
    pub fn max_wal_bytes(mut self, bytes: u64) -> Self {
        self.setup.max_log = bytes;
        self
    }

    /// Sets for how long the `messageId` of an accepted event is remembered, also from one process
    /// to the next: a copy that comes within this time is answered 200 and not run again. The
    /// default is 7 days, because the sender tries for days. With zero nothing is remembered.
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.setup.duplicate_window = window;
        self
    }

    /// Sets how many ids are remembered at most. The default is 1,000,000, at some 70 bytes of
    /// memory each. Past it the oldest are forgotten before their time, which is warned of once.
    pub fn max_remembered_ids(mut self, ids: usize) -> Self {
        self.setup.max_ids = ids;
        self
    }

    /// Sets how many dead letters are kept. The default is 100,000. Past it the oldest are dropped,
    /// and counted as `dead_letters_dropped`. With 0 none is kept.
    pub fn max_dead_letters(mut self, letters: u64) -> Self {
        self.setup.bounds.letters = letters;
        self
    }

    /// Sets how many bytes the bodies of all dead letters may have. The default is 256 MiB. Past it
    /// the oldest are dropped.
    pub fn max_dead_letter_bytes(mut self, bytes: u64) -> Self {
        self.setup.bounds.letter_bytes = bytes;
        self
    }

    /// Sets for how long dead letters are kept. The default is 30 days.
    pub fn keep_dead_letters_for(mut self, time: Duration) -> Self {
        self.setup.bounds.keep_letters = time;
        self
    }

    /// Sets how many processes may end while an event of an earlier one runs, before that event is
    /// a dead letter. The default is 3. 0 counts as 1.
    ///
    /// Only events that were found at the start are counted, so a bad one has run once more.
    pub fn max_crashes(mut self, crashes: u32) -> Self {
        self.setup.bounds.crashes = crashes.max(1);
        self
    }

    /// Opens the inbox on the current runtime of tokio, and begins to deliver what is in it. A file
    /// that isn't there is created; its folder isn't.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Locked`] if another process, or another inbox of this one, has the file and
    /// keeps it for longer than [`lock_timeout`](SqliteInboxBuilder::lock_timeout).
    /// [`ErrorKind::Inbox`] if the folder is missing, there is no permission, the file is no
    /// database or that of something else, or corrupt, or was written by a newer version of this
    /// crate, or if there is no runtime of tokio. The text names the path. No file is ever
    /// overwritten or made anew.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the inbox is closed again.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn open<S>(self, service: S) -> Result<SqliteInbox, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        // Deliveries are also begun from the inbox's own thread.
        let handle = tokio::runtime::Handle::try_current().map_err(|error| {
            let text = "an inbox on disk has to be opened in a runtime of tokio";
            Error::caused(ErrorKind::Inbox, text, error)
        })?;
        let runtime = crate::runtime::TokioRuntime::with_handle(handle);
        self.open_with(runtime, service).await
    }

    /// Opens the inbox on another runtime, whose methods are called from a thread of the inbox's own
    /// too.
    ///
    /// # Errors
    ///
    /// Those of [`open`](SqliteInboxBuilder::open), and [`ErrorKind::Inbox`] if the runtime panics
    /// when it is to spawn from that thread.
    pub async fn open_with<S>(self, runtime: impl Runtime, service: S) -> Result<SqliteInbox, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        let worker_pool = WorkerPool::new(self.delivery.concurrency);
        let desk = Arc::new(SqliteDesk {
            mailbox: Arc::default(),
            shared: Arc::new(Shared::new(Window::new(self.window, worker_pool))),
            clock: Arc::new(Clock::new(Arc::clone(&runtime))),
            fingerprints: Arc::default(),
            executor: JobExecutor::new(ErasedService::new(service), runtime, self.delivery),
        });
        let (opened, opening) = oneshot::channel();
        let opener = Opener::new(self.setup, &desk);
        let mailbox = Arc::clone(&desk.mailbox);
        let run = move || {
            match opener.open() {
                Ok(writer) => {
                    // Whoever gave up has closed the mailbox.
                    let _ = opened.send(Ok(()));
                    let _ = catch_panic(|| writer.run());
                }
                Err(error) => drop(opened.send(Err(error))),
            }
            mailbox.abandon();
        };
        thread::Builder::new()
            .name("botisimo-inbox".to_owned())
            .spawn(run)
            .map_err(|error| {
                Error::caused(
                    ErrorKind::Inbox,
                    "the inbox's thread can't be started",
                    error,
                )
            })?;
        let gone = || Error::new(ErrorKind::Inbox, "the inbox's thread has ended");
        opening.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(SqliteInbox::start(desk))
    }
}
