use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;

use super::connection::Connection;
use super::publisher::{PublishLimits, Publisher};
use super::{JetStreamInbox, StreamSettings};
use crate::error::Error;

/// Configures and opens a [`JetStreamInbox`].
#[derive(Clone, Debug)]
#[must_use]
pub struct JetStreamInboxBuilder {
    context: Context,
    stream: StreamSettings,
    limits: PublishLimits,
}

impl JetStreamInboxBuilder {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            stream: StreamSettings::new(),
            limits: PublishLimits {
                publish_timeout: Duration::from_millis(2500),
                bytes: 64 << 20,
            },
        }
    }

    /// Sets the stream of events. The default is [`StreamSettings::new`].
    pub fn stream(mut self, settings: StreamSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Sets how long the inbox waits for the stream's acknowledgement. After that, the receiver answers 503. The default is 2.5 s,
    /// below the 3 s of [`response_timeout`](crate::WebhookLayer::response_timeout).
    ///
    /// If the acknowledgement arrives later, the event still counts as accepted. The
    /// [timeout](async_nats::jetstream::context::ContextBuilder::timeout) of the context, 5 s by default, limits how long the inbox
    /// waits for a later acknowledgement.
    pub fn publish_timeout(mut self, publish_timeout: Duration) -> Self {
        self.limits.publish_timeout = publish_timeout;
        self
    }

    /// Sets how many bytes may be in flight to the stream at once: the size of each body plus 1 KiB. The default is 64 MiB. If an
    /// event would exceed this limit, the receiver answers 503.
    ///
    /// An unacknowledged event counts while the client holds it, because the client's own buffer has no limit.
    pub fn max_bytes_in_flight(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Opens the inbox: creates a missing stream if [`StreamSettings::create_if_missing`] is set, and compares an existing stream
    /// with the settings.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the server doesn't answer, if there is no stream, or if the stream doesn't
    /// fit. The error message names each mismatch.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stream may have been created.
    pub async fn open(self) -> Result<JetStreamInbox, Error> {
        let connection = Connection::new(self.context, self.stream);
        let publisher = Publisher::open(connection, self.limits).await?;
        Ok(JetStreamInbox::over(Arc::new(publisher)))
    }
}
