use std::time::Duration;

/// The limits of a memory inbox. The methods of [`MemoryInboxBuilder`](super::MemoryInboxBuilder) describe the limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) ids: usize,
    pub(super) duplicate_window: Duration,
    pub(super) dead_letters: usize,
    pub(super) dead_letter_bytes: usize,
    pub(super) handled_events: usize,
    pub(super) handled_bytes: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 64 << 20,
            ids: 100_000,
            duplicate_window: Duration::from_secs(24 * 60 * 60),
            dead_letters: 1_000,
            dead_letter_bytes: 16 << 20,
            handled_events: 1_000,
            handled_bytes: 16 << 20,
        }
    }
}
