use std::any::Any;
use std::future::poll_fn;
use std::sync::PoisonError;

use futures_util::TryFutureExt;
use futures_util::future::Either;
use tower_service::Service;

use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::outcome::Report;
use crate::router::EventRouter;
use crate::runtime::BoxFuture;
use crate::sync::Mutex;

/// The user's service with its type erased, so that inboxes need no type parameter for the service.
pub(crate) struct ErasedService {
    service: Erased,
}

enum Erased {
    /// A router without layers around it. The router's future needs no box.
    Router(EventRouter),
    Service(Box<dyn Fn(Event) -> BoxFuture<Result<Report, BoxError>> + Send + Sync>),
}

impl ErasedService {
    /// # Errors
    ///
    /// Fails if the service is a router in which two routes have the same name.
    pub(crate) fn new<S>(service: S) -> Result<Self, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        if let Some(router) = (&service as &dyn Any).downcast_ref::<EventRouter>() {
            router.validate()?;
            let service = Erased::Router(router.clone());
            return Ok(Self { service });
        }
        // A service needn't be `Sync`, so a lock guards it while it is cloned.
        let service = Mutex::new(service);
        let call = move |event| -> BoxFuture<_> {
            // If the clone panics, it poisons the lock but doesn't change the service.
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
        };
        Ok(Self {
            service: Erased::Service(Box::new(call)),
        })
    }

    /// Returns the service if it is a router without layers around it.
    pub(crate) fn router(&self) -> Option<&EventRouter> {
        match &self.service {
            Erased::Router(router) => Some(router),
            Erased::Service(_) => None,
        }
    }

    /// Calls a clone of the service once the clone is ready.
    ///
    /// # Panics
    ///
    /// Panics if cloning the service panics.
    pub(crate) fn call(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Report, BoxError>> + Send + use<> {
        match &self.service {
            // A router is always ready.
            Erased::Router(router) => {
                Either::Left(router.clone().call(event).map_err(|never| match never {}))
            }
            Erased::Service(call) => Either::Right(call(event)),
        }
    }
}
