//! The way of an event into the stream.

use std::error::Error as _;
use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::headers;
use super::publisher::{PublishPermit, Publisher};
use super::subjects::encoded;
use crate::catch_panic::catch_panic;
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted};
use crate::runtime::Runtime;

type Answer = Result<Accepted, AcceptError>;

/// Publishes an event, in a task of its own: who asks may leave, and the event is counted all the same.
pub(super) async fn publish(publisher: Arc<Publisher>, event: Event) -> Answer {
    let permit = publisher.admit(event.body().len())?;
    let (tell, told) = oneshot::channel();
    let publication = Publication {
        publisher: Arc::clone(&publisher),
        tell: Some(tell),
    };
    let runtime = publisher.runtime();
    // Where there is no runtime the publication is dropped, and so counts itself as refused.
    let _ = catch_panic(|| runtime.spawn(Box::pin(run(publication, event, permit))));
    told.await
        .unwrap_or_else(|_| Err(AcceptError::unavailable()))
}

/// An answer that is owed. Whatever happens, it is given and counted once.
struct Publication {
    publisher: Arc<Publisher>,
    tell: Option<oneshot::Sender<Answer>>,
}

impl Publication {
    fn answer(&mut self, answer: Answer) {
        if let Some(tell) = self.tell.take() {
            self.publisher.count(&answer);
            // Whoever has left needn't be told.
            let _ = tell.send(answer);
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.answer(Err(AcceptError::unavailable()));
    }
}

async fn run(mut publication: Publication, event: Event, permit: PublishPermit) {
    let publisher = Arc::clone(&publication.publisher);
    let overdue = publisher.runtime().sleep(publisher.limits.publish_timeout);
    let acknowledged = Box::pin(acknowledged(&publisher, &event));
    let outcome = match select(acknowledged, overdue).await {
        Either::Left((outcome, _)) => {
            publication.answer(judge(&outcome));
            outcome
        }
        Either::Right(((), acknowledged)) => {
            publication.answer(Err(AcceptError::unavailable()));
            let outcome = acknowledged.await;
            if let Ok(Accepted::New) = judge(&outcome) {
                publisher.count(&Ok(Accepted::New));
            }
            outcome
        }
    };
    if outcome.is_err_and(|error| error.kind() == PublishErrorKind::TimedOut) {
        // The client may hold the body for as long as it is cut off: so does the permit.
        let _ = publisher.context.client().flush().await;
    }
    drop(permit);
}

async fn acknowledged(publisher: &Publisher, event: &Event) -> Result<PublishAck, PublishError> {
    let mut given = HeaderMap::new();
    headers::set_received_at(&mut given, event.received_at());
    let message = PublishMessage::build()
        .payload(Bytes::copy_from_slice(event.body().as_bytes()))
        .headers(given)
        .message_id(encoded(event.id()))
        .expected_stream(&publisher.stream);
    let subject = publisher.subjects.of(event.event_type());
    let ack: PublishAckFuture = publisher.context.send_publish(subject, message).await?;
    ack.await
}

/// Returns the answer that an acknowledgement, or the want of one, stands for.
fn judge(outcome: &Result<PublishAck, PublishError>) -> Answer {
    let error = match outcome {
        Ok(ack) if ack.duplicate => return Ok(Accepted::Duplicate),
        Ok(_) => return Ok(Accepted::New),
        Err(error) => error,
    };
    let said = error
        .source()
        .and_then(|source| source.downcast_ref::<jetstream::Error>());
    Err(match said.map(jetstream::Error::error_code) {
        Some(ErrorCode::STREAM_STORE_FAILED) => AcceptError::full(),
        // Another receiver is publishing a copy at this moment.
        Some(ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT) => {
            AcceptError::unavailable().retry_after(std::time::Duration::from_secs(1))
        }
        _ => AcceptError::unavailable(),
    })
}
