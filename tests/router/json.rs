//! JSON: the decoder gives the same result as serde_json for each body, valid or not.

use botisimo_webhooks::{ErrorKind, Event};
use proptest::prelude::*;

use crate::support::envelope;

/// Decodes a body, and compares the result with serde_json's result.
#[track_caller]
fn decode(body: &[u8]) -> Result<Event, &'static str> {
    match (envelope::read(body), Event::from_bytes(body)) {
        (Ok(expected), Ok(event)) => {
            assert_eq!(event.id(), expected.id);
            assert_eq!(event.event_type().as_str(), expected.event_type);
            assert_eq!(event.timestamp_millis(), expected.timestamp);
            assert_eq!(event.raw_data(), expected.data);
            Ok(event)
        }
        (Err(expected), Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Envelope);
            assert_eq!(error.to_string(), expected);
            Err(expected)
        }
        (expected, result) => panic!("{expected:?} {result:?} {}", body.escape_ascii()),
    }
}

/// Returns an envelope with this data, which may not be JSON.
fn with_data(data: &[u8]) -> Vec<u8> {
    let start = br#"{"messageId":"m","timestamp":1,"eventType":"a.b","data":"#;
    [start, data, b"}"].concat()
}

/// Returns the cases of JSONTestSuite. The name of a valid case starts with `y`, and the name of an invalid case starts with `n`.
fn json_test_suite() -> Vec<(&'static str, Vec<u8>)> {
    let lines = include_str!("json_test_suite.cases").lines();
    let mut cases: Vec<_> = lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, text) = line.split_once(' ').unwrap_or((line, ""));
            let (first, escaped) = text.split_once("\\x").unwrap_or((text, ""));
            let mut bytes = first.as_bytes().to_vec();
            for part in escaped.split("\\x").filter(|part| !part.is_empty()) {
                let (digits, rest) = part.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                bytes.extend_from_slice(rest.as_bytes());
            }
            (name, bytes)
        })
        .collect();
    cases.push(("n_structure_100000_opening_arrays", b"[".repeat(100_000)));
    cases.push(("n_structure_open_array_object", b"[{\"\":".repeat(50_000)));
    cases
}

#[test]
fn the_cases_of_json_test_suite_decode_like_with_serde_json() {
    let cases = json_test_suite();
    assert_eq!(cases.len(), 318);
    for (name, json) in cases {
        let is_json = match decode(&with_data(&json)) {
            Ok(event) => {
                assert_eq!(event.raw_data().as_bytes(), json.trim_ascii(), "{name}");
                true
            }
            Err(error) => {
                assert_eq!(error, "the body is not JSON", "{name}");
                false
            }
        };
        match name.as_bytes()[0] {
            b'y' => assert!(is_json, "{name}"),
            b'n' => assert!(!is_json, "{name}"),
            _ => {}
        }
        // No case is an envelope.
        let error = decode(&json).unwrap_err();
        assert!(
            name.starts_with('i') || (error == "the body is not JSON") != is_json,
            "{name} {error}"
        );
    }
}

#[test]
fn each_prefix_of_a_body_decodes_like_with_serde_json() {
    let data = r#"{"text é": "\u00e9\\\"", "numbers": [0, -1.5e+10, 12345678901234567890], "more": [true, false, null, {}, []]}"#;
    let body = with_data(data.as_bytes());
    for end in 0..body.len() {
        assert!(decode(&body[..end]).is_err());
        assert!(decode(&body[end..]).is_err() || end == 0);
    }
    decode(&body).unwrap();
}

#[test]
fn strings_and_numbers_of_each_length_decode_like_with_serde_json() {
    // The decoder reads eight bytes at a time.
    for length in 0..40 {
        let (text, digits) = ("x".repeat(length), "7".repeat(length));
        for end in [
            "\"",
            "\\\"\"",
            "\\u00e9\"",
            "\n\"",
            "\u{7f}\"",
            "é\"",
            "\\x\"",
            "",
        ] {
            let _ = decode(&with_data(format!("\"{text}{end}").as_bytes()));
            let _ = decode(format!("\"{text}{end}").as_bytes());
        }
        for end in [
            "", "0", ".", ".0", "e", "e5", "E+5", "-", ":", "/", " ", "é",
        ] {
            let _ = decode(&with_data(format!("-{digits}{end}").as_bytes()));
            let _ = decode(&with_data(format!("{digits}{end}").as_bytes()));
            let _ = decode(format!("{digits}{end}").as_bytes());
        }
    }
}

#[test]
fn each_escape_in_an_id_and_in_a_name_decodes_like_with_serde_json() {
    let escapes = [
        "\\\"",
        "\\\\",
        "\\/",
        "\\b",
        "\\f",
        "\\n",
        "\\r",
        "\\t",
        "\\u0000",
        "\\u0041",
        "\\u00E9",
        "\\u20aC",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\ude00",
        "\\ude00\\ud83d",
        "\\ud83d\\n",
        "\\ud83d\\\\ude00",
        "\\ud83d x",
        "\\ud83d\\u0041",
        "\\ud83du",
        "\\",
        "\\u",
        "\\u12",
        "\\u00g0",
        "\\u+123",
        "\\x",
        "\\U0041",
        "\\\\u0041",
        "\\\n",
        "\\é",
    ];
    for escape in escapes {
        for text in [
            escape.to_owned(),
            format!("a{escape}"),
            format!("{escape}é"),
            format!("{escape}{escape}"),
        ] {
            for member in ["messageId", "id"] {
                let _ = decode(
                    format!(r#"{{"{member}":"{text}","timestamp":1,"eventType":"a"}}"#).as_bytes(),
                );
            }
            let _ = decode(
                format!(r#"{{"messageId":"m","timestamp":1,"eventType":"{text}"}}"#).as_bytes(),
            );
            let _ = decode(
                format!(r#"{{"{text}":1,"messageId":"m","timestamp":1,"eventType":"a"}}"#)
                    .as_bytes(),
            );
        }
    }
    for name in [
        "\\u006dessageId",
        "message\\u0049\\u0064",
        "messageId\\u0000",
        "\\u0022messageId",
    ] {
        let _ = decode(format!(r#"{{"{name}":"m","timestamp":1,"eventType":"a"}}"#).as_bytes());
        let _ = decode(
            format!(r#"{{"{name}":"m","messageId":"m","timestamp":1,"eventType":"a"}}"#).as_bytes(),
        );
    }
}

#[test]
fn each_byte_in_a_string_a_number_and_between_decodes_like_with_serde_json() {
    for byte in 0..=u8::MAX {
        for at in 0..12 {
            for data in ["\"stringstring\"", "[1234567890123]", "[ 1 , {} , true ]"] {
                let mut data = data.as_bytes().to_vec();
                data[at] = byte;
                let _ = decode(&with_data(&data));
                let _ = decode(&data);
            }
        }
    }
}

#[test]
fn brackets_of_each_depth_decode_like_with_serde_json() {
    for depth in [1, 2, 62, 63, 64, 65, 66, 127, 128, 129, 130, 10_000] {
        for (open, close) in [
            ("[", "]"),
            ("{\"a\":", "}"),
            ("[{\"a\":", "}]"),
            ("[[{\"a\":[", "]}]]"),
        ] {
            let (open, close) = (open.repeat(depth), close.repeat(depth));
            for end in ["", "]", "}", ",1"] {
                let data = format!("{open}1{close}{end}");
                assert_eq!(decode(&with_data(data.as_bytes())).is_ok(), end.is_empty());
            }
            let short = &close[..close.len() - 1];
            assert!(decode(&with_data(format!("{open}1{short}").as_bytes())).is_err());
        }
        // The bracket that closes at each depth has the kind of the bracket that opened there.
        for wrong in 0..depth.min(200) {
            let mut data = format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
            data[depth + 1 + wrong] = b'}';
            assert!(decode(&with_data(&data)).is_err());
        }
    }
}

/// Returns pieces of JSON in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        " ",
        "\n",
        "\t",
        "0",
        "-",
        "1",
        ".",
        "e",
        "E",
        "+",
        "true",
        "null",
        "false",
        "\"a\":",
        "\"messageId\":",
        "\"id\":",
        "\"m\"",
        "\"eventType\":",
        "\"timestamp\":",
        "\"data\":",
        "17",
        "\\u00e9",
        "\\ud800",
        "\\udc00",
        "é",
        "\u{1}",
        "\u{7f}",
        "\u{feff}",
        "{}",
        "[]",
        "\"text of a string\"",
        "12345678",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_pieces_of_json_decode_like_with_serde_json(pieces in pieces()) {
        let _ = decode(pieces.as_bytes());
        let _ = decode(format!("{{{pieces}}}").as_bytes());
        let _ = decode(&with_data(pieces.as_bytes()));
    }

    #[test]
    fn a_damaged_body_decodes_like_with_serde_json(
        at in any::<prop::sample::Index>(),
        bytes in prop_oneof![pieces().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..4)],
        removed in 0_usize..4,
    ) {
        let mut body = with_data(br#"{"a": [1, -2.5e3, true, {"b": "\u00e9 text"}], "c": null}"#);
        let at = at.index(body.len());
        body.splice(at..(at + removed).min(body.len()), bytes);
        let _ = decode(&body);
    }
}
