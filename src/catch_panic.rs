//! Catches panics of the user's code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

/// The message of a caught panic.
pub(crate) type PanicMessage = Arc<str>;

/// Runs `code` and returns a panic as an error.
pub(crate) fn catch_panic<R>(code: impl FnOnce() -> R) -> Result<R, PanicMessage> {
    // A value that a panic leaves half changed is dropped and not used again.
    catch_unwind(AssertUnwindSafe(code)).map_err(message)
}

/// Drops values whose drop may run the user's code: a subscriber's, an executor's.
pub(crate) fn discard<T>(values: impl IntoIterator<Item = T>) {
    for value in values {
        let _ = catch_panic(|| drop(value));
    }
}

/// Returns the message of a panic and drops the payload, which may panic too.
fn message(payload: Box<dyn Any + Send>) -> PanicMessage {
    let message = match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => PanicMessage::from(*text),
        (_, Some(text)) => PanicMessage::from(text.as_str()),
        _ => PanicMessage::from("a panic whose payload is not text"),
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // The drop of the payload panicked with a second payload. Leaking it ends the chain.
        #[allow(clippy::mem_forget)]
        std::mem::forget(second);
    }
    message
}

pin_project! {
    /// A future of the user's. It returns a panic of any poll or of its drop as an error.
    pub(crate) struct CatchPanic<F> {
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for CatchPanic<F> {
        fn drop(this: Pin<&mut Self>) {
            // The owner may be unwinding, and a second panic would end the process.
            let _ = this.cancel();
        }
    }
}

impl<F> CatchPanic<F> {
    pub(crate) fn new(future: F) -> Self {
        Self {
            future: Some(future),
        }
    }

    /// Drops the future now.
    pub(crate) fn cancel(self: Pin<&mut Self>) -> Result<(), PanicMessage> {
        let mut future = self.project().future;
        catch_panic(|| future.set(None))
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, PanicMessage>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.as_mut().project().future.as_pin_mut();
        let future = future.expect("a future isn't polled after completion");
        let output = match catch_panic(|| future.poll(cx)) {
            Ok(poll) => Ok(ready!(poll)),
            Err(panic) => Err(panic),
        };
        let dropped = self.cancel();
        Poll::Ready(output.and_then(|output| dropped.map(|()| output)))
    }
}
