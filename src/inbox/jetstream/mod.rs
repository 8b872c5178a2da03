//! The inbox on NATS JetStream. The server does the filtering, acknowledgement, redelivery, duplicate detection, replication and
//! limits.
//!
//! An event goes through these files, from top to bottom:
//!
//! 1. `publisher`: the receiver publishes the event to a stream, under a subject made of its event type (`subjects`).
//! 2. `pull_loop`: a worker pulls the events of each route from a durable consumer (`route_consumer`, `consumers`).
//! 3. `message_task`: the worker runs the route and acknowledges the event, or returns it to the server for a retry.
//! 4. `dead_letter_stream`: the worker stores an event whose route failed permanently, with its `headers`.
//!
//! `event_stream` lists and replays the events of the stream. `event_index` has their dead letters and replays, and `attempt_log` has
//! the attempts of this process.
//!
//! `connection` has the requests that these files share. `checkpoints` stores the finished events of a group, `stalls` has the
//! operations that are failing, and `health` reports them.

mod attempt_log;
mod backoff;
mod checkpoints;
mod connection;
mod consumer_position;
mod consumers;
mod dead_letter_stream;
mod differences;
mod event_index;
mod event_stream;
mod finished;
mod headers;
mod health;
mod inbox_builder;
mod jetstream_inbox;
mod jetstream_worker;
mod message_task;
mod publisher;
mod pull_loop;
mod route_consumer;
mod stalls;
mod stream;
mod stream_settings;
mod subjects;
mod worker_builder;
mod worker_inner;
mod worker_options;
mod worker_stats;

pub use self::inbox_builder::JetStreamInboxBuilder;
pub use self::jetstream_inbox::JetStreamInbox;
pub use self::jetstream_worker::JetStreamWorker;
pub use self::stream_settings::StreamSettings;
pub use self::worker_builder::{JetStreamWorkerBuilder, StartAt};
pub use self::worker_stats::WorkerStats;
