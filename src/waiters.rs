//! Futures that wait for one signal.

use futures_channel::oneshot;

use crate::catch_panic::catch_panic;

/// The tasks that wait for a signal.
///
/// Dropped receivers are removed before the list grows. So it has room for at most about twice the tasks that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    senders: Vec<oneshot::Sender<()>>,
}

impl Waiters {
    /// Returns a receiver that resolves with the signal.
    pub(crate) fn wait(&mut self) -> oneshot::Receiver<()> {
        if self.senders.len() == self.senders.capacity() {
            self.senders.retain(|sender| !sender.is_canceled());
            // Doubles the room, so that most calls don't scan the list.
            self.senders.reserve(self.senders.len().max(4));
        }
        let (sender, receiver) = oneshot::channel();
        self.senders.push(sender);
        receiver
    }

    /// Takes all waiting tasks, so that [`wake`](Waiters::wake) runs after a lock is released: wakers are the executor's code.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Gives the signal.
    pub(crate) fn wake(self) {
        for sender in self.senders {
            // The receiver may be gone. A waker that panics affects only its own task.
            let _ = catch_panic(|| sender.send(()));
        }
    }
}
