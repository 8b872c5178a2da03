//! The pages: their contents, links and headers.

use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, Inbox, Inspector, MemoryInbox, RetryPolicy,
};
use http::StatusCode;
use proptest::prelude::*;
use scraper::Selector;
use serde_json::json;

use crate::site::{Answer, Site, get, open_access};

#[tokio::test(start_paused = true)]
async fn the_overview_shows_the_health_the_counts_and_the_rate() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    site.accept("connection.stream.started", "2").await;
    let page = site.get("").await;
    assert_eq!(page.status, StatusCode::OK);
    let text = page.main();
    for part in [
        "Healthy",
        "Dead letters 1",
        "2 in the last hour, at most 2 a minute",
        "accepted 2",
        "handled 1",
        "0 of 10000 events",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    site.handle().drain(Duration::ZERO).await;
    let page = site.get("").await;
    assert!(page.main().contains("draining since"), "{}", page.main());
    assert_eq!(page.texts("header .badge"), ["1 problem"]);
}

#[tokio::test(start_paused = true)]
async fn the_filters_are_in_the_url() {
    let site = Site::new(open_access());
    site.accept("account.updated", "a1").await;
    site.accept("connection.stream.started", "b1").await;
    site.accept("connection.stream.started.twitch", "b2").await;
    site.accept("unknown", "c1").await;
    for (query, ids) in [
        ("", "c1 b2 b1 a1"),
        ("&state=dead", "a1"),
        ("&state=in-flight", ""),
        ("&type=connection.stream.started", "b1"),
        ("&type=connection.stream.*", "b2 b1"),
        ("&type=connection.stream.started%5B.*%5D", "b2 b1"),
        ("&route=announce", "b2 b1"),
        ("&outcome=failed", "a1"),
        ("&reason=no+account", "a1"),
        ("&id=b2", "b2"),
        ("&since=1h", "c1 b2 b1 a1"),
        ("&until=1h", ""),
        ("&before=3", "b1 a1"),
    ] {
        let page = site.get(&format!("?page=events{query}")).await;
        assert_eq!(page.texts("tbody .mono").join(" "), ids, "{query}");
    }
    for query in ["&state=gone", "&type=*", "&since=yesterday"] {
        let page = site.get(&format!("?page=events{query}")).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(page.texts("[role=alert]").len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_list_has_pages() {
    let site = Site::new(open_access());
    for id in 0..120 {
        site.accept("account.updated", &id.to_string()).await;
    }
    for list in ["?page=events&type=account.*", "?page=dead-letters"] {
        let (mut link, mut ids) = (list.to_owned(), Vec::new());
        loop {
            let page = site.get(&link).await;
            ids.extend(page.texts("tbody .mono"));
            match page.attributes("a[rel=next]", "href").pop() {
                Some(next) => link = next,
                None => break,
            }
        }
        let wanted: Vec<_> = (0..120).rev().map(|id| id.to_string()).collect();
        assert_eq!(ids, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_shows_its_attempts_and_its_payload() {
    let site = Site::new(open_access());
    let event = MockRequest::event("account.updated")
        .message_id("it's 1")
        .data(json!({ "name": "<b>", "score": 1.5 }));
    site.accept_event(event.to_event()).await;
    let page = site.get("?page=event&event=1").await;
    let text = page.main();
    assert_eq!(page.texts("h1"), ["account.updated"]);
    assert!(
        text.contains("account.updated failed: no account"),
        "{text}"
    );
    assert!(page.texts(".timeline > li")[0].starts_with("Attempt 1, "));
    let html = page.html();
    let pre = |id: &str| {
        let element = html
            .select(&Selector::parse(&format!("pre#{id}")).unwrap())
            .next()
            .unwrap();
        element.text().collect::<String>()
    };
    assert!(
        pre("payload").contains("\n    \"name\": \"<b>\",\n    \"score\": 1.5\n"),
        "{}",
        pre("payload")
    );
    assert!(
        pre("curl").contains("'{\"messageId\":\"it'\\''s 1\","),
        "{}",
        pre("curl")
    );
    assert!(
        pre("mock").starts_with("MockRequest::event(\"account.updated\").body(r#\"{"),
        "{}",
        pre("mock")
    );

    let missing = site.get("?page=event&event=99").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    for odd in [
        "?page=event",
        "?page=event&event=-1",
        "?page=event&event=99999999999999999999",
    ] {
        assert_eq!(site.get(odd).await.status, StatusCode::BAD_REQUEST, "{odd}");
    }
    assert_eq!(
        site.get("?page=nothing").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(start_paused = true)]
async fn a_skipped_route_is_shown_as_neither_a_success_nor_a_failure() {
    let site = Site::new(open_access());
    let event = MockRequest::event("connection.stream.started").message_id("1");
    let event = event.member("timestamp", -10_000_000_000_000_i64);
    site.accept_event(event.to_event()).await;
    let page = site.get("?page=event&event=1").await;
    let skipped = ["skipped: stale", "skipped: stale"];
    assert_eq!(page.texts(".routes .quiet"), skipped);
    assert!(page.texts(".routes .bad").is_empty());
    let listed = site.get("?page=events&outcome=skipped").await;
    assert_eq!(listed.texts("tbody tr").len(), 1);
    let rows = site.get("?page=routes").await.texts("tbody tr");
    let announce = "announce connection.stream.started[.*] 0 0 1";
    assert_eq!(rows[0].trim(), announce);
}

#[tokio::test(start_paused = true)]
async fn the_routes_show_their_runs_and_which_event_types_reach_them() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    site.accept("account.updated", "2").await;
    site.accept("connection.stream.started.twitch", "3").await;
    let page = site.get("?page=routes&type=account.updated").await;
    let rows = page.texts("tbody tr");
    assert!(
        rows[0].starts_with("announce connection.stream.started[.*] 1 0 0 0.0 %"),
        "{}",
        rows[0]
    );
    assert!(
        rows[1].starts_with("account.updated account.updated 0 2 0 100.0 %"),
        "{}",
        rows[1]
    );
    assert!(
        rows[2].starts_with("audit every event 3 0 0 0.0 %"),
        "{}",
        rows[2]
    );
    assert_eq!(
        rows[1].matches("µs").count() + rows[1].matches("ms").count(),
        2,
        "p50 and p95: {}",
        rows[1]
    );
    assert_eq!(page.texts("main ul li"), ["account.updated", "audit"]);
    assert_eq!(
        site.get("?page=routes&type=poll").await.texts("main ul li"),
        ["audit"]
    );
}

#[tokio::test(start_paused = true)]
async fn pages_work_below_any_path_and_load_nothing_else() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    for page in [
        "",
        "?page=events",
        "?page=dead-letters",
        "?page=event&event=1",
        "?page=routes",
    ] {
        for path in ["/", "/admin/webhooks", "/a/b/c/"] {
            let mut request = get("");
            *request.uri_mut() = format!("{path}{page}").parse().unwrap();
            let answer = site.send(request).await;
            assert_eq!(answer.status, StatusCode::OK);
            for (selector, attribute) in [
                ("[href]", "href"),
                ("[action]", "action"),
                ("[src]", "src"),
                ("[data-feed]", "data-feed"),
            ] {
                for link in answer.attributes(selector, attribute) {
                    assert!(
                        link.starts_with('?') || ["#main", "data:,"].contains(&&*link),
                        "{link}"
                    );
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_allows_only_its_own_script_and_style() {
    let site = Site::new(open_access());
    let (first, second) = (
        site.get("?page=events").await,
        site.get("?page=events").await,
    );
    let nonce = |answer: &Answer| answer.attributes("script", "nonce").pop().unwrap();
    assert_ne!(nonce(&first), nonce(&second));
    let policy = first.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(
        policy.contains(&format!("script-src 'nonce-{}'", nonce(&first))),
        "{policy}"
    );
    assert_eq!(first.attributes("style", "nonce"), [nonce(&first)]);
    assert!(first.attributes("[style]", "style").is_empty());
    assert_eq!(first.header("cache-control"), "no-store");
    assert_eq!(first.header("x-content-type-options"), "nosniff");
}

/// Text that HTML, a URL or a terminal could misread.
fn text() -> impl Strategy<Value = String> {
    let nasty = prop_oneof![
        Just("<script>alert(1)</script>".to_owned()),
        Just("\"><img src=x onerror=alert(1)>".to_owned()),
        Just("' onmouseover='alert(1)".to_owned()),
        Just("javascript:alert(1)".to_owned()),
        Just("]]>-->&lt;&#0;&notanentity;".to_owned()),
        Just("\u{202e}\u{2066}evil\u{200b}\u{feff}".to_owned()),
        Just("\0\u{1}\r\n\t\u{7f}\u{85}\u{9f}\u{fdd0}\u{fffe}\u{10ffff}".to_owned()),
        Just("</pre></title></style></script>".to_owned()),
        Just("&do=delete&page=../%00%ff".to_owned()),
        any::<String>(),
    ];
    proptest::collection::vec(nasty, 1..4).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_shown_as_text_on_every_page(id in text(), event_type in text(), data in text(), reason in text(), typed in text()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let error = reason.clone();
            let router = EventRouter::new().on_any(move |_: Event| async move { Err::<(), _>(error) }).named(&*typed);
            let retry = RetryPolicy::new().max_attempts(1);
            let delivery = DeliverySettings::new().retry(retry);
            let inbox = MemoryInbox::builder().delivery(delivery).build(router);
            let site = Site { inspector: Inspector::new(&inbox.handle(), open_access()), inbox, is_fixed: Default::default() };
            let short = |text: &str| text.chars().take(60).collect::<String>();
            let request = MockRequest::event(short(&event_type)).message_id(short(&id)).data(json!({ data.clone(): data.clone() }));
            let Ok(event) = Event::from_bytes(request.body_bytes()) else { return };
            site.accept_event(event).await;

            let query = |name: &str| form_urlencoded::Serializer::new(String::new()).append_pair(name, &typed).finish();
            let mut pages = vec![String::new(), "?page=events".to_owned(), "?page=dead-letters".to_owned(), "?page=event&event=1".to_owned(), "?page=routes".to_owned()];
            for name in ["page", "state", "type", "route", "outcome", "reason", "id", "since", "until", "before", "event"] {
                pages.push(format!("?page=events&{}", query(name)));
                pages.push(format!("?page=dead-letters&{}", query(name)));
                pages.push(format!("?page=routes&{}", query(name)));
            }
            for page in pages {
                let answer = site.get(&page).await;
                harmless(&answer);
            }
            let form = format!("do=delete-matching&{}&q={}", query("back"), form_urlencoded::byte_serialize(query("id").as_bytes()).collect::<String>());
            harmless(&site.post(&form).await);
            let form = format!("do=replay-event&event=1&{}", query("routes"));
            let answer = site.post(&form).await;
            if answer.status != StatusCode::SEE_OTHER {
                harmless(&answer);
            }
        });
    }
}

/// Asserts that a page is valid, and that its elements and attributes are the inspector's own.
#[track_caller]
fn harmless(answer: &Answer) {
    let html = answer.html();
    let count = |selector: &str| html.select(&Selector::parse(selector).unwrap()).count();
    assert_eq!(
        (count("script"), count("style"), count("title")),
        (1, 1, count("svg title") + 1)
    );
    assert_eq!(
        count("img, iframe, object, embed, base, b, [onerror], [onmouseover], [style]"),
        0
    );
    for link in answer.attributes("[href]", "href") {
        assert!(
            link.starts_with('?') || link == "#main" || link == "data:,",
            "{link}"
        );
    }
    let main = html
        .select(&Selector::parse("main").unwrap())
        .next()
        .unwrap();
    let text: String = main.text().collect();
    let is_hidden = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    assert!(!text.contains(is_hidden), "{text:?}");
}
