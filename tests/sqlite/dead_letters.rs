//! The dead letters of an inbox on disk: stored, listed, replayed and deleted, within their limits.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, DeadLetters, ErrorKind, Event, EventRouter,
    HandlerError, Inbox, Pattern, SqliteInbox,
};
use futures_util::FutureExt;
use tokio::sync::Semaphore;

use crate::support::runtime::ManualClock;
use crate::support::sqlite::{InboxFile, Log, at_once, delivery, failing, gated, logging};
use crate::support::{balanced, event, sized, until, wait_idle};

fn letters(inbox: &SqliteInbox) -> DeadLetters {
    inbox.handle().dead_letters().unwrap()
}

async fn ids(letters: &DeadLetters) -> Vec<u64> {
    let all = letters.list(None, usize::MAX).await.unwrap();
    all.iter().map(botisimo_webhooks::DeadLetter::id).collect()
}

/// Turns the events with these ids into dead letters, in a separate inbox.
async fn killed(place: &InboxFile, events: impl IntoIterator<Item = Event>) -> SqliteInbox {
    let inbox = place.inbox().open(failing(&Log::default())).await.unwrap();
    for event in events {
        inbox.accept(event).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    inbox
}

fn events(ids: std::ops::Range<u32>) -> impl Iterator<Item = Event> {
    ids.map(|id| event(id.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_by_page_with_all_their_fields_also_by_the_next_process() {
    let place = InboxFile::new();
    let first = killed(&place, events(0..5)).await;
    let before = letters(&first).list(None, 9).await.unwrap();
    assert_eq!(first.handle().stats().dead_letters, 5);
    drop(first);
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead_letters, stats.recovered, stats.dead), (5, 0, 0));
    let letters = letters(&inbox);
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = letters.list(after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id());
        pages.push(page);
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    for (i, (letter, before)) in pages.iter().flatten().zip(&before).enumerate() {
        let same = (
            letter.id(),
            letter.message_id(),
            letter.body(),
            letter.routes(),
        );
        assert_eq!(
            same,
            (
                before.id(),
                before.message_id(),
                before.body(),
                before.routes()
            )
        );
        assert_eq!(letter.message_id(), i.to_string());
        assert_eq!(letter.event().unwrap().event_type().as_str(), "a");
        assert_eq!((letter.attempts(), letter.cause()), (1, None));
        assert_eq!(letter.routes()[0].reason(), Some("failed: no"));
        // The file stores milliseconds.
        let age = before
            .received_at()
            .duration_since(letter.received_at())
            .unwrap();
        assert!(age < Duration::from_millis(1));
        // The two times come from two clocks, each in milliseconds.
        assert!(letter.dead_lettered_at() + Duration::from_millis(2) >= letter.received_at());
        let got = letters.get(letter.id()).await.unwrap().unwrap();
        assert_eq!(got.message_id(), letter.message_id());
    }
    assert!(letters.get(99).await.unwrap().is_none());
    assert!(letters.list(Some(u64::MAX), 9).await.unwrap().is_empty());
    assert!(letters.list(None, 0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_runs_the_unfinished_routes_of_a_known_id() {
    let (place, log) = (InboxFile::new(), Log::default());
    let healed = Arc::new(AtomicBool::new(false));
    let router = || {
        let (works, fails, healed) = (log.clone(), log.clone(), Arc::clone(&healed));
        EventRouter::new()
            .on_any(move |event: Event| async move { works.write(format!("works#{}", event.attempt())) })
            .on("a", move |event: Event| async move {
                fails.write(format!("fails#{}", event.attempt()));
                if healed.load(Ordering::Relaxed) { Ok(()) } else { Err("no") }
            })
    };
    let open = || {
        place
            .inbox()
            .delivery(delivery().retry(at_once(2)))
            .open(router())
    };
    let inbox = open().await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    let inbox = open().await.unwrap();
    let letters = letters(&inbox);
    let id = letters.list(None, 1).await.unwrap()[0].id();
    assert!(letters.replay(id).await.unwrap());
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.replayed, stats.dead, stats.dead_letters), (1, 1, 1));
    healed.store(true, Ordering::Relaxed);
    assert!(letters.replay(id).await.unwrap());
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.replayed, stats.handled, stats.dead_letters),
        (2, 1, 0)
    );
    balanced(&stats);
    assert!(!letters.replay(id).await.unwrap());
    let counts = log.counts();
    assert_eq!(
        (counts["works#1"], counts["fails#1"], counts["fails#2"]),
        (1, 3, 2)
    );
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_didnt_run_before_the_process_ended_is_recovered() {
    let (place, log) = (InboxFile::new(), Log::default());
    drop(killed(&place, events(0..1)).await);
    let gate = Arc::new(Semaphore::new(0));
    let inbox = place
        .inbox()
        .delivery(delivery().concurrency(1))
        .open(gated(&log, &gate))
        .await
        .unwrap();
    inbox.accept(event("holds")).await.unwrap();
    until(|| log.len() == 1).await;
    assert!(letters(&inbox).replay(1).await.unwrap());
    let handle = inbox.handle();
    assert_eq!(handle.drain(Duration::ZERO).await.remaining, 2);
    drop((inbox, handle));
    gate.add_permits(9);
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    assert_eq!(inbox.handle().stats().recovered, 1);
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.lines(), ["holds#1", "0#1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_letters_of_a_pattern_are_replayed() {
    let place = InboxFile::new();
    let typed = |i: u32| {
        let event_type = if i.is_multiple_of(3) {
            "account.updated"
        } else {
            "a"
        };
        MockRequest::event(event_type)
            .message_id(i.to_string())
            .to_event()
    };
    let router = EventRouter::new()
        .on_prefix("a", |_: Event| async {
            Err::<(), _>(HandlerError::permanent("no"))
        })
        .on_prefix("account", |_: Event| async {
            Err::<(), _>(HandlerError::permanent("no"))
        });
    let inbox = place.inbox().open(router).await.unwrap();
    futures_util::future::join_all((0..600).map(|i| inbox.accept(typed(i)))).await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().dead_letters, 600);
    drop(inbox);
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let pattern = Pattern::prefix("account").unwrap();
    assert_eq!(
        letters(&inbox).replay_matching(&pattern).await.unwrap(),
        200
    );
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.replayed, stats.unhandled, stats.dead_letters),
        (200, 200, 400)
    );
    assert_eq!(letters(&inbox).replay_matching(&pattern).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_deleted_by_id_and_pruned_by_age() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let inbox = place
        .inbox()
        .open_with(clock.clone(), failing(&Log::default()))
        .await
        .unwrap();
    for event in events(0..6) {
        inbox.accept(event).await.unwrap();
        wait_idle(&inbox.handle()).await;
        clock.advance(Duration::from_secs(10));
    }
    let letters = letters(&inbox);
    assert!(letters.delete(2).await.unwrap());
    assert!(!letters.delete(2).await.unwrap());
    assert_eq!(ids(&letters).await, [1, 3, 4, 5, 6]);
    assert_eq!(letters.prune(Duration::from_secs(30)).await.unwrap(), 2);
    assert_eq!(ids(&letters).await, [4, 5, 6]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead_letters, stats.dead_letters_dropped), (3, 0));
    assert_eq!(place.count("SELECT dead_letters FROM totals"), 3);
    assert_eq!(place.count("SELECT dead_letter_bytes - (SELECT sum(octet_length(body)) FROM dead_letters) FROM totals"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_are_pruned_in_steps() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let inbox = place
        .inbox()
        .open_with(clock.clone(), failing(&Log::default()))
        .await
        .unwrap();
    futures_util::future::join_all(events(0..700).map(|event| inbox.accept(event))).await;
    wait_idle(&inbox.handle()).await;
    clock.advance(Duration::from_secs(2));
    assert_eq!(
        letters(&inbox).prune(Duration::from_secs(1)).await.unwrap(),
        700
    );
    assert_eq!(inbox.handle().stats().dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_older_than_the_retention_are_deleted() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let builder = place
        .inbox()
        .keep_dead_letters_for(Duration::from_secs(3600));
    let inbox = builder
        .open_with(clock.clone(), failing(&Log::default()))
        .await
        .unwrap();
    inbox.accept(event("old")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    clock.advance(Duration::from_secs(3599));
    inbox.accept(event("young")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    clock.advance(Duration::from_secs(61));
    let handle = inbox.handle();
    until(|| {
        // A query gives the writer a turn.
        drop(letters(&inbox).get(1).now_or_never());
        handle.stats().dead_letters == 1
    })
    .await;
    let left = letters(&inbox).list(None, 9).await.unwrap();
    assert_eq!(left[0].message_id(), "young");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_count_the_oldest_are_dropped_and_counted() {
    let place = InboxFile::new();
    let builder = place.inbox().max_dead_letters(3);
    let inbox = builder.open(failing(&Log::default())).await.unwrap();
    for event in events(0..5) {
        inbox.accept(event).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(ids(&letters(&inbox)).await, [3, 4, 5]);
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.dead, stats.dead_letters, stats.dead_letters_dropped),
        (5, 3, 2)
    );
    balanced(&stats);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bytes_the_oldest_are_dropped_and_with_a_limit_of_0_none_is_kept() {
    let place = InboxFile::new();
    let builder = place.inbox().max_dead_letter_bytes(1000);
    let inbox = builder.open(failing(&Log::default())).await.unwrap();
    for (id, bytes) in [("1", 400), ("2", 400), ("3", 300), ("4", 600)] {
        inbox.accept(sized(id, bytes)).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(ids(&letters(&inbox)).await, [3, 4]);
    assert_eq!(inbox.handle().stats().dead_letters_dropped, 2);
    drop(inbox);
    let told = Arc::new(Mutex::new(0));
    let tell = Arc::clone(&told);
    let builder = place
        .inbox()
        .max_dead_letters(0)
        .delivery(delivery().on_dead_letter(move |_| *tell.lock().unwrap() += 1));
    let inbox = builder.open(failing(&Log::default())).await.unwrap();
    inbox.accept(event("5")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert!(ids(&letters(&inbox)).await.is_empty());
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.dead, stats.dead_letters, stats.dead_letters_dropped),
        (1, 0, 3)
    );
    assert_eq!(*told.lock().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_before_the_event_is_counted_and_their_panics_change_nothing() {
    let place = InboxFile::new();
    let (builder, seen) = (place.inbox(), Arc::new(Mutex::new(Vec::new())));
    let inbox = builder
        .delivery(delivery().on_dead_letter(|_| panic!("hook")))
        .open(failing(&Log::default()))
        .await
        .unwrap();
    let (see, handle) = (Arc::clone(&seen), inbox.handle());
    inbox.handle().on_dead_letter(move |letter| {
        // The hook may read the counts, which are under a lock.
        see.lock()
            .unwrap()
            .push((letter.to_string(), handle.stats().dead));
    });
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    inbox.accept(event("2")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let seen = seen.lock().unwrap().clone();
    let text = |id| format!("a {id} dead after 1 attempt: a failed: no");
    assert_eq!(seen, [(text(1), 0), (text(2), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cant_be_decoded_becomes_a_letter_and_blocks_no_event() {
    let (place, log) = (InboxFile::new(), Log::default());
    let gate = Arc::new(Semaphore::new(0));
    let inbox = place.inbox().open(gated(&log, &gate)).await.unwrap();
    for event in events(1..6) {
        inbox.accept(event).await.unwrap();
    }
    let _ = inbox.handle().drain(Duration::ZERO).await;
    drop(inbox);
    // The events ran, and their results never reached the disk.
    let connection = place.closed_by(&gate).await;
    for (id, body) in [
        (2, "'{\"version\": 9}'"),
        (3, "''"),
        (4, "CAST(x'7b22ff' AS TEXT)"),
    ] {
        let changed = connection.execute(
            &format!("UPDATE events SET body = {body} WHERE id = {id}"),
            [],
        );
        assert_eq!(changed.unwrap(), 1);
    }
    drop(connection);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let builder = place
        .inbox()
        .delivery(delivery().on_dead_letter(move |letter| tell.lock().unwrap().push(letter.id())));
    let log = Log::default();
    let inbox = builder.open(logging(&log)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!(
        (
            stats.recovered,
            stats.handled,
            stats.dead,
            stats.dead_letters
        ),
        (5, 2, 3, 3)
    );
    balanced(&stats);
    let mut lines = log.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["1#1", "5#1"]);
    let mut told = told.lock().unwrap().clone();
    told.sort_unstable();
    assert_eq!(told, [2, 3, 4]);
    let letters = letters(&inbox);
    for letter in letters.list(None, 9).await.unwrap() {
        let cause = letter.cause().unwrap();
        assert!(
            cause.starts_with("this version can't decode it: "),
            "{cause}"
        );
        assert_eq!(letter.event().unwrap_err().kind(), ErrorKind::Envelope);
        // The letter still has its event's id.
        assert_eq!(letter.message_id(), letter.id().to_string());
        assert_eq!((letter.attempts(), letter.routes().len()), (0, 0));
    }
    assert_eq!(
        letters.get(2).await.unwrap().unwrap().body(),
        "{\"version\": 9}"
    );
    // A replayed event that fails becomes a dead letter again.
    assert!(letters.replay(2).await.unwrap());
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.replayed, stats.dead, stats.dead_letters), (1, 4, 3));
    balanced(&stats);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_cant_be_replayed_now_stays() {
    let place = InboxFile::new();
    drop(killed(&place, events(0..2)).await);
    let gate = Arc::new(Semaphore::new(0));
    let builder = place.inbox().max_events(1);
    let inbox = builder.open(gated(&Log::default(), &gate)).await.unwrap();
    let letters = letters(&inbox);
    assert!(letters.replay(1).await.unwrap());
    let refused = |error: &botisimo_webhooks::Error| {
        assert_eq!(error.kind(), ErrorKind::Inbox);
        error
            .source()
            .unwrap()
            .downcast_ref::<AcceptError>()
            .cloned()
    };
    let error = letters.replay(2).await.unwrap_err();
    assert_eq!(
        refused(&error),
        Some(AcceptError::new(AcceptErrorKind::Full))
    );
    let _ = inbox.handle().drain(Duration::ZERO).await;
    let error = letters.replay(2).await.unwrap_err();
    assert_eq!(
        refused(&error),
        Some(AcceptError::new(AcceptErrorKind::Draining))
    );
    assert_eq!(ids(&letters).await, [2]);
    balanced(&inbox.handle().stats());
    gate.add_permits(1);
}

/// The bug: an event counted as dead, and `wait_idle` resolved, before the event's letter counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_counts_once_its_event_counts_as_dead() {
    struct Looks(botisimo_webhooks::Handle, Mutex<Option<(u64, u64)>>);

    impl std::task::Wake for Looks {
        fn wake(self: Arc<Self>) {
            let stats = self.0.stats();
            *self.1.lock().unwrap() = Some((stats.dead, stats.dead_letters));
        }
    }

    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let open = Arc::clone(&gate);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        open.acquire().await.unwrap().forget();
        Err::<(), _>(HandlerError::permanent("no"))
    });
    let inbox = place.inbox().open(router).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    let looks = Arc::new(Looks(inbox.handle(), Mutex::default()));
    let waker = std::task::Waker::from(Arc::clone(&looks));
    let mut idle = Box::pin(inbox.handle().wait_idle());
    let polled = idle
        .as_mut()
        .poll(&mut std::task::Context::from_waker(&waker));
    assert!(polled.is_pending());
    gate.add_permits(1);
    until(|| looks.1.lock().unwrap().is_some()).await;
    assert_eq!(*looks.1.lock().unwrap(), Some((1, 1)));
    assert!(idle.now_or_never().is_some());
}

/// The bug: the inbox first dropped the letter with the lowest number, although a letter with a higher number
/// was older.
#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_letter_is_the_first_dead_lettered() {
    let place = InboxFile::new();
    let runtime = ManualClock::new();
    let builder = place.inbox().max_dead_letters(2);
    let inbox = builder
        .open_with(runtime.clone(), failing(&Log::default()))
        .await
        .unwrap();
    for event in events(0..2) {
        inbox.accept(event).await.unwrap();
        wait_idle(&inbox.handle()).await;
        runtime.advance(Duration::from_secs(1));
    }
    assert!(letters(&inbox).replay(1).await.unwrap());
    wait_idle(&inbox.handle()).await;
    runtime.advance(Duration::from_secs(1));
    inbox.accept(event("3")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(ids(&letters(&inbox)).await, [1, 3]);
}

/// The bug: a letter above the limit displaced all other letters, and then the inbox dropped that letter too.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_could_never_fit_displaces_no_other() {
    let place = InboxFile::new();
    let builder = place.inbox().max_dead_letter_bytes(500);
    let inbox = builder.open(failing(&Log::default())).await.unwrap();
    for (id, bytes) in [("1", 200), ("2", 600), ("3", 200)] {
        inbox.accept(sized(id, bytes)).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(ids(&letters(&inbox)).await, [1, 3]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.dead_letters_dropped), (3, 1));
    balanced(&stats);
}

/// The bug: the blocked events could continue only after the letter that blocked them was deleted.
#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_full_of_blocked_events_accepts_the_replay_that_unblocks_them() {
    let (place, log) = (InboxFile::new(), Log::default());
    let healed = Arc::new(AtomicBool::new(false));
    let (well, ran) = (Arc::clone(&healed), log.clone());
    let router = EventRouter::new().on_any(move |event: Event| async move {
        ran.write(event.id().to_owned());
        if well.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("no")
        }
    });
    let delivery = delivery()
        .retry(at_once(1))
        .ordering_key(|_| Some("one key"))
        .block_key_on_dead_letter();
    let builder = place.inbox().delivery(delivery).max_events(2);
    let inbox = builder.open(router).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    healed.store(true, Ordering::Relaxed);
    for id in ["2", "3"] {
        inbox.accept(event(id)).await.unwrap();
    }
    assert_eq!(
        inbox.accept(event("4")).await,
        Err(AcceptError::new(AcceptErrorKind::Full))
    );
    assert!(letters(&inbox).replay(1).await.unwrap());
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.lines(), ["1", "1", "2", "3"]);
    balanced(&inbox.handle().stats());
}
