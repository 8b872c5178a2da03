//! The events of a scenario, made from a seed.

use std::time::Duration;

use botisimo_webhooks::EventType;
use serde_json::{Map, Value};

use super::scenario::{Rule, Scenario};
use crate::samples::sample;

/// An event that the sender makes.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// The number that identifies the event in the transcript.
    pub(super) number: usize,
    pub(super) event_type: String,
    pub(super) data: Value,
    /// The virtual time at which the event happens.
    pub(super) made_at: Duration,
    /// The virtual times of its first delivery and of its copies.
    pub(super) sent_at: Vec<Duration>,
}

/// Returns all events in the order in which they happen.
pub(super) fn plan(scenario: &Scenario, random: &mut fastrand::Rng) -> Vec<Planned> {
    let mut events = Vec::new();
    for rule in &scenario.events {
        for (index, time) in times(rule, scenario, random).into_iter().enumerate() {
            for copy in 0..rule.times {
                let number = index * rule.times + copy + 1;
                add(&mut events, rule, time, number, scenario, random);
            }
        }
    }
    // The sort is stable, so events of one time keep the order of the scenario.
    events.sort_by_key(|event| event.made_at);
    for (index, event) in events.iter_mut().enumerate() {
        event.number = index + 1;
    }
    events
}

fn times(rule: &Rule, scenario: &Scenario, random: &mut fastrand::Rng) -> Vec<Duration> {
    let mut times: Vec<_> = rule.at.iter().map(|time| time.0).collect();
    if let Some(every) = rule.every {
        let mut time = rule.from.0;
        while time < scenario.lasts.0 {
            times.push(time);
            time += every.0;
        }
    }
    for time in &mut times {
        *time += up_to(rule.jitter.0, random);
    }
    times
}

/// Adds an event and its siblings.
fn add(
    events: &mut Vec<Planned>,
    rule: &Rule,
    made_at: Duration,
    number: usize,
    scenario: &Scenario,
    random: &mut fastrand::Rng,
) {
    let mut data = match sample(&EventType::from(rule.event_type.as_str())) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, value) in &rule.data {
        data.insert(name.clone(), numbered(value, number));
    }
    let types = std::iter::once(&rule.event_type).chain(&rule.siblings);
    for (sibling, event_type) in types.enumerate() {
        let sibling = u32::try_from(sibling).unwrap_or(u32::MAX);
        let made_at = made_at + rule.sibling_delay.0 * sibling;
        let mut sent_at = made_at;
        if random.f64() < scenario.network.delayed {
            sent_at += up_to(scenario.network.delay.0, random);
        }
        let copies = (0..=rule.copies)
            .map(|copy| sent_at + rule.copy_delay.0 * u32::try_from(copy).unwrap_or(u32::MAX));
        events.push(Planned {
            number: 0,
            event_type: event_type.clone(),
            data: Value::Object(data.clone()),
            made_at,
            sent_at: copies.collect(),
        });
    }
}

/// Replaces `{n}` in all strings.
fn numbered(value: &Value, number: usize) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("{n}", &number.to_string())),
        Value::Array(items) => items.iter().map(|item| numbered(item, number)).collect(),
        Value::Object(members) => {
            let members = members.iter();
            members
                .map(|(name, value)| (name.clone(), numbered(value, number)))
                .collect()
        }
        other => other.clone(),
    }
}

pub(super) fn up_to(limit: Duration, random: &mut fastrand::Rng) -> Duration {
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.u64(0..=millis))
}
