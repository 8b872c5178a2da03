use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::output::duration;

/// The times that an endpoint needed for its answers.
pub(crate) struct Latencies(Histogram<u64>);

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];
const BAR: u64 = 40;

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3);
        Self(histogram.expect("the bounds are valid"))
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// Returns `p50 1.23 ms, p90 …`.
    pub(crate) fn summary(&self) -> String {
        let quantiles =
            QUANTILES.map(|(name, at)| format!("{name} {}", duration(self.quantile(at))));
        quantiles.join(", ")
    }

    pub(crate) fn json(&self) -> Value {
        let quantiles = QUANTILES.map(|(name, at)| {
            let millis = self.quantile(at).as_secs_f64() * 1e3;
            (format!("{name}_ms"), json!(millis))
        });
        Value::Object(quantiles.into_iter().collect())
    }

    /// Returns a bar for each doubling of the time.
    pub(crate) fn chart(&self) -> Vec<String> {
        let buckets: Vec<(u64, u64)> = self
            .0
            .iter_log(1, 2.0)
            .map(|bucket| {
                let count = bucket.count_since_last_iteration();
                (bucket.value_iterated_to() + 1, count)
            })
            .collect();
        let first = buckets.iter().position(|(_, count)| *count > 0);
        let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let Some(first) = first else {
            return Vec::new();
        };
        buckets[first..]
            .iter()
            .map(|(below, count)| {
                let bar = "█".repeat(usize::try_from(count * BAR / most).unwrap_or(0));
                let below = duration(Duration::from_micros(*below));
                format!("  < {below:>8} {count:>8} {bar}")
                    .trim_end()
                    .to_owned()
            })
            .collect()
    }
}
