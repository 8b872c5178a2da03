//! Any members decode according to the rules: repeated, long or deep members, in any order.
#![no_main]

use arbitrary::Arbitrary;
use botisimo_webhooks::EventType;
use botisimo_webhooks_fuzz::decoding::check;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    MessageId,
    Id,
    EventType,
    Timestamp,
    Data,
    Written(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Text(&'a str),
    Long(u8),
    Documented(u8),
    Integer(i64),
    Number(f64),
    Deep(u16),
    Written(&'a str),
}

fuzz_target!(|members: Vec<(Name<'_>, Value<'_>)>| check(written(&members).as_bytes()));

fn written(members: &[(Name<'_>, Value<'_>)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| {
            let name = match name {
                Name::MessageId => "messageId",
                Name::Id => "id",
                Name::EventType => "eventType",
                Name::Timestamp => "timestamp",
                Name::Data => "data",
                Name::Written(name) => name,
            };
            let value = match value {
                Value::Text(text) => format!("\"{text}\""),
                Value::Long(more) => format!("\"{}\"", "x".repeat(200 + usize::from(*more))),
                Value::Documented(place) => {
                    let all = EventType::ALL;
                    format!("\"{}\"", all[usize::from(*place) % all.len()])
                }
                Value::Integer(number) => number.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Deep(depth) => {
                    let depth = usize::from(*depth);
                    "[".repeat(depth) + &"]".repeat(depth)
                }
                Value::Written(value) => (*value).to_owned(),
            };
            format!("\"{name}\":{value}")
        })
        .collect();
    format!("{{{}}}", members.join(","))
}
