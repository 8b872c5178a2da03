//! All output: text with colors for a terminal, or JSON lines for a program. Progress goes to stderr.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tabwriter::TabWriter;

use crate::failure::Failure;
use crate::text::visible_json;

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const STRONG: Style = Style::new().bold();

/// Returns the text in a style. The output removes the style if it isn't a terminal.
pub(crate) fn styled(style: Style, text: impl fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

pub(crate) struct Output {
    json: bool,
    /// Whether the reader of stdout is gone.
    is_closed: AtomicBool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            is_closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line for a person. Prints nothing with `--json`.
    ///
    /// If the reader of the pipe is gone, the line is dropped, so `botisimo types | head` ends quietly.
    pub(crate) fn line(&self, text: impl fmt::Display) {
        if !self.json {
            self.written(&writeln!(anstream::stdout(), "{text}"));
        }
    }

    fn written(&self, result: &std::io::Result<()>) {
        self.is_closed.fetch_or(result.is_err(), Ordering::Relaxed);
    }

    /// Returns whether the reader of stdout is gone, so that a command without an end can end.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Prints one line of JSON. Prints nothing without `--json`.
    pub(crate) fn json(&self, value: &impl Serialize) {
        if self.json {
            let line = serde_json::to_string(value).expect("the output serializes");
            self.written(&writeln!(std::io::stdout(), "{}", visible_json(&line)));
        }
    }

    /// Prints a remark to stderr. Prints nothing with `--json`.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.json {
            let _ = writeln!(anstream::stderr(), "{}", styled(FAINT, text));
        }
    }

    /// Prints a warning to stderr, as JSON with `--json`.
    pub(crate) fn warning(&self, text: impl fmt::Display) {
        if self.json {
            let warning = serde_json::json!({ "warning": text.to_string() });
            let _ = writeln!(std::io::stderr(), "{warning}");
        } else {
            let _ = writeln!(anstream::stderr(), "{} {text}", styled(WARNING, "warning:"));
        }
    }

    /// Prints why the command failed to stderr, as JSON with `--json`.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let error = serde_json::json!({ "error": failure.to_string() });
            let _ = writeln!(std::io::stderr(), "{error}");
        } else {
            let _ = writeln!(anstream::stderr(), "{} {failure}", styled(BAD, "error:"));
        }
    }

    /// Returns a progress bar on stderr. The bar is hidden with `--json`, or if stderr isn't a terminal.
    pub(crate) fn progress(&self, length: u64, what: &'static str) -> ProgressBar {
        if self.json {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(length).with_message(what);
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {elapsed}");
        bar.set_style(style.expect("the template is valid"));
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// Returns the rows as a table, with two spaces between columns and no line break at the end.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = TabWriter::new(Vec::new()).padding(2).ansi(true);
    let header = (!header.is_empty()).then(|| header.join("\t"));
    let rows = rows.iter().map(|row| row.join("\t"));
    let lines: Vec<_> = header.into_iter().chain(rows).collect();
    // A vector accepts every write.
    let _ = table.write_all(lines.join("\n").as_bytes());
    let text = table.into_inner().unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// Writes a duration with three digits: `1.23 ms`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        _ if seconds < 1e-3 => (seconds * 1e6, "µs"),
        _ if seconds < 1.0 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    let decimals = match value {
        _ if value < 10.0 => 2,
        _ if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}
