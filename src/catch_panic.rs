//! Keeps a panic of the user's code where it happened.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

/// The message of a panic that was caught.
pub(crate) type PanicMessage = Arc<str>;

/// Runs `code`; a panic in it is the error.
pub(crate) fn catch_panic<R>(code: impl FnOnce() -> R) -> Result<R, PanicMessage> {
    // What a panic leaves half done is only ever dropped by us, never looked at again.
    catch_unwind(AssertUnwindSafe(code)).map_err(message)
}

/// Drops things that may hold something of the user's: a span, a waker.
#[cfg(feature = "sqlite")]
pub(crate) fn discard<T>(things: impl IntoIterator<Item = T>) {
    for thing in things {
        let _ = catch_panic(|| drop(thing));
    }
}

/// Reads the payload of a panic and drops it, which may panic too.
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
        // The drop of a payload panicked. To drop the second payload could go on for ever: leaking
        // it can't.
        #[allow(clippy::mem_forget)]
        std::mem::forget(second);
    }
    message
}

pin_project! {
    /// A future of the user's, whose panics are its output: those of any poll and those of its drop.
    pub(crate) struct CatchPanic<F> {
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for CatchPanic<F> {
        fn drop(this: Pin<&mut Self>) {
            // A panic here would be the second one if the owner is unwinding: nobody is left to be told.
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
        let future = future.expect("a future isn't polled after it is ready");
        let output = match catch_panic(|| future.poll(cx)) {
            Ok(poll) => Ok(ready!(poll)),
            Err(panic) => Err(panic),
        };
        let dropped = self.cancel();
        Poll::Ready(output.and_then(|output| dropped.map(|()| output)))
    }
}
