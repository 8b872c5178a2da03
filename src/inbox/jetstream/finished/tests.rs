//! Compares the finished events of a consumer with a set of numbers.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::Finished;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    RaiseFloor(u64),
    /// A merge with the finished events of another worker.
    Merge(Vec<u64>, u64),
    /// Storing and reading a record.
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let sequence = || 1_u64..40;
    prop_oneof![
        6 => sequence().prop_map(Step::Insert),
        1 => sequence().prop_map(Step::RaiseFloor),
        1 => (prop::collection::vec(sequence(), 0..6), 0_u64..20)
            .prop_map(|(finished, floor)| Step::Merge(finished, floor)),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    #[test]
    fn the_finished_events_are_exactly_those_that_were_noted(steps in prop::collection::vec(step(), 0..60)) {
        let (mut finished, mut model) = (Finished::default(), BTreeSet::new());
        finished.insert(1_000, u64::MAX);
        for step in steps {
            match step {
                Step::Insert(sequence) => {
                    finished.insert(sequence, 1);
                    model.insert(sequence);
                }
                Step::RaiseFloor(floor) => {
                    finished.raise_floor(floor);
                    model.extend(1..=floor);
                }
                Step::Merge(sequences, floor) => {
                    let mut other = Finished::default();
                    sequences.iter().for_each(|sequence| other.insert(*sequence, 1));
                    other.raise_floor(floor);
                    finished.merge(other.to_record(usize::MAX));
                    model.extend(sequences);
                    model.extend(1..=floor);
                }
                Step::Restore => {
                    let record = std::mem::take(&mut finished).to_record(usize::MAX);
                    finished.merge(record);
                }
            }
            for sequence in 1..50 {
                prop_assert_eq!(finished.contains(sequence, 1), model.contains(&sequence), "{}", sequence);
            }
            // A consumer that starts after the floor skips no unfinished event.
            prop_assert!((1..=finished.floor()).all(|sequence| model.contains(&sequence)));
        }
    }
}

#[test]
fn an_event_published_later_than_the_newest_finished_one_is_another_event() {
    let mut finished = Finished::default();
    finished.insert(1, 10);
    finished.insert(2, 20);
    assert!(finished.contains(2, 20));
    assert!(!finished.contains(2, 21));
    finished.lower_floor(2);
    assert_eq!(finished.floor(), 1);
}

#[test]
fn a_record_with_too_many_ranges_keeps_the_oldest() {
    let mut finished = Finished::default();
    for sequence in [2, 4, 6] {
        finished.insert(sequence, 1);
    }
    assert_eq!(finished.to_record(3), (1, vec![(0, 0), (2, 2), (4, 4)]));
}
