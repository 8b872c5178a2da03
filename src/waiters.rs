//! Futures that wait for one signal.

use futures_channel::oneshot;

use crate::catch_panic::catch_panic;

/// Who waits for a signal. It holds about twice as many as really wait at the most: those who gave up are forgotten before
/// it grows.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: Vec<oneshot::Sender<()>>,
}

impl Waiters {
    /// Returns what is received with the signal.
    pub(crate) fn wait(&mut self) -> oneshot::Receiver<()> {
        if self.waiting.len() == self.waiting.capacity() {
            self.waiting.retain(|waiting| !waiting.is_canceled());
            // As many places again as there are, so that this isn't asked each time.
            self.waiting.reserve(self.waiting.len().max(4));
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.push(sender);
        receiver
    }

    /// Takes those who wait out of what is locked: a waker is code of the executor's, which runs under no lock of ours.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Gives the signal.
    pub(crate) fn wake(self) {
        for waiting in self.waiting {
            // Who gave up needn't be told; a waker that panics is its own executor's trouble.
            let _ = catch_panic(|| waiting.send(()));
        }
    }
}
