//! Facts about the NATS server and its client. Each fact is the reason for a precaution of the inbox on
//! JetStream. If a test fails, the precaution may be unnecessary.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::nats::{Server, TIMEOUT, until};
use async_nats::HeaderMap;
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, RetentionPolicy, Stream};
use futures_util::StreamExt;

async fn stream(context: &Context, config: Config) -> Stream {
    let config = Config {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        ..config
    };
    context.create_stream(config).await.unwrap()
}

async fn publish(context: &Context, id: &str) -> PublishAck {
    let message = PublishMessage::build().payload("x".into()).message_id(id);
    context
        .send_publish("s.a", message)
        .await
        .unwrap()
        .await
        .unwrap()
}

fn durable() -> pull::Config {
    pull::Config {
        durable_name: Some("c".to_owned()),
        ..pull::Config::default()
    }
}

#[tokio::test]
async fn interest_retention_stores_nothing_while_there_is_no_consumer() {
    let server = Server::start().await;
    let context = server.context().await;
    let interest = RetentionPolicy::Interest;
    let config = Config {
        retention: interest,
        ..Config::default()
    };
    let stream = stream(&context, config).await;
    assert!(!publish(&context, "1").await.duplicate);
    assert_eq!(stream.get_info().await.unwrap().state.messages, 0);
}

#[tokio::test]
async fn work_queues_forget_acknowledged_ids_at_a_restart() {
    let mut server = Server::start().await;
    let context = server.context().await;
    let retention = RetentionPolicy::WorkQueue;
    let config = Config {
        retention,
        ..Config::default()
    };
    let stream = stream(&context, config).await;
    let consumer: PullConsumer = stream.create_consumer(durable()).await.unwrap();
    publish(&context, "1").await;
    let mut messages = consumer
        .fetch()
        .max_messages(1)
        .expires(TIMEOUT)
        .messages()
        .await
        .unwrap();
    messages
        .next()
        .await
        .unwrap()
        .unwrap()
        .double_ack()
        .await
        .unwrap();
    assert!(publish(&context, "1").await.duplicate);
    server.kill();
    server.restart().await;
    let context = server.context().await;
    assert!(!publish(&context, "1").await.duplicate);
}

#[tokio::test]
async fn a_full_stream_acknowledges_and_drops_unless_told_otherwise() {
    let server = Server::start().await;
    let context = server.context().await;
    let config = Config {
        max_messages: 1,
        ..Config::default()
    };
    let stream = stream(&context, config).await;
    for sequence in 1..=2 {
        assert_eq!(
            publish(&context, &sequence.to_string()).await.sequence,
            sequence
        );
    }
    assert_eq!(stream.get_info().await.unwrap().state.messages, 1);
}

#[tokio::test]
async fn an_existing_consumer_is_changed_silently() {
    let server = Server::start().await;
    let context = server.context().await;
    let stream = stream(&context, Config::default()).await;
    let _: PullConsumer = stream.create_consumer(durable()).await.unwrap();
    let other = pull::Config {
        max_ack_pending: 7,
        ..durable()
    };
    let changed: PullConsumer = stream.create_consumer(other).await.unwrap();
    assert_eq!(changed.cached_info().config.max_ack_pending, 7);
}

#[test]
fn a_line_break_in_a_header_panics() {
    let insert = || HeaderMap::new().insert("Nats-Msg-Id", "a\r\nb");
    assert!(catch_unwind(AssertUnwindSafe(insert)).is_err());
}

#[tokio::test]
async fn a_subject_of_four_kilobytes_disconnects_its_publisher() {
    let server = Server::start().await;
    let client = server.connect().await;
    let subject = format!("s.{}", "a".repeat(5000));
    client.publish(subject, "x".into()).await.unwrap();
    let connects = &client.statistics().connects;
    until("the client has reconnected", async || {
        connects.load(Ordering::Relaxed) > 1
    })
    .await;
}

#[tokio::test]
async fn a_client_without_a_connection_keeps_its_messages() {
    let mut server = Server::start().await;
    let context = server.context().await;
    stream(&context, Config::default()).await;
    server.kill();
    let client = context.client();
    until("it notices", async || {
        client.connection_state() != State::Connected
    })
    .await;
    // Together, the bodies are larger than any limit on bytes that the client may have.
    let body = bytes::Bytes::from(vec![b'x'; 1 << 19]);
    for _ in 0..64 {
        let publish = context.publish("s.a", body.clone());
        let kept = tokio::time::timeout(Duration::from_secs(5), publish).await;
        assert!(kept.unwrap().is_ok());
    }
    server.restart().await;
    until("the server gets every message", async || {
        match context.get_stream("S").await {
            Ok(stream) => stream.cached_info().state.messages == 64,
            Err(_) => false,
        }
    })
    .await;
}

#[tokio::test]
async fn a_unicode_space_in_a_stored_subject_closes_its_consumers_connection() {
    let server = Server::start().await;
    let context = server.context().await;
    stream(&context, Config::default()).await;
    // The message has headers, because the client parses a message without headers differently.
    let message = PublishMessage::build().payload("x".into()).message_id("1");
    let publish = context.send_publish("s.a\u{2003}b", message).await;
    publish.unwrap().await.unwrap();
    let client = server.connect().await;
    let consumer: PullConsumer = async_nats::jetstream::new(client.clone())
        .create_consumer_on_stream(durable(), "S")
        .await
        .unwrap();
    let _messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let connects = &client.statistics().connects;
    until("the client has reconnected", async || {
        connects.load(Ordering::Relaxed) > 1
    })
    .await;
}

#[tokio::test]
async fn a_dropped_stream_of_messages_leaves_its_fetched_messages_unacknowledged() {
    let server = Server::start().await;
    let context = server.context().await;
    let stream = stream(&context, Config::default()).await;
    for id in 0..10 {
        publish(&context, &id.to_string()).await;
    }
    let consumer: PullConsumer = stream.create_consumer(durable()).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    messages
        .next()
        .await
        .unwrap()
        .unwrap()
        .double_ack()
        .await
        .unwrap();
    drop(messages);
    assert_eq!(consumer.get_info().await.unwrap().num_ack_pending, 9);
    let again = consumer.fetch().max_messages(10).messages().await.unwrap();
    assert_eq!(again.count().await, 0);
}
