//! Catches panics in user code.

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
    // After a panic, a half-changed value is dropped and never used again.
    catch_unwind(AssertUnwindSafe(code)).map_err(message)
}

/// Drops values and catches their panics. Dropping a value may run user code, for example a subscriber's or an
/// executor's.
pub(crate) fn discard<T>(values: impl IntoIterator<Item = T>) {
    for value in values {
        let _ = catch_panic(|| drop(value));
    }
}

/// Returns the message of a panic and drops the payload. Dropping the payload may panic too.
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
        // Dropping the payload panicked with a second payload. Leaking the second payload ends the chain.
        #[allow(clippy::mem_forget)]
        std::mem::forget(second);
    }
    message
}

pin_project! {
    /// Wraps a user's future. If a poll or the drop of the future panics, returns the panic as an error.
    pub(crate) struct CatchPanic<F> {
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for CatchPanic<F> {
        fn drop(this: Pin<&mut Self>) {
            // The owner may be unwinding, and a second panic would abort the process.
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
