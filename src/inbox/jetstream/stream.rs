use async_nats::jetstream::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};

use super::StreamSettings;
use crate::error::{Error, ErrorKind};

/// Returns the stream of events, created if that is asked for, and checked in any case.
pub(super) async fn open(context: &Context, settings: &StreamSettings) -> Result<Stream, Error> {
    settings.check_names()?;
    let stream = get_or_create(context, settings.config(), settings.creates()).await?;
    let mismatches = mismatches(&stream.cached_info().config, settings);
    if mismatches.is_empty() {
        return Ok(stream);
    }
    let name = settings.stream_name();
    let text = format!("the stream {name} doesn't fit: {}", mismatches.join("; "));
    Err(Error::new(ErrorKind::Inbox, text))
}

/// Returns a stream of this name, which is created as it is here if there is none and `create` says so.
pub(super) async fn get_or_create(
    context: &Context,
    config: Config,
    create: bool,
) -> Result<Stream, Error> {
    let name = config.name.clone();
    let found = context.get_stream(&name).await;
    let missing = match found {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(said)
                if said.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                error
            }
            _ => {
                return Err(failed(
                    format!("the stream {name} can't be looked up"),
                    error,
                ));
            }
        },
    };
    if !create {
        return Err(failed(format!("there is no stream {name}"), missing));
    }
    match context.create_stream(config).await {
        Ok(stream) => Ok(stream),
        // Another process may have created it in between, not quite the same.
        Err(error) => match context.get_stream(&name).await {
            Ok(stream) => Ok(stream),
            Err(_) => Err(failed(format!("the stream {name} can't be created"), error)),
        },
    }
}

pub(super) fn failed(
    text: String,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::caused(ErrorKind::Inbox, text, source)
}

/// Returns what about a stream isn't as it must be.
fn mismatches(found: &Config, settings: &StreamSettings) -> Vec<String> {
    let subjects = [settings.subjects().all()];
    let mut mismatches = Vec::new();
    let mut must = |fits: bool, why: String| {
        if !fits {
            mismatches.push(why);
        }
    };
    must(
        found.subjects == subjects,
        format!(
            "subjects must be {:?} alone, not {:?}",
            subjects[0], found.subjects
        ),
    );
    must(
        found.retention == RetentionPolicy::Limits,
        format!("retention must be limits, not {:?}", found.retention),
    );
    must(
        found.discard == DiscardPolicy::New,
        format!("discard must be new, not {:?}", found.discard),
    );
    must(
        found.max_bytes > 0,
        "max_bytes must be set, it is unlimited".to_owned(),
    );
    must(
        found.max_messages_per_subject <= 0,
        format!(
            "max_msgs_per_subject must be unlimited, not {}",
            found.max_messages_per_subject
        ),
    );
    must(
        !found.max_age.is_zero(),
        "max_age must be set, it is unlimited".to_owned(),
    );
    must(
        found.duplicate_window == found.max_age,
        format!(
            "duplicate_window must be max_age, {:?}, not {:?}",
            found.max_age, found.duplicate_window
        ),
    );
    must(
        found.storage == StorageType::File,
        format!("storage must be file, not {:?}", found.storage),
    );
    must(
        found.num_replicas >= settings.replica_count(),
        format!(
            "replicas must be at least {}, not {}",
            settings.replica_count(),
            found.num_replicas
        ),
    );
    must(!found.no_ack, "no_ack must be off".to_owned());
    must(!found.sealed, "it is sealed".to_owned());
    must(
        found.mirror.is_none() && found.sources.as_ref().is_none_or(Vec::is_empty),
        "it must not mirror another stream, nor have sources".to_owned(),
    );
    must(
        found.subject_transform.is_none(),
        "it must not transform subjects".to_owned(),
    );
    mismatches
}
