//! Finds a name in a list with a hash table that is built at compile time.

/// The number of slots. A client can't add names, so each search ends after a few slots.
const SLOTS: usize = 256;

/// Marks an empty slot. No name has this index.
const EMPTY: u8 = u8::MAX;

/// The index of a name in each slot. If a name's slot is taken, the name is in the next free slot.
pub(super) type Table = [u8; SLOTS];

/// Returns the index of `name` in `names`. `table` is the table of `names`.
pub(super) fn find(names: &[&str], table: &Table, name: &str) -> Option<usize> {
    let mut slot = hash(name);
    loop {
        let index = usize::from(table[slot]);
        if *names.get(index)? == name {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Returns the table of `names`.
pub(super) const fn table<const N: usize>(names: &[&str; N]) -> Table {
    assert!(N <= SLOTS / 2, "at least half of the slots are empty");
    let mut table = [EMPTY; SLOTS];
    let mut index = 0;
    while index < N {
        let mut slot = hash(names[index]);
        while table[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = index as u8;
        index += 1;
    }
    table
}

/// Returns the slot for a name: a hash of the last 16 bytes, in which almost all documented names differ.
const fn hash(name: &str) -> usize {
    let Some((rest, last)) = name.as_bytes().split_last_chunk() else {
        return name.len();
    };
    let before = match rest.last_chunk() {
        Some(before) => u64::from_le_bytes(*before),
        None => rest.len() as u64,
    };
    let mixed = u64::from_le_bytes(*last) ^ before.rotate_left(29);
    // An odd factor close to 2^64 divided by the golden ratio spreads the bits upwards.
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
}
