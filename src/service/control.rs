use std::sync::Arc;
use std::time::Duration;

use super::counters::Counters;
use crate::delivery::{Attempt, DeadLetter, Stats};
use crate::inbox::{
    DeadLetterStore, DeadLetters, Drained, EventStore, Handle, InboxControl, InboxInfo, Monitored,
};
use crate::router::EventRouter;
use crate::runtime::{BoxFuture, Runtime};

/// Wraps the inbox's control, and adds the receiver's counts to the inbox's counts.
pub(super) struct ReceiverControl {
    pub(super) counters: Arc<Counters>,
    pub(super) inbox: Handle,
}

impl InboxControl for ReceiverControl {
    fn info(&self) -> InboxInfo {
        self.inbox.info()
    }

    fn stats(&self) -> Stats {
        let mut stats = self.inbox.stats();
        self.counters.add_to(&mut stats);
        stats
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.inbox.runtime()
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        self.inbox.drain_silently(within)
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(self.inbox.wait_idle())
    }

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>) {
        self.inbox.on_attempt(move |attempt| hook(attempt));
    }

    fn on_dead_letter(&self, hook: Arc<dyn Fn(&DeadLetter) + Send + Sync>) {
        self.inbox.on_dead_letter(move |letter| hook(letter));
    }

    fn dead_letters(self: Arc<Self>) -> Option<Arc<dyn DeadLetterStore>> {
        self.inbox.dead_letters().map(DeadLetters::into_store)
    }

    fn events(self: Arc<Self>) -> Arc<dyn EventStore> {
        self.inbox.events().into_store()
    }

    fn router(&self) -> Option<EventRouter> {
        self.inbox.router()
    }

    fn monitored(self: Arc<Self>) -> Arc<dyn Monitored> {
        self.inbox.monitored()
    }
}
