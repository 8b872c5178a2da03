use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use futures_util::future::{Either, select};

use super::StreamSettings;
use super::subjects::Subjects;
use crate::delivery::{Attempt, Stats};
use crate::inbox::{AcceptError, Accepted, Drained, InboxControl};
use crate::runtime::{BoxFuture, Runtime, TokioRuntime};
use crate::waiters::Waiters;

/// What a message has beside its body, at the most: its subject, its headers and how they are written.
const OVERHEAD: usize = 1024;

#[derive(Clone, Copy, Debug)]
pub(super) struct PublishLimits {
    pub(super) publish_timeout: Duration,
    pub(super) bytes: usize,
}

/// What the clones of an inbox share.
pub(super) struct Publisher {
    pub(super) context: Context,
    pub(super) subjects: Subjects,
    pub(super) stream: String,
    pub(super) limits: PublishLimits,
    runtime: Arc<TokioRuntime>,
    /// That of the stream, if it has one.
    max_message_size: Option<usize>,
    state: Mutex<InFlight>,
}

/// The publications under way, and the counts of all.
#[derive(Default)]
struct InFlight {
    publications: u64,
    bytes: usize,
    draining: bool,
    accepted: u64,
    duplicates: u64,
    refused: u64,
    /// Who waits until nothing is under way.
    idle: Waiters,
}

impl InFlight {
    /// Returns what one more publication and those under way count besides their bodies.
    fn overhead(&self) -> usize {
        let publications = usize::try_from(self.publications).unwrap_or(usize::MAX);
        publications.saturating_add(1).saturating_mul(OVERHEAD)
    }
}

impl Publisher {
    pub(super) fn new(
        context: Context,
        settings: &StreamSettings,
        limits: PublishLimits,
        max_message_size: Option<usize>,
    ) -> Self {
        Self {
            context,
            subjects: settings.subjects(),
            stream: settings.stream_name().to_owned(),
            limits,
            runtime: Arc::new(TokioRuntime::new()),
            max_message_size: max_message_size.filter(|bytes| *bytes > 0),
            state: Mutex::default(),
        }
    }

    pub(super) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.runtime) as Arc<dyn Runtime>
    }

    /// Returns how large a body can be. It may change when the client connects to another server.
    pub(super) fn max_body_bytes(&self) -> usize {
        let payload = self.context.client().max_payload();
        let message = self.max_message_size.unwrap_or(payload);
        payload.min(message).saturating_sub(OVERHEAD)
    }

    /// Lets a publication of so many bytes begin.
    pub(super) fn admit(self: &Arc<Self>, bytes: usize) -> Result<PublishPermit, AcceptError> {
        let mut state = self.state();
        let refused = if state.draining {
            Some(AcceptError::draining())
        } else if self.context.client().connection_state() != State::Connected
            || bytes > self.max_body_bytes()
        {
            // The client would buffer what it can't send, and never could send what is too large.
            Some(AcceptError::unavailable())
        } else if state.publications > 0
            && state
                .bytes
                .saturating_add(bytes)
                .saturating_add(state.overhead())
                > self.limits.bytes
        {
            Some(AcceptError::full())
        } else {
            None
        };
        if let Some(refused) = refused {
            state.refused += 1;
            return Err(refused);
        }
        state.publications += 1;
        state.bytes += bytes;
        drop(state);
        Ok(PublishPermit {
            publisher: Arc::clone(self),
            bytes,
        })
    }

    /// Counts what was answered.
    pub(super) fn count(&self, answer: &Result<Accepted, AcceptError>) {
        let mut state = self.state();
        *match answer {
            Ok(Accepted::New) => &mut state.accepted,
            Ok(Accepted::Duplicate) => &mut state.duplicates,
            Err(_) => &mut state.refused,
        } += 1;
    }

    fn state(&self) -> MutexGuard<'_, InFlight> {
        // No user code runs under the lock, so a poisoned one is as it should be.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is ready once nothing is under way.
    async fn idle(&self) {
        let idle = {
            let mut state = self.state();
            if state.publications == 0 {
                return;
            }
            state.idle.wait()
        };
        // The sender lives in here, which the caller holds.
        let _ = idle.await;
    }
}

/// The permit of one publication, and of its bytes, given back when it is dropped.
pub(super) struct PublishPermit {
    publisher: Arc<Publisher>,
    bytes: usize,
}

impl Drop for PublishPermit {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.publisher.state();
            state.publications -= 1;
            state.bytes -= self.bytes;
            (state.publications == 0).then(|| state.idle.take())
        };
        if let Some(idle) = idle {
            idle.wake();
        }
    }
}

impl InboxControl for Publisher {
    fn stats(&self) -> Stats {
        let state = self.state();
        Stats {
            accepted: state.accepted,
            published: state.accepted,
            duplicates: state.duplicates,
            refused: state.refused,
            bytes: state.bytes as u64,
            ..Stats::default()
        }
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            self.state().draining = true;
            let sleep = self.runtime.sleep(within);
            let idle = Box::pin(self.idle());
            match select(idle, sleep).await {
                Either::Left(_) => Drained::new(0),
                Either::Right(_) => Drained::new(self.state().publications),
            }
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move { self.idle().await })
    }

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>) {
        // The workers have the deliveries.
        drop(hook);
    }
}
