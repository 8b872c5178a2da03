use metrics::{Key, Level, Metadata, Recorder};

/// The target of every metric is the target of the log lines.
static METADATA: Metadata<'static> = Metadata::new("botisimo_webhooks", Level::INFO, None);

/// Returns whether nothing records metrics on this thread.
///
/// The facade's no-op recorder is a zero-sized static. If the user's recorder is zero-sized, its
/// box allocates nothing, so the recorder's address equals its alignment.
#[inline]
pub(super) fn is_noop(recorder: &dyn Recorder) -> bool {
    size_of_val(recorder) == 0
        && std::ptr::from_ref(recorder).cast::<()>().addr() > align_of_val(recorder)
}

/// Returns whether a recorder is installed.
#[inline]
pub(super) fn is_installed() -> bool {
    metrics::with_recorder(|recorder| !is_noop(recorder))
}

pub(super) fn count(recorder: &dyn Recorder, key: &Key, count: u64) {
    recorder.register_counter(key, &METADATA).increment(count);
}

pub(super) fn set(recorder: &dyn Recorder, key: &Key, value: f64) {
    recorder.register_gauge(key, &METADATA).set(value);
}

pub(super) fn observe(recorder: &dyn Recorder, key: &Key, value: f64) {
    recorder.register_histogram(key, &METADATA).record(value);
}
