//! The way from a name to a documented event type: a binary search over an order that is found at
//! compile time.

use super::event_type::NAMES;

/// How many event types the specification lists.
pub(super) const COUNT: usize = 91;

/// The places of the documented names, in the order of the names.
const SORTED: [u8; COUNT] = sorted();

/// Returns the place of `name` among the documented names.
pub(super) fn find(name: &str) -> Option<usize> {
    let found = SORTED.binary_search_by(|&place| NAMES[usize::from(place)].cmp(name));
    found.ok().map(|i| usize::from(SORTED[i]))
}

/// Sorts by insertion: it runs in the compiler, over 91 names.
const fn sorted() -> [u8; COUNT] {
    let mut order = [0; COUNT];
    let mut len = 0;
    while len < COUNT {
        let mut at = len;
        while at > 0 && less(NAMES[len], NAMES[order[at - 1] as usize]) {
            order[at] = order[at - 1];
            at -= 1;
        }
        order[at] = len as u8;
        len += 1;
    }
    order
}

const fn less(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return a[i] < b[i];
        }
        i += 1;
    }
    a.len() < b.len()
}
