//! The terminal: the alternate screen and raw mode, which end on every way out of the command.

use std::io::{IsTerminal, Stdout};

use anstream::{AutoStream, ColorChoice};
use ratatui::DefaultTerminal;

use super::app::App;
use super::draw::{Theme, draw};
use crate::failure::Failure;

/// A terminal in raw mode. Dropping it, or a panic, restores the terminal.
pub(super) struct Terminal {
    inner: DefaultTerminal,
    theme: Theme,
}

impl Terminal {
    pub(super) fn open() -> Result<Self, Failure> {
        let theme = match AutoStream::<Stdout>::choice(&std::io::stdout()) {
            ColorChoice::Never => Theme::Plain,
            _ if std::io::stdout().is_terminal() => Theme::Colors,
            _ => Theme::Plain,
        };
        // Also adds a panic hook that restores the terminal.
        let inner = ratatui::try_init().map_err(|error| failure(&error))?;
        Ok(Self { inner, theme })
    }

    pub(super) fn draw(&mut self, app: &mut App) -> Result<(), Failure> {
        let theme = self.theme;
        let drawn = self.inner.draw(|frame| draw(frame, app, theme));
        drawn.map(drop).map_err(|error| failure(&error))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The panic hook has already restored the terminal. A second time would move the cursor over the message.
        if !std::thread::panicking() {
            let _ = ratatui::try_restore();
        }
    }
}

fn failure(error: &std::io::Error) -> Failure {
    Failure::unavailable(format_args!(
        "the terminal can't show the view: {error}. Pass --plain to print lines"
    ))
}

/// Returns a future that waits until the system asks the command to end. In raw mode, Ctrl-C is a key and not a signal.
///
/// The signals are caught from now on, so that no signal ends the command without restoring the terminal.
#[cfg(unix)]
pub(super) fn ending() -> impl Future<Output = ()> {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    let wait = async |signal: std::io::Result<Signal>| match signal {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    let terminate = signal(SignalKind::terminate());
    let hangup = signal(SignalKind::hangup());
    let interrupt = signal(SignalKind::interrupt());
    async move {
        tokio::select! {
            () = wait(terminate) => {}
            () = wait(hangup) => {}
            () = wait(interrupt) => {}
        }
    }
}

#[cfg(not(unix))]
pub(super) async fn ending() {
    let _ = tokio::signal::ctrl_c().await;
}
