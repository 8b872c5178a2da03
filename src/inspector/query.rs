use std::sync::Arc;
use std::time::SystemTime;

use form_urlencoded::Serializer;

use super::moment;
use super::text::visible;
use crate::delivery::EventState;
use crate::inbox::EventFilter;
use crate::router::Pattern;

/// The members of a query or a form, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(query: &[u8]) -> Self {
        Self {
            pairs: form_urlencoded::parse(query).into_owned().collect(),
        }
    }

    /// Replaces the names of routes by the routes' own names, if a page has shown them with escapes.
    pub(super) fn restore_routes(&mut self, names: impl FnOnce() -> Vec<Arc<str>>) {
        let shown = |member: &str, value: &str| {
            let shown = match member {
                "route" => Some(value),
                "routes" => value.strip_prefix("only:"),
                _ => None,
            };
            shown
                .filter(|shown| shown.contains("\\u{"))
                .map(str::to_owned)
        };
        let mut pairs = self.pairs.iter_mut();
        let escaped = pairs.find_map(|(member, value)| Some((shown(member, value)?, value)));
        let Some((shown, value)) = escaped else {
            return;
        };
        let names = names();
        let is_name = names.iter().any(|name| **name == *shown);
        let named = names.iter().find(|name| visible(name) == shown);
        if let Some(name) = named.filter(|_| !is_name) {
            *value = value.replace(&shown, name);
        }
    }

    /// Returns the first value of a member. A missing member and an empty value are the same, because forms send empty fields.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns all values of a member.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self
            .pairs
            .iter()
            .filter(move |(each, value)| each == name && !value.is_empty());
        named.map(|(_, value)| &**value)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// The conditions in the URL of a list of events. Each field is the text of a form's field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) state: String,
    pub(super) event_type: String,
    pub(super) route: String,
    pub(super) outcome: String,
    pub(super) reason: String,
    pub(super) message_id: String,
    pub(super) since: String,
    pub(super) until: String,
}

impl Conditions {
    pub(super) fn parse(query: &Query) -> Self {
        let get = |name| query.get(name).unwrap_or_default().to_owned();
        Self {
            state: get("state"),
            event_type: get("type"),
            route: get("route"),
            outcome: get("outcome"),
            reason: get("reason"),
            message_id: get("id"),
            since: get("since"),
            until: get("until"),
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pairs = [
            ("state", &self.state),
            ("type", &self.event_type),
            ("route", &self.route),
            ("outcome", &self.outcome),
            ("reason", &self.reason),
            ("id", &self.message_id),
            ("since", &self.since),
            ("until", &self.until),
        ];
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name, value.as_str()));
        pairs.filter(|(_, value)| !value.is_empty())
    }

    /// Returns whether every event matches.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs().next().is_none()
    }

    /// Returns the conditions as the query of a URL, in ASCII.
    pub(super) fn encode(&self) -> String {
        Serializer::new(String::new())
            .extend_pairs(self.pairs())
            .finish()
    }

    /// Returns the conditions with absolute times, so that they select the same events later.
    pub(super) fn at(&self, now: SystemTime) -> Self {
        let absolute = |text: &str| {
            moment::parse(text, now)
                .map(moment::rfc3339)
                .unwrap_or_default()
        };
        Self {
            since: absolute(&self.since),
            until: absolute(&self.until),
            ..self.clone()
        }
    }

    /// Returns the filter, or what is wrong with a condition.
    pub(super) fn to_filter(&self, now: SystemTime) -> Result<EventFilter, String> {
        let mut filter = EventFilter::new();
        for state in
            states(&self.state).ok_or_else(|| format!("no state has the name {:?}", self.state))?
        {
            filter = filter.state(*state);
        }
        if !self.event_type.is_empty() {
            let pattern =
                Pattern::new(self.event_type.trim()).map_err(|error| error.to_string())?;
            filter = filter.event_type(pattern);
        }
        if !self.route.is_empty() {
            filter = filter.route(&*self.route);
        }
        if !self.outcome.is_empty() {
            filter = filter.outcome(&*self.outcome);
        }
        if !self.reason.is_empty() {
            filter = filter.reason(&*self.reason);
        }
        if !self.message_id.is_empty() {
            filter = filter.message_id(&*self.message_id);
        }
        let time = |text: &str| {
            let time = moment::parse(text, now);
            time.ok_or_else(|| {
                format!("{text:?} isn't a time: write 1h, 7d or 2026-11-27T12:20 (UTC)")
            })
        };
        if !self.since.is_empty() {
            filter = filter.since(time(&self.since)?);
        }
        if !self.until.is_empty() {
            filter = filter.until(time(&self.until)?);
        }
        Ok(filter)
    }
}

/// The names of states in the URL, each with its text on the page.
pub(super) const STATES: [(&str, &str); 8] = [
    ("", "any"),
    ("in-flight", "in flight"),
    ("waiting", "waiting"),
    ("running", "running"),
    ("retrying", "retrying"),
    ("handled", "handled"),
    ("unhandled", "unhandled"),
    ("dead", "dead"),
];

fn states(name: &str) -> Option<&'static [EventState]> {
    Some(match name {
        "" => &[],
        "in-flight" => &[
            EventState::Waiting,
            EventState::Running,
            EventState::Retrying,
        ],
        "waiting" => &[EventState::Waiting],
        "running" => &[EventState::Running],
        "retrying" => &[EventState::Retrying],
        "handled" => &[EventState::Handled],
        "unhandled" => &[EventState::Unhandled],
        "dead" => &[EventState::Dead],
        _ => return None,
    })
}

/// Returns a link to a page. Every link is only a query, so the inspector works below any path.
pub(super) fn link(page: &str, query: &str) -> String {
    let and = if query.is_empty() { "" } else { "&" };
    format!("?page={page}{and}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_survive_the_url() {
        let query = "state=dead&type=a.b.*&route=r%26s&outcome=timed+out&reason=%22no%22&id=%00%F0%9F%98%80&since=1h&until=5m";
        let conditions = Conditions::parse(&Query::parse(query.as_bytes()));
        assert_eq!(conditions.route, "r&s");
        assert_eq!(conditions.message_id, "\0😀");
        assert!(conditions.encode().is_ascii());
        assert_eq!(
            Conditions::parse(&Query::parse(conditions.encode().as_bytes())),
            conditions
        );
        assert!(conditions.to_filter(SystemTime::now()).is_ok());
        let later = conditions.at(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7_200));
        assert_eq!(
            (&*later.since, &*later.until),
            ("1970-01-01T01:00:00Z", "1970-01-01T01:55:00Z")
        );
    }

    #[test]
    fn a_wrong_condition_is_explained() {
        for (query, text) in [
            ("state=gone", "no state has the name"),
            ("type=a.*.b", "isn't the whole last segment"),
            ("since=yesterday", "isn't a time"),
        ] {
            let conditions = Conditions::parse(&Query::parse(query.as_bytes()));
            let error = conditions.to_filter(SystemTime::now()).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
