use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::context::{GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{
    Config, Info, LastRawMessageError, LastRawMessageErrorKind, Stream,
};
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::StreamSettings;
use super::stalls::Stalls;
use crate::error::{BoxError, Error, ErrorKind};
use crate::inbox::{Findings, HealthProblemKind, Monitor};
use crate::runtime::{Runtime, TokioRuntime};

/// One of the streams: returns its configuration.
pub(super) type StreamConfig = fn(&StreamSettings) -> Config;

/// A receiver of [`Connection::draining`]. Each pull loop, each running event and each publication in flight has one.
pub(super) type Running = watch::Receiver<Option<Instant>>;

/// The connection of an inbox or a worker to the server, and the operations that are failing.
pub(super) struct Connection {
    pub(super) context: Context,
    pub(super) settings: StreamSettings,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) stalls: Stalls,
    pub(super) monitor: Monitor,
    /// When a drain began. If there is no receiver, the inbox or the worker is idle.
    pub(super) draining: watch::Sender<Option<Instant>>,
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
            runtime,
            draining: watch::Sender::new(None),
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

    /// Publishes a message, waits for the stream's acknowledgement, and returns the message's sequence. If the stream doesn't exist
    /// and the settings say so, creates it.
    pub(super) async fn store(
        &self,
        config: StreamConfig,
        subject: String,
        message: PublishMessage,
    ) -> Result<u64, Error> {
        let published = self.publish(config, subject, message).await;
        let published = published.map_err(|error| self.unpublished(config, error));
        Ok(published?.sequence)
    }

    /// Does the same as [`store`](Self::store), but returns the answer of the server.
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

    /// Returns a receiver for a drain to wait for, or `None` if a drain has begun.
    pub(super) fn begin(&self) -> Option<Running> {
        if self.is_draining() {
            return None;
        }
        let running = self.draining.subscribe();
        // If a drain began in the meantime, it may not wait for this receiver.
        (!self.is_draining()).then_some(running)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.borrow().is_some()
    }

    /// Drains the inbox or the worker: waits until it is idle and `finish` has ended, but at most `within`. Returns whether nothing
    /// remains.
    pub(super) async fn drain(&self, within: Duration, finish: impl Future<Output = ()>) -> bool {
        let now = self.runtime.now();
        self.draining.send_modify(|began| {
            began.get_or_insert(now);
        });
        let idle = pin!(async {
            self.draining.closed().await;
            finish.await;
        });
        let drained = select(idle, self.runtime.sleep(within)).await;
        matches!(drained, Either::Left(_))
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

    /// Adds a problem for each failing operation, and for a drain.
    pub(super) fn find(&self, findings: &mut Findings) {
        self.stalls.find(findings);
        if let Some(began) = *self.draining.borrow() {
            let lasted = findings.since(began);
            findings.add(HealthProblemKind::Draining, lasted);
        }
    }

    fn clock(&self) -> MutexGuard<'_, Option<(SystemTime, Instant)>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a future until a drain begins. Returns `None` if the drain has begun.
pub(super) async fn unless_drained<F: Future>(
    draining: &mut Running,
    future: F,
) -> Option<F::Output> {
    let drained = pin!(draining.wait_for(Option::is_some));
    match select(drained, pin!(future)).await {
        Either::Left(_) => None,
        Either::Right((output, _)) => Some(output),
    }
}

/// Returns the error of a request to the server.
pub(super) fn failed(text: impl Into<String>, source: impl Into<BoxError>) -> Error {
    Error::caused(ErrorKind::Inbox, text.into(), source)
}

/// Returns a message that a stream has, or `None` if the stream doesn't have it.
pub(super) fn stored(
    found: Result<StreamMessage, LastRawMessageError>,
) -> Result<Option<StreamMessage>, Error> {
    match found {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed("a stored message can't be read", error)),
    }
}

/// Returns the first message with the sequence `from` or a later one whose subject matches, and sets `from` to the sequence after
/// it.
pub(super) async fn next(
    stream: &Stream,
    filter: &str,
    from: &mut u64,
) -> Result<Option<StreamMessage>, Error> {
    let found = stream.get_first_raw_message_by_subject(filter, *from).await;
    let found = stored(found)?;
    if let Some(message) = &found {
        *from = message.sequence.saturating_add(1);
    }
    Ok(found)
}
