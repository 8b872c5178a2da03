use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Ages, WIDTH};

#[derive(Clone, Debug)]
enum Step {
    Push,
    /// Removes the nth event in flight.
    Remove(usize),
    /// Inserts an event with an old number.
    Insert(u64),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Push),
        3 => any::<usize>().prop_map(Step::Remove),
        1 => any::<u64>().prop_map(Step::Insert),
        2 => (0..4 * WIDTH).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..800)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The reported age is never below the age of the oldest event. Without replays and merged groups, the reported age
    /// exceeds this age by at most the width of one group.
    #[test]
    fn the_oldest_event_is_at_most_as_old_as_reported(steps in steps()) {
        let (mut ages, mut events, mut now, mut last) = (Ages::default(), BTreeMap::new(), 1, 0);
        let mut is_exact = true;
        for step in steps {
            match step {
                Step::Push => {
                    last += 1;
                    ages.push(last, now);
                    events.insert(last, now);
                }
                Step::Remove(n) => {
                    let number = events.keys().nth(n % events.len().max(1)).copied();
                    if let Some(number) = number {
                        ages.remove(number);
                        events.remove(&number);
                    }
                }
                Step::Insert(n) => {
                    let number = n % last.max(1) + 1;
                    if number <= last && !events.contains_key(&number) {
                        ages.insert(number, now);
                        events.insert(number, now);
                        is_exact = false;
                    }
                }
                Step::Wait(time) => now += time,
            }
            is_exact &= ages.groups.len() < super::MAX_GROUPS;
            prop_assert!(ages.groups.len() <= super::MAX_GROUPS);
            let oldest = events.values().min().copied();
            let reported = ages.oldest();
            prop_assert_eq!(reported.is_some(), oldest.is_some());
            if let (Some(oldest), Some(reported)) = (oldest, reported) {
                prop_assert!(reported <= oldest);
                prop_assert!(!is_exact || oldest - reported < WIDTH);
            }
        }
    }
}
