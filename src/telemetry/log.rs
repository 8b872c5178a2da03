/// The target of every log line. Users filter by the target, so it stays the same when a module is renamed.
#[cfg(feature = "tracing")]
pub(super) const TARGET: &str = "botisimo_webhooks";

/// Writes a line to the log, or compiles to nothing without the feature `tracing`.
///
/// The subscriber and the `Display` of a handler's error are the user's code. If one of them panics, only the line is lost.
macro_rules! log {
    ($level:ident, $($line:tt)+) => {
        #[cfg(feature = "tracing")]
        {
            let write = || tracing::$level!(target: $crate::telemetry::log::TARGET, $($line)+);
            let _ = $crate::catch_panic::catch_panic(write);
        }
    };
}
