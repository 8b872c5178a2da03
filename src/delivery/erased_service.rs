use std::future::poll_fn;
use std::sync::PoisonError;

use tower_service::Service;

use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::Report;
use crate::runtime::BoxFuture;
use crate::sync::Mutex;

/// The user's service of events without its type: no inbox has a type parameter for it.
pub(crate) struct ErasedService {
    call: Box<dyn Fn(Event) -> BoxFuture<Result<Report, BoxError>> + Send + Sync>,
}

impl ErasedService {
    pub(crate) fn new<S>(service: S) -> Self
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        // A service needn't be `Sync`, so a lock guards it while it is cloned.
        let service = Mutex::new(service);
        Self {
            call: Box::new(move |event| {
                // A clone that panics poisons the lock and doesn't change the service.
                let mut service = service
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                Box::pin(async move {
                    poll_fn(|cx| service.poll_ready(cx))
                        .await
                        .map_err(Into::into)?;
                    service.call(event).await.map_err(Into::into)
                })
            }),
        }
    }

    /// Calls a clone of the service once it is ready. Panics if the clone panics.
    pub(crate) fn call(&self, event: Event) -> BoxFuture<Result<Report, BoxError>> {
        (self.call)(event)
    }
}
