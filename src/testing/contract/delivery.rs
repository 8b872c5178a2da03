//! The laws of deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::runs::{Runs, event};
use super::{Candidate, Terms};
use crate::event::Event;
use crate::outcome::HandlerError;
use crate::router::EventRouter;

/// A route that did its work doesn't run again when another one does.
pub async fn only_routes_that_failed_run_again(candidate: &impl Candidate) {
    let runs = Runs::default();
    let failing = runs.clone();
    let router =
        EventRouter::new()
            .on_prefix("a", runs.noting("good"))
            .on("a", |event: Event| async move {
                failing.add("bad", &event);
                if event.attempt() < 3 {
                    Err("not yet")
                } else {
                    Ok(())
                }
            });
    let opened = candidate.open(router, Terms::new(5)).await;
    opened.take(event("a", "1")).await;
    let done = || runs.count("good") >= 1 && runs.count("bad") >= 3;
    opened.until("both have done their work", done).await;
    assert_eq!(runs.attempts("good"), [1]);
    assert_eq!(runs.attempts("bad"), [1, 2, 3]);
}

/// A route that always fails is tried as often as the policy says, and no more.
pub async fn attempts_end(candidate: &impl Candidate) {
    let runs = Runs::default();
    let failing = runs.clone();
    let router = EventRouter::new().on("a", |event: Event| async move {
        failing.add("bad", &event);
        Err::<(), _>("never")
    });
    let opened = candidate.open(router, Terms::new(3)).await;
    opened.take(event("a", "1")).await;
    opened
        .until("it was tried", || runs.count("bad") >= 3)
        .await;
    assert_eq!(runs.attempts("bad"), [1, 2, 3]);
}

/// An error that says so, and a payload that doesn't fit, aren't tried again.
pub async fn a_failure_for_good_is_not_tried_again(candidate: &impl Candidate) {
    let runs = Runs::default();
    let (failing, misfit) = (runs.clone(), runs.clone());
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            failing.add("permanent", &event);
            Err::<(), _>(HandlerError::permanent("no"))
        })
        .on_prefix("a", |event: Event| async move {
            misfit.add("misfit", &event);
            event.decode::<u64>()?;
            Ok::<_, HandlerError>(())
        });
    let opened = candidate.open(router, Terms::new(5)).await;
    opened.take(event("a", "1")).await;
    let tried = || runs.count("permanent") >= 1 && runs.count("misfit") >= 1;
    opened.until("both were tried", tried).await;
    assert_eq!(runs.attempts("permanent"), [1]);
    assert_eq!(runs.attempts("misfit"), [1]);
}

/// Whatever a handler does, the others do their work, for its event and for the next.
pub async fn a_handler_hurts_no_other(candidate: &impl Candidate) {
    let runs = Runs::default();
    let router = EventRouter::new()
        .on("a", |_: Event| async { panic!("on purpose") })
        .named("panics")
        .on("a", |event: Event| {
            assert!(event.id().is_empty(), "on purpose");
            std::future::ready(())
        })
        .named("panics when it is called")
        .on("a", |_: Event| std::future::pending::<()>())
        .named("hangs")
        .on("a", |_: Event<u64>| async {})
        .named("misfits")
        .on_prefix("a", runs.noting("good"));
    let mut terms = Terms::new(1);
    terms.attempt_timeout = Duration::from_millis(200);
    let opened = candidate.open(router, terms).await;
    opened.take(event("a", "1")).await;
    opened.take(event("a", "2")).await;
    opened
        .until("both have run", || runs.count("good") >= 2)
        .await;
    assert_eq!(runs.attempts("good"), [1, 1]);
}

/// What is given up is kept, as it came and with its reason; sent round again, it runs the route that failed, and not
/// those that had done their work. It holds for an inbox that keeps dead letters.
pub async fn what_is_given_up_can_be_replayed(candidate: &impl Candidate) {
    let (runs, mended) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on_prefix("a", runs.noting("good"))
        .on("a", |event: Event| async move {
            failing.add("bad", &event);
            if flag.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("a reason")
            }
        })
        .named("bad");
    let opened = candidate.open(router, Terms::new(2)).await;
    let Some(dead) = opened.dead_letters.clone() else {
        return;
    };
    let sent = [event("a", "1"), event("a", "2")];
    for event in &sent {
        opened.take(event.clone()).await;
    }
    opened
        .until("both are given up", || runs.count("bad") >= 4)
        .await;
    let letters = dead.list(None, 10).await;
    let letters = letters.expect("dead letters can be listed");
    assert_eq!(letters.len(), 2, "both are kept");
    for letter in &letters {
        let event = sent.iter().find(|event| event.id() == letter.message_id());
        let event = event.expect("a letter has the id of its event");
        assert_eq!(letter.body(), event.body());
        assert_eq!(letter.attempts(), 2);
        let end = letter.routes().iter().find(|end| end.route() == "bad");
        let reason = end.and_then(|end| end.reason());
        assert!(
            reason.is_some_and(|reason| reason.contains("a reason")),
            "{letter:?}"
        );
        let got = dead.get(letter.id()).await.expect("a letter can be read");
        assert_eq!(got.expect("it is there").message_id(), letter.message_id());
    }
    mended.store(true, Ordering::SeqCst);
    let replayed = dead.replay(letters[0].id()).await;
    assert!(replayed.expect("a letter can be replayed"));
    opened.until("it has run", || runs.count("bad") >= 5).await;
    assert_eq!(
        runs.count("good"),
        2,
        "what had done its work doesn't run again"
    );
    assert_eq!(runs.attempts("bad").last(), Some(&1), "attempts begin anew");
    let deleted = dead.delete(letters[1].id()).await;
    assert!(deleted.expect("a letter can be deleted"));
    let left = dead
        .list(None, 10)
        .await
        .expect("dead letters can be listed");
    assert!(left.is_empty(), "{left:?}");
    for letter in letters {
        let again = dead.replay(letter.id()).await;
        assert!(!again.expect("what is gone can be asked for"));
    }
}
