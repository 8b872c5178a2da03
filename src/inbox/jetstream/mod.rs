//! The inbox that stands on NATS JetStream: subjects, filters, acknowledgement, redelivery, duplicate detection, replication
//! and limits are the server's.
//!
//! A receiver publishes each event to a stream, under a subject made of its event type, and workers pull
//! from one durable consumer a route.

mod front;
mod headers;
mod inbox_builder;
mod jetstream_inbox;
mod publish;
mod stream;
mod stream_settings;
mod subjects;

pub use self::inbox_builder::JetStreamInboxBuilder;
pub use self::jetstream_inbox::JetStreamInbox;
pub use self::stream_settings::StreamSettings;
