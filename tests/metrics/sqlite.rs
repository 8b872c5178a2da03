//! The counts of the SQLite inbox, and the table of all metrics in the guide.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Event, EventRouter, HandlerError, Inbox, SqliteInboxBuilder, WebhookLayer,
};
use fastrand::Rng;
use metrics_util::debugging::DebuggingRecorder;
use tokio::sync::{Mutex, MutexGuard};
use tower::ServiceExt;

use crate::recorded::{Described, Recorded};
use crate::support::sqlite::{InboxFile, delivery};
use crate::support::{until, wait_idle};

/// Returns the recorder of the process, counting from zero. Tests use it one after another.
async fn recorder() -> MutexGuard<'static, Recorded> {
    static RECORDER: LazyLock<Mutex<Recorded>> = LazyLock::new(|| {
        let recorder = DebuggingRecorder::new();
        let recorded = Recorded::of(&recorder);
        assert!(
            recorder.install().is_ok(),
            "a recorder is installed already"
        );
        Mutex::new(recorded)
    });
    let recorder = RECORDER.lock().await;
    recorder.restart();
    recorder
}

/// Returns a router whose handlers do what the event's data says.
fn router() -> EventRouter {
    let handler = |event: Event| async move {
        let told: String = event.decode()?;
        match told.as_str() {
            "ok" => Ok(()),
            "hang" => std::future::pending().await,
            "permanent" => Err(HandlerError::permanent("no")),
            _ => Err(HandlerError::from("told to")),
        }
    };
    EventRouter::new()
        .on("account.updated", handler)
        .on("moon.full", handler)
        .fresh_within(Duration::from_secs(3600))
}

fn request(rng: &mut Rng) -> http::Request<Body> {
    let types = ["account.updated", "moon.full", "sun.dark"];
    let told = ["ok", "ok", "permanent", "fail"];
    let timestamps = [1, u64::MAX / 4];
    let mock = MockRequest::event(rng.choice(types).unwrap());
    let mock = mock.message_id(rng.u8(..).to_string());
    let mock = mock.data(rng.choice(told).unwrap());
    let mock = mock.member("timestamp", rng.choice(timestamps).unwrap());
    match rng.u8(..20) {
        0 => mock.body("{").build(),
        _ => mock.build(),
    }
}

async fn send<I: Inbox>(layer: &WebhookLayer<I>, request: http::Request<Body>) -> u16 {
    let answer = layer.endpoint().oneshot(request).await.unwrap();
    answer.status().as_u16()
}

async fn open(builder: SqliteInboxBuilder) -> WebhookLayer<impl Inbox> {
    // A hanging handler keeps the file open until its timeout.
    let builder = builder.delivery(delivery().attempt_timeout(Duration::from_secs(2)));
    let inbox = builder.open(router()).await.unwrap();
    WebhookLayer::new("/webhooks/botisimo", inbox)
}

/// Waits until the inbox has recorded its last count.
async fn close<I: Inbox>(layer: WebhookLayer<I>, file: &InboxFile) {
    let _ = layer.handle().drain(Duration::ZERO).await;
    drop(layer);
    file.free().await;
}

fn hanging() -> http::Request<Body> {
    MockRequest::event("account.updated").data("hang").build()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counters_equal_the_stats_of_a_sqlite_inbox_at_rest() {
    let recorded = recorder().await;
    for seed in 0..3 {
        let (file, mut rng) = (InboxFile::new(), Rng::with_seed(seed));
        recorded.restart();
        let layer = open(file.inbox().max_events(40).max_dead_letters(3)).await;
        let handle = layer.handle();
        for _ in 0..10 {
            let requests = (0..rng.usize(1..80)).map(|_| send(&layer, request(&mut rng)));
            let requests: Vec<_> = requests.collect();
            futures_util::future::join_all(requests).await;
            let letters = handle.dead_letters().unwrap();
            for letter in letters.list(None, 2).await.unwrap() {
                let _ = letters.replay(letter.id()).await;
            }
            let stats = wait_idle(&handle).await;
            recorded.assert_equals(&stats);
        }
        send(&layer, hanging()).await;
        until(|| handle.stats().running == 1).await;
        let _ = handle.drain(Duration::ZERO).await;
        recorded.assert_equals(&handle.stats());
        drop(handle);
        close(layer, &file).await;

        recorded.restart();
        let layer = open(file.inbox()).await;
        let stats = layer.handle().stats();
        assert!(stats.recovered > 0, "{stats:?}");
        recorded.assert_equals(&stats);
        close(layer, &file).await;
    }
}

/// Returns the rows of the table in the guide.
fn table() -> BTreeSet<Described> {
    let page = include_str!("../../src/guide/metrics.md");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `botisimo_webhooks_"));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let labels = cells[3].split(", ").map(plain);
        Described {
            name: plain(cells[1]),
            kind: cells[2].to_owned(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
            unit: cells[4].to_owned(),
        }
    });
    rows.collect()
}

#[tokio::test]
async fn the_table_in_the_guide_lists_exactly_the_metrics_that_are_recorded() {
    let recorded = recorder().await;
    let file = InboxFile::new();
    let layer = open(file.inbox().max_dead_letters(1)).await;
    for told in ["ok", "permanent", "permanent", "fail"] {
        let mock = MockRequest::event("account.updated").data(told);
        assert_eq!(send(&layer, mock.build()).await, 200);
        wait_idle(&layer.handle()).await;
    }
    let stale = MockRequest::event("moon.full").member("timestamp", 1);
    assert_eq!(send(&layer, stale.build()).await, 200);
    let letters = layer.handle().dead_letters().unwrap();
    let letter = letters.list(None, 1).await.unwrap().remove(0);
    assert!(letters.replay(letter.id()).await.unwrap());
    send(&layer, hanging()).await;
    until(|| layer.handle().stats().running == 1).await;
    // The monitor samples the gauges after 5 s.
    let mut described = BTreeSet::new();
    until(|| {
        described.extend(recorded.described());
        described
            .iter()
            .any(|metric| metric.name.ends_with("_route_stalled"))
    })
    .await;
    drop(letters);
    close(layer, &file).await;
    let layer = open(file.inbox()).await;
    described.extend(recorded.described());
    close(layer, &file).await;
    let mut table = table();
    // Only a worker of JetStream records this metric: see `tests/jetstream/`.
    table.retain(|metric| metric.name != "botisimo_webhooks_deliveries_total");
    assert_eq!(described, table);
}
