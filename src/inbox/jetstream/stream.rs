//! Looks up, creates and compares the stream of events.

use std::time::SystemTime;

use async_nats::jetstream::context::{GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{Context, ErrorCode};

use super::StreamSettings;
use crate::error::{Error, ErrorKind};

/// Returns the stream of events, and creates it if the settings say so. A mismatch is an error.
pub(super) async fn open(context: &Context, settings: &StreamSettings) -> Result<Stream, Error> {
    settings.check_names()?;
    let stream = find(context, settings).await?;
    match mismatch(&stream.cached_info().config, settings) {
        None => Ok(stream),
        Some(text) => Err(Error::new(ErrorKind::Inbox, text)),
    }
}

/// Returns the stream of events, and creates it if the settings say so. Doesn't compare the stream with the settings.
pub(super) async fn find(context: &Context, settings: &StreamSettings) -> Result<Stream, Error> {
    get_or_create(context, settings.config(), settings.creates()).await
}

/// Returns the stream with the name in `config`. If the stream doesn't exist and `create` is set, creates it.
pub(super) async fn get_or_create(
    context: &Context,
    config: Config,
    create: bool,
) -> Result<Stream, Error> {
    let name = config.name.clone();
    let error = match context.get_stream(&name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let is_missing = matches!(error.kind(), GetStreamErrorKind::JetStream(cause)
        if cause.error_code() == ErrorCode::STREAM_NOT_FOUND);
    if !is_missing {
        let text = format!("the stream {name} can't be looked up");
        return Err(failed(text, error));
    }
    if !create {
        let text = format!("there is no stream {name}: create it, or set `create_if_missing`");
        return Err(failed(text, error));
    }
    match context.create_stream(config).await {
        Ok(stream) => Ok(stream),
        // Another process may have created the stream in the meantime, with other settings.
        Err(error) => match context.get_stream(&name).await {
            Ok(stream) => Ok(stream),
            Err(_) => Err(failed(format!("the stream {name} can't be created"), error)),
        },
    }
}

/// Returns whether a publication failed because no stream has its subject.
pub(super) fn is_stream_missing(published: &Result<PublishAck, PublishError>) -> bool {
    let kind = published.as_ref().map_err(PublishError::kind);
    kind.is_err_and(|kind| kind == PublishErrorKind::StreamNotFound)
}

/// Returns the error of a request to the server.
pub(super) fn failed(
    text: impl Into<String>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::caused(ErrorKind::Inbox, text.into(), source)
}

/// Returns the messages of an error and its source in one line, as the cause of a stall.
pub(super) fn describe(error: &Error) -> String {
    let text = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match text.contains("timed out") {
        true => format!("{text} (the server doesn't answer requests that it denies to a user)"),
        false => text,
    }
}

/// Returns the current time by the server's clock. Servers before 2.10 don't send the time.
pub(super) async fn server_time(context: &Context, stream: &str) -> Option<SystemTime> {
    let subject = format!("STREAM.INFO.{stream}");
    let info = context.request::<_, _, serde_json::Value>(subject, &());
    let mut info = info.await.ok()?;
    // Some versions of the client have no public time parser, but every version parses `created`.
    info["created"] = info["ts"].take();
    let info: Info = serde_json::from_value(info).ok()?;
    Some(SystemTime::from(info.created))
}

/// Returns a message that names each mismatch between a stream and the requirements of [`StreamSettings`].
pub(super) fn mismatch(found: &Config, settings: &StreamSettings) -> Option<String> {
    let (subjects, replicas) = ([settings.subjects().all()], settings.replica_count());
    let has_sources = found.sources.as_ref().is_some_and(|all| !all.is_empty());
    let mut mismatches = Vec::new();
    let mut must = |fits: bool, text: &dyn Fn() -> String| {
        if !fits {
            mismatches.push(text());
        }
    };
    must(found.subjects == subjects, &|| {
        let found = &found.subjects;
        format!("subjects must be {:?} alone, not {found:?}", subjects[0])
    });
    must(found.retention == RetentionPolicy::Limits, &|| {
        format!("retention must be limits, not {:?}", found.retention)
    });
    must(found.discard == DiscardPolicy::New, &|| {
        format!("discard must be new, not {:?}", found.discard)
    });
    must(found.max_bytes > 0, &|| {
        "max_bytes must be set, not unlimited".to_owned()
    });
    must(found.max_messages_per_subject <= 0, &|| {
        let found = found.max_messages_per_subject;
        format!("max_msgs_per_subject must be unlimited, not {found}")
    });
    must(!found.max_age.is_zero(), &|| {
        "max_age must be set, not unlimited".to_owned()
    });
    must(found.duplicate_window == found.max_age, &|| {
        let (age, window) = (found.max_age, found.duplicate_window);
        format!("duplicate_window must be max_age, {age:?}, not {window:?}")
    });
    must(found.storage == StorageType::File, &|| {
        format!("storage must be file, not {:?}", found.storage)
    });
    must(found.num_replicas >= replicas, &|| {
        let found = found.num_replicas;
        format!("replicas must be at least {replicas}, not {found}")
    });
    must(!found.no_ack, &|| "no_ack must be off".to_owned());
    must(!found.sealed, &|| "it must not be sealed".to_owned());
    must(found.mirror.is_none() && !has_sources, &|| {
        "it must not mirror another stream, nor have sources".to_owned()
    });
    must(found.subject_transform.is_none(), &|| {
        "it must not transform subjects".to_owned()
    });
    let (name, mismatches) = (&found.name, mismatches.join("; "));
    (!mismatches.is_empty()).then(|| format!("the stream {name} doesn't fit: {mismatches}"))
}
