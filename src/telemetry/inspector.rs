/// Reports that a user of the inspector has replayed or deleted events. `events` is a list of ids, or a filter.
pub(crate) fn inspector_action(
    user: &str,
    action: &str,
    events: &str,
    count: u64,
    error: Option<&str>,
) {
    log!(
        info,
        user,
        action,
        events,
        count,
        error,
        "an operator changed events"
    );
}
