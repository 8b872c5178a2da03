//! The conditions on events, as in the URLs of the inspector's pages.

use std::fmt;

use form_urlencoded::Serializer;

/// The names of the conditions.
const NAMES: [&str; 8] = [
    "state", "type", "route", "outcome", "reason", "id", "since", "until",
];

/// The server checks the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// In the order of [`NAMES`], without empty values.
    conditions: Vec<(&'static str, String)>,
}

impl Filter {
    /// Sets a condition. An empty value removes the condition.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some(name) = NAMES.into_iter().find(|each| *each == name) else {
            let names = NAMES.join(", ");
            return Err(format!("no condition has the name {name}: use {names}"));
        };
        self.conditions.retain(|(each, _)| *each != name);
        if !value.is_empty() {
            self.conditions.push((name, value.to_owned()));
            let place = |name| NAMES.into_iter().position(|each| each == name);
            self.conditions.sort_by_key(|(name, _)| place(*name));
        }
        Ok(())
    }

    /// Reads the filter from text such as `state=dead type=poll.*`. A first word without `=` is an event type, and a later word
    /// belongs to the value before it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        for word in text.split_whitespace() {
            match (word.split_once('='), pairs.last_mut()) {
                (Some((name, value)), _) => pairs.push((name, value.to_owned())),
                (None, None) => pairs.push(("type", word.to_owned())),
                (None, Some((_, value))) => *value = format!("{value} {word}"),
            }
        }
        let mut filter = Self::default();
        for (name, value) in pairs {
            filter.set(name, value.trim())?;
        }
        Ok(filter)
    }

    /// Reads the filter from the URL of a page.
    pub(super) fn of_page(query: &str) -> Self {
        let mut filter = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // The URL also has the name of the page.
            let _ = filter.set(&name, &value);
            if (&*name, &*value) == ("page", "dead-letters") {
                let _ = filter.set("state", "dead");
            }
        }
        filter
    }

    /// Returns the query of a request for JSON.
    pub(super) fn query(&self, page: &str) -> String {
        Serializer::new(String::new())
            .append_pair("page", page)
            .append_pair("format", "json")
            .extend_pairs(&self.conditions)
            .finish()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.conditions.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={}", crate::text::visible(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_urls_become_a_filter() {
        let shown = |text: &str| Filter::parse(text).map(|filter| filter.to_string());
        assert_eq!(shown("poll.*").as_deref(), Ok("type=poll.*"));
        assert_eq!(
            shown("reason=timed  out state=dead").as_deref(),
            Ok("state=dead reason=timed out")
        );
        assert_eq!(shown(" state= ").as_deref(), Ok(""));
        let error = shown("stat=dead").expect_err("no condition has this name");
        assert!(error.contains("state, type, route"), "{error}");
        let filter = Filter::of_page("page=dead-letters&type=a.*&before=7&route=");
        assert_eq!(filter.to_string(), "state=dead type=a.*");
        assert_eq!(
            filter.query("feed"),
            "page=feed&format=json&state=dead&type=a.*"
        );
    }
}
