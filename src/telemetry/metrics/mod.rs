//! Counts occurrences with the facade crate `metrics`. Without the feature `metrics`, this module compiles to nothing.
//!
//! - [`Metrics`] has one method per occurrence. Every inbox and every receiver has a `Metrics`.
//! - [`TypeLabel`](type_label::TypeLabel) is the label of an event's type, with a bounded set of values. [`Counted`]
//!   is how the inbox counts the event.
//! - [`PendingCounts`] collects counts while a lock is held.
//! - [`Sample`] has the values of the gauges, which the inbox's monitor samples.
//! - [`Stopwatch`] measures a duration, unless no recorder is installed.
//! - `catalog` lists all metrics, with their units and descriptions.
//! - `keys` builds each key once. A key is a name with its labels.
//! - `recorder` finds the user's recorder.
//!
//! A recorder may be installed at any time, and a thread may have its own recorder. So this module keeps no handle of a
//! recorder: each count asks the current recorder for the handle of its key.

#[cfg(feature = "metrics")]
mod catalog;
#[cfg(feature = "metrics")]
mod keys;
#[allow(clippy::module_inception)] // each type has its own file, and this type names the module
mod metrics;
mod pending_counts;
#[cfg(feature = "metrics")]
mod recorder;
mod sample;
mod stopwatch;
mod type_label;

pub(crate) use self::metrics::Metrics;
pub(crate) use self::pending_counts::PendingCounts;
pub(crate) use self::sample::{InFlight, Sample};
pub(crate) use self::stopwatch::Stopwatch;
pub(crate) use self::type_label::{Counted, CountedType};
