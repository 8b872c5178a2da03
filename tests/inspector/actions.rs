//! Replays and deletions.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use botisimo_webhooks::{
    Event, EventFilter, EventRouter, EventState, Inbox, Inspector, MemoryInbox, Replay,
};
use http::{HeaderValue, StatusCode};

use crate::site::{Site, fields, open_access, post};
use crate::support::subscriber::capture;

async fn states(site: &Site) -> Vec<(String, EventState)> {
    let events = site.handle().events();
    let records = events.list(&EventFilter::new(), 1_000).await.unwrap();
    records
        .iter()
        .rev()
        .map(|record| (record.message_id().to_owned(), record.state()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn one_event_is_replayed_to_the_selected_routes() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    let number = site.number_of("1").await;
    site.is_fixed.store(true, Ordering::SeqCst);

    let form = format!("do=replay-event&back=event&event={number}&routes=only%3Aaccount.updated");
    let answer = site.post(&form).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    let back = answer.header("location");
    assert_eq!(
        back,
        format!("?page=event&event={number}&done=replayed&count=1")
    );
    site.handle().wait_idle().await;
    let page = site.get(back).await;
    assert!(
        page.main().contains("1 event was replayed."),
        "{}",
        page.main()
    );
    assert!(page.texts(".timeline > li")[1].contains("account.updated handled"));
    assert_eq!(states(&site).await, [("1".to_owned(), EventState::Handled)]);
    assert_eq!(page.texts(".timeline > li").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn all_that_match_are_replayed_and_not_only_the_visible_page() {
    let site = Site::new(open_access());
    for id in 0..120 {
        site.accept("account.updated", &id.to_string()).await;
    }
    site.accept("connection.stream.started", "other").await;
    let listed = site.get("?page=dead-letters&type=account.*").await;
    assert_eq!(listed.texts("tbody tr").len(), 50);
    let form = format!("{}&do=replay-matching&routes=remaining", fields(&listed));
    site.is_fixed.store(true, Ordering::SeqCst);
    let asked = site.post(&form).await;
    assert_eq!(asked.texts("h1"), ["Replay 120 events?"]);
    assert_eq!(site.handle().stats().replayed, 0);

    let answer = site.post(&fields(&asked)).await;
    assert_eq!(
        answer.header("location"),
        "?page=dead-letters&type=account.*&done=replayed&count=120"
    );
    site.handle().wait_idle().await;
    let stats = site.handle().stats();
    assert_eq!((stats.replayed, stats.dead_letters), (120, 0));
    let page = site.get(answer.header("location")).await;
    assert!(page.main().contains("120 events were replayed."));
    assert!(page.main().contains("No dead letter matches."));
}

#[tokio::test(start_paused = true)]
async fn after_a_bad_deployment_only_the_repaired_route_runs_again() {
    let site = Site::new(open_access());
    for id in 0..3 {
        site.accept("connection.stream.started.twitch", &id.to_string())
            .await;
    }
    site.accept("account.updated", "other").await;
    let listed = site.get("?page=events&route=announce&since=1h").await;
    let form = format!(
        "{}&do=replay-matching&routes=only%3Aannounce",
        fields(&listed)
    );
    let asked = site.post(&form).await;
    assert_eq!(asked.texts("h1"), ["Replay 3 events?"]);
    assert!(asked.main().contains("Only the route announce runs."));
    let answer = site.post(&fields(&asked)).await;
    assert!(
        answer
            .header("location")
            .ends_with("&done=replayed&count=3"),
        "{}",
        answer.header("location")
    );
    site.handle().wait_idle().await;
    let page = site.get("?page=event&event=1").await;
    let again = &page.texts(".timeline > li")[1];
    assert!(
        again.contains("announce handled") && !again.contains("audit"),
        "{again}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_asks_first_and_says_how_many() {
    let site = Site::new(open_access());
    for id in ["1", "2", "3", "4"] {
        site.accept("account.updated", id).await;
    }
    let mut selected = String::from("do=delete-selected&back=dead-letters");
    for id in ["1", "3"] {
        selected += &format!("&event={}", site.number_of(id).await);
    }
    for form in [
        selected.as_str(),
        "do=delete-event&event=2&back=event",
        "do=delete-matching&back=dead-letters&q=",
    ] {
        let asked = site.post(form).await;
        assert_eq!(asked.status, StatusCode::OK);
        assert!(
            asked.texts("h1")[0].starts_with("Delete "),
            "{:?}",
            asked.texts("h1")
        );
    }
    assert_eq!(
        site.handle().stats().dead_letters,
        4,
        "nothing is deleted yet"
    );

    let asked = site.post(&selected).await;
    assert_eq!(asked.texts("h1"), ["Delete 2 events?"]);
    let answer = site.post(&fields(&asked)).await;
    let page = site.get(answer.header("location")).await;
    assert!(page.main().contains("2 events were deleted."));
    assert_eq!(page.texts("tbody .mono"), ["4", "2"]);

    let asked = site
        .post("do=delete-matching&back=dead-letters&q=id%3D4")
        .await;
    assert_eq!(asked.texts("h1"), ["Delete 1 event?"]);
    site.post(&fields(&asked)).await;
    assert_eq!(states(&site).await, [("2".to_owned(), EventState::Dead)]);
    let again = site.post(&fields(&asked)).await;
    let page = site.get(again.header("location")).await;
    assert!(page.main().contains("No event was deleted"));
}

#[tokio::test(start_paused = true)]
async fn a_form_of_the_dead_letters_touches_no_other_event() {
    let site = Site::new(open_access());
    site.accept("account.updated", "dead").await;
    site.accept("connection.stream.started", "handled").await;
    let forms = ["q=", "q=state%3Dhandled"];
    for form in forms {
        let answer = site
            .post(&format!(
                "do=delete-matching&sure=yes&back=dead-letters&{form}"
            ))
            .await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
    }
    assert_eq!(
        states(&site).await,
        [("handled".to_owned(), EventState::Handled)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_form_is_explained_and_does_nothing() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    let before = site.handle().stats();
    for (form, text) in [
        ("", "no action has the name"),
        ("do=drop-matching", "no action has the name"),
        ("do=replay-everything", "no action has the name"),
        ("do=replay-selected", "no event is selected"),
        ("do=replay-selected&event=x", "isn't the number of an event"),
        ("do=replay-event&event=1&routes=none", "selects no routes"),
        (
            "do=replay-matching&sure=yes&q=type%3D*",
            "matches every event",
        ),
    ] {
        let answer = site.post(form).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{form}");
        assert!(answer.main().contains(text), "{form}: {}", answer.main());
    }
    let unknown = site
        .post("do=replay-event&event=1&routes=only%3Anobody")
        .await;
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(unknown.main().contains("nobody"), "{}", unknown.main());
    let missing = site.post("do=replay-event&event=999").await;
    assert!(missing.header("location").ends_with("count=0"));

    let mut request = post("do=delete-matching&sure=yes");
    request
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("text/plain"));
    assert_eq!(
        site.send(request).await.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let large = format!("do=delete-matching&sure=yes&q={}", "a".repeat(70_000));
    assert_eq!(
        site.post(&large).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(site.handle().stats(), before);
}

#[tokio::test(start_paused = true)]
async fn each_action_is_audited() {
    let (log, _guard) = capture("info");
    let mut site = Site::new(open_access());
    let actions = Arc::new(Mutex::new(Vec::new()));
    let audited = Arc::clone(&actions);
    site.inspector = site
        .inspector
        .clone()
        .on_action(move |action| audited.lock().unwrap().push(action.clone()));
    for id in ["1", "2", "3"] {
        site.accept("account.updated", id).await;
    }
    site.post("do=replay-selected&event=1&event=2&routes=all")
        .await;
    site.post("do=delete-matching&sure=yes&q=type%3Daccount.*%26id%3D3")
        .await;
    site.post("do=replay-event&event=1&routes=only%3Anobody")
        .await;
    let actions = actions.lock().unwrap();
    let [replayed, deleted, failed] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (replayed.user(), replayed.ids(), replayed.count()),
        ("ana", &[1, 2][..], 2)
    );
    assert!(matches!(replayed.replay(), Some(Replay::All)));
    assert_eq!(
        replayed.to_string(),
        "ana: replay all routes, events 1 2: 2"
    );
    assert_eq!(
        (
            deleted.replay().is_none(),
            deleted.filter(),
            deleted.count()
        ),
        (true, Some("type=account.*&id=3"), 1)
    );
    assert!(failed.error().unwrap().contains("nobody"));
    drop(actions);
    let lines = log.text();
    let audits: Vec<_> = lines
        .lines()
        .filter(|line| line.contains("an operator changed events"))
        .collect();
    assert_eq!(audits.len(), 3, "{lines}");
    assert!(
        audits[0].contains("INFO") && audits[0].contains("user=\"ana\""),
        "{}",
        audits[0]
    );
}

/// A form contains the name of a route as the page shows it. In an earlier version, no route had the name in the form.
#[tokio::test(start_paused = true)]
async fn a_route_with_an_invisible_character_is_filtered_and_replayed() {
    let name = "\u{2764}\u{fe0f} likes";
    let router = EventRouter::new()
        .on_any(|_: Event| async {})
        .named(name)
        .on("other", |_: Event| async {});
    let inbox = MemoryInbox::builder().build(router);
    let inspector = Inspector::new(&inbox.handle(), open_access());
    let site = Site {
        inbox,
        inspector,
        is_fixed: Arc::default(),
    };
    site.accept("account.updated", "1").await;
    let page = site.get("?page=event&event=1").await;
    let options = page.attributes("select[name=routes] option", "value");
    let only = options.iter().find(|option| option.contains("likes"));
    let mut form = form_urlencoded::Serializer::new("do=replay-event&event=1".to_owned());
    form.append_pair("routes", only.unwrap());
    let answer = site.post(&form.finish()).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
    assert!(answer.header("location").contains("count=1"));

    let page = site.get("?page=events").await;
    let options = page.attributes("select[name=route] option", "value");
    let only = options.iter().find(|option| option.contains("likes"));
    let mut query = form_urlencoded::Serializer::new("?page=events".to_owned());
    query.append_pair("route", only.unwrap());
    let page = site.get(&query.finish()).await;
    assert_eq!(page.texts("tbody tr").len(), 1);
}
