use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;

use super::publisher::{PublishLimits, Publisher};
use super::{JetStreamInbox, StreamSettings, stream};
use crate::error::Error;

/// Sets up a [`JetStreamInbox`].
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

    /// Sets which stream events are kept in. The default is [`StreamSettings::new`].
    pub fn stream(mut self, settings: StreamSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Sets how long the stream's acknowledgement is waited for before an event is answered 503. The
    /// default is 2.5 s, within the 3 s in which the publisher door answers.
    ///
    /// The [timeout](async_nats::jetstream::context::ContextBuilder::timeout) of the context, 5 s unless
    /// set, bounds how long an acknowledgement is listened for after that.
    pub fn publish_timeout(mut self, publish_timeout: Duration) -> Self {
        self.limits.publish_timeout = publish_timeout;
        self
    }

    /// Sets how many bytes of bodies may be on their way to the stream at once, each of which counts 1 KiB
    /// more. The default is 64 MiB. Past it events are refused as if the inbox were full.
    ///
    /// An event without an acknowledgement in time counts for as long as the client holds it, because the client
    /// has no limit of its own.
    pub fn max_bytes_in_flight(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Opens the inbox: creates the stream if [`StreamSettings::create_if_missing`] says so, and checks it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the server can't be asked, if there is no stream, or
    /// if one of its settings doesn't fit: the text says which.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the stream may have been created.
    pub async fn open(self) -> Result<JetStreamInbox, Error> {
        let stream = stream::open(&self.context, &self.stream).await?;
        let max_message_size = stream.cached_info().config.max_message_size;
        let max_message_size = usize::try_from(max_message_size).ok();
        let publisher = Publisher::new(self.context, self.stream, self.limits, max_message_size);
        Ok(JetStreamInbox::over(Arc::new(publisher)))
    }
}
