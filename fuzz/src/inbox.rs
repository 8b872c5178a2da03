use std::future::pending;
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use botisimo_webhooks::{
    Accepted, Event, EventRouter, Handle, Inbox, MemoryInbox, AcceptError, Runtime,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::runtime::Hand;

/// What an inbox answers.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    New,
    Duplicate,
    Full,
    Draining,
    Unavailable,
    /// Takes the event, and never says so.
    Never,
}

/// An inbox that answers as it is told, and keeps what it says that it owns.
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
        self.owned.lock().expect("nobody panics").push(event);
    }
}

impl Inbox for Told {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        let (told, answer) = (self.clone(), *self.answer.lock().expect("nobody panics"));
        let answered: BoxFuture<'static, _> = async move {
            match answer {
                Answer::New => {
                    told.own(event);
                    Ok(Accepted::New)
                }
                Answer::Duplicate => Ok(Accepted::Duplicate),
                Answer::Full => Err(AcceptError::full()),
                Answer::Draining => Err(AcceptError::draining()),
                Answer::Unavailable => Err(AcceptError::unavailable()),
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
        // Nobody asks it for anything: it stands in for that of an inbox with deliveries.
        MemoryInbox::with_runtime(self.runtime.clone(), EventRouter::new()).handle()
    }
}
