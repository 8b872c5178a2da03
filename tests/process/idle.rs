//! The writer thread of an idle inbox sleeps.
//!
//! The other tests of this binary open their inboxes in other processes. So this test counts the CPU time of
//! all writer threads in this process.

use std::fs;
use std::time::Duration;

use botisimo_webhooks::{DeliverySettings, EventRouter, Inbox, RetryPolicy};

use crate::support::runtime::ManualClock;
use crate::support::sqlite::InboxFile;
use crate::support::{event, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_thread_of_an_idle_or_waiting_inbox_sleeps() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let router = EventRouter::new().on("a", |_: botisimo_webhooks::Event| async {
        Err::<(), _>(botisimo_webhooks::HandlerError::retry_after(
            Duration::from_secs(60),
            "later",
        ))
    });
    let inbox = place
        .inbox()
        .delivery(DeliverySettings::new().retry(RetryPolicy::new()))
        .open_with(clock, router)
        .await
        .unwrap();
    inbox.accept(event("1")).await.unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().retrying == 1).await;
    // A busy thread would use most of this time.
    let before = cpu();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let used = cpu() - before;
    assert!(used < 30, "{used} ticks of 10 ms");
}

/// Returns the CPU time that this process's writer threads have used, in ticks.
fn cpu() -> u64 {
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        let (name, rest) = stat.rsplit_once(')').unwrap();
        if name.contains("botisimo-inbox") {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks
}
