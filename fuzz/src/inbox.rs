use std::future::pending;
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, Event, EventRouter, Handle, Inbox, MemoryInbox, Runtime,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::runtime::Hand;

/// The answer of an inbox.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    New,
    Duplicate,
    Full,
    Draining,
    Unavailable,
    /// Stores the event and never answers.
    Never,
}

/// An inbox that gives a fixed answer and keeps the events that it accepts.
#[derive(Clone)]
pub struct Told {
    pub answer: Arc<Mutex<Answer>>,
    pub owned: Arc<Mutex<Vec<Event>>>,
    runtime: Hand,
}

impl Told {
    pub fn new(answer: Answer, runtime: Hand) -> Self {
        Self {
            answer: Arc::new(Mutex::new(answer)),
            owned: Arc::default(),
            runtime,
        }
    }

    fn own(&self, event: Event) {
        self.owned.lock().expect("no thread panics").push(event);
    }
}

impl Inbox for Told {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        let (told, answer) = (self.clone(), *self.answer.lock().expect("no thread panics"));
        let answered: BoxFuture<'static, _> = async move {
            match answer {
                Answer::New => {
                    told.own(event);
                    Ok(Accepted::New)
                }
                Answer::Duplicate => Ok(Accepted::Duplicate),
                Answer::Full => Err(AcceptError::new(AcceptErrorKind::Full)),
                Answer::Draining => Err(AcceptError::new(AcceptErrorKind::Draining)),
                Answer::Unavailable => Err(AcceptError::new(AcceptErrorKind::Unavailable)),
                Answer::Never => pending().await,
            }
        }
        .boxed();
        answered
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime.clone())
    }

    fn handle(&self) -> Handle {
        // No input uses the handle.
        MemoryInbox::builder()
            .build_with(self.runtime.clone(), EventRouter::new())
            .handle()
    }
}
