use botisimo_webhooks::{ErrorKind, Event, EventType};
use serde::Deserialize;

use crate::envelope;

/// Returns whether a body is a valid envelope.
pub fn is_envelope(body: &[u8]) -> bool {
    envelope::read(body).is_ok()
}

/// Decodes a body, and compares the result with serde_json's result, and the event's methods with the rules.
pub fn check(body: &[u8]) {
    let event = match (envelope::read(body), Event::from_bytes(body)) {
        (Ok(model), Ok(event)) => {
            assert_eq!(event.id(), model.id);
            assert_eq!(event.event_type().as_str(), model.event_type);
            assert_eq!(event.timestamp_millis(), model.timestamp);
            assert_eq!(event.raw_data(), model.data);
            event
        }
        (Err(text), Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Envelope);
            assert_eq!(error.to_string(), text);
            return;
        }
        (model, event) => panic!("expected {model:?}, got {event:?}"),
    };
    assert_eq!(event.body().as_bytes(), body);
    assert_eq!(event.attempt(), 1);
    let _ = event.timestamp();
    let documented = EventType::ALL.contains(event.event_type());
    assert_eq!(
        !matches!(event.event_type(), EventType::Undocumented(_)),
        documented
    );
    if let Some(platform) = event.event_type().platform() {
        let base = event.event_type().without_platform();
        assert_eq!(format!("{base}.{platform}"), event.event_type().as_str());
    }
    decode::<serde_json::Value>(&event);
    decode::<Vec<u8>>(&event);
    decode::<Payload<'_>>(&event);
    let again = Event::from_bytes(event.body()).expect("an event's body decodes again");
    assert_eq!(
        (again.id(), again.raw_data()),
        (event.id(), event.raw_data())
    );
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)] // decoded and dropped
struct Payload<'a> {
    title: &'a str,
    #[serde(default)]
    viewers: Option<u32>,
    #[serde(default)]
    tags: Vec<String>,
}

/// Decodes the data and compares the result with serde_json's result.
fn decode<'a, T: Deserialize<'a>>(event: &'a Event) {
    let expected = serde_json::from_str::<T>(event.raw_data());
    match event.decode::<T>() {
        Ok(_) => assert!(expected.is_ok()),
        Err(error) => {
            assert!(expected.is_err());
            assert_eq!(error.kind(), ErrorKind::Payload);
        }
    }
}
