//! Decoding: every rule of the envelope, the event types of the specification, and the accessors of an event.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::{ErrorKind, Event, EventType, Platform};
use proptest::prelude::*;

fn decode(body: &str) -> Result<Event, String> {
    decode_bytes(body.as_bytes())
}

fn decode_bytes(body: &[u8]) -> Result<Event, String> {
    Event::from_bytes(body).map_err(|error| {
        assert_eq!(error.kind(), ErrorKind::Envelope);
        assert!(std::error::Error::source(&error).is_none());
        error.to_string()
    })
}

/// Returns an envelope with these members. Each value is JSON.
fn envelope(members: &[(&str, &str)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    format!("{{{}}}", members.join(", "))
}

const GOOD: [(&str, &str); 4] = [
    ("messageId", "\"m-1\""),
    ("timestamp", "1674489999154"),
    ("eventType", "\"account.updated\""),
    ("data", "{\"name\": \"ada\"}"),
];

/// Returns the valid envelope with one member's value replaced.
fn with(name: &str, value: &str) -> String {
    envelope(&GOOD.map(|(member, good)| (member, if member == name { value } else { good })))
}

/// Returns the valid envelope without one member.
fn without(name: &str) -> String {
    let members: Vec<_> = GOOD
        .into_iter()
        .filter(|(member, _)| *member != name)
        .collect();
    envelope(&members)
}

#[track_caller]
fn refused(body: &str, text: &str) {
    assert_eq!(decode(body).unwrap_err(), text, "{body}");
}

#[test]
fn the_specifications_example_is_decoded() {
    let body = r#"{
      "messageId": "20612112-0305-46a9-a67a-e3ffc5bb7a18",
      "timestamp": 1674489999154,
      "eventType": "account.updated",
      "data": { "name": "ada" }
    }"#;
    let event = decode(body).unwrap();
    assert_eq!(event.id(), "20612112-0305-46a9-a67a-e3ffc5bb7a18");
    assert_eq!(event.timestamp_millis(), 1_674_489_999_154);
    assert_eq!(
        event.timestamp(),
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_674_489_999_154))
    );
    assert_eq!(*event.event_type(), EventType::AccountUpdated);
    assert_eq!(event.raw_data(), r#"{ "name": "ada" }"#);
    assert_eq!(event.body(), body);
    assert_eq!(event.attempt(), 1);
    assert!(event.received_at() <= SystemTime::now());
}

#[test]
fn a_body_that_isnt_json_is_an_error() {
    for body in [
        "",
        " ",
        "{",
        "}",
        "not json",
        "{]",
        "{\"a\":}",
        "{\"a\" 1}",
        "nul",
        "'a'",
        "{\"a\":1,}",
        "{}{}",
        "{} x",
    ] {
        refused(body, "the body is not JSON");
    }
    refused(
        &format!("{} trailing", envelope(&GOOD)),
        "the body is not JSON",
    );
    refused(&with("data", "{\"a\": [1, 2}"), "the body is not JSON");
    refused(&with("data", "01"), "the body is not JSON");
    refused(&with("data", "\"a\nb\""), "the body is not JSON");
}

#[test]
fn a_body_with_invalid_utf8_anywhere_is_an_error() {
    for place in ["messageId", "data", "other"] {
        let mut members = GOOD.to_vec();
        members.push(("other", "\"x\""));
        let text = members
            .iter()
            .map(|&(name, value)| (name, if name == place { "\"?\"" } else { value }));
        let body = envelope(&text.collect::<Vec<_>>()).into_bytes();
        let body: Vec<u8> = body
            .into_iter()
            .map(|byte| if byte == b'?' { 0xff } else { byte })
            .collect();
        assert_eq!(decode_bytes(&body).unwrap_err(), "the body is not JSON");
    }
}

#[test]
fn one_leading_byte_order_mark_is_skipped() {
    let body = "\u{feff} {\"messageId\": \"m-1\", \"timestamp\": 1, \"eventType\": \"a.b\", \"data\": {\"x\": [1]}}";
    let event = decode(body).unwrap();
    assert_eq!((event.id(), event.raw_data()), ("m-1", "{\"x\": [1]}"));
    // The stored body keeps the byte order mark, and decodes again.
    assert_eq!(event.body(), body);
    assert_eq!(decode(event.body()).unwrap().raw_data(), event.raw_data());
    refused("\u{feff}", "the body is not JSON");
    refused("\u{feff}[]", "the body is not a JSON object");
    refused(&format!("\u{feff}{body}"), "the body is not JSON");
    refused(&format!(" {body}"), "the body is not JSON");
}

#[test]
fn json_that_isnt_an_object_is_an_error() {
    for body in ["[]", "null", "1", "\"text\"", "true", " [1, 2] ", "-1.5e3"] {
        refused(body, "the body is not a JSON object");
    }
}

#[test]
fn the_error_names_a_missing_member() {
    refused("{}", "`messageId` is missing");
    refused(&without("messageId"), "`messageId` is missing");
    refused(&without("timestamp"), "`timestamp` is missing");
    refused(&without("eventType"), "`eventType` is missing");
}

#[test]
fn the_error_names_a_repeated_member() {
    for name in ["messageId", "timestamp", "eventType", "data", "id"] {
        let mut members = GOOD.to_vec();
        members.extend([("id", "1"), (name, "\"again\"")]);
        refused(&envelope(&members), &format!("`{name}` is given twice"));
    }
    // The decoder also finds a repeated member whose name is escaped.
    let mut members = GOOD.to_vec();
    members.push((r"d\u0061ta", "1"));
    refused(&envelope(&members), "`data` is given twice");
}

#[test]
fn unknown_members_are_ignored_even_if_repeated() {
    let mut members = GOOD.to_vec();
    members.extend([
        ("version", "1"),
        ("version", "{\"a\": [null]}"),
        ("", "0"),
        ("DATA", "3"),
        ("messageID", "\"x\""),
    ]);
    assert_eq!(decode(&envelope(&members)).unwrap().id(), "m-1");
}

#[test]
fn message_id_is_a_string_of_1_to_255_bytes() {
    let text = "`messageId` is not a string of 1 to 255 bytes";
    for value in ["1", "null", "true", "[\"m\"]", "{}", "\"\"", "\"\\ud800\""] {
        refused(&with("messageId", value), text);
    }
    let longest = "x".repeat(255);
    assert_eq!(
        decode(&with("messageId", &format!("\"{longest}\"")))
            .unwrap()
            .id(),
        longest
    );
    refused(&with("messageId", &format!("\"{longest}x\"")), text);
    // The limit counts bytes, not characters.
    refused(
        &with("messageId", &format!("\"{}\"", "é".repeat(128))),
        text,
    );
    assert_eq!(
        decode(&with("messageId", "\" any\\ttext é\""))
            .unwrap()
            .id(),
        " any\ttext é"
    );
}

#[test]
fn id_replaces_an_absent_message_id() {
    let body = without("messageId").replacen('{', "{\"id\": \"i-1\", ", 1);
    assert_eq!(decode(&body).unwrap().id(), "i-1");
    let body = without("messageId").replacen('{', "{\"id\": 7, ", 1);
    refused(&body, "`id` is not a string of 1 to 255 bytes");
}

#[test]
fn id_is_ignored_if_there_is_a_message_id() {
    for id in ["\"i-1\"", "7", "null", "{\"a\": 1}"] {
        let body = envelope(&GOOD).replacen('{', &format!("{{\"id\": {id}, "), 1);
        assert_eq!(decode(&body).unwrap().id(), "m-1");
    }
    let body = with("messageId", "null").replacen('{', "{\"id\": \"i-1\", ", 1);
    refused(&body, "`messageId` is not a string of 1 to 255 bytes");
}

#[test]
fn timestamp_is_an_integer() {
    let text = "`timestamp` is not an integer of milliseconds";
    for value in [
        "1.0",
        "1e3",
        "\"1\"",
        "null",
        "[1]",
        "9223372036854775808",
        "-9223372036854775809",
    ] {
        refused(&with("timestamp", value), text);
    }
    for (value, millis) in [
        ("0", 0),
        ("-0", 0),
        ("-1", -1),
        ("9223372036854775807", i64::MAX),
    ] {
        assert_eq!(
            decode(&with("timestamp", value))
                .unwrap()
                .timestamp_millis(),
            millis
        );
    }
}

#[test]
fn timestamp_as_a_system_time_never_panics() {
    let before = decode(&with("timestamp", "-1500")).unwrap();
    assert_eq!(
        before.timestamp(),
        SystemTime::UNIX_EPOCH.checked_sub(Duration::from_millis(1500))
    );
    for extreme in [i64::MIN, i64::MAX] {
        // Whether the result is `None` depends on the operating system.
        let _ = decode(&with("timestamp", &extreme.to_string()))
            .unwrap()
            .timestamp();
    }
}

#[test]
fn event_type_is_a_string_of_1_to_255_bytes() {
    let text = "`eventType` is not a string of 1 to 255 bytes";
    for value in ["1", "null", "\"\"", "[]", "{}"] {
        refused(&with("eventType", value), text);
    }
    refused(
        &with("eventType", &format!("\"{}\"", "x".repeat(256))),
        text,
    );
    for value in [".", "a..b", "*", " ", "a.b.", "é"] {
        assert_eq!(
            decode(&with("eventType", &format!("\"{value}\"")))
                .unwrap()
                .event_type()
                .as_str(),
            value
        );
    }
}

#[test]
fn escapes_are_decoded_in_every_string() {
    let body = r#"{"message\u0049d": "\u006d-1", "time\u0073tamp": 1, "eventT\u0079pe": "account\u002eupdated"}"#;
    let event = decode(body).unwrap();
    assert_eq!(event.id(), "m-1");
    assert_eq!(*event.event_type(), EventType::AccountUpdated);
}

#[test]
fn data_is_any_json_value_and_stays_unchanged() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for value in [
        "null",
        "1e999999",
        "\"\\ud800\"",
        "[ 1,2 ]",
        "{\"a\":1,\"a\":2}",
        "-0.0",
        "\"é\"",
        &deep,
    ] {
        assert_eq!(decode(&with("data", value)).unwrap().raw_data(), value);
    }
}

#[test]
fn absent_data_is_null() {
    let event = decode(&without("data")).unwrap();
    assert_eq!(event.raw_data(), "null");
    event.decode::<()>().unwrap();
}

#[test]
fn data_that_doesnt_fit_the_type_is_an_error_and_never_a_panic() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let error = decode(&with("data", &deep))
        .unwrap()
        .decode::<serde_json::Value>()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Payload);
    let error = decode(&with("data", "\"\\ud800\""))
        .unwrap()
        .decode::<String>()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Payload);
}

#[test]
fn data_can_be_decoded_as_a_type_that_borrows() {
    #[derive(serde::Deserialize)]
    struct Name<'a> {
        name: &'a str,
    }
    let event = decode(&envelope(&GOOD)).unwrap();
    assert_eq!(event.decode::<Name<'_>>().unwrap().name, "ada");
}

#[test]
fn clones_share_the_body() {
    let event = decode(&envelope(&GOOD)).unwrap();
    let clone = event.clone();
    assert_eq!(event.body().as_ptr(), clone.body().as_ptr());
    drop(event);
    assert_eq!(clone.id(), "m-1");
}

#[test]
fn no_error_and_no_debug_output_shows_the_payload() {
    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)] // only printed
    struct Account {
        tokens: std::collections::HashMap<String, u8>,
    }
    let event = decode(&with("data", r#"{"tokens": {"s3cret": "s3cret"}}"#)).unwrap();
    let error = event.decode::<Account>().unwrap_err();
    for text in [
        format!("{error}"),
        format!("{error:?}"),
        format!("{event:?}"),
        format!("{event:#?}"),
    ] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    for body in [
        r#"{"s3cret": "#,
        r#"["s3cret"]"#,
        r#"{"messageId": "s3cret", "timestamp": "s3cret"}"#,
    ] {
        let text = decode(body).unwrap_err();
        assert!(!text.contains("s3cret"), "{text}");
    }
}

fn listed() -> Vec<&'static str> {
    include_str!("event_types.txt").lines().collect()
}

#[test]
fn the_event_types_match_the_specifications_list() {
    let names: Vec<_> = EventType::ALL.iter().map(EventType::as_str).collect();
    assert_eq!(names, listed());
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 91);
}

fn is_documented(event_type: &EventType) -> bool {
    !matches!(event_type, EventType::Undocumented(_))
}

#[test]
fn documented_names_parse_to_their_variants_and_others_are_kept() {
    for (event_type, name) in EventType::ALL.into_iter().zip(listed()) {
        assert!(is_documented(&event_type));
        assert_eq!(EventType::from(name), event_type);
        assert_eq!(name.parse::<EventType>().unwrap(), event_type);
        assert_eq!(event_type.to_string(), name);
        for near in [
            format!("{name}.x"),
            format!("{name} "),
            name[1..].to_owned(),
            name.to_uppercase(),
        ] {
            let near_type = EventType::from(near.as_str());
            assert_eq!(near_type.as_str(), near);
            assert_eq!(is_documented(&near_type), listed().contains(&near.as_str()));
        }
    }
}

#[test]
fn event_types_are_ordered_and_hashed_by_name() {
    let names: BTreeSet<_> = listed()
        .into_iter()
        .chain(["a", "zzz", "account.creates"])
        .collect();
    let types: BTreeSet<EventType> = names.iter().map(|&name| name.into()).collect();
    assert!(types.iter().map(EventType::as_str).eq(names));
    let hashed: HashSet<EventType> = ["x.y", "x.y", "poll.created"].map(EventType::from).into();
    assert_eq!(hashed.len(), 2);
    assert!(hashed.contains("poll.created") && hashed.contains("x.y") && !hashed.contains("x"));
}

#[test]
fn event_types_serialize_as_their_names() {
    for name in ["poll.created", "planet.discovered"] {
        let text = serde_json::to_string(&EventType::from(name)).unwrap();
        assert_eq!(text, format!("\"{name}\""));
        assert_eq!(
            serde_json::from_str::<EventType>(&text).unwrap(),
            EventType::from(name)
        );
        // A deserializer over a reader can't lend strings.
        assert_eq!(
            serde_json::from_reader::<_, EventType>(text.as_bytes()).unwrap(),
            EventType::from(name)
        );
    }
}

#[test]
fn the_platform_is_the_last_segment_that_names_a_platform() {
    for name in listed() {
        let event_type = EventType::from(name);
        let last = name.rsplit('.').next().unwrap();
        let platform = Platform::ALL
            .into_iter()
            .find(|platform| platform.to_string() == last);
        assert_eq!(event_type.platform(), platform, "{name}");
        match platform {
            None => assert_eq!(event_type.without_platform(), event_type),
            Some(platform) => {
                assert_eq!(
                    format!("{}.{platform}", event_type.without_platform()),
                    name
                );
                assert!(is_documented(&event_type.without_platform()));
            }
        }
    }
    assert_eq!(
        EventType::ALL
            .iter()
            .filter(|event_type| event_type.platform().is_some())
            .count(),
        50
    );
    // The functions also split undocumented pairs of event type and platform.
    let zoom = EventType::from("connection.stream.started.zoom");
    assert_eq!(zoom.platform(), Some(Platform::Zoom));
    assert_eq!(zoom.without_platform(), EventType::ConnectionStreamStarted);
    assert_eq!(EventType::from("twitch").platform(), None);
    assert_eq!(EventType::from("account.discord.updated").platform(), None);
}

/// A model for [`Event::from_bytes`] over serde_json's tree of values. Returns the member named by the first
/// broken rule.
fn model(value: &serde_json::Value) -> Result<(), &'static str> {
    let text = |value: &serde_json::Value| {
        value
            .as_str()
            .is_some_and(|text| (1..=255).contains(&text.len()))
    };
    let object = value.as_object().ok_or("object")?;
    let id = object
        .get("messageId")
        .or(object.get("id"))
        .ok_or("messageId")?;
    text(id)
        .then_some(())
        .ok_or(if object.contains_key("messageId") {
            "messageId"
        } else {
            "id"
        })?;
    object
        .get("eventType")
        .filter(|value| text(value))
        .ok_or("eventType")?;
    object
        .get("timestamp")
        .filter(|value| value.as_i64().is_some())
        .ok_or("timestamp")?;
    Ok(())
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        "[a-z]{254,257}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map("[a-z]{0,4}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_envelope_decodes_like_a_tree_of_json_values(
        members in prop::collection::btree_map(
            prop_oneof![
                4 => prop::sample::select(vec!["messageId", "id", "eventType", "timestamp", "data"]).prop_map(str::to_owned),
                1 => ".{0,6}".prop_map(Into::<String>::into),
            ],
            json(),
            0..7,
        ),
        good in any::<bool>(),
    ) {
        let mut object: serde_json::Map<_, _> = members.into_iter().collect();
        if good {
            object.insert("messageId".into(), "m".into());
            object.insert("eventType".into(), "poll.created".into());
            object.insert("timestamp".into(), 5.into());
        }
        let data = object.get("data").cloned().unwrap_or_default();
        let value = serde_json::Value::Object(object);
        let body = value.to_string();
        // Printing and parsing a float may change its last digit.
        let data: serde_json::Value = serde_json::from_str(&data.to_string()).unwrap();
        match (decode(&body), model(&value)) {
            (Ok(event), Ok(())) => {
                prop_assert_eq!(event.decode::<serde_json::Value>().unwrap(), data);
                let again = Event::from_bytes(event.body()).unwrap();
                prop_assert_eq!(again.id(), event.id());
            }
            (Err(text), Err(member)) => prop_assert!(text.contains(&format!("`{member}`")), "{} {}", text, member),
            (decoded, model) => prop_assert!(false, "{:?} {:?} {}", decoded, model, body),
        }
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Event::from_bytes(body);
    }

    #[test]
    fn decoding_a_damaged_body_never_panics(at in 0_usize..100, byte in any::<u8>()) {
        let mut body = envelope(&GOOD).into_bytes();
        if let Some(damaged) = body.get_mut(at) {
            *damaged = byte;
        }
        let _ = Event::from_bytes(body);
    }
}
