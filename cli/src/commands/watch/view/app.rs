//! The state of the view, without input or output.

use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::event::Text;
use super::super::filter::Filter;
use super::super::follow::Update;
use super::super::inspector::{Details, RequestError};
use super::super::list::EventList;
use super::detail::Detail;

/// The routes of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routes {
    Remaining,
    All,
}

impl Routes {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Remaining => "remaining",
            Self::All => "all",
        }
    }

    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::Remaining => "the routes that haven't handled it",
            Self::All => "all routes",
        }
    }
}

/// A request that a key started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Filter(Filter),
    Open(u64),
    Replay(u64, Routes),
}

/// A question or an input that is open over the screen.
#[derive(Clone, Debug)]
pub(super) enum Prompt {
    Filter { text: String, error: Option<Text> },
    Replay(u64, Routes),
    Help,
}

pub(super) enum Connection {
    Live,
    /// The server can't read its inbox.
    Trouble(Text),
    Lost {
        reason: Text,
        retry_at: Instant,
    },
}

pub(super) struct App {
    pub(super) url: String,
    pub(super) filter: Filter,
    pub(super) connection: Connection,
    list: EventList,
    /// Whether the list of the current filter hasn't arrived yet.
    pub(super) is_loading: bool,
    /// The list at the time of the pause.
    paused: Option<EventList>,
    /// The number of changes since the pause.
    pub(super) missed: usize,
    /// The selected event, or `None` for the newest.
    selected: Option<u64>,
    /// The number of rows above the screen.
    pub(super) offset: usize,
    /// The number of rows on the screen when it was last drawn.
    pub(super) height: usize,
    pub(super) detail: Option<Detail>,
    pub(super) prompt: Option<Prompt>,
    /// The result of the last action.
    pub(super) notice: Option<Text>,
}

impl App {
    pub(super) fn new(url: String, filter: Filter) -> Self {
        Self {
            url,
            filter,
            connection: Connection::Live,
            list: EventList::default(),
            is_loading: true,
            paused: None,
            missed: 0,
            selected: None,
            offset: 0,
            height: 1,
            detail: None,
            prompt: None,
            notice: None,
        }
    }

    /// Returns the list on the screen.
    pub(super) fn list(&self) -> &EventList {
        self.paused.as_ref().unwrap_or(&self.list)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Returns the place of the selected event in the list.
    pub(super) fn selected(&self) -> usize {
        let Some(id) = self.selected else {
            return 0;
        };
        // If the event is gone, the next older event is selected.
        let ids = self.list().newest_first().map(|event| event.id);
        let place = ids.take_while(|other| *other > id).count();
        place.min(self.list().len().saturating_sub(1))
    }

    fn selected_id(&self) -> Option<u64> {
        let mut events = self.list().newest_first();
        events.nth(self.selected()).map(|event| event.id)
    }

    /// Applies an update. Returns the request to load the open event again, if it has changed.
    pub(super) fn update(&mut self, update: Update) -> Option<Action> {
        match update {
            Update::Listed(filter, _) if filter != self.filter => {}
            Update::Changed(_) if self.is_loading => {}
            Update::Listed(_, changes) | Update::Changed(changes) => {
                self.is_loading = false;
                if !matches!(self.connection, Connection::Trouble(_)) {
                    self.connection = Connection::Live;
                }
                let differences = self.list.apply(changes);
                if self.is_paused() {
                    self.missed += differences.changed.len();
                }
                let open = self.detail.as_ref().map(|detail| detail.id);
                return open
                    .filter(|id| differences.changed.contains(id))
                    .map(Action::Open);
            }
            Update::Trouble(None) => self.connection = Connection::Live,
            Update::Trouble(Some(text)) => self.connection = Connection::Trouble(text),
            Update::Disconnected { reason, retry_at } => {
                let reason = Text::new(&reason);
                self.connection = Connection::Lost { reason, retry_at };
            }
            Update::BadFilter(text) => {
                self.prompt = Some(Prompt::Filter {
                    text: self.filter.to_string(),
                    error: Some(Text::new(&text)),
                });
            }
            Update::Failed(_) => {}
        }
        None
    }

    /// Shows an event that was loaded, if it is still open.
    pub(super) fn opened(&mut self, id: u64, details: Result<Details, RequestError>) {
        if let Some(detail) = self.detail.as_mut().filter(|detail| detail.id == id) {
            detail.load(details);
        }
    }

    pub(super) fn replayed(&mut self, id: u64, result: &Result<bool, RequestError>) {
        let text = match result {
            Ok(true) => format!("event {id} is replayed"),
            Ok(false) => {
                format!("event {id} isn't replayed: it is in flight or gone, or no route is left")
            }
            Err(error) => format!("event {id} isn't replayed: {}", error.text()),
        };
        self.notice = Some(Text::new(&text));
    }

    /// Applies a key. Returns the request that the key starts.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Some(Action::Quit),
                KeyCode::Char('u') => {
                    if let Some(Prompt::Filter { text, .. }) = &mut self.prompt {
                        text.clear();
                    }
                    None
                }
                _ => None,
            };
        }
        self.notice = None;
        match self.prompt.take() {
            Some(Prompt::Filter { text, .. }) => self.filter_key(key, text),
            Some(Prompt::Replay(id, routes)) => {
                (key.code == KeyCode::Char('y')).then_some(Action::Replay(id, routes))
            }
            Some(Prompt::Help) => None,
            None => self.screen_key(key.code),
        }
    }

    fn filter_key(&mut self, key: KeyEvent, mut text: String) -> Option<Action> {
        match key.code {
            KeyCode::Esc => return None,
            KeyCode::Enter => match Filter::parse(&text) {
                Ok(filter) => return self.set_filter(filter),
                Err(error) => {
                    let error = Some(Text::new(&error));
                    self.prompt = Some(Prompt::Filter { text, error });
                    return None;
                }
            },
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(c) if !c.is_control() => text.push(c),
            _ => {}
        }
        self.prompt = Some(Prompt::Filter { text, error: None });
        None
    }

    fn set_filter(&mut self, filter: Filter) -> Option<Action> {
        self.filter = filter.clone();
        self.list.clear();
        self.is_loading = true;
        (self.paused, self.selected, self.offset, self.missed) = (None, None, 0, 0);
        Some(Action::Filter(filter))
    }

    fn screen_key(&mut self, code: KeyCode) -> Option<Action> {
        match code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('?') => self.prompt = Some(Prompt::Help),
            KeyCode::Char('/') => {
                let text = self.filter.to_string();
                self.prompt = Some(Prompt::Filter { text, error: None });
            }
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Char('r') => self.ask_replay(Routes::Remaining),
            KeyCode::Char('R') => self.ask_replay(Routes::All),
            KeyCode::Enter if self.detail.is_none() => return self.open(),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => self.detail = None,
            code => self.scroll(code),
        }
        None
    }

    fn open(&mut self) -> Option<Action> {
        let id = self.selected_id()?;
        self.detail = Some(Detail::new(id));
        // New events must not change the place to which the user returns.
        self.selected = Some(id);
        Some(Action::Open(id))
    }

    fn pause(&mut self) {
        self.paused = match self.paused {
            None => Some(self.list.clone()),
            Some(_) => None,
        };
        self.missed = 0;
    }

    fn ask_replay(&mut self, routes: Routes) {
        let open = self.detail.as_ref().map(|detail| detail.id);
        if let Some(id) = open.or_else(|| self.selected_id()) {
            self.prompt = Some(Prompt::Replay(id, routes));
        }
    }

    fn scroll(&mut self, code: KeyCode) {
        let (place, page) = match &self.detail {
            Some(detail) => (detail.offset, detail.height),
            None => (self.selected(), self.height),
        };
        let page = page.max(1);
        let place = match code {
            KeyCode::Up | KeyCode::Char('k') => place.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => place.saturating_add(1),
            KeyCode::PageUp => place.saturating_sub(page),
            KeyCode::PageDown => place.saturating_add(page),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => usize::MAX,
            _ => return,
        };
        if let Some(detail) = &mut self.detail {
            // The drawing knows the number of lines.
            detail.offset = place;
            return;
        }
        let place = place.min(self.list().len().saturating_sub(1));
        let event = self.list().newest_first().nth(place);
        // At the top, the newest event stays selected.
        self.selected = event.map(|event| event.id).filter(|_| place > 0);
    }
}
