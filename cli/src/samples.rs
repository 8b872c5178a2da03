//! Sample data for each event type. The sender publishes no schema for `data`, so all samples are invented.

use std::sync::LazyLock;

use botisimo_webhooks::EventType;
use serde_json::{Map, Value, json};

static SAMPLES: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("samples.json")).expect("the samples are a JSON object")
});

/// Returns the sample of an event type, or of the type without its platform, or an empty object.
pub(crate) fn sample(event_type: &EventType) -> Value {
    let own = SAMPLES.get(event_type.as_str());
    let sample = own.or_else(|| SAMPLES.get(event_type.without_platform().as_str()));
    sample.cloned().unwrap_or_else(|| json!({}))
}

/// Returns the documented event type that is most similar to a name, if one is similar.
pub(crate) fn similar(name: &str) -> Option<&'static str> {
    static NAMES: [EventType; EventType::ALL.len()] = EventType::ALL;
    let name = name.trim().to_ascii_lowercase();
    let scored = NAMES.iter().map(|known| {
        let score = strsim::jaro_winkler(&name, known.as_str());
        (score, known.as_str())
    });
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.85).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_type_has_a_sample_of_its_own_and_no_other_has() {
        let mut names: Vec<_> = SAMPLES.keys().map(String::as_str).collect();
        let comment = names.iter().position(|name| *name == "comment");
        names.remove(comment.expect("the file says that its data is invented"));
        let documented: Vec<_> = EventType::ALL
            .iter()
            .map(|known| known.as_str().to_owned())
            .collect();
        assert_eq!(names, documented);
        assert!(EventType::ALL.iter().all(|known| sample(known).is_object()));
    }

    #[test]
    fn a_misspelt_type_has_a_suggestion() {
        assert_eq!(
            similar("conection.stream.started"),
            Some("connection.stream.started")
        );
        assert_eq!(similar("acount.updated"), Some("account.updated"));
        assert_eq!(similar("moon.full"), None);
    }
}
