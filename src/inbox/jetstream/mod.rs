//! The inbox that stands on NATS JetStream: subjects, filters, acknowledgement, redelivery, duplicate detection, replication
//! and limits are the server's.
//!
//! A receiver publishes each event to a stream, under a subject made of its event type, and workers pull
//! from one durable consumer a route.

mod backoff;
mod checkpoints;
mod consumers;
mod dead_letter_stream;
mod dead_letters;
mod delivery_info;
mod finished;
mod headers;
mod inbox_builder;
mod jetstream_inbox;
mod jetstream_worker;
mod message_task;
mod monitor;
mod plan;
mod publisher;
mod pull_loop;
mod route_consumer;
mod stalls;
mod stream;
mod stream_settings;
mod subjects;
mod worker_builder;
mod worker_inner;
mod worker_stats;

pub use self::inbox_builder::JetStreamInboxBuilder;
pub use self::jetstream_inbox::JetStreamInbox;
pub use self::jetstream_worker::JetStreamWorker;
pub use self::stream_settings::StreamSettings;
pub use self::worker_builder::{JetStreamWorkerBuilder, StartAt};
pub use self::worker_stats::{Stall, WorkerStats};
