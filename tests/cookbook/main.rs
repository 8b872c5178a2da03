//! The recipes of the guide's cookbook, each with its failure cases: duplicates, siblings, an outage of two hours, and a restart
//! in the middle.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test
#![allow(clippy::duplicate_mod)] // the examples share a module

mod going_live;
mod loyalty;
mod overlay;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, Inbox};
use serde_json::Value;

/// Returns an event that happened this long ago.
fn ago(event_type: &str, id: &str, age: Duration, data: Value) -> Event {
    let at = SystemTime::now() - age;
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let request = MockRequest::event(event_type).message_id(id).data(data);
    let request = request.member("timestamp", at.as_millis() as u64);
    request.to_event()
}

/// Accepts the events one after another, and waits until each one has ended.
async fn accept(inbox: &impl Inbox, events: impl IntoIterator<Item = Event>) {
    for event in events {
        inbox.accept(event).await.unwrap();
        support::wait_idle(&inbox.handle()).await;
    }
}

/// Runs an inbox in a process of its own, which ends when the closure's future ends. Handlers that are still running are dropped.
fn in_a_process<F: Future<Output = ()>>(run: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run());
    runtime.shutdown_timeout(Duration::from_secs(10));
}
