//! The points of each purchase count exactly once.

#[path = "../../examples/loyalty.rs"]
#[allow(dead_code)] // `main` isn't called here
mod example;

use std::time::Duration;

use botisimo_webhooks::{DeliverySettings, Event, Inbox, RetryPolicy};
use rusqlite::Connection;
use serde_json::json;

use self::example::{Points, router};
use super::{accept, ago, in_a_process};
use crate::support::sqlite::InboxFile;
use crate::support::{until, wait_idle};

fn redeemed(id: &str, suffix: &str, purchase: &str, age: Duration) -> Event {
    let data = json!({ "account": "ada", "purchase": purchase, "points": 5 });
    ago(
        &format!("shop_item.purchase.redeemed{suffix}"),
        id,
        age,
        data,
    )
}

fn points(file: &InboxFile) -> Points {
    Points::open(&file.folder().join("points.db")).unwrap()
}

async fn open(file: &InboxFile, points: &Points) -> impl Inbox {
    file.inbox().open(router(points)).await.unwrap()
}

#[tokio::test]
async fn duplicates_and_siblings_count_once() {
    let file = InboxFile::new();
    let points = points(&file);
    let inbox = open(&file, &points).await;
    let now = Duration::ZERO;
    let events = [
        redeemed("m-1", "", "p-1", now),
        redeemed("m-1", "", "p-1", now),
        redeemed("m-2", ".twitch", "p-1", now),
        redeemed("m-3", "", "p-2", now),
    ];
    accept(&inbox, events).await;
    assert_eq!(points.of("ada".to_owned()).await.unwrap(), 10);
    assert_eq!(points.of("grace".to_owned()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_purchase_of_two_hours_ago_counts() {
    let file = InboxFile::new();
    let points = points(&file);
    let inbox = open(&file, &points).await;
    let age = Duration::from_secs(2 * 3600);
    accept(&inbox, [redeemed("m-1", "", "p-1", age)]).await;
    assert_eq!(points.of("ada".to_owned()).await.unwrap(), 5);
}

#[tokio::test]
async fn a_purchase_counts_once_the_database_accepts_it() {
    let file = InboxFile::new();
    let points = points(&file);
    // The route's own policy waits before a retry.
    let retry = RetryPolicy::new().initial_delay(Duration::ZERO);
    let router = router(&points).retry(retry.max_attempts(1000));
    let builder = file.inbox().delivery(DeliverySettings::new());
    let inbox = builder.open(router).await.unwrap();
    let other = Connection::open(file.folder().join("points.db")).unwrap();
    other
        .execute_batch("ALTER TABLE purchases RENAME TO missing")
        .unwrap();
    inbox
        .accept(redeemed("m-1", "", "p-1", Duration::ZERO))
        .await
        .unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().retried >= 2).await;
    other
        .execute_batch("ALTER TABLE missing RENAME TO purchases")
        .unwrap();
    wait_idle(&handle).await;
    assert_eq!(points.of("ada".to_owned()).await.unwrap(), 5);
}

#[test]
fn a_restart_between_the_purchase_and_the_result_of_the_inbox_counts_it_once() {
    let file = InboxFile::new();
    for restart in 0..3 {
        in_a_process(async || {
            let points = points(&file);
            let inbox = open(&file, &points).await;
            let handle = inbox.handle();
            for number in 0..20 {
                let (id, purchase) = (format!("m-{restart}-{number}"), format!("p-{number}"));
                inbox
                    .accept(redeemed(&id, "", &purchase, Duration::ZERO))
                    .await
                    .unwrap();
            }
            // The process ends while purchases are being written.
            until(|| handle.stats().handled > 0).await;
        });
    }
    in_a_process(async || {
        let points = points(&file);
        let inbox = open(&file, &points).await;
        wait_idle(&inbox.handle()).await;
        assert_eq!(points.of("ada".to_owned()).await.unwrap(), 100);
    });
}
