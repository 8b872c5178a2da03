//! Scenarios: TOML files, and the built-in ones.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// The name and the text of each built-in scenario.
pub(super) const BUILT_IN: [(&str, &str); 5] = [
    ("week", include_str!("scenarios/week.toml")),
    ("outage", include_str!("scenarios/outage.toml")),
    ("burst", include_str!("scenarios/burst.toml")),
    ("flapping", include_str!("scenarios/flapping.toml")),
    ("duplicates", include_str!("scenarios/duplicates.toml")),
];

/// The maximum number of events of a scenario.
const MAX_EVENTS: u64 = 100_000;

/// The maximum of every time. Sums of longer times could overflow.
const MAX_TIME: Duration = Duration::from_secs(3650 * 86400);

/// A duration such as `1d 2h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(pub(super) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_duration(&text);
        let time = time.map_err(|error| {
            serde::de::Error::custom(format!(
                "{text:?} is not a duration such as \"1d 2h\": {error}"
            ))
        })?;
        match time > MAX_TIME {
            true => Err(serde::de::Error::custom(format!(
                "{text:?} is longer than 3650 days"
            ))),
            false => Ok(Self(time)),
        }
    }
}

const fn seconds(seconds: u64) -> Time {
    Time(Duration::from_secs(seconds))
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) description: String,
    /// The time in which events happen. Retries may take longer.
    pub(super) lasts: Time,
    /// The maximum number of concurrent requests.
    #[serde(default = "one")]
    pub(super) concurrency: usize,
    #[serde(default)]
    pub(super) sender: Sender,
    #[serde(default)]
    pub(super) network: Network,
    #[serde(default)]
    pub(super) outages: Vec<Outage>,
    /// The times at which the command waits until the endpoint was restarted.
    #[serde(default)]
    pub(super) restarts: Vec<Time>,
    pub(super) events: Vec<Rule>,
}

fn one() -> usize {
    1
}

/// The model of the sender.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sender {
    /// The real time within which an answer is quick. The specification says only "quickly".
    pub(super) quick: Time,
    /// The specification: without a quick 2xx, the event is marked as failed and isn't sent again.
    pub(super) timeout: Reaction,
    /// The specification doesn't mention connections that fail. Without a quick 2xx, the event isn't sent again.
    pub(super) unreachable: Reaction,
    /// The delay of the first retry after 3xx, 4xx or 5xx. This value and the next three are assumptions.
    pub(super) first_retry: Time,
    /// Each further delay is longer by this factor.
    pub(super) factor: f64,
    pub(super) max_retry: Time,
    /// The age at which the sender stops retrying an event.
    pub(super) retry_for: Time,
    /// The time without a success after which the sender sends an e-mail. The specification: "multiple days".
    pub(super) email_after: Time,
    /// The time without a success after which the endpoint is disabled. The specification: "soon after".
    pub(super) disable_after: Time,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            quick: seconds(3),
            timeout: Reaction::Drop,
            unreachable: Reaction::Drop,
            first_retry: seconds(60),
            factor: 3.0,
            max_retry: seconds(6 * 3600),
            retry_for: seconds(3 * 86400),
            email_after: seconds(3 * 86400),
            disable_after: seconds(4 * 86400),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reaction {
    /// The sender drops the event.
    Drop,
    /// The sender retries the event.
    Retry,
}

/// The faults between the sender and the endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Network {
    /// The share of events that are delayed, from 0 to 1, so that later events overtake them.
    pub(super) delayed: f64,
    /// The maximum delay of such an event.
    pub(super) delay: Time,
    /// The share of accepted events that the sender repeats with the same message id, as if the answer was lost.
    pub(super) repeated: f64,
}

/// A time in which requests don't reach the endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outage {
    pub(super) from: Time,
    pub(super) lasts: Time,
    pub(super) answer: OutageAnswer,
}

/// The answer that the sender gets during an outage.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(super) enum OutageAnswer {
    /// The answer of a proxy.
    Status(u16),
    Nothing(Nothing),
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Nothing {
    Unreachable,
    Timeout,
}

/// A rule that makes events.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(rename = "type")]
    pub(super) event_type: String,
    /// The times of the events.
    #[serde(default)]
    pub(super) at: Vec<Time>,
    /// The time between two events, instead of `at`.
    pub(super) every: Option<Time>,
    /// The time of the first event, with `every`.
    #[serde(default)]
    pub(super) from: Time,
    /// The maximum random delay of each event.
    #[serde(default)]
    pub(super) jitter: Time,
    /// The number of events at each time.
    #[serde(default = "one")]
    pub(super) times: usize,
    /// The number of copies with the same message id.
    #[serde(default)]
    pub(super) copies: usize,
    #[serde(default)]
    pub(super) copy_delay: Time,
    /// The event types that are sent together with the event. Each of these events has its own message id and the same data.
    #[serde(default)]
    pub(super) siblings: Vec<String>,
    #[serde(default)]
    pub(super) sibling_delay: Time,
    /// Members that the rule sets in the sample's data. Members with other names stay. `{n}` is the number of the event.
    #[serde(default)]
    pub(super) data: Map<String, Value>,
}

impl Scenario {
    /// Reads a built-in scenario or a file.
    pub(super) fn load(name: &str) -> Result<Self, Failure> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let is_file = name.ends_with(".toml") || Path::new(name).exists();
        if !is_file {
            let names = BUILT_IN.map(|(name, _)| name).join(", ");
            return Err(Failure::usage(format_args!(
                "no built-in scenario is named {name}: use one of {names}, or the path of a TOML file"
            )));
        }
        let text = fs::read_to_string(name)
            .map_err(|error| Failure::usage(format_args!("can't read {name}: {error}")))?;
        Self::parse(name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            Failure::usage(format_args!("the scenario {name} isn't valid: {error}"))
        })?;
        let checked = scenario.check();
        checked.map_err(|error| {
            Failure::usage(format_args!("the scenario {name} isn't valid: {error}"))
        })?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let sender = &self.sender;
        if !(1..=1024).contains(&self.concurrency) {
            return Err("`concurrency` is not from 1 to 1024".to_owned());
        }
        if !sender.factor.is_finite() || sender.factor < 1.0 {
            return Err("`sender.factor` is less than 1".to_owned());
        }
        if sender.first_retry.0.is_zero() {
            return Err("`sender.first_retry` is 0".to_owned());
        }
        for (name, share) in [
            ("delayed", self.network.delayed),
            ("repeated", self.network.repeated),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("`network.{name}` is not from 0 to 1"));
            }
        }
        for outage in &self.outages {
            if let OutageAnswer::Status(status) = outage.answer
                && !(300..=599).contains(&status)
            {
                return Err(format!(
                    "the answer {status} of an outage is not from 300 to 599"
                ));
            }
        }
        let mut events = 0;
        for rule in &self.events {
            if rule.at.is_empty() == rule.every.is_none() {
                return Err(format!(
                    "the events {} need either `at` or `every`",
                    rule.event_type
                ));
            }
            if rule.every.is_some_and(|every| every.0.is_zero()) {
                return Err(format!("`every` of {} is 0", rule.event_type));
            }
            let times = rule.every.map_or(rule.at.len() as u128, |every| {
                let span = self.lasts.0.saturating_sub(rule.from.0);
                span.as_nanos() / every.0.as_nanos() + 1
            });
            let each = (rule.times as u128).saturating_mul(1 + rule.siblings.len() as u128);
            let copied = each.saturating_mul(1 + rule.copies as u128);
            events += u64::try_from(times.saturating_mul(copied))
                .unwrap_or(u64::MAX)
                .min(MAX_EVENTS + 1);
            if events > MAX_EVENTS {
                return Err(format!("it makes more than {MAX_EVENTS} events"));
            }
        }
        match events {
            0 => Err("it makes no event".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Scenario::parse("mine.toml", text)
            .expect_err("not valid")
            .to_string()
    }

    #[test]
    fn the_built_in_scenarios_are_valid() {
        for (name, _) in BUILT_IN {
            Scenario::load(name).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        }
    }

    #[test]
    fn an_error_names_the_line_and_what_is_wrong() {
        let head = "description = \"x\"\nlasts = \"1h\"\n";
        let event = "[[events]]\ntype = \"a.b\"\nat = [\"0s\"]\n";
        let cases = [
            (format!("{head}duration = \"1h\"\n{event}"), "line 3"),
            (format!("description = \"x\"\nlasts = 7\n{event}"), "line 2"),
            (
                format!("description = \"x\"\nlasts = \"long\"\n{event}"),
                "is not a duration such as",
            ),
            (
                format!("{head}[[events]]\ntype = \"a.b\"\nat = [\"1000y\"]\n"),
                "longer than 3650 days",
            ),
            (head.to_owned(), "missing field `events`"),
            (
                format!("{head}[[events]]\ntype = \"a.b\"\n"),
                "either `at` or `every`",
            ),
            (
                format!("{head}[[events]]\ntype = \"a.b\"\nevery = \"0s\"\n"),
                "`every` of a.b is 0",
            ),
            (
                format!("{head}[[events]]\ntype = \"a.b\"\nevery = \"1ns\"\n"),
                "more than 100000",
            ),
            (
                format!("{head}{event}times = 99999999999\n"),
                "more than 100000",
            ),
            (format!("{head}concurrency = 0\n{event}"), "concurrency"),
            (
                format!("{head}[network]\ndelayed = 2.0\n{event}"),
                "network.delayed",
            ),
            (
                format!("{head}[sender]\ntimeout = \"maybe\"\n{event}"),
                "`drop` or `retry`",
            ),
            (
                format!("{head}[[outages]]\nfrom = \"1h\"\nlasts = \"1h\"\nanswer = 200\n{event}"),
                "the answer 200",
            ),
        ];
        for (text, expected) in cases {
            let error = error(&text);
            assert!(
                error.contains(expected) && error.contains("mine.toml"),
                "{expected}: {error}"
            );
        }
    }
}
