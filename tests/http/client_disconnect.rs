//! The client disconnects at every await point. The inbox loses no accepted event, and runs no event that was only
//! partly accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::receiver::{PATH, Script, Scripted, Step, ask, good, teapot};
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, Endpoint, Event, EventRouter, Handle, Inbox,
    MemoryInbox, WebhookLayer,
};
use bytes::Bytes;
use http::Request;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_test::assert_pending;
use tokio_test::task::spawn;
use tower::{Layer, Service};

/// The length of every body in these tests, and the budget for bodies in flight.
const BODY: usize = 300;

/// Returns a request whose body takes several polls.
fn request(id: &str) -> Request<Script> {
    let body = good().message_id(id).padded(BODY).body_bytes();
    let frames = body.chunks(100).map(Bytes::copy_from_slice);
    let steps = frames.flat_map(|frame| [Step::Wait, Step::Data(frame)]);
    let script = Script::new(steps.chain([Step::Wait]));
    good().build::<Script>().map(|_: Script| script)
}

/// Returns a memory inbox, and a channel to which the inbox's handler sends the id of each event.
fn telling() -> (MemoryInbox, UnboundedReceiver<String>) {
    let (sent, ran) = unbounded_channel();
    let router = EventRouter::new().on("account.updated", move |event: Event| async move {
        yield_now().await;
        sent.send(event.id().to_owned()).expect("the test waits");
    });
    (MemoryInbox::new(router), ran)
}

/// Awaits a future that needs no timer. Because tokio's time is paused, a future that hangs fails the test.
async fn soon<F: Future>(future: F) -> F::Output {
    let hour = Duration::from_secs(3600);
    let output = timeout(hour, future).await;
    output.expect("the future completes")
}

#[track_caller]
fn assert_law(handle: &Handle) {
    let stats = handle.stats();
    let ended = stats.handled + stats.unhandled + stats.dead;
    assert_eq!(stats.accepted, ended + stats.in_flight(), "{stats:?}");
}

/// Sends requests to an endpoint until one is answered. Each request is dropped one poll later than the previous
/// request, and other tasks run between polls. Returns the number of events that were lost and that were kept.
///
/// `accept` passes an event to the inner inbox. Each accepted event must run once, and no other event may run.
async fn leave_everywhere<F>(accept: fn(MemoryInbox, Event) -> F) -> (u64, u64)
where
    F: Future<Output = Result<Accepted, AcceptError>> + Send + 'static,
{
    let (inner, mut ran) = telling();
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let inbox = Scripted::over(inner, move |inner, event| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            accept(inner, event).await
        }
    });
    let webhooks = WebhookLayer::new("/", inbox)
        .max_body_bytes_in_flight(BODY)
        .endpoint();
    let handle = webhooks.handle();
    let (mut lost, mut kept) = (0, 0);
    for polls in 0.. {
        let before = taken.load(Ordering::SeqCst);
        let id = format!("left-after-{polls}");
        let mut response = spawn(webhooks.clone().call(request(&id)));
        let mut answered = false;
        for _ in 0..polls {
            answered = response.poll().is_ready();
            if answered {
                break;
            }
            yield_now().await;
        }
        drop(response);
        assert_law(&handle);
        if taken.load(Ordering::SeqCst) > before {
            kept += 1;
            assert_eq!(soon(ran.recv()).await, Some(id));
        } else {
            lost += 1;
        }
        soon(handle.wait_idle()).await;
        assert_law(&handle);

        // The next request finds the whole budget free, and only its event runs.
        let id = format!("next-after-{polls}");
        assert_eq!(ask(&webhooks, request(&id)).await.status(), 200);
        assert_eq!(soon(ran.recv()).await, Some(id));
        soon(handle.wait_idle()).await;
        assert!(ran.try_recv().is_err());
        let stats = handle.stats();
        let all = taken.load(Ordering::SeqCst);
        assert_eq!(
            (stats.accepted, stats.handled, stats.in_flight()),
            (all, all, 0)
        );
        if answered {
            break;
        }
    }
    (lost, kept)
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_answers_at_once_keeps_the_event_of_a_disconnected_client() {
    let (lost, kept) =
        leave_everywhere(|inner, event| async move { inner.accept(event).await }).await;
    // An event is lost if its client disconnects before the first poll, or at one of the body's four waits.
    assert!(lost >= 5 && kept >= 1, "{lost} lost, {kept} kept");
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_answers_later_keeps_the_event_of_a_disconnected_client() {
    let (lost, kept) = leave_everywhere(|inner, event| async move {
        let accepted = inner.accept(event).await;
        for _ in 0..3 {
            yield_now().await;
        }
        accepted
    })
    .await;
    assert!(lost >= 5 && kept >= 2, "{lost} lost, {kept} kept");
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_commits_in_its_own_task_keeps_the_event_of_a_disconnected_client() {
    let (lost, kept) = leave_everywhere(|inner, event| async move {
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            yield_now().await;
            // A client that has left gets no answer.
            let _ = answer.send(inner.accept(event).await);
        });
        answered.await.expect("the task answers")
    })
    .await;
    // Some clients leave before the commit, and some leave after it.
    assert!(lost >= 5 && kept >= 2, "{lost} lost, {kept} kept");
}

#[tokio::test(start_paused = true)]
async fn the_layer_keeps_the_event_of_a_disconnected_client() {
    let (inbox, mut ran) = telling();
    let layer = WebhookLayer::new(PATH, inbox).max_body_bytes_in_flight(BODY);
    let handle = layer.handle();
    let mut service = layer.layer(teapot());
    let mut polls = 0;
    let answered = loop {
        let id = format!("left-after-{polls}");
        let mut response = spawn(service.call(request(&id)));
        let answered = (0..polls).any(|_| response.poll().is_ready());
        drop(response);
        soon(handle.wait_idle()).await;
        if answered {
            break id;
        }
        assert!(ran.try_recv().is_err());
        polls += 1;
    };
    assert!(polls >= 5);
    assert_eq!(soon(ran.recv()).await, Some(answered));
    assert_eq!((handle.stats().accepted, handle.stats().handled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_releases_its_resources() {
    let inbox = Scripted::new(|_, _| async {
        yield_now().await;
        Err(AcceptError::new(AcceptErrorKind::Full))
    });
    let webhooks = WebhookLayer::new("/", inbox)
        .max_body_bytes_in_flight(BODY)
        .endpoint();
    let handle = webhooks.handle();
    for polls in 0..8 {
        let mut response = spawn(webhooks.clone().call(request("refused")));
        let answered = (0..polls).any(|_| response.poll().is_ready());
        assert_eq!(answered, polls > 5, "after {polls} polls");
    }
    assert_eq!(handle.stats(), botisimo_webhooks::Stats::default());
}

#[tokio::test(start_paused = true)]
async fn a_handler_keeps_running_after_the_client_has_disconnected() {
    let (go, went) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, tell) = (Arc::clone(&go), Arc::clone(&went));
    let router = EventRouter::new().on_any(async move |_: Event| {
        tell.notify_one();
        wait.notified().await;
    });
    let inner = MemoryInbox::new(router);
    let inbox = Scripted::over(inner, |inner, event| async move {
        let accepted: Result<Accepted, AcceptError> = inner.accept(event).await;
        std::future::pending::<()>().await;
        accepted
    });
    let mut webhooks = Endpoint::new(inbox);
    let handle = webhooks.handle();
    let mut response = spawn(webhooks.call(good().build::<Script>()));
    assert_pending!(response.poll());
    soon(went.notified()).await;
    drop((response, webhooks));
    assert_eq!((handle.stats().accepted, handle.stats().running), (1, 1));
    go.notify_one();
    soon(handle.wait_idle()).await;
    assert_eq!(
        (handle.stats().unhandled, handle.stats().in_flight()),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counts_balance_while_many_clients_disconnect() {
    let (inbox, _ran) = telling();
    let webhooks = Endpoint::new(inbox);
    let handle = webhooks.handle();
    for number in 0..500 {
        let mut response = spawn(webhooks.clone().call(request(&number.to_string())));
        let _ = (0..number % 7).any(|_| response.poll().is_ready());
        drop(response);
        assert_law(&handle);
    }
    handle.wait_idle().await;
    assert_law(&handle);
    let stats = handle.stats();
    // The body has four waits, so the requests that are polled five or more times are answered: two of every seven.
    assert_eq!((stats.accepted, stats.in_flight(), stats.dead), (142, 0, 0));
}
