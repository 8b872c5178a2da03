use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::subjects::{Subjects, is_plain};
use crate::error::{Error, ErrorKind};

/// The stream that events are kept in, as [`JetStreamInbox`](crate::JetStreamInbox) and
/// [`JetStreamWorker`](crate::JetStreamWorker) both have to know it: its name, its subjects, its limits.
///
/// # What the stream must be
///
/// A stream that is [created](StreamSettings::create_if_missing) here is like this, and one that exists is compared
/// with it; what doesn't fit is named by the error.
///
/// | setting | value | why |
/// |---|---|---|
/// | subjects | `<prefix>.>`, alone | each route's filter lies below it |
/// | retention | `limits` | with `interest` nothing is stored while there is no consumer; with `workqueue` acknowledged ids are forgotten at a restart |
/// | discard | `new` | with `old`, the server's default, a full stream acknowledges an event and drops an older one |
/// | max_bytes | set | else the disk is the bound |
/// | max_msgs_per_subject | unlimited | else it drops older events of the same type |
/// | max_age, duplicate_window | equal, and set | an id is remembered exactly as long as its event |
/// | storage | `file` | memory is lost with its server |
/// | replicas | at least those asked for | |
/// | no_ack, sealed, mirror, sources, subject transform | none | |
///
/// # What ids cost
///
/// The server keeps the ids of the whole window in memory, at some 258 bytes each: a million events a week
/// are 258 MB with the default of 7 days. Shorten [`max_age`](StreamSettings::max_age) if that is too
/// much: the sender drops an event after some days.
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
    name: String,
    prefix: String,
    max_age: Duration,
    max_bytes: u64,
    replicas: usize,
    create: bool,
}

impl StreamSettings {
    /// Returns the defaults: the stream `BOTISIMO` with the subjects `botisimo.>`, for 7 days and 1 GiB, of
    /// one replica, which must exist.
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

    /// Sets the stream's name: 1 to 64 of `A-Z a-z 0-9 _ -`. The stream of the dead letters has this name and `_DEAD`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what all subjects begin with: 1 to 64 of `A-Z a-z 0-9 _ -`. The subjects of dead letters begin with this and
    /// `-dead`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets for how long a stream that is created keeps an event and its id. The default is 7 days: a copy
    /// that the sender sends within them isn't run again, and workers that are away for longer lose events.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Sets how many bytes a stream that is created holds. The default is 1 GiB. A full one refuses, which
    /// the sender is told by 503.
    ///
    /// A server sets the bytes aside when it creates a stream, here and for the dead letters a quarter more, and refuses if it
    /// hasn't as many.
    ///
    /// Handled events count until they are [too old](StreamSettings::max_age): they are what copies are
    /// recognised by.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets on how many servers of the cluster an event is before it is acknowledged: 1, 3 or 5. The default
    /// is 1.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Creates the stream if there is none. By default it must exist: where streams are looked after by
    /// hand or by other tools, a typo should not make a new one.
    pub fn create_if_missing(mut self) -> Self {
        self.create = true;
        self
    }

    pub(super) fn creates(&self) -> bool {
        self.create
    }

    pub(super) fn stream_name(&self) -> &str {
        &self.name
    }

    pub(super) fn dead_stream_name(&self) -> String {
        format!("{}_DEAD", self.name)
    }

    pub(super) fn subjects(&self) -> Subjects {
        Subjects::new(&*self.prefix)
    }

    pub(super) fn dead_prefix(&self) -> String {
        format!("{}-dead", self.prefix)
    }

    pub(super) fn checkpoint_stream_name(&self) -> String {
        format!("{}_CHECKPOINTS", self.name)
    }

    pub(super) fn checkpoint_prefix(&self) -> String {
        format!("{}-checkpoint", self.prefix)
    }

    pub(super) fn checkpoint_byte_limit(&self) -> i64 {
        (self.byte_limit() / 16).clamp(1 << 20, 16 << 20)
    }

    pub(super) fn replica_count(&self) -> usize {
        self.replicas
    }

    pub(super) fn byte_limit(&self) -> i64 {
        i64::try_from(self.max_bytes).unwrap_or(i64::MAX)
    }

    /// Refuses names that would have to be encoded.
    pub(super) fn check_names(&self) -> Result<(), Error> {
        for (what, text) in [("a stream's name", &self.name), ("a prefix", &self.prefix)] {
            if !is_plain(text) {
                let text = format!("{what} is 1 to 64 of `A-Z a-z 0-9 _ -`, and {text:?} isn't");
                return Err(Error::new(ErrorKind::Inbox, text));
            }
        }
        Ok(())
    }

    /// Returns the stream as it is created.
    pub(super) fn config(&self) -> Config {
        Config {
            name: self.name.clone(),
            subjects: vec![self.subjects().all()],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            max_bytes: self.byte_limit(),
            max_messages: -1,
            max_messages_per_subject: -1,
            max_age: self.max_age,
            duplicate_window: self.max_age,
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
