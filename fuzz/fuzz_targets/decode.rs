//! Any bytes decode as with serde_json, as a body and as data, and an event's methods return the members of its body.
#![no_main]

use botisimo_webhooks_fuzz::decoding::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let start = br#"{"messageId":"m","timestamp":1,"eventType":"a.b","data":"#;
    check(&[start, bytes, b"}"].concat());
});
