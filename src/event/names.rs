//! Finds a name in a list by binary search. The list is sorted at compile time, by length first,
//! because comparing the lengths is usually enough.

/// Returns the index of `name` in `names`. `sorted` contains the indexes of `names` in sorted
/// order.
pub(super) fn find(names: &[&str], sorted: &[u8], name: &str) -> Option<usize> {
    let found = sorted.binary_search_by(|&place| {
        let other = names[usize::from(place)];
        let by_length = other.len().cmp(&name.len());
        by_length.then_with(|| other.cmp(name))
    });
    found.ok().map(|i| usize::from(sorted[i]))
}

/// Returns the indexes of `names`, sorted by length and then by name.
///
/// Uses insertion sort, because the function runs at compile time.
pub(super) const fn sorted<const N: usize>(names: &[&str; N]) -> [u8; N] {
    assert!(N <= 256, "an index fits in a byte");
    let mut order = [0; N];
    let mut len = 0;
    while len < N {
        let mut at = len;
        while at > 0 && less(names[len], names[order[at - 1] as usize]) {
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
    while a.len() == b.len() && i < a.len() {
        if a[i] != b[i] {
            return a[i] < b[i];
        }
        i += 1;
    }
    a.len() < b.len()
}
