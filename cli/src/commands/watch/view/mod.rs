//! The live view in the terminal.

mod app;
mod detail;
mod draw;
mod terminal;

use std::time::Duration;

use crossterm::event::{Event as Input, EventStream, KeyEventKind};
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};

use super::filter::Filter;
use super::follow::Update;
use super::inspector::{Details, Inspector, RequestError};
use crate::failure::{Failure, Success};
use app::{Action, App};
use terminal::{Terminal, ending};

/// The view shows ages, so it is drawn at least this often.
const TICK: Duration = Duration::from_secs(1);

/// An answer to a request that the user started.
enum Answer {
    Opened(u64, Result<Details, RequestError>),
    Replayed(u64, Result<bool, RequestError>),
}

/// Shows the view until the user quits.
pub(super) async fn run(
    inspector: Inspector,
    mut updates: mpsc::Receiver<Update>,
    filters: &watch::Sender<Filter>,
) -> Result<Success, Failure> {
    // An error before the first list is clearer without a view.
    let first = match updates.recv().await {
        None => return Ok(Success::Good),
        Some(Update::Failed(error)) => return Err(error.into_failure()),
        Some(Update::BadFilter(text)) => return Err(Failure::usage(text)),
        Some(update) => update,
    };
    let mut app = App::new(inspector.shown.clone(), filters.borrow().clone());
    app.update(first);
    let (answers, mut answered) = mpsc::channel(16);
    let mut inputs = EventStream::new();
    let mut tick = tokio::time::interval(TICK);
    let mut ended = std::pin::pin!(ending());
    let mut terminal = Terminal::open()?;
    loop {
        terminal.draw(&mut app)?;
        let action = tokio::select! {
            update = updates.recv() => match update {
                None => return Ok(Success::Good),
                Some(Update::Failed(error)) => return Err(error.into_failure()),
                Some(update) => app.update(update),
            },
            Some(answer) = answered.recv() => {
                match answer {
                    Answer::Opened(id, details) => app.opened(id, details),
                    Answer::Replayed(id, result) => app.replayed(id, &result),
                }
                None
            }
            input = inputs.next() => match input {
                Some(Ok(Input::Key(key))) if key.kind != KeyEventKind::Release => app.key(key),
                Some(Ok(_)) => None,
                // The terminal is gone.
                Some(Err(_)) | None => return Ok(Success::Good),
            },
            _ = tick.tick() => None,
            () = &mut ended => return Ok(Success::Good),
        };
        match action {
            None => {}
            Some(Action::Quit) => return Ok(Success::Good),
            Some(Action::Filter(filter)) => drop(filters.send(filter)),
            Some(Action::Open(id)) => {
                let (inspector, answers) = (inspector.clone(), answers.clone());
                tokio::spawn(async move {
                    let details = inspector.event(id).await;
                    let _ = answers.send(Answer::Opened(id, details)).await;
                });
            }
            Some(Action::Replay(id, routes)) => {
                let (inspector, answers) = (inspector.clone(), answers.clone());
                tokio::spawn(async move {
                    let result = inspector.replay(id, routes.name()).await;
                    let _ = answers.send(Answer::Replayed(id, result)).await;
                });
            }
        }
    }
}
