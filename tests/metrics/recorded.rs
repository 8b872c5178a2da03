//! A recorder for tests, and the comparison of its counts with `Stats`.
#![allow(dead_code)] // each binary uses some of it

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use botisimo_webhooks::Stats;
use metrics::{LocalRecorderGuard, Unit};
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// A name and its labels: `requests_total{reason=full}`, without the prefix of all names.
pub(crate) type Series = String;

/// Reads the counts of a recorder. Clones share the counts.
#[derive(Clone)]
pub(crate) struct Recorded {
    snapshotter: Snapshotter,
    /// A snapshot resets the recorder, so the counts are added up here.
    sums: Arc<Mutex<BTreeMap<Series, f64>>>,
}

/// A metric as a recorder sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) labels: Vec<String>,
    pub(crate) unit: String,
}

const PREFIX: &str = "botisimo_webhooks_";

impl Recorded {
    pub(crate) fn of(recorder: &DebuggingRecorder) -> Self {
        Self {
            snapshotter: recorder.snapshotter(),
            sums: Arc::default(),
        }
    }

    /// Installs a recorder on this thread until the guard is dropped.
    pub(crate) fn on_this_thread() -> (Self, LocalRecorderGuard<'static>) {
        let recorder: &'static DebuggingRecorder = Box::leak(Box::new(DebuggingRecorder::new()));
        let recorded = Self::of(recorder);
        (recorded, metrics::set_default_local_recorder(recorder))
    }

    /// Starts to count from zero.
    pub(crate) fn restart(&self) {
        self.series();
        self.sums.lock().unwrap().clear();
    }

    /// Returns each series with its count, its last value, or its number of observations.
    pub(crate) fn series(&self) -> BTreeMap<Series, f64> {
        let mut sums = self.sums.lock().unwrap();
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let (_, key) = key.into_parts();
            let name = key.name().strip_prefix(PREFIX).unwrap();
            let labels = key
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()));
            let labels: Vec<_> = labels.collect();
            let sum = sums
                .entry(format!("{name}{{{}}}", labels.join(",")))
                .or_default();
            match value {
                DebugValue::Counter(count) => *sum += count as f64,
                DebugValue::Gauge(value) => *sum = *value,
                DebugValue::Histogram(values) => *sum += values.len() as f64,
            }
        }
        sums.clone()
    }

    /// Returns the metrics that were recorded. The counts since the last call are lost.
    pub(crate) fn described(&self) -> std::collections::BTreeSet<Described> {
        let series = self.snapshotter.snapshot().into_vec();
        let described = series.into_iter().map(|(key, unit, description, _)| {
            assert!(description.is_some(), "{key:?} isn't described");
            let (kind, key) = key.into_parts();
            Described {
                name: key.name().to_owned(),
                kind: match kind {
                    MetricKind::Counter => "counter",
                    MetricKind::Gauge => "gauge",
                    MetricKind::Histogram => "histogram",
                }
                .to_owned(),
                labels: key.labels().map(|label| label.key().to_owned()).collect(),
                unit: match unit {
                    Some(Unit::Seconds) => "seconds",
                    Some(Unit::Bytes) => "bytes",
                    Some(Unit::Count) => "count",
                    None => "none",
                    Some(other) => panic!("{other:?}"),
                }
                .to_owned(),
            }
        });
        described.collect()
    }

    /// Asserts that each count of the stats is the sum of its series.
    #[track_caller]
    pub(crate) fn assert_equals(&self, stats: &Stats) {
        let series = self.series();
        let sum = |names: &[&str]| -> u64 {
            let named = series
                .iter()
                .filter(|(series, _)| names.iter().any(|name| matches(series, name)));
            named.map(|(_, count)| *count as u64).sum()
        };
        for (count, stat) in [
            (sum(&["received_total{result=accepted}"]), stats.accepted),
            (sum(&["received_total{result=duplicate}"]), stats.duplicates),
            (sum(&["received_total{result=refused}"]), stats.refused),
            (sum(&["recovered_total{}"]), stats.recovered),
            (sum(&["replayed_total{}"]), stats.replayed),
            (sum(&["events_total{outcome=handled}"]), stats.handled),
            (sum(&["events_total{outcome=unhandled}"]), stats.unhandled),
            (sum(&["events_total{outcome=dead}"]), stats.dead),
            (sum(&["events_total{outcome=published}"]), stats.published),
            (sum(&["retries_total{}"]), stats.retried),
            (sum(&["skipped_total{reason=stale}"]), stats.skipped),
            (
                sum(&["dead_letters_dropped_total{}"]),
                stats.dead_letters_dropped,
            ),
            (sum(&["requests_total{reason=malformed}"]), stats.malformed),
            (
                sum(&["requests_total{reason=unverified}"]),
                stats.unverified,
            ),
            (
                sum(&["requests_total{reason=busy}", "requests_total{reason=slow}"]),
                stats.overloaded,
            ),
            (
                sum(&[
                    "requests_total{reason=not_post}",
                    "requests_total{reason=content_type}",
                    "requests_total{reason=content_encoding}",
                    "requests_total{reason=too_large}",
                    "requests_total{reason=unreadable}",
                    "requests_total{reason=incomplete}",
                    "requests_total{reason=unmatched}",
                    "requests_total{reason=panicked}",
                ]),
                stats.rejected,
            ),
        ] {
            assert_eq!(count, stat, "{stats:#?}\n{series:#?}");
        }
    }
}

/// Returns whether a series has this name and this label, whatever its other labels are.
fn matches(series: &str, name: &str) -> bool {
    let split = |series: &str| {
        let (name, labels) = series.split_once('{').unwrap();
        let labels = labels.strip_suffix('}').unwrap();
        (name.to_owned(), labels.to_owned())
    };
    let ((name, label), (series, labels)) = (split(name), split(series));
    name == series && (label.is_empty() || labels.split(',').any(|other| other == label))
}
