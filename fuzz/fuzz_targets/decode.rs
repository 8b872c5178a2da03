//! What any bytes decode to is what the rules say, and what an event tells is what stands in its body.
#![no_main]

use botisimo_webhooks_fuzz::decoding::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| check(body));
