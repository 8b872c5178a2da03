use std::fmt;
use std::marker::PhantomData;

use crate::event::{Event, Payload};
use crate::outcome::{IntoOutcome, Outcome};
use crate::runtime::BoxFuture;

/// A type-erased handler: the only dynamic dispatch between an event and its handler.
pub(super) trait Handler: Send + Sync {
    /// Starts a run with a clone of the closure.
    ///
    /// # Panics
    ///
    /// Panics if the clone panics.
    fn run(&self, event: Event) -> BoxFuture<Outcome>;
}

impl fmt::Debug for dyn Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

/// A handler that takes an `Event<T>`.
pub(super) struct Typed<H, T> {
    handler: H,
    payload: PhantomData<fn() -> T>,
}

impl<H, T> Typed<H, T> {
    pub(super) fn new(handler: H) -> Self {
        Self {
            handler,
            payload: PhantomData,
        }
    }
}

impl<H, T, Fut> Handler for Typed<H, T>
where
    H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
    T: Payload + 'static,
    Fut: Future<Output: IntoOutcome> + Send + 'static,
{
    fn run(&self, event: Event) -> BoxFuture<Outcome> {
        let handler = self.handler.clone();
        Box::pin(async move {
            let run = match event.typed() {
                Ok(event) => handler(event),
                Err(error) => return Outcome::Mismatched(error),
            };
            run.await.into_outcome()
        })
    }
}
