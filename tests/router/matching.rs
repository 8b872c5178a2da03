//! Tests which routes an event reaches, and that no route affects another.

use std::future::{Future, pending};
use std::panic;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::panics::catch_panic;
use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    Endpoint, ErrorKind, Event, EventRouter, EventType, HandlerError, HandlerResult, MemoryInbox,
    Outcome, Pattern, Report, SqliteInbox, WebhookLayer,
};
use proptest::prelude::*;
use tower::{Service, ServiceExt};

async fn noop(_: Event) {}

async fn call(router: &EventRouter, event_type: &str) -> Report {
    router
        .clone()
        .oneshot(MockRequest::event(event_type).to_event())
        .await
        .unwrap()
}

/// Returns a report as lines of the form `route outcome`.
fn lines(report: &Report) -> Vec<String> {
    report
        .iter()
        .map(|(route, outcome)| format!("{route} {outcome}"))
        .collect()
}

fn names(router: &EventRouter, event_type: &str) -> Vec<String> {
    router
        .matching_routes(event_type)
        .iter()
        .map(|route| route.name().to_owned())
        .collect()
}

#[test]
fn on_matches_its_event_type_and_no_other() {
    let router = EventRouter::new().on("a.b", noop);
    assert_eq!(names(&router, "a.b"), ["a.b"]);
    for other in ["a", "a.b.c", "a.bc", "a.b.", "A.B", " a.b"] {
        assert_eq!(names(&router, other), [""; 0], "{other}");
    }
}

#[test]
fn a_star_matches_event_types_below_a_name_and_never_the_name_itself() {
    let router = EventRouter::new().on("a.b.*", noop);
    for below in ["a.b.c", "a.b.c.d", "a.b.", "a.b.."] {
        assert_eq!(names(&router, below), ["a.b.*"], "{below}");
    }
    for other in ["a.b", "a.bc", "a.bc.d", "a", "x.a.b.c"] {
        assert_eq!(names(&router, other), [""; 0], "{other}");
    }
}

#[test]
fn a_prefix_matches_the_name_and_event_types_below() {
    let router = EventRouter::new().on_prefix("a.b", noop);
    for taken in ["a.b", "a.b.c", "a.b.c.d", "a.b."] {
        assert_eq!(names(&router, taken), ["a.b[.*]"], "{taken}");
    }
    for other in ["a.bc", "a", "a.bc.d"] {
        assert_eq!(names(&router, other), [""; 0], "{other}");
    }
}

#[test]
fn whole_segments_are_compared_even_in_documented_names() {
    let router = EventRouter::new()
        .on_prefix("stream", noop)
        .on("stream.*", noop)
        .on_prefix("connection", noop);
    assert_eq!(names(&router, "stream_report.created"), [""; 0]);
    assert_eq!(
        names(&router, "connection.stream.ended.trovo"),
        ["connection[.*]"]
    );
}

#[test]
fn an_empty_segment_is_a_literal() {
    let router = EventRouter::new()
        .on("a..b", noop)
        .on("a..*", noop)
        .on(".", noop);
    assert_eq!(names(&router, "a..b"), ["a..b", "a..*"]);
    assert_eq!(names(&router, "."), ["."]);
    assert_eq!(names(&router, "a.b"), [""; 0]);
}

#[test]
fn a_typed_event_type_is_matched_literally() {
    let router = EventRouter::new()
        .on(EventType::PollCreated, noop)
        .on(EventType::from("a.*"), noop);
    assert_eq!(names(&router, "poll.created"), ["poll.created"]);
    assert_eq!(names(&router, "a.*"), ["a.*"]);
    assert_eq!(names(&router, "a.b"), [""; 0]);
}

#[test]
fn matching_routes_returns_routes_in_the_order_of_their_registration() {
    let router = EventRouter::new()
        .on_any(noop)
        .named("first")
        .on("account.*", noop)
        .on_prefix("account", noop)
        .on("account.updated", noop)
        .on("account.updated.x", noop)
        .on_any(noop)
        .fallback(noop);
    assert_eq!(
        names(&router, "account.updated"),
        ["first", "account.*", "account[.*]", "account.updated", "*"]
    );
    assert_eq!(
        names(&router, "account.updated.x"),
        [
            "first",
            "account.*",
            "account[.*]",
            "account.updated.x",
            "*"
        ]
    );
    assert_eq!(names(&router, "poll.created"), ["first", "*", "fallback"]);
    assert_eq!(names(&router, "x"), ["first", "*", "fallback"]);
    assert_eq!(router.routes().len(), 7);
}

#[test]
fn a_router_displays_its_table() {
    let router = EventRouter::new()
        .on("account.updated", noop)
        .on_prefix("connection.stream", noop)
        .named("streams")
        .on("acount.updated", noop)
        .on_any(noop)
        .fallback(noop);
    let table = router.to_string();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0].trim_end(), "account.updated");
    assert!(
        lines[1].starts_with("connection.stream[.*]") && lines[1].ends_with("as streams"),
        "{table}"
    );
    assert!(
        lines[2].starts_with("acount.updated")
            && lines[2].ends_with("(no documented event type: did you mean `account.updated`?)"),
        "{table}"
    );
    assert_eq!(
        (lines[3].trim_end(), lines[4].trim_end()),
        ("*", "fallback")
    );
}

#[test]
fn a_malformed_pattern_is_an_error_with_the_reason() {
    let long = "x".repeat(256);
    for (pattern, reason) in [
        ("", "is empty"),
        ("*", "use `on_any`"),
        (".*", "is empty"),
        ("a.*.b", "whole last segment"),
        ("a.b*", "whole last segment"),
        ("*.a", "whole last segment"),
        ("a.**", "whole last segment"),
        ("a.*.*", "whole last segment"),
        (&long, "255"),
    ] {
        let error = Pattern::new(pattern).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pattern);
        assert!(error.to_string().contains(reason), "{pattern}: {error}");
    }
    for prefix in ["", "*", "a.*"] {
        assert_eq!(
            Pattern::prefix(prefix).unwrap_err().kind(),
            ErrorKind::Pattern
        );
    }
}

#[test]
fn a_pattern_parses_its_own_display() {
    for written in ["a.b", "a.b.*", "a.b[.*]", "a..*"] {
        assert_eq!(Pattern::new(written).unwrap().to_string(), written);
    }
    assert_eq!(
        Pattern::new("a[.*]").unwrap(),
        Pattern::prefix("a").unwrap()
    );
}

/// Returns a router with two routes of the same name, registered on two lines.
fn clashing() -> EventRouter {
    let first = EventRouter::new().on("a", noop);
    let other = first.on("b", noop);
    other.on("a", noop)
}

fn assert_names_both_lines(text: &str) {
    assert!(text.contains("two routes are named \"a\""), "{text}");
    let lines: Vec<u32> = text
        .split("matching.rs:")
        .skip(1)
        .map(|rest| rest.split(':').next().unwrap().parse().unwrap())
        .collect();
    assert!(
        matches!(lines[..], [first, second] if second == first + 2),
        "{text}"
    );
}

#[test]
fn two_routes_with_one_pattern_need_different_names() {
    let second = EventRouter::new().on("a", noop).on("a", noop).named("x");
    second.validate().unwrap();
    assert_eq!(names(&second, "a"), ["a", "x"]);
    let third = EventRouter::new()
        .on("a", noop)
        .on("a", noop)
        .named("x")
        .on("a", noop);
    assert_eq!(third.validate().unwrap_err().kind(), ErrorKind::Route);
    third.named("y").validate().unwrap();
    // `named` can cause a clash, and can free a pattern's name for another route.
    let taken = EventRouter::new().on("a", noop).on("b", noop).named("a");
    assert!(taken.validate().is_err());
    taken.named("b").validate().unwrap();
    let merged = EventRouter::new()
        .on("a", noop)
        .merge(EventRouter::new().on("a", noop));
    assert!(merged.validate().is_err());
    assert!(
        EventRouter::new()
            .on_any(noop)
            .on_any(noop)
            .validate()
            .is_err()
    );
}

#[test]
fn a_clash_of_names_panics_where_the_router_is_used_and_names_both_lines() {
    let uses: [fn(); 6] = [
        || drop(MemoryInbox::new(clashing())),
        || drop(MemoryInbox::builder().build(clashing())),
        || drop(WebhookLayer::new("/", clashing())),
        || drop(Endpoint::new(clashing())),
        || drop(WebhookLayer::new("/", EventRouter::new()).router(&clashing())),
        || drop(Harness::new(clashing())),
    ];
    for place in uses {
        let (file, message) = blame(place);
        assert!(file.ends_with("matching.rs"), "{file}: {message}");
        assert_names_both_lines(&message);
    }
    let (_, message) = blame(|| drop(clashing().call(MockRequest::event("a").to_event())));
    assert_names_both_lines(&message);
    assert_names_both_lines(&clashing().validate().unwrap_err().to_string());
}

#[tokio::test]
async fn a_clash_of_names_is_an_error_of_constructors_that_return_a_result() {
    let folder = tempfile::tempdir().unwrap();
    let error = SqliteInbox::open(folder.path().join("inbox.db"), clashing()).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Route);
    assert_names_both_lines(&error.to_string());
    let error = EventRouter::new().on("a", noop).on("a", noop).validate();
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Route);
}

#[test]
fn a_pattern_that_looks_like_a_typo_gets_a_suggestion() {
    for (typed, meant) in [
        ("acount.updated", Some("account.updated")),
        ("account_updated", Some("account.updated")),
        ("Account.Updated", Some("account.updated")),
        ("account.update", Some("account.updated")),
        ("account.upadted", Some("account.updated")),
        ("acount.*", Some("account.*")),
        ("conection.stream[.*]", Some("connection.stream[.*]")),
        (
            "connection.stream.start[.*]",
            Some("connection.stream.started[.*]"),
        ),
        (
            "connection.stream.started.twich",
            Some("connection.stream.started.twitch"),
        ),
        ("shop-item.created", Some("shop_item.created")),
        // No documented event type is similar to the following names.
        ("planet.discovered", None),
        ("house.updated", None),
        ("a", None),
        ("payment.*", None),
    ] {
        let table = EventRouter::new().on(typed, noop).to_string();
        let suggested = table
            .split_once("did you mean `")
            .and_then(|(_, rest)| rest.split_once('`'))
            .map(|(meant, _)| meant);
        assert_eq!(suggested, meant, "{table}");
        assert!(table.contains("no documented event type"), "{table}");
    }
}

#[test]
fn routes_of_one_pattern_run_in_the_order_of_registration() {
    let router = EventRouter::new()
        .on("a", noop)
        .named("first")
        .on("a", noop)
        .on_prefix("a", noop);
    assert_eq!(names(&router, "a"), ["first", "a", "a[.*]"]);
}

#[test]
fn merge_adds_the_routes_of_another_router() {
    let router = EventRouter::new()
        .on("a", noop)
        .merge(EventRouter::new().on_any(noop).on("b", noop).fallback(noop));
    assert_eq!(names(&router, "a"), ["a", "*"]);
    assert_eq!(names(&router, "b"), ["*", "b"]);
    assert_eq!(names(&router, "c"), ["*", "fallback"]);
}

#[test]
fn a_clone_is_independent_of_its_router() {
    let one = EventRouter::new().on("a", noop);
    let two = one.clone().on_prefix("a", noop);
    assert_eq!((names(&one, "a").len(), names(&two, "a").len()), (1, 2));
}

/// Returns the file that the panic of `code` names, and the message.
fn blame(code: impl FnOnce()) -> (String, String) {
    let panic = catch_panic(code).expect("a panic");
    (panic.file, panic.message)
}

#[test]
fn a_mistake_panics_at_the_callers_line() {
    let mistakes: [(fn(), &str); 5] = [
        (|| drop(EventRouter::new().on("a.*.b", noop)), "a.*.b"),
        (|| drop(EventRouter::new().on_prefix("a.*", noop)), "prefix"),
        (
            || drop(EventRouter::new().fallback(noop).fallback(noop)),
            "fallback",
        ),
        (
            || drop(EventRouter::new().named("a")),
            "`named` needs a route",
        ),
        (
            || {
                drop(
                    EventRouter::new()
                        .fallback(noop)
                        .merge(EventRouter::new().fallback(noop)),
                );
            },
            "fallback",
        ),
    ];
    for (mistake, says) in mistakes {
        let (file, message) = blame(mistake);
        assert!(file.ends_with(file!()), "{file}: {message}");
        assert!(message.contains(says), "{message}");
    }
}

#[tokio::test]
async fn every_matching_route_runs_and_reports() {
    let router = EventRouter::new()
        .on("account.updated", noop)
        .on("account.*", |_: Event| async { Err::<(), _>("no") })
        .on_any(noop)
        .on("poll.created", noop)
        .fallback(noop);
    assert_eq!(
        lines(&call(&router, "account.updated").await),
        [
            "account.updated handled",
            "account.* failed: no",
            "* handled"
        ]
    );
}

#[tokio::test]
async fn fallback_runs_if_only_on_any_routes_match() {
    let router = EventRouter::new().on("a", noop).on_any(noop).fallback(noop);
    let report = call(&router, "x").await;
    assert_eq!(lines(&report), ["* handled", "fallback handled"]);
    assert!(!report.is_unhandled());
    assert_eq!(lines(&call(&router, "a").await), ["a handled", "* handled"]);
}

#[tokio::test]
async fn an_event_is_unhandled_if_only_on_any_routes_match() {
    let report = call(&EventRouter::new().on("a", noop).on_any(noop), "x").await;
    assert_eq!(lines(&report), ["* handled"]);
    assert!(report.is_unhandled() && report.is_success());
    let report = call(&EventRouter::new(), "x").await;
    assert!(report.is_unhandled() && report.iter().len() == 0);
    assert_eq!(report.to_string(), "no route");
}

#[tokio::test]
async fn handlers_run_concurrently() {
    let meet = Arc::new(tokio::sync::Barrier::new(3));
    let handler = |meet: Arc<tokio::sync::Barrier>| {
        move |_: Event| async move {
            meet.wait().await;
        }
    };
    let router = EventRouter::new()
        .on("a", handler(Arc::clone(&meet)))
        .on_prefix("a", handler(Arc::clone(&meet)))
        .on_any(handler(meet));
    assert!(call(&router, "a").await.is_success());
}

#[tokio::test]
async fn each_run_gets_a_clone_of_the_closures_captures() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let words = vec![String::from("word")];
    let log = Arc::clone(&seen);
    let router = EventRouter::new().on("a", move |event: Event| async move {
        let mut words = words;
        words.push(event.event_type().to_string());
        log.lock().unwrap().push(words);
    });
    for _ in 0..2 {
        assert!(call(&router, "a").await.is_success());
    }
    assert_eq!(*seen.lock().unwrap(), [["word", "a"], ["word", "a"]]);
}

#[tokio::test]
async fn a_payload_that_doesnt_fit_affects_only_its_own_route() {
    #[derive(serde::Deserialize)]
    struct Stream {
        title: String,
    }
    let router = EventRouter::new()
        .on("a", |event: Event<Stream>| async move {
            assert_eq!(event.data().title, "t");
        })
        .on_any(noop);
    let fits = MockRequest::event("a")
        .data(serde_json::json!({"title": "t", "new": 1}))
        .to_event();
    assert!(router.clone().oneshot(fits).await.unwrap().is_success());
    let not = MockRequest::event("a")
        .data(serde_json::json!({"title": 1}))
        .to_event();
    let report = router.oneshot(not).await.unwrap();
    assert!(
        matches!(report.get("a"), Some(Outcome::Mismatched(error)) if error.kind() == ErrorKind::Payload)
    );
    assert!(matches!(report.get("*"), Some(Outcome::Handled)));
}

#[tokio::test]
async fn an_error_determines_whether_and_when_to_retry() {
    let delay = Duration::from_secs(7);
    let router = EventRouter::new()
        .on("a", |_: Event| async {
            Err::<(), _>(HandlerError::permanent("never"))
        })
        .on_prefix("a", move |_: Event| async move {
            Err::<(), _>(HandlerError::retry_after(delay, "later"))
        })
        .on_any(|_: Event| async {
            std::fs::read("/nonexistent")?;
            Ok::<_, HandlerError>(())
        });
    let report = call(&router, "a").await;
    let errors = report.iter().map(|(_, outcome)| match outcome {
        Outcome::Failed(error) => (
            error.is_permanent(),
            error.delay(),
            error.get_ref().is::<std::io::Error>(),
        ),
        other => panic!("{other}"),
    });
    assert_eq!(
        errors.collect::<Vec<_>>(),
        [
            (true, None, false),
            (false, Some(delay), false),
            (false, None, true)
        ]
    );
}

/// A value that panics when it is cloned or dropped, depending on its field.
struct Bomb(&'static str);

impl Clone for Bomb {
    fn clone(&self) -> Self {
        if self.0 == "clone" {
            panic!("a panic in clone");
        }
        Self(self.0)
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        // A second panic during unwinding would abort the process.
        if self.0 == "drop" && !std::thread::panicking() {
            panic!("a panic in drop");
        }
    }
}

/// A panic payload that panics when it is dropped. The payload of that panic does the same.
struct Payload(u32);

impl Drop for Payload {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic::panic_any(Payload(self.0 - 1));
        }
    }
}

/// A future that panics at its second poll or when it is dropped.
struct Fuse {
    polls: u32,
    armed: &'static str,
}

impl Future for Fuse {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.polls += 1;
        match (self.armed, self.polls) {
            ("poll", 2) => panic!("a panic in poll"),
            (_, 3) => Poll::Ready(()),
            _ => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.armed == "future's drop" {
            panic!("a panic in future's drop");
        }
    }
}

struct Undecodable;

impl<'de> serde::Deserialize<'de> for Undecodable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("a panic in decode")
    }
}

#[tokio::test]
async fn a_panic_anywhere_in_a_handler_is_the_outcome_of_its_route() {
    let clone = Bomb("clone");
    let drop = Bomb("drop");
    let fuse = |armed| move |_: Event| Fuse { polls: 0, armed };
    let bystander = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&bystander);
    let router = EventRouter::new()
        .on_any(|event: Event| async move {
            let _clone = &clone;
            std::mem::drop(event);
        })
        .named("clone")
        .on_any(|_: Event| -> std::future::Ready<()> { panic!("a panic in call") })
        .named("call")
        .on_any(|_: Event<Undecodable>| async {})
        .named("decode")
        .on_any(fuse("poll"))
        .named("poll")
        .on_any(fuse("future's drop"))
        .named("future's drop")
        .on_any(move |_: Event| async move {
            let _drop = drop;
        })
        .named("drop")
        .on_any(|_: Event| async { panic::panic_any(Payload(3)) })
        .named("payload")
        .on_any(move |_: Event| async move {
            tokio::task::yield_now().await;
            count.fetch_add(1, Ordering::Relaxed);
        })
        .named("bystander")
        .on_any(fuse(""))
        .named("slow bystander");
    let report = call(&router, "x").await;
    for each in report.iter() {
        match each {
            ("bystander" | "slow bystander", outcome) => {
                assert!(matches!(outcome, Outcome::Handled));
            }
            ("payload", Outcome::Panicked(message)) => {
                assert!(message.contains("not text"), "{message}");
            }
            (route, Outcome::Panicked(message)) => {
                assert_eq!(**message, format!("a panic in {route}"));
            }
            (route, outcome) => panic!("{route}: {outcome}"),
        }
    }
    assert_eq!(report.iter().len(), 9);
    assert_eq!(bystander.load(Ordering::Relaxed), 1);
    // A router with a single matching route uses another code path.
    for armed in ["poll", "future's drop"] {
        let report = call(&EventRouter::new().on("a", fuse(armed)), "a").await;
        assert!(
            matches!(report.get("a"), Some(Outcome::Panicked(_))),
            "{report}"
        );
    }
    // Dropping the router would drop `Bomb("drop")`, which panics.
    #[allow(clippy::mem_forget)]
    std::mem::forget(router);
}

#[tokio::test]
async fn dropping_the_future_of_a_call_catches_the_panics_of_its_handlers() {
    let fuse = |_: Event| Fuse {
        polls: 0,
        armed: "future's drop",
    };
    let router = EventRouter::new().on("a", fuse).on_any(fuse);
    for event_type in ["a", "x"] {
        let mut future = router
            .clone()
            .call(MockRequest::event(event_type).to_event());
        assert!(futures_util::poll!(&mut future).is_pending());
        drop(future);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_of_a_call_drops_its_handlers() {
    let held = Arc::new(());
    let mine = Arc::clone(&held);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        let _mine = mine;
        pending::<()>().await;
    });
    let call = router.clone().oneshot(MockRequest::event("a").to_event());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), call)
            .await
            .is_err()
    );
    drop(router);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn handlers_may_return_any_error() {
    async fn boxed(_: Event) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("boxed".into())
    }
    async fn own(_: Event) -> HandlerResult {
        boxed(MockRequest::event("x").to_event()).await?;
        Ok(())
    }
    async fn number(_: Event) -> Result<(), std::num::ParseIntError> {
        "x".parse::<u8>().map(drop)
    }
    let router = EventRouter::new()
        .on_any(boxed)
        .named("1")
        .on_any(own)
        .named("2")
        .on_any(number)
        .named("3");
    let report = call(&router, "x").await;
    let failed = report
        .iter()
        .filter(|(_, outcome)| !matches!(outcome, Outcome::Handled));
    assert_eq!(failed.count(), 3);
    assert_eq!(report.get("2").unwrap().to_string(), "failed: boxed");
}

/// Returns whether a pattern matches a name, by comparing their segments.
fn naive(pattern: &str, prefix: bool, name: &str) -> bool {
    let name: Vec<_> = name.split('.').collect();
    let mut pattern: Vec<_> = pattern.split('.').collect();
    let below = !prefix && pattern.last() == Some(&"*");
    if below {
        pattern.pop();
    }
    match (prefix, below) {
        (true, _) => name.len() >= pattern.len() && name[..pattern.len()] == pattern,
        (_, true) => name.len() > pattern.len() && name[..pattern.len()] == pattern,
        _ => name == pattern,
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(EventType::ALL.to_vec()).prop_map(|event_type| event_type.to_string()),
        prop::collection::vec("[ab]{0,2}", 1..5).prop_map(|segments| segments.join(".")),
        (prop::sample::select(EventType::ALL.to_vec()), "[.a]{1,2}")
            .prop_map(|(known, end)| format!("{known}{end}")),
    ]
}

/// Returns a pattern, and whether it is a prefix. The pattern is the start of a name, so other names may be below it.
fn any_pattern() -> impl Strategy<Value = (String, bool)> {
    (any_name(), 1_usize..5, 0..3).prop_map(|(name, keep, kind)| {
        let cut = name.split('.').take(keep).collect::<Vec<_>>().join(".");
        match kind {
            0 => (cut, false),
            1 => (format!("{cut}.*"), false),
            _ => (cut, true),
        }
    })
}

proptest! {
    #[test]
    fn the_table_finds_the_same_routes_as_a_naive_matcher(
        patterns in prop::collection::vec(any_pattern(), 0..24),
        observers in prop::collection::vec(any::<bool>(), 24),
        fallback in any::<bool>(),
        names in prop::collection::vec(any_name(), 1..24),
    ) {
        let mut router = EventRouter::new();
        let mut model: Vec<(String, Option<(String, bool)>)> = Vec::new();
        for (i, (pattern, prefix)) in patterns.into_iter().enumerate() {
            if observers[i] {
                router = router.on_any(noop).named(format!("observer {i}"));
                model.push((format!("observer {i}"), None));
            }
            let parsed = if prefix { Pattern::prefix(&pattern) } else { Pattern::new(&pattern) };
            let Ok(parsed) = parsed else {
                prop_assert!(pattern.is_empty() || pattern == ".*", "{}", pattern);
                continue;
            };
            let route = format!("route {i}");
            router = router.on(parsed, noop).named(&*route);
            model.push((route, Some((pattern, prefix))));
        }
        if fallback {
            router = router.fallback(noop);
        }
        for name in names {
            let takes = |pattern: &Option<(String, bool)>| match pattern {
                Some((pattern, prefix)) => naive(pattern, *prefix, &name),
                None => true,
            };
            let mut expected: Vec<_> = model.iter().filter(|(_, pattern)| takes(pattern)).collect();
            let matched = expected.iter().any(|(_, pattern)| pattern.is_some());
            let rest = ("fallback".to_owned(), None);
            if fallback && !matched {
                expected.push(&rest);
            }
            let expected: Vec<_> = expected.iter().map(|(route, _)| route.as_str()).collect();
            let found: Vec<_> = router.matching_routes(name.as_str()).iter().map(|route| route.name()).collect();
            prop_assert_eq!(found, expected, "{}", name);
            prop_assert_eq!(router.matches(&name.as_str().into()), matched || fallback);
        }
    }
}
