//! Any bytes decode according to the rules, and an event's methods return the members of its body.
#![no_main]

use botisimo_webhooks_fuzz::decoding::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| check(body));
