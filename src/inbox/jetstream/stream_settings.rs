use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::subjects::{Subjects, is_plain};
use crate::error::{Error, ErrorKind};

/// The name, the subjects and the limits of the stream of events.
/// [`JetStreamInbox`](crate::JetStreamInbox) and [`JetStreamWorker`](crate::JetStreamWorker) need the same settings.
///
/// # Requirements
///
/// A stream that this crate [creates](StreamSettings::create_if_missing) has these settings. The crate compares an existing stream
/// with them, and the error names each mismatch.
///
/// | setting | value | why |
/// |---|---|---|
/// | subjects | only `<prefix>.>` | the filter of each route is below it |
/// | retention | `limits` | `interest` stores nothing while there is no consumer; `workqueue` forgets acknowledged ids at a restart |
/// | discard | `new` | with `old`, the server's default, a full stream acknowledges an event and drops an older event |
/// | max_bytes | set | otherwise the disk is the limit |
/// | max_msgs_per_subject | unlimited | otherwise the stream drops older events of the same type |
/// | max_age, duplicate_window | set, and equal | the stream remembers an id exactly as long as its event |
/// | storage | `file` | memory storage is lost when the server stops |
/// | replicas | at least [`replicas`](StreamSettings::replicas) | |
/// | no_ack, sealed, mirror, sources, subject transform | none | |
///
/// # Other streams
///
/// A worker needs two more streams. With the default name, they are `BOTISIMO_DEAD`, for dead letters, and `BOTISIMO_CHECKPOINTS`,
/// for the positions of the worker's group. Without the stream of checkpoints, a worker still runs, but it logs warnings and
/// forgets the position of a deleted consumer.
///
/// # Memory for ids
///
/// The server keeps the ids of the last [`max_age`](StreamSettings::max_age) in memory, at about 258 bytes each. With the default
/// of 7 days, a million events per week take 258 MB. To use less memory, shorten `max_age`: the sender stops sending copies of an
/// event after some days.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::StreamSettings;
///
/// let stream = StreamSettings::new()
///     .max_age(Duration::from_secs(3 * 24 * 60 * 60))
///     .max_bytes(4 << 30)
///     .replicas(3)
///     .create_if_missing();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct StreamSettings {
    pub(super) name: String,
    pub(super) prefix: String,
    max_age: Duration,
    max_bytes: u64,
    replicas: usize,
    pub(super) create: bool,
}

impl StreamSettings {
    /// Returns the defaults: the existing stream `BOTISIMO` with the subjects `botisimo.>`. If this crate creates the stream, it
    /// keeps events for 7 days, holds 1 GiB, and has one replica.
    pub fn new() -> Self {
        Self {
            name: "BOTISIMO".to_owned(),
            prefix: "botisimo".to_owned(),
            max_age: Duration::from_secs(7 * 24 * 60 * 60),
            max_bytes: 1 << 30,
            replicas: 1,
            create: false,
        }
    }

    /// Sets the stream's name: 1 to 64 characters from `A-Z a-z 0-9 _ -`. The names of the other streams are this name plus `_DEAD`
    /// or `_CHECKPOINTS`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the prefix of all subjects: 1 to 64 characters from `A-Z a-z 0-9 _ -`. The prefixes of the other streams' subjects are
    /// this prefix plus `-dead` or `-checkpoint`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long a created stream keeps an event and its id. The default is 7 days. Within this time, a copy of the event
    /// doesn't run again. A worker that is offline for longer misses events.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Sets how many bytes a created stream holds. The default is 1 GiB. A full stream refuses events, and the receiver answers
    /// 503.
    ///
    /// Handled events take up space until they reach [`max_age`](StreamSettings::max_age), because the stream needs them to
    /// recognise copies.
    ///
    /// The server reserves this space when it creates the stream. If the server has less space, the stream can't be created. The
    /// stream of dead letters takes an extra quarter of this space. The checkpoints take an extra sixteenth, but at least 1 MiB and
    /// at most 16 MiB.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how many servers of the cluster store an event before the receiver answers 200: 1, 3 or 5. The default is 1.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Creates missing streams when the inbox or the worker starts, and while it runs. By default, the streams must exist: if
    /// operators or other tools manage them, a typo must not create a stream.
    pub fn create_if_missing(mut self) -> Self {
        self.create = true;
        self
    }

    pub(super) fn subjects(&self) -> Subjects {
        Subjects::new(&*self.prefix)
    }

    /// Returns an error if a name would have to be encoded.
    pub(super) fn check_names(&self) -> Result<(), Error> {
        for (what, text) in [("a stream's name", &self.name), ("a prefix", &self.prefix)] {
            if !is_plain(text) {
                let text =
                    format!("{what} is 1 to 64 characters from `A-Z a-z 0-9 _ -`, not {text:?}");
                return Err(Error::new(ErrorKind::Inbox, text));
            }
        }
        Ok(())
    }

    /// Returns the configuration of the stream of events.
    pub(super) fn events(&self) -> Config {
        Config {
            discard: DiscardPolicy::New,
            max_messages_per_subject: -1,
            max_age: self.max_age,
            duplicate_window: self.max_age,
            ..self.config("", "", self.max_bytes)
        }
    }

    /// Returns the configuration of the stream of dead letters. If it refused new letters when it is full, routes would stall.
    pub(super) fn dead_letters(&self) -> Config {
        Config {
            // A letter is stored once, even if its event is redelivered before the acknowledgement.
            duplicate_window: Duration::from_secs(60 * 60),
            ..self.config("_DEAD", "-dead", (self.max_bytes / 4).max(1))
        }
    }

    /// Returns the configuration of the stream of checkpoints. A record replaces the previous record of its subject.
    pub(super) fn checkpoints(&self) -> Config {
        let max_bytes = (self.max_bytes / 16).clamp(1 << 20, 16 << 20);
        Config {
            max_messages_per_subject: 1,
            ..self.config("_CHECKPOINTS", "-checkpoint", max_bytes)
        }
    }

    /// Returns the configuration of a stream that drops its oldest messages when it is full.
    fn config(&self, name: &str, prefix: &str, max_bytes: u64) -> Config {
        Config {
            name: format!("{}{name}", self.name),
            subjects: vec![format!("{}{prefix}.>", self.prefix)],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
            storage: StorageType::File,
            num_replicas: self.replicas,
            ..Config::default()
        }
    }
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self::new()
    }
}
