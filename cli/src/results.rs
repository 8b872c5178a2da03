//! The results of many requests, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::http::{Answer, SendError};
use crate::latency::Latencies;
use crate::output::{Output, duration, table};

/// The maximum number of rows of answers. Some endpoints answer each event with another text.
const MAX_TEXTS: usize = 20;

#[derive(Default)]
pub(crate) struct Results {
    /// The number of answers by status and text.
    answers: BTreeMap<(u16, String), u64>,
    /// The number of requests without an answer, by error.
    errors: BTreeMap<String, u64>,
    latencies: Option<Latencies>,
}

impl Results {
    pub(crate) fn add(&mut self, result: &Result<Answer, SendError>) {
        match result {
            Ok(answer) => {
                let latencies = self.latencies.get_or_insert_with(Latencies::new);
                latencies.record(answer.took);
                let mut key = (answer.status.as_u16(), answer.text());
                if self.answers.len() >= MAX_TEXTS && !self.answers.contains_key(&key) {
                    key.1 = "(other texts)".to_owned();
                }
                *self.answers.entry(key).or_default() += 1;
            }
            Err(error) => *self.errors.entry(error.to_string()).or_default() += 1,
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.answered() + self.errors.values().sum::<u64>()
    }

    /// Returns an error of a request without an answer.
    pub(crate) fn error(&self) -> Option<&str> {
        self.errors.keys().next().map(String::as_str)
    }

    /// Returns whether every request was answered with 2xx.
    pub(crate) fn all_accepted(&self) -> bool {
        let mut statuses = self.answers.keys();
        self.errors.is_empty() && statuses.all(|(status, _)| (200..300).contains(status))
    }

    /// Prints all results of requests that took this time together.
    pub(crate) fn report(&self, url: &str, took: Duration, output: &Output) {
        let sent = self.sent();
        let per_second = sent as f64 / took.as_secs_f64();
        output.line(format_args!(
            "{sent} requests to {url} in {}, {per_second:.0} per second\n",
            duration(took)
        ));
        let mut rows = Vec::new();
        for ((status, text), count) in &self.answers {
            rows.push(vec![status.to_string(), count.to_string(), text.clone()]);
        }
        for (error, count) in &self.errors {
            rows.push(vec!["none".to_owned(), count.to_string(), error.clone()]);
        }
        output.line(table(&["status", "count", "answer"], &rows));
        if let Some(latencies) = &self.latencies {
            output.line(format_args!("\n{}\n", latencies.summary()));
            for line in latencies.chart() {
                output.line(line);
            }
        }
        let answers = self.answers.iter();
        let answers = answers.map(
            |((status, text), count)| json!({ "status": status, "text": text, "count": count }),
        );
        let errors = self.errors.iter();
        let errors = errors.map(|(error, count)| json!({ "error": error, "count": count }));
        output.json(&json!({
            "url": url,
            "sent": sent,
            "seconds": took.as_secs_f64(),
            "per_second": per_second,
            "answers": answers.collect::<Vec<_>>(),
            "errors": errors.collect::<Vec<_>>(),
            "latency": self.latencies.as_ref().map(Latencies::json),
        }));
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn many_different_texts_share_a_row() {
        let mut results = Results::default();
        for number in 0..100 {
            results.add(&Ok(Answer {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: format!("event {number}").into(),
                took: Duration::from_millis(1),
                closes: false,
            }));
        }
        assert_eq!(results.answered(), 100);
        assert_eq!(results.answers.len(), MAX_TEXTS + 1);
        let others = &results.answers[&(200, "(other texts)".to_owned())];
        assert_eq!(*others, 100 - MAX_TEXTS as u64);
    }
}
