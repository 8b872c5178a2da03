//! The texts that were replaced so far, so that they are also found elsewhere.

use std::collections::{BTreeMap, HashSet, VecDeque};

use aho_corasick::{AhoCorasick, MatchKind};

/// The maximum number of original texts that are remembered, to find them elsewhere too. The oldest text is forgotten first.
const MAX_KNOWN: usize = 10_000;

/// The original texts so far, and their stand-ins.
#[derive(Default)]
pub(super) struct Known {
    pub(super) stand_ins: BTreeMap<String, String>,
    /// The texts that may be forgotten, the oldest first.
    forgettable: VecDeque<String>,
    /// Finds all known texts. Built again when a text is added.
    finder: Option<(AhoCorasick, Vec<String>)>,
}

impl Known {
    pub(super) fn add_forgettable(&mut self, text: &str, stand_in: &str) {
        if self.stand_ins.contains_key(text) {
            return;
        }
        if self.forgettable.len() >= MAX_KNOWN
            && let Some(oldest) = self.forgettable.pop_front()
        {
            for variant in variants(&oldest) {
                self.stand_ins.remove(&variant);
            }
        }
        self.forgettable.push_back(text.to_owned());
        self.add(text, stand_in);
    }

    pub(super) fn add(&mut self, text: &str, stand_in: &str) {
        for variant in variants(text) {
            self.stand_ins
                .entry(variant)
                .or_insert_with(|| stand_in.to_owned());
        }
        self.finder = None;
    }

    fn finder(&mut self) -> &(AhoCorasick, Vec<String>) {
        let stand_ins = &self.stand_ins;
        self.finder.get_or_insert_with(|| {
            let finder = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(stand_ins.keys());
            let finder = finder.expect("the texts fit into an automaton");
            (finder, stand_ins.values().cloned().collect())
        })
    }

    pub(super) fn replace_in(&mut self, text: &str) -> String {
        let (finder, replacements) = self.finder();
        finder.replace_all(text, replacements)
    }

    /// Replaces known texts that are neither preceded nor followed by a letter or a digit.
    pub(super) fn replace_words_in(&mut self, text: &str) -> String {
        let (finder, replacements) = self.finder();
        let mut replaced = String::with_capacity(text.len());
        finder.replace_all_with(text, &mut replaced, |found, original, replaced| {
            let before = text[..found.start()].chars().next_back();
            let after = text[found.end()..].chars().next();
            let is_inside = [before, after]
                .into_iter()
                .flatten()
                .any(char::is_alphanumeric);
            replaced.push_str(match is_inside {
                true => original,
                false => &replacements[found.pattern()],
            });
            true
        });
        replaced
    }
}

/// Returns the text, and its form in URLs, because answers and headers can contain it.
fn variants(text: &str) -> HashSet<String> {
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    // A path has `%20` for a space, and browsers encode fewer characters than forms do.
    let in_path = encoded.replace('+', "%20");
    HashSet::from([text.to_owned(), text.replace(' ', "%20"), encoded, in_path])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_text_is_forgotten_but_never_a_forbidden_one() {
        let mut known = Known::default();
        known.add("s3cret", "scrubbed");
        for number in 0..=MAX_KNOWN {
            known.add_forgettable(&format!("<{number}>"), "x");
        }
        assert_eq!(known.replace_in("s3cret <0> <1>"), "scrubbed <0> x");
        assert_eq!(known.replace_in(&format!("<{MAX_KNOWN}>")), "x");
    }
}
