//! Any bytes decode as the rules say, and the methods of an event return the members of its body.
#![no_main]

use botisimo_webhooks_fuzz::decoding::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| check(body));
