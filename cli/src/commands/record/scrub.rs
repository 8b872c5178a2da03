//! Replaces names, ids, e-mail addresses and secrets by stand-ins before anything is stored.

use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use botisimo_webhooks::EventType;
use http::header::CONTENT_TYPE;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Number, Value};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::known::Known;
use crate::failure::Failure;

/// The members of the envelope. A recording without these names is not an event.
const ENVELOPE: [&str; 4] = ["messageId", "timestamp", "eventType", "data"];

/// A shorter original is only replaced where a rule matches, because it is a part of many words.
const MIN_KNOWN: usize = 3;

/// The stand-in of every secret.
pub(super) const SECRET: &str = "scrubbed";

/// The rules that `--scrub default` uses.
pub(super) const DEFAULT: &str = include_str!("default_rules.toml");

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Name,
    Id,
    Email,
    Secret,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    rules: Vec<RuleText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    kind: Kind,
    /// Names of members at any depth, or paths from the top such as `data.winner.name`.
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    /// A regular expression. Every match in any text is replaced.
    pattern: Option<String>,
}

/// The rules and the key of the stand-ins.
pub(super) struct Scrubber {
    members: BTreeMap<String, Kind>,
    paths: BTreeMap<String, Kind>,
    headers: BTreeMap<String, Kind>,
    patterns: Vec<(Regex, Kind)>,
    key: [u8; 16],
    known: Mutex<Known>,
}

impl Scrubber {
    /// Reads rules from a file, or the default rules. The same key makes the same stand-ins.
    pub(super) fn load(rules: &str, key: Option<&str>) -> Result<Self, Failure> {
        let text = match rules {
            "default" => DEFAULT.to_owned(),
            path => fs::read_to_string(Path::new(path)).map_err(|error| {
                Failure::usage(format_args!(
                    "can't read the rules {path}: {error}; use a TOML file, or `default`"
                ))
            })?,
        };
        let key = match key {
            Some(key) => {
                let mut hasher = SipHasher13::new();
                hasher.write(key.as_bytes());
                hasher.finish128().as_bytes()
            }
            None => {
                let mut key = [0; 16];
                getrandom::fill(&mut key).map_err(|error| {
                    Failure::unavailable(format_args!("the system has no random numbers: {error}"))
                })?;
                key
            }
        };
        Self::parse(&text, key).map_err(|error| {
            Failure::usage(format_args!("the rules {rules} aren't valid: {error}"))
        })
    }

    fn parse(text: &str, key: [u8; 16]) -> Result<Self, String> {
        let file: RulesFile = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut scrubber = Self {
            members: BTreeMap::new(),
            paths: BTreeMap::new(),
            headers: BTreeMap::new(),
            patterns: Vec::new(),
            key,
            known: Mutex::default(),
        };
        for rule in file.rules {
            if rule.members.is_empty() && rule.headers.is_empty() && rule.pattern.is_none() {
                return Err("a rule has neither `members`, `headers` nor `pattern`".to_owned());
            }
            for member in rule.members {
                match member.contains('.') {
                    true => scrubber.paths.insert(member, rule.kind),
                    false => scrubber.members.insert(member.to_lowercase(), rule.kind),
                };
            }
            for header in rule.headers {
                scrubber.headers.insert(header.to_lowercase(), rule.kind);
            }
            if let Some(pattern) = rule.pattern {
                let regex = Regex::new(&pattern).map_err(|error| error.to_string())?;
                if regex.is_match("") {
                    return Err(format!("the pattern {pattern:?} matches an empty text"));
                }
                scrubber.patterns.push((regex, rule.kind));
            }
        }
        Ok(scrubber)
    }

    /// Remembers a text that must not be stored, for example the configured secret.
    pub(super) fn forbid(&self, text: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.add(text, SECRET);
    }

    /// Scrubs a JSON document. Texts that a rule replaces are also replaced in all other texts.
    pub(super) fn json(&self, value: &mut Value) {
        // The first walk learns all originals, so that the second also finds them in earlier texts.
        self.learn(value, &mut String::new());
        self.replace(value, &mut String::new());
    }

    fn kind_of(&self, path: &str, name: &str) -> Option<Kind> {
        let by_path = self.paths.get(path);
        by_path
            .or_else(|| self.members.get(&name.to_lowercase()))
            .copied()
    }

    fn learn(&self, value: &Value, path: &mut String) {
        for_each_member(value, path, &mut |path, name, value| {
            if let Some(kind) = self.kind_of(path, name) {
                for_each_text(value, &mut |text| {
                    self.stand_in(kind, text);
                });
                for_each_number(value, &mut |number| {
                    self.number_stand_in(number);
                });
            }
        });
        for_each_text(value, &mut |text| {
            for (regex, kind) in &self.patterns {
                for found in regex.find_iter(text) {
                    self.stand_in(*kind, found.as_str());
                }
            }
        });
    }

    fn replace(&self, value: &mut Value, path: &mut String) {
        match value {
            Value::Object(members) => {
                let old = std::mem::take(members);
                for (name, mut value) in old {
                    let length = path.len();
                    push(path, &name);
                    match self.kind_of(path, &name) {
                        Some(kind) => self.replace_all(kind, &mut value),
                        None if is_impersonal(path, &value) => {}
                        None => self.replace(&mut value, path),
                    }
                    let name = match ENVELOPE.contains(&path.as_str()) {
                        true => name,
                        false => self.member_name(&name),
                    };
                    path.truncate(length);
                    members.insert(name, value);
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.replace(item, path);
                }
            }
            Value::String(text) => *text = self.text(text),
            Value::Number(number) => {
                let text = number.to_string();
                if let Some(stand_in) = self.known_stand_in(&text) {
                    *value = number_or_text(stand_in);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Replaces every text and number in a value that a rule names.
    fn replace_all(&self, kind: Kind, value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (name, mut value) in std::mem::take(members) {
                    self.replace_all(kind, &mut value);
                    members.insert(self.member_name(&name), value);
                }
            }
            Value::Array(items) => items
                .iter_mut()
                .for_each(|item| self.replace_all(kind, item)),
            Value::String(text) if !text.is_empty() => *text = self.stand_in(kind, text),
            Value::Number(number) => *value = number_or_text(self.number_stand_in(number)),
            Value::String(_) | Value::Null | Value::Bool(_) => {}
        }
    }

    /// Scrubs the name of a member. A name that a rule contains stays.
    ///
    /// A known text inside of a word stays, because a viewer called `tim` must not change `timestamp`.
    fn member_name(&self, name: &str) -> String {
        if self.members.contains_key(&name.to_lowercase()) {
            return name.to_owned();
        }
        let name = self.without_patterns(name);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.replace_words_in(&name)
    }

    /// Scrubs the value of a header.
    pub(super) fn header(&self, name: &str, value: &str) -> String {
        match self.headers.get(&name.to_lowercase()) {
            Some(kind) => self.stand_in(*kind, value),
            // A replay needs the content type, even if a viewer is called `json`.
            None if name == CONTENT_TYPE.as_str() => value.to_owned(),
            None => self.text(value),
        }
    }

    /// Replaces all matches of patterns and all known originals in a text.
    pub(super) fn text(&self, text: &str) -> String {
        let text = self.without_patterns(text);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.replace_in(&text)
    }

    fn without_patterns(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (regex, kind) in &self.patterns {
            if regex.is_match(&text) {
                let replaced = regex.replace_all(&text, |found: &regex::Captures<'_>| {
                    self.stand_in(*kind, &found[0])
                });
                text = replaced.into_owned();
            }
        }
        text
    }

    fn known_stand_in(&self, text: &str) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.stand_ins.get(text).cloned()
    }

    /// Returns the stand-in of a text, and remembers the text.
    fn stand_in(&self, kind: Kind, text: &str) -> String {
        let stand_in = match kind {
            Kind::Secret => SECRET.to_owned(),
            Kind::Name => format!("name-{}", &self.hex(text)[..8]),
            Kind::Email => format!("user-{}@example.com", &self.hex(text)[..8]),
            Kind::Id if text.bytes().all(|byte| byte.is_ascii_digit()) => self.digits(text),
            Kind::Id => format!("id-{}", &self.hex(text)[..16]),
        };
        self.remember(text, &stand_in);
        stand_in
    }

    fn remember(&self, text: &str, stand_in: &str) {
        if text.chars().count() < MIN_KNOWN {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.add_forgettable(text, stand_in);
    }

    /// Returns the stand-in of a number, and remembers the number.
    fn number_stand_in(&self, number: &Number) -> String {
        let text = number.to_string();
        let digits = self.digits(&text);
        self.remember(&text, &digits);
        digits
    }

    /// Returns 32 hexadecimal digits that nobody without the key can trace back.
    fn hex(&self, text: &str) -> String {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(text.as_bytes());
        format!("{:032x}", hasher.finish128().as_u128())
    }

    /// Returns a number with as many digits.
    fn digits(&self, text: &str) -> String {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(text.as_bytes());
        let digits = format!("{:039}", hasher.finish128().as_u128());
        let length = text.len().clamp(1, 18);
        // The first digit isn't 0, so that the number keeps its length.
        format!(
            "{}{}",
            1 + digits.as_bytes()[20] % 9,
            &digits[21..20 + length]
        )
    }
}

/// Returns whether a value of the envelope names nobody, and handlers or duplicates depend on it.
fn is_impersonal(path: &str, value: &Value) -> bool {
    match (path, value) {
        ("timestamp", value) => value.is_number(),
        ("eventType", Value::String(name)) => {
            !matches!(EventType::from(name.as_str()), EventType::Undocumented(_))
        }
        ("messageId", Value::String(id)) => {
            let is_uuid_byte = |(index, byte): (usize, u8)| match index {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            };
            id.len() == 36 && id.bytes().enumerate().all(is_uuid_byte)
        }
        _ => false,
    }
}

/// Returns a number if the stand-in is one, so that handlers still decode it.
fn number_or_text(stand_in: String) -> Value {
    stand_in
        .parse::<u64>()
        .map_or_else(|_| Value::from(stand_in), Value::from)
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Calls `act` for each member of an object at any depth.
fn for_each_member(value: &Value, path: &mut String, act: &mut impl FnMut(&str, &str, &Value)) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let length = path.len();
                push(path, name);
                act(path, name, value);
                for_each_member(value, path, act);
                path.truncate(length);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| for_each_member(item, path, act)),
        _ => {}
    }
}

/// Calls `act` for each string at any depth.
fn for_each_text(value: &Value, act: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => members.values().for_each(|value| for_each_text(value, act)),
        Value::Array(items) => items.iter().for_each(|item| for_each_text(item, act)),
        Value::String(text) if !text.is_empty() => act(text),
        _ => {}
    }
}

/// Calls `act` for each number at any depth.
fn for_each_number(value: &Value, act: &mut impl FnMut(&Number)) {
    match value {
        Value::Object(members) => members
            .values()
            .for_each(|value| for_each_number(value, act)),
        Value::Array(items) => items.iter().for_each(|item| for_each_number(item, act)),
        Value::Number(number) => act(number),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scrubber(rules: &str) -> Scrubber {
        Scrubber::parse(rules, [7; 16]).expect("valid rules")
    }

    fn scrubbed(rules: &str, mut value: Value) -> Value {
        scrubber(rules).json(&mut value);
        value
    }

    const NAMES: &str = "[[rules]]\nkind = \"name\"\nmembers = [\"name\"]\n";

    #[test]
    fn a_name_has_one_stand_in_everywhere_even_before_its_member_and_inside_of_texts() {
        let data = json!({ "title": "ada.l plays", "by": ["ADA.L", "ada.l"], "user": { "Name": "ada.l" }, "ada.l": 1 });
        let value = scrubbed(NAMES, data);
        let name = value["user"]["Name"].as_str().expect("a string").to_owned();
        assert!(name.starts_with("name-") && name.len() == 13, "{name}");
        assert_eq!(value["title"], format!("{name} plays"));
        assert_eq!(value["by"][1], name.as_str());
        assert_eq!(value[&name], 1);
        assert_eq!(
            value["by"][0], "ADA.L",
            "case matters, because a text in another case is a different text"
        );
    }

    #[test]
    fn ids_keep_their_form_and_differ() {
        let rules = "[[rules]]\nkind = \"id\"\nmembers = [\"id\", \"data.winner\"]\n";
        let value = scrubbed(
            rules,
            json!({
                "id": 123_456, "other": 123_456, "data": { "winner": "viewer_8", "id": "987654" }, "winner": "x",
            }),
        );
        let id = value["id"].as_u64().expect("still a number");
        assert!((100_000..1_000_000).contains(&id) && id != 123_456, "{id}");
        assert_eq!(value["other"].to_string().trim_matches('"'), id.to_string());
        assert!(
            value["data"]["winner"]
                .as_str()
                .is_some_and(|id| id.starts_with("id-")),
            "{value}"
        );
        assert_eq!(value["data"]["id"].as_str().map(str::len), Some(6));
        assert_eq!(value["winner"], "x", "another path");
    }

    #[test]
    fn a_number_is_also_replaced_in_earlier_texts_and_stays_a_number_elsewhere() {
        let rules = "[[rules]]\nkind = \"id\"\nmembers = [\"id\"]\n";
        let data = json!({ "title": "viewer 7654321", "count": 7_654_321, "id": 7_654_321 });
        let value = scrubbed(rules, data);
        let id = value["id"].as_u64().expect("still a number");
        assert_eq!(value["title"], format!("viewer {id}"));
        assert_eq!(value["count"], id);
    }

    #[test]
    fn short_names_change_neither_the_envelope_nor_words_in_names_of_members() {
        let id = "0a1b2c3d-0000-4000-8000-000000000art";
        let uuid = "0a1b2c3d-0000-4000-8000-00000000art0".replace("art", "123");
        let envelope = |id: &str| {
            json!({
                "messageId": id, "timestamp": 1_234_567, "eventType": "connection.stream.started",
                "data": { "startedAt": 1, "art": 2, "names": [{ "name": "tim" }, { "name": "art" }, { "name": "data" }, { "name": 123 }] },
            })
        };
        let value = scrubbed(NAMES, envelope(&uuid));
        assert_eq!(value["messageId"], uuid.as_str());
        assert_eq!(value["timestamp"], 1_234_567);
        assert_eq!(value["eventType"], "connection.stream.started");
        assert_eq!(value["data"]["startedAt"], 1);
        assert!(!value.to_string().contains("\"art\""), "{value}");
        // Other ids and other event types can contain a name.
        let value = scrubbed(NAMES, envelope(id));
        assert!(!value["messageId"].to_string().contains("art"), "{value}");
    }

    #[test]
    fn names_of_members_inside_of_a_replaced_value_are_scrubbed_too() {
        let data = json!({ "title": "ada.l", "name": { "ada.l": { "x@y": 1 } }, "user": { "name": "ada.l" } });
        let value = scrubbed(NAMES, data);
        assert!(!value.to_string().contains("ada.l"), "{value}");
    }

    #[test]
    fn the_content_type_stays() {
        let scrubber = scrubber(NAMES);
        scrubber.json(&mut json!({ "name": "json" }));
        assert_eq!(
            scrubber.header("content-type", "application/json"),
            "application/json"
        );
        assert!(!scrubber.header("x-note", "json").contains("json"));
    }

    #[test]
    fn the_key_decides_about_the_stand_ins() {
        let value = |key| {
            let mut value = json!({ "name": "grace" });
            Scrubber::parse(NAMES, key)
                .expect("valid rules")
                .json(&mut value);
            value
        };
        assert_eq!(value([1; 16]), value([1; 16]));
        assert_ne!(value([1; 16]), value([2; 16]));
    }

    #[test]
    fn the_default_rules_are_valid_and_find_addresses_in_texts() {
        let value = scrubbed(
            DEFAULT,
            json!({ "data": { "note": "write to ada.l+x@mail.example.org!", "email": "G@x.org" } }),
        );
        let note = value["data"]["note"].as_str().expect("a string");
        assert!(
            note.starts_with("write to user-") && note.ends_with("@example.com!"),
            "{note}"
        );
        assert!(!value.to_string().contains("G@x.org"), "{value}");
    }

    #[test]
    fn wrong_rules_say_what_is_wrong() {
        let error = |rules: &str| match Scrubber::parse(rules, [0; 16]) {
            Ok(_) => panic!("valid: {rules}"),
            Err(error) => error,
        };
        assert!(error("[[rules]]\nkind = \"name\"\n").contains("neither `members`"));
        assert!(
            error("[[rules]]\nkind = \"nom\"\nmembers = [\"a\"]\n").contains("unknown variant")
        );
        assert!(error("[[rules]]\nkind = \"id\"\npattern = \"(\"\n").contains("unclosed group"));
        assert!(
            error("[[rules]]\nkind = \"id\"\npattern = \"x*\"\n").contains("matches an empty text")
        );
        assert!(error("[[rule]]\nkind = \"id\"\n").contains("unknown field"));
    }
}
