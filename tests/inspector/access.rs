//! Access: the users that may read and operate, and the requests that the inspector refuses.

use std::net::SocketAddr;

use botisimo_webhooks::{Access, Permission};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::Full;
use proptest::prelude::*;

use crate::site::{Site, get, open_access, post};

const PAGES: [&str; 7] = [
    "",
    "?page=overview",
    "?page=events",
    "?page=dead-letters",
    "?page=event&event=1",
    "?page=routes",
    "?page=feed",
];

const FORMS: [&str; 3] = [
    "do=delete-matching&sure=yes",
    "do=replay-matching&sure=yes&back=dead-letters",
    "do=delete-event&event=1&sure=yes",
];

/// Sends each request of the pages, and asserts that each is refused and that nothing happens.
async fn refused(site: &Site, status: StatusCode, change: impl Fn(&mut Request<Full<Bytes>>)) {
    site.accept("account.updated", "private-id").await;
    let before = site.handle().stats();
    let requests = PAGES.map(get).into_iter().chain(FORMS.map(post));
    for mut request in requests {
        change(&mut request);
        let answer = site.send(request).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(!answer.body.contains("private-id"));
        assert!(!answer.body.contains("<html"));
    }
    assert_eq!(site.handle().stats(), before);
}

fn set(request: &mut Request<Full<Bytes>>, name: &'static str, value: &str) {
    let value = HeaderValue::try_from(value).unwrap();
    request
        .headers_mut()
        .insert(HeaderName::from_static(name), value);
}

#[tokio::test(start_paused = true)]
async fn without_the_password_nothing_is_shown_or_done() {
    let site = Site::new(Access::basic_auth("admin", "secret"));
    refused(&site, StatusCode::UNAUTHORIZED, |_| {}).await;
    let wrong = "Basic YWRtaW46d3Jvbmc="; // admin:wrong
    refused(&site, StatusCode::UNAUTHORIZED, |request| {
        set(request, "authorization", wrong);
    })
    .await;

    let answer = site.get("").await;
    assert!(
        answer
            .header("www-authenticate")
            .starts_with("Basic realm=")
    );
    let mut request = get("?page=events");
    set(&mut request, "authorization", "Basic YWRtaW46c2VjcmV0"); // admin:secret
    let answer = site.send(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.main().contains("private-id"));
}

#[tokio::test(start_paused = true)]
async fn without_permission_nothing_is_shown_or_done() {
    let site = Site::new(Access::from_fn(|_| Permission::none()));
    refused(&site, StatusCode::FORBIDDEN, |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_panics_refuses() {
    let site = Site::new(Access::from_fn(|_| panic!("a bug in the rule")));
    refused(&site, StatusCode::FORBIDDEN, |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_isnt_allowed_is_refused_and_named() {
    let site = Site::new(open_access().allow_host("admin.example.com"));
    for host in [
        "evil.example",
        "admin.example.com.evil.example",
        "localhost.evil.example",
        "",
    ] {
        refused(&site, StatusCode::FORBIDDEN, |request| {
            set(request, "host", host);
        })
        .await;
    }
    refused(&site, StatusCode::FORBIDDEN, |request| {
        drop(request.headers_mut().remove("host"));
    })
    .await;
    for host in [
        "localhost",
        "127.0.0.1:3000",
        "192.168.1.5",
        "[::1]:3000",
        "ADMIN.example.com:8443",
    ] {
        let mut request = get("");
        set(&mut request, "host", host);
        assert_eq!(site.send(request).await.status, StatusCode::OK, "{host}");
    }
    let mut request = get("");
    set(&mut request, "host", "board.example.com");
    let answer = site.send(request).await;
    assert!(
        answer
            .body
            .contains("Access::allow_host(\"board.example.com\")"),
        "{}",
        answer.body
    );
}

#[tokio::test(start_paused = true)]
async fn only_clients_of_this_machine_pass_the_loopback_rule() {
    let site = Site::new(Access::loopback(|request| {
        request.extensions.get().copied()
    }));
    refused(&site, StatusCode::FORBIDDEN, |_| {}).await;
    let from = |request: &mut Request<Full<Bytes>>, address: &str| {
        request
            .extensions_mut()
            .insert(address.parse::<SocketAddr>().unwrap());
    };
    for address in [
        "192.168.1.5:4000",
        "[::]:4000",
        "0.0.0.0:4000",
        "[fe80::1]:4000",
    ] {
        refused(&site, StatusCode::FORBIDDEN, |request| {
            from(request, address);
        })
        .await;
    }
    for header in [
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-real-ip",
        "cf-connecting-ip",
        "cdn-loop",
    ] {
        refused(&site, StatusCode::FORBIDDEN, |request| {
            from(request, "127.0.0.1:4000");
            set(request, header, "1.2.3.4");
        })
        .await;
    }
    // A proxy that adds no header keeps the host, or speaks HTTP/1.0.
    for host in ["203.0.113.5", "192.168.1.5:3000", "[2001:db8::1]"] {
        refused(&site, StatusCode::FORBIDDEN, |request| {
            from(request, "127.0.0.1:4000");
            set(request, "host", host);
        })
        .await;
    }
    refused(&site, StatusCode::FORBIDDEN, |request| {
        from(request, "127.0.0.1:4000");
        *request.version_mut() = Version::HTTP_10;
    })
    .await;
    for host in ["127.0.0.1:3000", "[::1]:3000", "0.0.0.0:3000"] {
        let mut request = get("?page=events");
        from(&mut request, "127.0.0.1:4000");
        set(&mut request, "host", host);
        assert_eq!(site.send(request).await.status, StatusCode::OK, "{host}");
    }
    for address in ["127.0.0.1:4000", "[::1]:4000", "[::ffff:127.0.0.1]:4000"] {
        let mut request = get("?page=events");
        from(&mut request, address);
        assert_eq!(site.send(request).await.status, StatusCode::OK, "{address}");
    }
}

#[tokio::test(start_paused = true)]
async fn readers_see_the_pages_and_change_nothing() {
    let site = Site::new(Access::from_fn(|_| Permission::read("bob")));
    site.accept("account.updated", "1").await;
    let before = site.handle().stats();
    for page in ["?page=events", "?page=dead-letters", "?page=event&event=1"] {
        let answer = site.get(page).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(
            answer.attributes("form[method=post]", "action").is_empty(),
            "{page} has no actions"
        );
    }
    for form in FORMS {
        let answer = site.post(form).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(
            answer
                .body
                .contains("you may read, but not replay or delete")
        );
    }
    assert_eq!(site.handle().stats(), before);
}

#[tokio::test(start_paused = true)]
async fn payloads_can_be_hidden_from_readers() {
    for (permission, is_shown) in [
        (Permission::read("bob"), false),
        (Permission::operate("ana"), true),
    ] {
        let access = Access::from_fn(move |_| permission.clone()).hide_payloads_from_readers();
        let site = Site::new(access);
        let event = botisimo_webhooks::testing::MockRequest::event("poll.created").message_id("1");
        site.accept_event(event.data("a private payload").to_event())
            .await;
        let link = site.link_of("1").await;
        let page = site.get(&link).await;
        assert_eq!(
            page.body.contains("a private payload"),
            is_shown,
            "{}",
            page.body
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_form_of_another_site_does_nothing() {
    let site = Site::new(open_access());
    for (site_header, origin) in [
        (Some("cross-site"), None),
        (Some("same-site"), Some("http://localhost:3000")),
        (Some("none"), None),
        (None, Some("http://evil.example")),
        (None, Some("http://localhost:4000")),
        (None, Some("null")),
        (None, None),
    ] {
        site.accept("account.updated", "private-id").await;
        let before = site.handle().stats();
        for form in FORMS {
            let mut request = post(form);
            request.headers_mut().remove("sec-fetch-site");
            site_header
                .into_iter()
                .for_each(|value| set(&mut request, "sec-fetch-site", value));
            origin
                .into_iter()
                .for_each(|value| set(&mut request, "origin", value));
            let answer = site.send(request).await;
            assert_eq!(
                answer.status,
                StatusCode::FORBIDDEN,
                "{site_header:?} {origin:?}"
            );
        }
        assert_eq!(site.handle().stats(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_without_these_headers_needs_the_token_of_a_page() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    let link = site.link_of("1").await;
    let token = &site
        .get(&link)
        .await
        .attributes("input[name=token]", "value")[0];
    let number = site.number_of("1").await;
    let mut request = post(&format!(
        "do=delete-event&event={number}&sure=yes&token={token}"
    ));
    request.headers_mut().remove("sec-fetch-site");
    assert_eq!(site.send(request).await.status, StatusCode::SEE_OTHER);
    assert_eq!(site.handle().stats().dead_letters, 0);
    assert!(
        !Site::new(open_access())
            .get(&link)
            .await
            .body
            .contains(token.as_str()),
        "each inspector has its own token"
    );
}

#[tokio::test(start_paused = true)]
async fn other_methods_are_refused() {
    let site = Site::new(open_access());
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let mut request = get("");
        *request.method_mut() = method;
        let answer = site.send(request).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), "GET, HEAD, POST");
    }
    let mut request = get("");
    *request.method_mut() = Method::HEAD;
    let answer = site.send(request).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, ""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_header_but_the_password_lets_a_client_in(
        headers in proptest::collection::vec(("[a-z-]{1,20}|authorization|host|origin|forwarded|x-forwarded-for|sec-fetch-site", proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
        basic in proptest::option::of(".{0,40}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let site = Site::new(Access::basic_auth("admin", "secret"));
            let mut request = get("?page=events");
            for (name, value) in headers {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value)) {
                    request.headers_mut().append(name, value);
                }
            }
            if let Some(basic) = basic {
                let value = format!("Basic {basic}");
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    request.headers_mut().append("authorization", value);
                }
            }
            let status = site.send(request).await.status;
            assert!(matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), "{status}");
        });
    }
}
