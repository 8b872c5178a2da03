use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use async_nats::jetstream::context::{GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{
    Config, Info, LastRawMessageError, LastRawMessageErrorKind, Stream,
};
use async_nats::jetstream::{Context, ErrorCode};

use super::StreamSettings;
use super::stalls::Stalls;
use crate::error::{BoxError, Error, ErrorKind};
use crate::inbox::{Findings, HealthProblemKind, Monitor};
use crate::runtime::{Runtime, TokioRuntime};

/// One of the streams: returns its configuration.
pub(super) type StreamConfig = fn(&StreamSettings) -> Config;

/// The connection of an inbox or a worker to the server, and the operations that are failing.
pub(super) struct Connection {
    pub(super) context: Context,
    pub(super) settings: StreamSettings,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) stalls: Stalls,
    pub(super) monitor: Monitor,
    /// When the drain of the inbox or the worker began.
    pub(super) draining_since: OnceLock<Instant>,
    /// A reading of the server's clock, and when it was taken.
    clock: Mutex<Option<(SystemTime, Instant)>>,
}

impl Connection {
    pub(super) fn new(context: Context, settings: StreamSettings) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::new());
        Self {
            context,
            settings,
            stalls: Stalls::new(Arc::clone(&runtime)),
            monitor: Monitor::new(Arc::clone(&runtime)),
            draining_since: OnceLock::new(),
            runtime,
            clock: Mutex::default(),
        }
    }

    /// Returns a stream. If the stream doesn't exist and the settings say so, creates it.
    pub(super) async fn stream(&self, config: StreamConfig) -> Result<Stream, Error> {
        let config = config(&self.settings);
        let name = config.name.clone();
        let error = match self.context.get_stream(&name).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let is_missing = matches!(error.kind(), GetStreamErrorKind::JetStream(cause)
            if cause.error_code() == ErrorCode::STREAM_NOT_FOUND);
        if !is_missing {
            return Err(failed(
                format!("the stream {name} can't be looked up"),
                error,
            ));
        }
        if !self.settings.create {
            let text = format!("there is no stream {name}: create it, or set `create_if_missing`");
            return Err(failed(text, error));
        }
        match self.context.create_stream(config).await {
            Ok(stream) => Ok(stream),
            // Another process may have created the stream in the meantime, with other settings.
            Err(error) => match self.context.get_stream(&name).await {
                Ok(stream) => Ok(stream),
                Err(_) => Err(failed(format!("the stream {name} can't be created"), error)),
            },
        }
    }

    /// Returns the stream of events. Doesn't compare the stream with the settings.
    pub(super) async fn events(&self) -> Result<Stream, Error> {
        self.stream(StreamSettings::events).await
    }

    /// Publishes a message and waits for the stream's acknowledgement. If the stream doesn't exist and the settings say so, creates
    /// it.
    pub(super) async fn publish(
        &self,
        config: StreamConfig,
        subject: String,
        message: PublishMessage,
    ) -> Result<PublishAck, PublishError> {
        let publish = async || {
            let published = self.context.send_publish(subject.clone(), message.clone());
            published.await?.await
        };
        let published = publish().await;
        let kind = published.as_ref().map_err(PublishError::kind);
        let is_missing = kind.is_err_and(|kind| kind == PublishErrorKind::StreamNotFound);
        if is_missing && self.settings.create && self.stream(config).await.is_ok() {
            return publish().await;
        }
        published
    }

    /// Returns the error of a publication that failed, with its likely cause. The server doesn't answer a publication that it
    /// denies.
    pub(super) fn unpublished(&self, config: StreamConfig, error: PublishError) -> Error {
        let Config { name, subjects, .. } = config(&self.settings);
        let subject = &subjects[0];
        let text = match error.kind() {
            PublishErrorKind::StreamNotFound => format!(
                "no stream has the subjects `{subject}`: the stream {name} is missing or was changed, or the server has turned \
                 JetStream off"
            ),
            PublishErrorKind::TimedOut => format!(
                "the stream {name} sent no acknowledgement: the server is overloaded or unreachable, or it denies `publish` on \
                 `{subject}` to this user"
            ),
            _ => return failed(format!("the stream {name} doesn't accept messages"), error),
        };
        Error::new(ErrorKind::Inbox, text)
    }

    /// Reads the server's clock, because this machine's clock may be wrong. Servers before 2.10 don't send the time.
    pub(super) async fn read_clock(&self) {
        let subject = format!("STREAM.INFO.{}", self.settings.name);
        let info = self
            .context
            .request::<_, _, serde_json::Value>(subject, &());
        let time = info.await.ok().and_then(|mut info| {
            // Some versions of the client have no public time parser, but every version parses `created`.
            info["created"] = info["ts"].take();
            let info: Info = serde_json::from_value(info).ok()?;
            Some(SystemTime::from(info.created))
        });
        *self.clock() = time.map(|time| (time, self.runtime.now()));
    }

    /// Returns the current time by the server's clock. If the server's time is unknown, returns this machine's time.
    pub(super) fn server_time(&self) -> SystemTime {
        let time = self.clock().and_then(|(time, read)| {
            time.checked_add(self.runtime.now().saturating_duration_since(read))
        });
        time.unwrap_or_else(|| self.runtime.system_time())
    }

    /// Records that a drain begins.
    pub(super) fn drain(&self) {
        self.draining_since.get_or_init(|| self.runtime.now());
    }

    /// Adds a problem for each failing operation, and for a drain.
    pub(super) fn find(&self, findings: &mut Findings) {
        self.stalls.find(findings);
        if let Some(since) = self.draining_since.get() {
            let lasted = findings.since(*since);
            findings.add(HealthProblemKind::Draining, lasted);
        }
    }

    fn clock(&self) -> MutexGuard<'_, Option<(SystemTime, Instant)>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the error of a request to the server.
pub(super) fn failed(text: impl Into<String>, source: impl Into<BoxError>) -> Error {
    Error::caused(ErrorKind::Inbox, text.into(), source)
}

/// Returns a stored message, or `None` if the stream doesn't have it.
pub(super) fn stored(
    found: Result<StreamMessage, LastRawMessageError>,
) -> Result<Option<StreamMessage>, LastRawMessageError> {
    match found {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error),
    }
}
