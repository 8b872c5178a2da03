//! The pages as a user sees them.

use botisimo_webhooks::testing::MockRequest;
use serde_json::json;

use crate::browser::{Browser, Options};
use crate::site::Site;

const ROWS: &str = "tbody";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_appears_live_for_two_viewers_and_only_if_it_matches() {
    let site = Site::start().await;
    site.accept("account.updated", "before").await;
    let (one, other) = (
        Browser::open(Options::default()).await,
        Browser::open(Options::default()).await,
    );
    one.go(&site.url("?page=events")).await;
    other
        .go(&site.url("?page=events&type=connection.stream.*"))
        .await;
    one.until("#live", "Live").await;
    other.until("#live", "Live").await;
    assert!(one.text(ROWS).await.contains("before"));

    site.accept("account.updated", "hidden-from-the-other")
        .await;
    site.accept("connection.stream.started", "seen-by-both")
        .await;
    one.until(ROWS, "seen-by-both").await;
    one.until(ROWS, "hidden-from-the-other").await;
    other.until(ROWS, "seen-by-both").await;
    assert!(!other.text(ROWS).await.contains("hidden-from-the-other"));
    assert!(
        one.texts("tbody tr").await[0].contains("seen-by-both"),
        "the newest event is first"
    );

    // The filter of the form ends in the URL.
    one.select("select[name=state]", "dead").await;
    one.fill("input[name=reason]", "404").await;
    one.follow("Filter").await;
    let url = one.client.current_url().await.unwrap();
    assert!(url.query().unwrap().contains("state=dead"), "{url}");
    let rows = one.text(ROWS).await;
    assert!(
        rows.contains("before") && !rows.contains("seen-by-both"),
        "{rows}"
    );
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_list_stays_as_it_is() {
    let site = Site::start().await;
    let browser = Browser::open(Options::default()).await;
    browser.go(&site.url("?page=events")).await;
    browser.until("#live", "Live").await;
    browser.press("Pause").await;
    browser.until("#live", "Paused").await;
    site.accept("connection.stream.started", "while-paused")
        .await;
    let visitor = Browser::open(Options::default()).await;
    visitor.go(&site.url("?page=events")).await;
    visitor.until(ROWS, "while-paused").await;
    assert!(!browser.text(ROWS).await.contains("while-paused"));
    browser.press("Resume").await;
    browser.until(ROWS, "while-paused").await;
    browser.close().await;
    visitor.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_event_shows_its_attempts_and_all_that_match_are_replayed_once_the_handler_works()
{
    let site = Site::start().await;
    for id in ["a1", "a2", "a3"] {
        site.accept("account.updated", id).await;
    }
    site.accept("poll.created", "p1").await;
    let browser = Browser::open(Options::default()).await;
    browser.go(&site.url("?page=events")).await;
    browser.follow("p1").await;
    let attempts = browser.texts(".timeline > li").await;
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    assert!(
        attempts[2].starts_with("Attempt 3, ")
            && attempts[2].contains("failed: connection refused"),
        "{attempts:?}"
    );

    site.fix();
    browser.follow("Dead letters").await;
    browser.fill("input[name=type]", "account.*").await;
    browser.follow("Filter").await;
    browser.follow("Replay all that match").await;
    browser.until("h1", "Replay 3 events?").await;
    browser.follow("Replay 3 events").await;
    browser.until("main", "3 events were replayed.").await;
    site.idle().await;
    browser.follow("Events").await;
    browser.until(ROWS, "handled").await;
    let rows = browser.texts("tbody tr").await;
    let handled = rows
        .iter()
        .filter(|row| row.contains("account.updated") && row.contains("refresh handled"));
    assert_eq!(handled.count(), 3, "{rows:?}");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selected_events_are_deleted_after_a_confirmation() {
    let site = Site::start().await;
    for id in ["a1", "a2", "a3"] {
        site.accept("account.updated", id).await;
    }
    let browser = Browser::open(Options::default()).await;
    browser.go(&site.url("?page=dead-letters")).await;
    browser.click("tbody tr:first-child input").await;
    browser.follow("Delete selected").await;
    browser.until("h1", "Delete 1 event?").await;
    browser.follow("Cancel").await;
    assert_eq!(browser.texts("tbody tr").await.len(), 3);

    browser.click("thead input").await; // all
    browser.follow("Delete selected").await;
    browser.follow("Delete 3 events").await;
    browser.until("main", "3 events were deleted.").await;
    assert!(
        browser
            .text("main")
            .await
            .contains("No dead letter matches.")
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_javascript_the_pages_have_all_functions() {
    let site = Site::start().await;
    site.accept("account.updated", "a1").await;
    let options = Options {
        without_javascript: true,
        ..Options::default()
    };
    let browser = Browser::open(options).await;
    browser.go(&site.url("")).await;
    assert!(
        browser
            .text("main")
            .await
            .contains("Accepted events a minute")
    );
    browser.follow("Events").await;
    assert!(
        browser
            .client
            .source()
            .await
            .unwrap()
            .contains("<meta http-equiv=\"refresh\"")
    );
    assert!(
        !browser.text("main").await.contains("Pause"),
        "only the script can pause"
    );
    browser.follow("a1").await;
    site.fix();
    browser.follow_element("button[value=replay-event]").await;
    browser.until("main", "1 event was replayed.").await;
    site.idle().await;
    browser.follow("Events").await;
    browser
        .press("Replay or delete all events that match")
        .await;
    browser.follow("Delete all that match").await;
    browser.follow("Delete 1 event").await;
    browser.until("main", "1 event was deleted.").await;
    assert!(browser.text("main").await.contains("No event matches."));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_work_behind_a_proxy_that_replaces_the_path_and_the_host() {
    let site = Site::start().await;
    site.accept("account.updated", "a1").await;
    let browser = Browser::open(Options::default()).await;
    let url = site.proxied().await;
    browser.go(&url).await;
    browser.follow("Events").await;
    browser.until("#live", "Live").await;
    site.accept("connection.stream.started", "live").await;
    browser.until(ROWS, "live").await;
    browser.follow("a1").await;
    site.fix();
    browser.follow_element("button[value=replay-event]").await;
    browser.until("main", "1 event was replayed.").await;
    assert!(
        browser
            .client
            .current_url()
            .await
            .unwrap()
            .as_str()
            .starts_with(&url)
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_the_sender_runs_nothing() {
    let site = Site::start().await;
    let script = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>";
    let event = MockRequest::event("account.updated").message_id(format!("x\u{202e}{script}"));
    let browser = Browser::open(Options::default()).await;
    browser.go(&site.url("?page=events")).await;
    browser.until("#live", "Live").await;
    site.accept_event(event.data(json!({ script: script })).to_event())
        .await;
    // The row arrives in the live feed, and is then opened.
    browser.until(ROWS, "x\\u{202e}<img src=x").await;
    browser.follow_element("tbody a").await;
    browser
        .until("#payload", "<script>window.hacked=1</script>")
        .await;
    assert_eq!(
        browser.run("return typeof window.hacked").await,
        "undefined"
    );
    assert_eq!(
        browser
            .run("return document.images.length + document.scripts.length")
            .await,
        1
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_narrow_and_wide_windows_in_both_themes() {
    let site = Site::start().await;
    let long = "long-".repeat(50);
    let data = json!({ "text": "w".repeat(500) });
    site.accept_event(
        MockRequest::event("poll.created")
            .message_id(long)
            .data(data)
            .to_event(),
    )
    .await;
    let mut grounds = Vec::new();
    for (is_dark, is_narrow) in [(false, false), (false, true), (true, false), (true, true)] {
        let browser = Browser::open(Options {
            is_dark,
            is_narrow,
            ..Options::default()
        })
        .await;
        for page in [
            "",
            "?page=events",
            "?page=dead-letters",
            "?page=event&event=1",
            "?page=routes&type=poll",
        ] {
            browser.go(&site.url(page)).await;
            let overflow = browser
                .run("return document.documentElement.scrollWidth - window.innerWidth")
                .await;
            assert!(
                overflow.as_i64().unwrap() <= 0,
                "{page} at {is_narrow}: {overflow}"
            );
        }
        let width = browser.run("return window.innerWidth").await;
        assert_eq!(width == 360, is_narrow, "{width}");
        grounds.push(
            browser
                .run("return getComputedStyle(document.body).backgroundColor")
                .await,
        );
        browser.close().await;
    }
    assert_eq!((&grounds[0], &grounds[2]), (&grounds[1], &grounds[3]));
    assert_ne!(grounds[0], grounds[2], "each theme has its own colors");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_the_content_and_the_actions() {
    let site = Site::start().await;
    site.accept("account.updated", "a1").await;
    let browser = Browser::open(Options::default()).await;
    browser.go(&site.url("?page=event&event=1")).await;
    let tab = String::from(char::from(fantoccini::key::Key::Tab));
    let mut seen = Vec::new();
    for _ in 0..30 {
        browser
            .client
            .active_element()
            .await
            .unwrap()
            .send_keys(&tab)
            .await
            .unwrap();
        seen.push(
            browser
                .run("return document.activeElement.innerText || document.activeElement.name")
                .await,
        );
        let outline = browser
            .run("return getComputedStyle(document.activeElement).outlineStyle")
            .await;
        assert_ne!(outline, "none", "the focus is visible: {seen:?}");
        if seen.last().unwrap() == "Delete…" {
            break;
        }
    }
    for text in [
        "Skip to the content",
        "Events",
        "Pause",
        "all routes",
        "Replay",
        "Delete…",
    ] {
        assert!(
            seen.iter()
                .any(|one| one.as_str().is_some_and(|one| one.contains(text))),
            "{text}: {seen:?}"
        );
    }
    browser.close().await;
}
