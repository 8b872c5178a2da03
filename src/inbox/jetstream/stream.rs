//! Compares streams with the settings.

use async_nats::jetstream::stream::{Config, Stream};

use super::StreamSettings;
use super::connection::Connection;
use super::differences::Differences;
use crate::error::Error;

/// Returns the stream of events. If the stream doesn't exist and the settings say so, creates it.
///
/// # Errors
///
/// Fails if the stream doesn't match the settings. The error names each mismatch.
pub(super) async fn open_events(connection: &Connection) -> Result<Stream, Error> {
    connection.settings.check_names()?;
    let stream = connection.events().await?;
    check_events(&stream, &connection.settings)?;
    Ok(stream)
}

/// Compares the stream of events with the requirements of [`StreamSettings`].
pub(super) fn check_events(stream: &Stream, settings: &StreamSettings) -> Result<(), Error> {
    let (found, wanted) = (&stream.cached_info().config, settings.events());
    let mut all = common(found, &wanted);
    let has_sources = found.sources.as_ref().is_some_and(|all| !all.is_empty());
    let is_changed = has_sources || found.mirror.is_some() || found.subject_transform.is_some();
    all.compare("subjects", &found.subjects, &wanted.subjects);
    all.compare("discard", found.discard, wanted.discard);
    all.require(found.max_bytes > 0, || "max_bytes isn't set".to_owned());
    all.require(!found.max_age.is_zero(), || "max_age isn't set".to_owned());
    all.compare("duplicate_window", found.duplicate_window, found.max_age);
    all.require(!is_changed, || {
        "it mirrors another stream, has sources or transforms subjects".to_owned()
    });
    all.result(|text| doesnt_fit(found, &text))
}

/// Compares the stream of dead letters with the settings. It may have further subjects.
pub(super) fn check_dead_letters(stream: &Stream, settings: &StreamSettings) -> Result<(), Error> {
    let (found, wanted) = (&stream.cached_info().config, settings.dead_letters());
    let mut all = common(found, &wanted);
    let subject = &wanted.subjects[0];
    all.require(found.subjects.contains(subject), || {
        format!("subjects don't include {subject:?}")
    });
    all.result(|text| doesnt_fit(found, &text))
}

/// Compares the settings that both streams need.
fn common(found: &Config, wanted: &Config) -> Differences {
    let mut all = Differences::default();
    all.compare("retention", found.retention, wanted.retention);
    all.compare("storage", found.storage, wanted.storage);
    all.compare("no_ack", found.no_ack, false);
    all.compare("sealed", found.sealed, false);
    let (replicas, least) = (found.num_replicas, wanted.num_replicas);
    all.require(replicas >= least, || {
        format!("replicas is {replicas}, not at least {least}")
    });
    let limit = found.max_messages_per_subject;
    all.require(limit <= 0, || {
        format!("max_msgs_per_subject is {limit}, not unlimited")
    });
    all
}

fn doesnt_fit(found: &Config, text: &str) -> String {
    format!("the stream {} doesn't fit: {text}", found.name)
}
