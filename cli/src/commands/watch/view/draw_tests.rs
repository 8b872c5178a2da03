//! The state on the screen.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::super::super::filter::Filter;
use super::super::super::follow::{Changes, Update};
use super::super::super::inspector::{Details, RequestError};
use super::super::app::{Action, Routes};
use super::*;

const HOSTILE: &str = "x\u{1b}[2J\u{9b}\u{7}\r\n\u{202e}漢字";

fn event(id: u64, state: &str, text: &str) -> Value {
    let routes = json!([{ "route": "announce", "reason": (state == "dead").then(|| format!("failed: {text}")) }]);
    json!({
        "id": id, "message_id": format!("{text}-{id}"), "event_type": "account.updated", "state": state,
        "routes": routes, "cause": null, "attempts": 3, "received_at": 0, "ended_at": null,
        "history": [{ "number": 1, "started_at": 0, "duration": 0.5, "routes": routes }]
    })
}

fn app(events: Vec<Value>) -> App {
    let mut app = App::new("http://localhost:3000/admin".to_owned(), Filter::default());
    app.update(Update::Listed(Filter::default(), Changes::of_list(events)));
    app
}

fn screen_of(app: &mut App, width: u16, height: u16, theme: Theme) -> ratatui::buffer::Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test backend");
    terminal
        .draw(|frame| draw(frame, app, theme))
        .expect("a test backend");
    terminal.backend().buffer().clone()
}

/// Returns the lines on the screen.
fn screen(app: &mut App, width: u16, height: u16) -> Vec<String> {
    let buffer = screen_of(app, width, height, Theme::Colors);
    let lines = buffer.content().chunks(usize::from(width));
    let lines = lines.map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.map(|line| line.trim_end().to_owned()).collect()
}

fn press(app: &mut App, code: KeyCode) -> Option<Action> {
    app.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn write(app: &mut App, text: &str) {
    for c in text.chars() {
        press(app, KeyCode::Char(c));
    }
}

#[test]
fn the_list_shows_state_type_and_reason_in_80_columns() {
    let mut app = app(vec![
        event(2, "dead", "no account"),
        event(1, "handled", "m"),
    ]);
    let lines = screen(&mut app, 80, 24);
    assert_eq!(lines[0], "live  http://localhost:3000/admin");
    assert!(lines[1].starts_with("Age    State     Type"), "{lines:?}");
    assert!(lines[2].contains("dead      account.updated"), "{lines:?}");
    assert!(
        lines[2].contains("announce: failed: no account"),
        "{lines:?}"
    );
    assert!(lines[3].contains("handled   account.updated"), "{lines:?}");
    assert!(lines[23].starts_with("? help  q quit"), "{lines:?}");
    let wide = screen(&mut app, 120, 24);
    assert!(wide[2].contains("no account-2"), "{wide:?}");
}

#[test]
fn any_size_can_be_drawn() {
    let events = || {
        (1..=60)
            .rev()
            .map(|id| event(id, "dead", HOSTILE))
            .collect()
    };
    for width in [1, 2, 10, 20, 59, 60, 99, 100, 300] {
        for height in [1, 2, 3, 5, 24] {
            let mut app = app(events());
            screen(&mut app, width, height);
            press(&mut app, KeyCode::End);
            screen(&mut app, width, height);
            press(&mut app, KeyCode::Char('?'));
            screen(&mut app, width, height);
            press(&mut app, KeyCode::Esc);
            press(&mut app, KeyCode::Enter);
            let body = Some("{\"a\":\"漢字\"}".repeat(50));
            let event = event(1, "dead", HOSTILE);
            app.opened(1, Ok(Details { event, body }));
            press(&mut app, KeyCode::End);
            screen(&mut app, width, height);
        }
    }
}

#[test]
fn a_narrow_screen_shows_state_and_type() {
    let mut app = app(vec![event(1, "dead", "m")]);
    let lines = screen(&mut app, 36, 6);
    assert!(lines[2].contains("dead      account.updated"), "{lines:?}");
}

#[test]
fn hostile_text_never_reaches_the_screen() {
    let mut app = app(vec![event(1, "dead", HOSTILE)]);
    let check = |app: &mut App| {
        let lines = screen(app, 200, 30).join("\n");
        let is_raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!lines.contains(is_raw), "{lines:?}");
        lines
    };
    assert!(check(&mut app).contains("x\\u{1b}[2J\\u{9b}\\u{7}\\u{d}\\n\\u{202e}"));
    press(&mut app, KeyCode::Enter);
    let body = Some(HOSTILE.to_owned());
    app.opened(
        1,
        Ok(Details {
            event: event(1, "dead", HOSTILE),
            body,
        }),
    );
    assert!(check(&mut app).contains("\\u{202e}"));
    app.opened(1, Err(RequestError::Unavailable(HOSTILE.to_owned())));
    check(&mut app);
    app.replayed(1, &Err(RequestError::Denied(HOSTILE.to_owned())));
    check(&mut app);
    app.update(Update::Disconnected {
        reason: HOSTILE.to_owned(),
        retry_at: Instant::now(),
    });
    check(&mut app);
    app.update(Update::BadFilter(HOSTILE.to_owned()));
    check(&mut app);
    press(&mut app, KeyCode::Esc);
    press(&mut app, KeyCode::Char('/'));
    write(&mut app, "type=\u{202e}");
    check(&mut app);
    press(&mut app, KeyCode::Enter);
    check(&mut app);
}

#[test]
fn without_colors_nothing_is_colored() {
    let mut app = app(vec![event(2, "dead", "m"), event(1, "handled", "m")]);
    let buffer = screen_of(&mut app, 80, 10, Theme::Plain);
    for cell in buffer.content() {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
    }
    let colored = screen_of(&mut app, 80, 10, Theme::Colors);
    assert!(colored.content().iter().any(|cell| cell.fg == Color::Red));
}

#[test]
fn the_selection_stays_on_its_event_when_newer_events_arrive() {
    let mut app = app(vec![event(2, "dead", "m"), event(1, "dead", "m")]);
    press(&mut app, KeyCode::Down);
    let newer = Changes {
        from: 0,
        ids: vec![3, 2, 1],
        events: vec![event(3, "dead", "m")],
    };
    app.update(Update::Changed(newer));
    assert_eq!(app.selected(), 2);
    assert_eq!(press(&mut app, KeyCode::Enter), Some(Action::Open(1)));
    press(&mut app, KeyCode::Esc);
    press(&mut app, KeyCode::Home);
    let newer = Changes {
        from: 0,
        ids: vec![4, 3, 2],
        events: vec![event(4, "dead", "m")],
    };
    app.update(Update::Changed(newer));
    assert_eq!(press(&mut app, KeyCode::Enter), Some(Action::Open(4)));
}

#[test]
fn a_pause_keeps_the_list_and_counts_the_changes() {
    let mut app = app(vec![event(1, "running", "m")]);
    press(&mut app, KeyCode::Char('p'));
    let changes = Changes {
        from: 0,
        ids: vec![2],
        events: vec![event(2, "dead", "m")],
    };
    app.update(Update::Changed(changes));
    let lines = screen(&mut app, 80, 5);
    assert!(lines[0].starts_with("paused, changes: 1"), "{lines:?}");
    assert!(
        lines[2].contains("running") && lines[3].is_empty(),
        "{lines:?}"
    );
    press(&mut app, KeyCode::Char('p'));
    let lines = screen(&mut app, 80, 5);
    assert!(lines[2].contains("dead"), "{lines:?}");
}

#[test]
fn a_replay_asks_first() {
    let mut app = app(vec![event(7, "dead", "m")]);
    assert_eq!(press(&mut app, KeyCode::Char('r')), None);
    assert!(screen(&mut app, 80, 5)[4].starts_with("Replay event 7 to the routes that"));
    assert_eq!(press(&mut app, KeyCode::Char('n')), None);
    press(&mut app, KeyCode::Char('R'));
    let action = press(&mut app, KeyCode::Char('y'));
    assert_eq!(action, Some(Action::Replay(7, Routes::All)));
    app.replayed(7, &Ok(true));
    assert_eq!(screen(&mut app, 80, 5)[4], "event 7 is replayed");
}

#[test]
fn a_filter_is_entered_and_a_wrong_one_is_explained() {
    let mut app = app(vec![event(1, "dead", "m")]);
    press(&mut app, KeyCode::Char('/'));
    write(&mut app, "stat=dead");
    assert_eq!(press(&mut app, KeyCode::Enter), None);
    assert!(screen(&mut app, 120, 5)[4].contains("no condition has the name stat"));
    app.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    write(&mut app, "state=dead qq");
    press(&mut app, KeyCode::Backspace);
    let wanted = Filter::parse("state=dead q").expect("the filter is right");
    assert_eq!(
        press(&mut app, KeyCode::Enter),
        Some(Action::Filter(wanted))
    );
    let old = Changes {
        from: 0,
        ids: vec![1],
        events: vec![event(1, "dead", "m")],
    };
    app.update(Update::Changed(old));
    assert!(
        screen(&mut app, 80, 5)[1].starts_with("loading"),
        "a message of the old filter"
    );
    app.update(Update::BadFilter("no state has the name".to_owned()));
    assert!(screen(&mut app, 120, 5)[4].contains("no state has the name"));
}

#[test]
fn a_lost_connection_shows_its_reason_and_the_next_attempt() {
    let mut app = app(vec![event(1, "dead", "m")]);
    let retry_at = Instant::now() + Duration::from_secs(60);
    app.update(Update::Disconnected {
        reason: "nothing listens".to_owned(),
        retry_at,
    });
    let lines = screen(&mut app, 80, 5);
    assert!(
        lines[0].starts_with("disconnected, next attempt in"),
        "{lines:?}"
    );
    assert!(lines[2].contains("dead"), "the events stay");
    app.update(Update::Listed(Filter::default(), Changes::default()));
    assert!(screen(&mut app, 80, 5)[0].starts_with("live"));
}

#[test]
fn an_open_event_is_loaded_again_when_it_changes() {
    let mut app = app(vec![event(1, "running", "m")]);
    press(&mut app, KeyCode::Enter);
    let changes = Changes {
        from: 0,
        ids: vec![1],
        events: vec![event(1, "dead", "m")],
    };
    assert_eq!(app.update(Update::Changed(changes)), Some(Action::Open(1)));
    let body = Some("{\"a\":1}".to_owned());
    app.opened(
        1,
        Ok(Details {
            event: event(1, "dead", "boom"),
            body,
        }),
    );
    let lines = screen(&mut app, 80, 24);
    for wanted in ["account.updated", "  announce: failed: boom", "  \"a\": 1"] {
        assert!(
            lines.iter().any(|line| line == wanted),
            "{wanted}: {lines:?}"
        );
    }
    assert_eq!(press(&mut app, KeyCode::Esc), None);
    assert!(app.detail.is_none());
}
