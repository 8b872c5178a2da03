//! The inbox on JetStream: its answers, the content of the stream, and a server that doesn't answer.

use std::time::Duration;

use crate::support::nats::{self, Server, until};
use crate::support::{event, typed};
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Source, StorageType};
use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, Error, ErrorKind, Inbox, JetStreamInbox, StreamSettings,
};
use futures_util::FutureExt;
use futures_util::future::join_all;

async fn open(context: &Context) -> JetStreamInbox {
    let inbox = JetStreamInbox::builder(context.clone());
    inbox
        .stream(StreamSettings::new().create_if_missing())
        .open()
        .await
        .unwrap()
}

async fn messages(context: &Context) -> u64 {
    let stream = context.get_stream("BOTISIMO").await.unwrap();
    stream.get_info().await.unwrap().state.messages
}

#[tokio::test]
async fn an_event_is_in_the_stream_when_it_is_answered() {
    let server = Server::start().await;
    let context = server.context().await;
    let inbox = open(&context).await;
    let event = typed("account.updated");
    assert_eq!(inbox.accept(event.clone()).await, Ok(Accepted::New));
    let stream = context.get_stream("BOTISIMO").await.unwrap();
    let message = stream.get_raw_message(1).await.unwrap();
    assert_eq!(&*message.subject, "botisimo.account.updated.$");
    assert_eq!(message.payload, event.body().as_bytes());
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.accepted, stats.published, stats.in_flight()),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn a_copy_is_a_duplicate_at_any_receiver() {
    let server = Server::start().await;
    let context = server.context().await;
    let one = open(&context).await;
    let other = open(&server.context().await).await;
    assert_eq!(one.accept(event("m-1")).await, Ok(Accepted::New));
    assert_eq!(one.accept(event("m-1")).await, Ok(Accepted::Duplicate));
    assert_eq!(other.accept(event("m-1")).await, Ok(Accepted::Duplicate));
    assert_eq!(messages(&context).await, 1);
    assert_eq!(other.handle().stats().duplicates, 1);
}

#[tokio::test]
async fn a_copy_is_a_duplicate_after_a_restart_of_the_server() {
    let mut server = Server::start().await;
    let inbox = open(&server.context().await).await;
    assert_eq!(inbox.accept(event("m-1")).await, Ok(Accepted::New));
    server.kill();
    server.restart().await;
    let inbox = open(&server.context().await).await;
    assert_eq!(inbox.accept(event("m-1")).await, Ok(Accepted::Duplicate));
}

#[tokio::test]
async fn of_a_thousand_copies_through_two_receivers_one_is_accepted() {
    let server = Server::start().await;
    let context = server.context().await;
    let inboxes = [open(&context).await, open(&server.context().await).await];
    let copies = (0..1000).map(|i| inboxes[i % 2].accept(event("m-1")));
    let answers = join_all(copies).await;
    let new = answers
        .iter()
        .filter(|answer| **answer == Ok(Accepted::New));
    assert_eq!(new.count(), 1);
    assert!(answers.iter().all(|answer| match answer {
        Ok(_) => true,
        Err(refused) => refused.kind() == AcceptErrorKind::Unavailable,
    }));
    assert_eq!(messages(&context).await, 1);
}

#[tokio::test]
async fn while_the_server_is_away_events_are_refused_and_then_accepted_again() {
    let mut server = Server::start().await;
    let context = server.context().await;
    let inbox = open(&context).await;
    assert!(inbox.accept(event("m-1")).await.is_ok());
    server.kill();
    // The inbox answers at the first poll, so no time passes.
    until("the client notices", async || {
        inbox.accept(event("m-2")).now_or_never()
            == Some(Err(AcceptError::new(AcceptErrorKind::Unavailable)))
    })
    .await;
    server.restart().await;
    until("the inbox accepts events again", async || {
        inbox.accept(event("m-4")).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_event_without_an_acknowledgement_in_time_is_503_and_its_bytes_count_until_it_comes() {
    let server = Server::start().await;
    let context = server.context().await;
    let inbox = JetStreamInbox::builder(context.clone())
        .stream(StreamSettings::new().create_if_missing())
        .publish_timeout(Duration::from_millis(300))
        .max_bytes_in_flight(950)
        .open()
        .await
        .unwrap();
    server.hang(&context).await;
    let large = MockRequest::event("account.updated").padded(900).to_event();
    assert_eq!(
        inbox.accept(large.clone()).await,
        Err(AcceptError::new(AcceptErrorKind::Unavailable))
    );
    // The client still holds the event, so the inbox has no space for another event.
    assert_eq!(inbox.handle().stats().bytes, 900);
    assert_eq!(
        inbox.accept(event("m-2")).await,
        Err(AcceptError::new(AcceptErrorKind::Full))
    );
    server.resume();
    inbox.handle().wait_idle().await;
    let stats = inbox.handle().stats();
    // The acknowledgement arrived late, and the event still counts as accepted.
    assert_eq!((stats.accepted, stats.refused, stats.bytes), (1, 2, 0));
    assert_eq!(inbox.accept(large).await, Ok(Accepted::Duplicate));
}

#[tokio::test]
async fn an_accept_that_is_dropped_after_its_first_poll_is_counted() {
    let server = Server::start().await;
    let context = server.context().await;
    let inbox = open(&context).await;
    drop(inbox.accept(event("never polled")));
    assert!(inbox.accept(event("m-1")).now_or_never().is_none());
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().accepted, 1);
    assert_eq!(messages(&context).await, 1);
    assert_eq!(inbox.accept(event("m-1")).await, Ok(Accepted::Duplicate));
}

#[tokio::test]
async fn a_full_stream_refuses_and_drops_nothing() {
    let server = Server::start().await;
    let context = server.context().await;
    let inbox = JetStreamInbox::builder(context.clone())
        .stream(StreamSettings::new().max_bytes(3000).create_if_missing())
        .open()
        .await
        .unwrap();
    let sized = || {
        MockRequest::event("account.updated")
            .padded(1000)
            .to_event()
    };
    assert!(inbox.accept(sized()).await.is_ok());
    assert!(inbox.accept(sized()).await.is_ok());
    assert_eq!(
        inbox.accept(sized()).await,
        Err(AcceptError::new(AcceptErrorKind::Full))
    );
    assert_eq!(messages(&context).await, 2);
}

#[tokio::test]
async fn a_body_over_the_servers_limit_is_413() {
    let server = Server::start_with("max_payload: 8192").await;
    let inbox = open(&server.context().await).await;
    let limit = 8192 - 1024;
    assert_eq!(inbox.max_body_bytes(), Some(limit));
    let harness = Harness::inbox(inbox.clone());
    let sized = |bytes| MockRequest::event("account.updated").padded(bytes);
    harness.deliver(sized(limit)).await.assert_status(200);
    harness.deliver(sized(limit + 1)).await.assert_status(413);
    // If a wrapper passes on an event that is too large, the inbox refuses it.
    let refused = inbox.accept(sized(limit + 1).to_event()).await;
    assert_eq!(refused, Err(AcceptError::new(AcceptErrorKind::Unavailable)));
    // The longest names fit next to the largest body.
    let longest = "\u{1}".repeat(255);
    let longest = MockRequest::event(longest.as_str()).message_id(longest.as_str());
    harness
        .deliver(longest.padded(limit))
        .await
        .assert_status(200);
}

#[tokio::test]
async fn a_drain_refuses_new_events_and_waits_for_publishes_in_flight() {
    let server = Server::start().await;
    let mut context = server.context().await;
    context.set_timeout(nats::TIMEOUT);
    let inbox = JetStreamInbox::builder(context.clone()).publish_timeout(nats::TIMEOUT);
    let inbox = inbox
        .stream(StreamSettings::new().create_if_missing())
        .open()
        .await;
    let inbox = inbox.unwrap();
    server.hang(&context).await;
    let accepting = tokio::spawn(inbox.accept(event("m-1")));
    until("the publish is in flight", async || {
        inbox.handle().stats().bytes > 0
    })
    .await;
    let left = inbox.handle().drain(Duration::ZERO).await.remaining;
    assert_eq!(left, 1);
    assert_eq!(
        inbox.accept(event("m-2")).await,
        Err(AcceptError::new(AcceptErrorKind::Draining))
    );
    server.resume();
    assert_eq!(inbox.handle().drain(nats::TIMEOUT).await.remaining, 0);
    assert_eq!(accepting.await.unwrap(), Ok(Accepted::New));
}

async fn refusal(context: &Context, settings: StreamSettings) -> Error {
    let inbox = JetStreamInbox::builder(context.clone()).stream(settings);
    inbox.open().await.unwrap_err()
}

#[tokio::test]
async fn a_stream_must_exist_without_create_if_missing() {
    let server = Server::start().await;
    let context = server.context().await;
    let error = refusal(&context, StreamSettings::new()).await;
    assert_eq!(error.kind(), ErrorKind::Inbox);
    assert_eq!(
        error.to_string(),
        "there is no stream BOTISIMO: create it, or set `create_if_missing`"
    );
    open(&context).await;
    assert!(JetStreamInbox::builder(context).open().await.is_ok());
}

#[tokio::test]
async fn names_that_would_have_to_be_encoded_are_refused() {
    let server = Server::start().await;
    let context = server.context().await;
    for name in ["", "a.b", "a b", "\u{2003}", &"a".repeat(65)] {
        let error = refusal(&context, StreamSettings::new().prefix(name)).await;
        assert!(
            error.to_string().starts_with("a prefix is 1 to 64"),
            "{error}"
        );
        let error = refusal(&context, StreamSettings::new().name(name)).await;
        assert!(
            error.to_string().starts_with("a stream's name is 1 to 64"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_error_names_the_setting_of_a_stream_that_doesnt_fit() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let server = Server::start().await;
    let context = server.context().await;
    let good = || Config {
        name: "BOTISIMO".to_owned(),
        subjects: vec!["botisimo.>".to_owned()],
        discard: DiscardPolicy::New,
        max_bytes: 1 << 20,
        max_age: DAY,
        duplicate_window: DAY,
        ..Config::default()
    };
    type Spoil = fn(&mut Config);
    let cases: [(&str, Spoil); 13] = [
        ("", |_| {}),
        ("subjects is", |c| {
            c.subjects = vec!["botisimo.a.>".to_owned()];
        }),
        ("subjects is", |c| c.subjects.push("other".to_owned())),
        ("not Limits", |c| {
            c.retention = RetentionPolicy::Interest;
        }),
        ("not Limits", |c| {
            c.retention = RetentionPolicy::WorkQueue;
        }),
        ("discard is Old, not New", |c| {
            c.discard = DiscardPolicy::Old;
        }),
        ("max_bytes isn't set", |c| c.max_bytes = -1),
        ("max_msgs_per_subject is 1, not unlimited", |c| {
            c.max_messages_per_subject = 1;
        }),
        ("max_age isn't set", |c| c.max_age = Duration::ZERO),
        ("duplicate_window is", |c| {
            c.duplicate_window = DAY / 2;
        }),
        ("storage is Memory, not File", |c| {
            c.storage = StorageType::Memory;
        }),
        ("no_ack is true, not false", |c| c.no_ack = true),
        ("it mirrors another stream, has sources", |c| {
            c.sources = Some(vec![Source {
                name: "elsewhere".to_owned(),
                ..Source::default()
            }]);
        }),
    ];
    for (complaint, spoil) in cases {
        let mut config = good();
        spoil(&mut config);
        context.create_stream(config).await.unwrap();
        let opened = JetStreamInbox::builder(context.clone()).open().await;
        match opened {
            Ok(_) => assert_eq!(complaint, ""),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    !complaint.is_empty() && text.contains(complaint),
                    "{complaint}: {text}"
                );
            }
        }
        context.delete_stream("BOTISIMO").await.unwrap();
    }
    context.create_stream(good()).await.unwrap();
    let error = refusal(&context, StreamSettings::new().replicas(3)).await;
    assert!(
        error.to_string().contains("replicas is 1, not at least 3"),
        "{error}"
    );
}

#[tokio::test]
async fn an_existing_stream_is_left_unchanged() {
    let server = Server::start().await;
    let context = server.context().await;
    open(&context).await;
    let longer = StreamSettings::new().max_bytes(1 << 31).create_if_missing();
    let inbox = JetStreamInbox::builder(context.clone()).stream(longer);
    inbox.open().await.unwrap();
    let stream = context.get_stream("BOTISIMO").await.unwrap();
    assert_eq!(stream.cached_info().config.max_bytes, 1 << 30);
}

#[tokio::test]
async fn a_server_without_jetstream_is_an_error_with_its_cause() {
    let server = Server::start().await;
    let context = server.context().await;
    let elsewhere = async_nats::jetstream::with_prefix(context.client(), "nobody.answers.here");
    let error = refusal(&elsewhere, StreamSettings::new().create_if_missing()).await;
    assert_eq!(error.to_string(), "the stream BOTISIMO can't be looked up");
    assert!(std::error::Error::source(&error).is_some());
}
