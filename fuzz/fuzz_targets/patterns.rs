//! Patterns parse and match according to the rules. `matching_routes` returns exactly the routes that
//! run.
#![no_main]

use std::task::{Context, Poll, Waker};

use arbitrary::{Arbitrary, Unstructured};
use botisimo_webhooks::{ErrorKind, Event, EventRouter, EventType, Pattern};
use botisimo_webhooks_fuzz::pattern::{Scope, is_name, read, takes};
use libfuzzer_sys::fuzz_target;
use tower_service::Service;

#[derive(Arbitrary, Debug)]
struct Input {
    routes: Vec<(Kind, Name)>,
    fallback: bool,
    event_types: Vec<Name>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    On,
    Prefix,
    Any,
}

/// A name with segments that often repeat.
#[derive(Debug)]
struct Name(String);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        const SEGMENTS: [&str; 12] = [
            "a",
            "b",
            "ab",
            "",
            "*",
            "**",
            "[.*]",
            "connection",
            "stream",
            "started",
            "twitch",
            "*]",
        ];
        if u.ratio(1, 8)? {
            return Ok(Self(u.arbitrary::<&str>()?.to_owned()));
        }
        let mut name = String::new();
        if u.ratio(1, 3)? {
            name += u.choose(&EventType::ALL)?.as_str();
        }
        for _ in 0..u.int_in_range(0..=5)? {
            if u.ratio(4, 5)? {
                name.push('.');
            }
            name += u.choose(&SEGMENTS)?;
        }
        Ok(Self(name))
    }
}

fuzz_target!(|input: Input| {
    let (mut router, mut model) = (EventRouter::new(), Vec::new());
    for (number, (kind, Name(written))) in input.routes.iter().enumerate() {
        let (pattern, parsed) = match kind {
            Kind::Any => {
                router = router.on_any(noop).named(format!("#{number}"));
                model.push((number, None));
                continue;
            }
            Kind::On => (read(written), Pattern::new(written)),
            Kind::Prefix => (
                is_name(written).then_some((Scope::Prefix, written.as_str())),
                Pattern::prefix(written),
            ),
        };
        let pattern = match (pattern, parsed) {
            (Some(expected), Ok(pattern)) => {
                let again =
                    Pattern::new(&pattern.to_string()).expect("a displayed pattern parses again");
                assert_eq!(again, pattern);
                model.push((number, Some(expected)));
                pattern
            }
            (None, Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Pattern);
                continue;
            }
            (expected, parsed) => panic!("{written:?}: expected {expected:?}, got {parsed:?}"),
        };
        router = router.on(pattern, noop).named(format!("#{number}"));
    }
    if input.fallback {
        router = router.fallback(noop);
    }
    for Name(event_type) in &input.event_types {
        let mut expected: Vec<_> = model
            .iter()
            .filter(|(_, pattern)| {
                pattern.is_none_or(|(scope, name)| takes(scope, name, event_type))
            })
            .collect();
        let matched = expected.iter().any(|(_, pattern)| pattern.is_some());
        let mut expected: Vec<_> = expected
            .drain(..)
            .map(|(number, _)| format!("#{number}"))
            .collect();
        if input.fallback && !matched {
            expected.push("fallback".to_owned());
        }
        let explained = router.matching_routes(event_type.as_str());
        let explained: Vec<_> = explained.iter().map(|route| route.name()).collect();
        assert_eq!(explained, expected, "{event_type:?}");
        let typed = EventType::from(event_type.as_str());
        assert_eq!(router.matches(&typed), matched || input.fallback);
        run(&mut router, event_type, &expected);
    }
});

async fn noop(_: Event) {}

/// Sends an event of this type through the router, if the type is valid.
fn run(router: &mut EventRouter, event_type: &str, expected: &[String]) {
    let body = serde_json::json!({"messageId": "m", "timestamp": 0, "eventType": event_type});
    let Ok(event) = Event::from_bytes(body.to_string()) else {
        assert!(!(1..=255).contains(&event_type.len()));
        return;
    };
    let mut run = std::pin::pin!(router.call(event));
    let Poll::Ready(Ok(report)) = run.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("no handler is ever pending")
    };
    let ran: Vec<_> = report.iter().map(|(route, _)| route).collect();
    assert_eq!(ran, expected, "{event_type:?}");
    assert!(report.is_success());
}
