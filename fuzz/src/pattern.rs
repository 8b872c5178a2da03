//! The rules for patterns, compared segment by segment.

/// The kind of a pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scope {
    Exact,
    Below,
    Prefix,
}

/// Parses a pattern as `on` does.
pub fn read(pattern: &str) -> Option<(Scope, &str)> {
    let (scope, name) = if let Some(name) = pattern.strip_suffix(".*") {
        (Scope::Below, name)
    } else if let Some(name) = pattern.strip_suffix("[.*]") {
        (Scope::Prefix, name)
    } else {
        (Scope::Exact, pattern)
    };
    is_name(name).then_some((scope, name))
}

/// Returns whether a pattern may have this name.
pub fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.contains('*')
}

/// Returns whether a pattern matches an event type.
pub fn takes(scope: Scope, name: &str, event_type: &str) -> bool {
    let (name, event_type): (Vec<_>, Vec<_>) =
        (name.split('.').collect(), event_type.split('.').collect());
    let under = event_type.starts_with(&name);
    match scope {
        Scope::Exact => event_type == name,
        Scope::Below => under && event_type.len() > name.len(),
        Scope::Prefix => under,
    }
}
