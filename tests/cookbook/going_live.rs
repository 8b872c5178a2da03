//! The announcer posts once per stream, and never late.

#[path = "../../examples/going_live.rs"]
#[allow(dead_code)] // `main` isn't called here
mod example;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, EventState, Inbox, MemoryInbox, RetryPolicy, Stats,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use self::example::{Chat, router};
use super::{accept, ago, in_a_process};
use crate::support::sqlite::InboxFile;
use crate::support::{until, wait_idle};

const MINUTE: Duration = Duration::from_secs(60);

/// A stand-in for the chat service. It answers in the given order, and then with 204.
struct ChatService {
    url: String,
    state: Arc<ChatState>,
    _runtime: Runtime,
}

struct ChatState {
    posts: Mutex<Vec<String>>,
    answers: Mutex<Vec<u16>>,
    /// A request waits for a permit.
    open: Semaphore,
}

async fn answer(
    State(state): State<Arc<ChatState>>,
    Json(message): Json<Value>,
) -> impl IntoResponse {
    let _permit = state.open.acquire().await.unwrap();
    let mut answers = state.answers.lock().unwrap();
    let status = if answers.is_empty() {
        204
    } else {
        answers.remove(0)
    };
    if status == 204 {
        let text = message["content"].as_str().unwrap().to_owned();
        state.posts.lock().unwrap().push(text);
    }
    (
        StatusCode::from_u16(status).unwrap(),
        [("retry-after", "0")],
    )
}

impl ChatService {
    fn start(answers: &[u16]) -> Self {
        let state = Arc::new(ChatState {
            posts: Mutex::default(),
            answers: Mutex::new(answers.to_vec()),
            open: Semaphore::new(100),
        });
        let runtime = Runtime::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/hook", post(answer))
            .with_state(Arc::clone(&state));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await
        });
        Self {
            url,
            state,
            _runtime: runtime,
        }
    }

    fn router(&self) -> EventRouter {
        router(Some(Chat::new(self.url.parse().unwrap())))
    }

    fn posts(&self) -> Vec<String> {
        self.state.posts.lock().unwrap().clone()
    }
}

fn started(id: &str, suffix: &str, stream: &str, age: Duration) -> Event {
    let data = json!({ "account": "ada", "stream": stream, "title": format!("title of {stream}") });
    ago(&format!("connection.stream.started{suffix}"), id, age, data)
}

/// Runs the events in order, and returns the announcements and the counts of the inbox.
fn run(chat: &ChatService, events: Vec<Event>) -> (Vec<String>, Stats) {
    let runtime = Runtime::new().unwrap();
    let stats = runtime.block_on(async {
        let retry = RetryPolicy::new().initial_delay(Duration::ZERO);
        let delivery = DeliverySettings::new().retry(retry);
        let inbox = MemoryInbox::builder()
            .delivery(delivery)
            .build(chat.router());
        accept(&inbox, events).await;
        inbox.handle().stats()
    });
    (chat.posts(), stats)
}

#[test]
fn duplicates_and_siblings_of_a_start_are_announced_once_in_any_order() {
    for types in [["", ".twitch", ""], [".twitch", ".youtube", ""]] {
        let chat = ChatService::start(&[]);
        let ids = ["m-1", "m-2", "m-3"];
        let events = ids.iter().zip(types);
        let mut events: Vec<_> = events
            .map(|(id, suffix)| started(id, suffix, "s-1", Duration::ZERO))
            .collect();
        // A copy of the first request, and another stream.
        events.push(started("m-1", types[0], "s-1", Duration::ZERO));
        events.push(started("m-4", "", "s-2", 5 * MINUTE));
        let (posts, stats) = run(&chat, events);
        assert_eq!(
            posts,
            ["ada is live: title of s-1", "ada is live: title of s-2"]
        );
        assert_eq!((stats.skipped, stats.duplicates, stats.dead), (2, 1, 0));
    }
}

#[test]
fn siblings_that_arrive_while_the_chat_service_is_slow_are_announced_once() {
    let chat = ChatService::start(&[]);
    chat.state.open.forget_permits(100);
    in_a_process(async || {
        let inbox = MemoryInbox::new(chat.router());
        for (id, suffix) in [("m-1", ""), ("m-2", ".twitch"), ("m-3", ".youtube")] {
            inbox
                .accept(started(id, suffix, "s-1", Duration::ZERO))
                .await
                .unwrap();
        }
        let handle = inbox.handle();
        until(|| handle.stats().waiting == 2).await;
        chat.state.open.add_permits(1);
        let stats = wait_idle(&handle).await;
        assert_eq!((stats.handled, stats.skipped), (3, 2));
    });
    assert_eq!(chat.posts().len(), 1);
}

#[test]
fn a_stream_that_started_two_hours_ago_is_not_announced() {
    let chat = ChatService::start(&[]);
    let late = started("m-1", "", "s-1", 120 * MINUTE);
    let fresh = started("m-2", "", "s-2", 9 * MINUTE);
    let (posts, stats) = run(&chat, vec![late, fresh]);
    assert_eq!(posts, ["ada is live: title of s-2"]);
    assert_eq!((stats.skipped, stats.dead), (1, 0));
}

#[test]
fn an_announcement_is_retried_until_the_chat_service_accepts_it() {
    // The answers 429 request a retry after 0 s. The policy of the route would wait.
    let chat = ChatService::start(&[429, 429, 429]);
    let (posts, stats) = run(&chat, vec![started("m-1", "", "s-1", Duration::ZERO)]);
    assert_eq!((posts.len(), stats.retried, stats.dead), (1, 3, 0));
}

#[test]
fn a_request_that_the_chat_service_refuses_is_a_dead_letter_and_the_sibling_is_tried() {
    let chat = ChatService::start(&[404]);
    let first = started("m-1", "", "s-1", Duration::ZERO);
    let second = started("m-2", ".twitch", "s-1", Duration::ZERO);
    let (posts, stats) = run(&chat, vec![first, second]);
    assert_eq!((posts.len(), stats.dead, stats.handled), (1, 1, 1));
}

#[test]
fn an_announcement_whose_retry_would_be_late_is_not_posted() {
    let chat = ChatService::start(&[503, 503, 503]);
    let almost_late = 10 * MINUTE - Duration::from_millis(1);
    let (posts, stats) = run(&chat, vec![started("m-1", "", "s-1", almost_late)]);
    assert!(posts.is_empty());
    assert_eq!((stats.skipped, stats.dead, stats.handled), (1, 0, 1));
}

#[test]
fn a_restart_while_the_chat_service_hangs_announces_the_stream_once() {
    let (chat, file) = (ChatService::start(&[]), InboxFile::new());
    chat.state.open.forget_permits(100);
    in_a_process(async || {
        let inbox = file.inbox().open(chat.router()).await.unwrap();
        for (id, suffix) in [("m-1", ""), ("m-2", ".twitch")] {
            inbox
                .accept(started(id, suffix, "s-1", Duration::ZERO))
                .await
                .unwrap();
        }
        let handle = inbox.handle();
        until(|| handle.stats().running == 1 && handle.stats().waiting == 1).await;
    });
    // The stand-in drops the requests of the ended process.
    chat.state.open.add_permits(100);
    in_a_process(async || {
        let inbox = file.inbox().open(chat.router()).await.unwrap();
        accept(&inbox, [started("m-3", "", "s-1", Duration::ZERO)]).await;
        let filter = botisimo_webhooks::EventFilter::new();
        let events = inbox.handle().events().list(&filter, 10).await.unwrap();
        assert!(
            events
                .iter()
                .all(|event| event.state() == EventState::Handled)
        );
    });
    in_a_process(async || {
        let inbox = file.inbox().open(chat.router()).await.unwrap();
        accept(&inbox, [started("m-4", ".youtube", "s-1", Duration::ZERO)]).await;
        assert_eq!(inbox.handle().stats().skipped, 1);
    });
    assert_eq!(chat.posts(), ["ada is live: title of s-1"]);
}
