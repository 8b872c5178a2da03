use std::fmt;
use std::sync::Arc;

use async_nats::jetstream::Context;

use super::JetStreamInboxBuilder;
use super::publisher::Publisher;
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Handle, Inbox, InboxControl};
use crate::runtime::Runtime;

/// The inbox that keeps accepted events in a stream of NATS JetStream, for
/// [workers](crate::JetStreamWorker) on any machine.
///
/// It answers 200 once the stream has acknowledged the event: with three replicas, once a majority of them
/// has it. There is no router in it; the workers have that, in this process or in others. Any number of
/// receivers can stand before one stream: a copy of an event is recognised by whichever of them it reaches.
/// Its clones are the same inbox.
///
/// Connection, credentials and TLS belong to your `async_nats` client. This crate enables no provider of
/// cryptography. If the client needs TLS or credentials, depend on `async-nats` with its default features, or
/// with the features that you need.
///
/// It runs on tokio, as that client does.
///
/// # Answers
///
/// | what happens | answer |
/// |---|---|
/// | the stream acknowledges | 200 |
/// | the stream says that it has the `messageId` | 200, [`Accepted::Duplicate`] |
/// | the client isn't connected | 503 at once |
/// | no acknowledgement in [time](JetStreamInboxBuilder::publish_timeout), or an error | 503 |
/// | the stream is full, or too many bytes are on their way | 503 |
/// | a body larger than the server's `max_payload` less 1 KiB, or the stream's `max_msg_size` less that | 413 |
///
/// An event that is refused because its acknowledgement is missing may still be in the stream. Then the
/// sender's next request is a duplicate.
///
/// # Counts and the drain
///
/// The [handle](Inbox::handle) counts what was accepted as `published`: what became of it, the workers
/// know. [`drain`](Handle::drain) refuses all events from then on, copies too, since only the stream could
/// tell them, and waits for those that are on their way to it. It has no deliveries to tell hooks of.
///
/// # Examples
///
/// ```no_run
/// use botisimo_webhooks::{JetStreamInbox, StreamSettings, WebhookLayer};
///
/// # async fn receive() -> Result<(), Box<dyn std::error::Error>> {
/// let client = async_nats::connect("localhost:4222").await?;
/// let inbox = JetStreamInbox::builder(async_nats::jetstream::new(client))
///     .stream(StreamSettings::new().replicas(3).create_if_missing())
///     .open()
///     .await?;
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JetStreamInbox {
    publisher: Arc<Publisher>,
}

impl JetStreamInbox {
    /// Returns a builder, over the JetStream context of the user's client.
    pub fn builder(context: Context) -> JetStreamInboxBuilder {
        JetStreamInboxBuilder::new(context)
    }

    pub(super) fn over(publisher: Arc<Publisher>) -> Self {
        Self { publisher }
    }
}

impl Inbox for JetStreamInbox {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        let publisher = Arc::clone(&self.publisher);
        publisher.publish(event)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.publisher.runtime()
    }

    fn handle(&self) -> Handle {
        Handle::shared(Arc::clone(&self.publisher) as Arc<dyn InboxControl>)
    }

    fn max_body_bytes(&self) -> Option<usize> {
        Some(self.publisher.max_body_bytes())
    }
}

impl fmt::Debug for JetStreamInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamInbox")
            .field("stats", &self.publisher.stats())
            .finish_non_exhaustive()
    }
}
