//! Suggests a documented name for a name that looks like a typo.

/// Returns the most similar name, or `None` if no name is similar.
///
/// A typo rarely changes a whole segment, so the comparison excludes segments that both names share
/// at the start and at the end. At most a third of the rest may differ.
pub(super) fn suggest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.trim().to_ascii_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let (typed, meant) = differing_segments(&name, candidate);
        let limit = (typed.len().max(meant.len()) / 3).max(1);
        let limit = best.map_or(limit, |(distance, _)| limit.min(distance - 1));
        if let Some(distance) = distance(typed.as_bytes(), meant.as_bytes(), limit) {
            best = Some((distance, candidate));
            if distance == 0 {
                break;
            }
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Strips the segments that both names share at their start and at their end.
fn differing_segments<'n, 'c>(name: &'n str, candidate: &'c str) -> (&'n str, &'c str) {
    let (mut name, mut candidate) = (name, candidate);
    while let (Some((a, name_rest)), Some((b, candidate_rest))) =
        (name.split_once('.'), candidate.split_once('.'))
        && a == b
    {
        (name, candidate) = (name_rest, candidate_rest);
    }
    while let (Some((name_rest, a)), Some((candidate_rest, b))) =
        (name.rsplit_once('.'), candidate.rsplit_once('.'))
        && a == b
    {
        (name, candidate) = (name_rest, candidate_rest);
    }
    (name, candidate)
}

/// Returns the number of edits between two names, or `None` if it exceeds `limit`. An edit inserts,
/// deletes or replaces a byte, or swaps two adjacent bytes.
fn distance(a: &[u8], b: &[u8], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let swapped: usize = before_last[j - 2];
                least = least.min(swapped + 1);
            }
            row.push(least);
        }
        // No later row contains a smaller number.
        if row.iter().all(|distance| *distance > limit) {
            return None;
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|distance| *distance <= limit)
}
