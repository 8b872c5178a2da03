//! Futures that wait for one signal.

use futures_channel::oneshot;

use crate::catch_panic::catch_panic;

/// The tasks that are waiting for a signal.
///
/// Before the list grows, `wait` removes dropped receivers. So the capacity is at most about twice the number of waiting
/// tasks.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    senders: Vec<oneshot::Sender<()>>,
}

impl Waiters {
    /// Returns a receiver that resolves when the signal is sent.
    pub(crate) fn wait(&mut self) -> oneshot::Receiver<()> {
        if self.senders.len() == self.senders.capacity() {
            self.senders.retain(|sender| !sender.is_canceled());
            // Doubling the capacity keeps most calls from scanning the list.
            self.senders.reserve(self.senders.len().max(4));
        }
        let (sender, receiver) = oneshot::channel();
        self.senders.push(sender);
        receiver
    }

    /// Takes all waiting tasks. The caller releases its lock before it calls [`wake`](Waiters::wake), because wakers run the
    /// executor's code.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Wakes all waiting tasks.
    pub(crate) fn wake(self) {
        for sender in self.senders {
            // The receiver may have been dropped. A waker that panics affects only its own task.
            let _ = catch_panic(|| sender.send(()));
        }
    }
}
