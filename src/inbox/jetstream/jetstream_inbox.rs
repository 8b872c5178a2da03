use std::fmt;
use std::sync::Arc;

use async_nats::jetstream::Context;

use super::JetStreamInboxBuilder;
use super::publisher::Publisher;
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Handle, Inbox, InboxControl};
use crate::runtime::Runtime;

/// An inbox that stores accepted events in a stream of NATS JetStream, for [workers](crate::JetStreamWorker) on any machine.
///
/// The receiver answers 200 once the stream has acknowledged the event. With three replicas, a majority of them has stored the
/// event by then. The inbox has no router. The workers have the router, in this process or in others. Any number of receivers can
/// share a stream, and each receiver recognises the copies of an event. Clones of an inbox are the same inbox.
///
/// Configure the connection, credentials and TLS on your own `async_nats` client. This crate enables no TLS provider. If your
/// client needs TLS or credentials, depend on `async-nats` and enable the features for them.
///
/// The inbox runs on tokio, because the client does.
///
/// # Answers
///
/// | condition | answer |
/// |---|---|
/// | the stream acknowledges the event | 200 |
/// | the stream has the `messageId` already | 200, [`Accepted::Duplicate`] |
/// | the client isn't connected | 503 immediately |
/// | no acknowledgement within [`publish_timeout`](JetStreamInboxBuilder::publish_timeout), or an error | 503 |
/// | the stream, the account or the server's disk is full, or too many bytes are in flight | 503 |
/// | the body is larger than the server's `max_payload`, or the stream's `max_msg_size`, less 1 KiB | 413 |
///
/// If the acknowledgement is missing, the stream may still have stored the event. In that case, the sender's next attempt is a
/// copy, and the receiver answers 200.
///
/// The inbox logs the cause of a 503 when the failure begins, when the cause changes, and every minute while the failure lasts. The
/// inbox logs the recovery once an event is accepted again.
///
/// # Counts and drain
///
/// The [handle](Inbox::handle) counts accepted events as `published`; the workers count their outcomes. A [`drain`](Handle::drain)
/// refuses all events, including copies, because only the stream recognises copies. The drain waits for the events that are in
/// flight to the stream. The inbox runs no handlers, so it calls no `on_attempt` hook.
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
    /// Returns a builder. `context` is the JetStream context of the user's client.
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
        Arc::clone(&self.publisher).accept(event)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.publisher.connection.runtime)
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
