//! Draws the state of the view.

use std::time::{Duration, Instant, SystemTime};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::app::{App, Connection, Prompt};
use super::detail::{Content, Detail, Kind};
use crate::text::visible;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    Colors,
    /// Without colors: bold, reversed and dimmed text remain.
    Plain,
}

impl Theme {
    fn color(self, color: Color) -> Style {
        match self {
            Self::Colors => Style::new().fg(color),
            Self::Plain => Style::new(),
        }
    }

    fn good(self) -> Style {
        self.color(Color::Green)
    }

    fn bad(self) -> Style {
        self.color(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn warning(self) -> Style {
        self.color(Color::Yellow)
    }

    fn state(self, state: &str) -> Style {
        match state {
            "handled" => self.good(),
            "dead" => self.bad(),
            "retrying" => self.warning(),
            _ => FAINT,
        }
    }
}

const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);

const HELP: [&str; 12] = [
    "↑ ↓ k j         move or scroll",
    "PgUp PgDn       a page up or down",
    "g G Home End    to the newest or the oldest",
    "Enter           open the event",
    "Esc             back to the list",
    "r               replay to the remaining routes",
    "R               replay to all routes",
    "/               filter: state=dead type=poll.*",
    "                reason=… route=… id=… since=1h",
    "p Space         pause the list, or continue",
    "Ctrl-U          empty the filter's line",
    "q Ctrl-C        quit",
];

/// Draws the screen. Remembers the heights in the state, for the keys that scroll.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, theme: Theme) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [top, middle, bottom] = rows.areas(frame.area());
    frame.render_widget(title(app, theme, top.width), top);
    match &mut app.detail {
        Some(detail) => draw_detail(frame, middle, detail, theme),
        None => draw_list(frame, middle, app, theme),
    }
    frame.render_widget(footer(app, theme), bottom);
    if matches!(app.prompt, Some(Prompt::Help)) {
        draw_help(frame, middle);
    }
}

/// The connection first, because the URL may be longer than the line.
fn title(app: &App, theme: Theme, width: u16) -> Line<'static> {
    let status = match &app.connection {
        Connection::Lost { reason, retry_at } => {
            let seconds = retry_at
                .saturating_duration_since(Instant::now())
                .as_secs_f64()
                .ceil();
            let text = format!("disconnected, next attempt in {seconds:.0} s: {reason}");
            Span::styled(text, theme.bad())
        }
        Connection::Trouble(text) => Span::styled(
            format!("the server can't read its inbox: {text}"),
            theme.bad(),
        ),
        Connection::Live if app.is_paused() => {
            Span::styled(format!("paused, changes: {}", app.missed), theme.warning())
        }
        Connection::Live => Span::styled("live", theme.good()),
    };
    let mut spans = vec![status];
    let filter = app.filter.to_string();
    if !filter.is_empty() {
        spans.push(Span::styled(format!("  filter: {filter}"), STRONG));
    }
    let used: usize = spans.iter().map(Span::width).sum();
    let url = visible(&app.url).into_owned();
    if used + 2 + url.width() <= usize::from(width) {
        spans.push(Span::styled(format!("  {url}"), FAINT));
    }
    Line::from(spans)
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    app.height = usize::from(area.height).saturating_sub(1).max(1);
    if app.list().len() == 0 {
        let text = match app.connection {
            Connection::Live if app.is_loading => "loading…",
            Connection::Live => "No event matches yet. The view shows events when they arrive.",
            _ => "No event is known.",
        };
        let text = wrap(text, area.width);
        let lines: Vec<_> = text
            .into_iter()
            .map(|line| Line::styled(line, FAINT))
            .collect();
        frame.render_widget(Paragraph::new(lines), area);
        return;
    }
    // Only the rows on the screen are built.
    let selected = app.selected();
    let most = app.list().len().saturating_sub(app.height);
    app.offset = app.offset.min(most).min(selected);
    app.offset = app.offset.max((selected + 1).saturating_sub(app.height));
    let columns = Columns::for_width(area.width);
    let now = SystemTime::now();
    let rows = app.list().newest_first().skip(app.offset).take(app.height);
    let rows = rows.map(|event| {
        let age = now.duration_since(event.received_at()).unwrap_or_default();
        let mut cells = vec![
            Line::styled(rough(age), FAINT),
            Line::styled(event.state.to_string(), theme.state(&event.state)),
            Line::raw(event.event_type().to_owned()),
        ];
        if columns.has_id {
            cells.push(Line::styled(event.message_id.to_string(), FAINT));
        }
        if columns.has_attempts {
            cells.push(Line::raw(event.attempts.to_string()));
        }
        if columns.has_result {
            let has_failed = event.routes.iter().any(|result| result.reason.is_some());
            let style = if has_failed { theme.bad() } else { FAINT };
            cells.push(Line::styled(shortened(&event.result()), style));
        }
        Row::new(cells)
    });
    let table = Table::new(rows, &columns.widths)
        .header(Row::new(columns.names.clone()).style(STRONG))
        .row_highlight_style(SELECTED);
    let mut state = TableState::new().with_selected(selected - app.offset);
    frame.render_stateful_widget(table, area, &mut state);
}

/// The columns that fit on the screen.
struct Columns {
    widths: Vec<Constraint>,
    names: Vec<&'static str>,
    has_id: bool,
    has_attempts: bool,
    has_result: bool,
}

impl Columns {
    fn for_width(width: u16) -> Self {
        let mut columns = Self {
            widths: vec![Constraint::Length(6), Constraint::Length(9)],
            names: vec!["Age", "State", "Type"],
            has_id: width >= 100,
            has_attempts: width >= 60,
            has_result: width >= 60,
        };
        columns.widths.push(match width {
            0..60 => Constraint::Min(4),
            60..100 => Constraint::Length(25),
            _ => Constraint::Length(32),
        });
        if columns.has_id {
            columns.widths.push(Constraint::Length(20));
            columns.names.push("Message id");
        }
        if columns.has_attempts {
            columns.widths.push(Constraint::Length(8));
            columns.names.push("Attempts");
        }
        if columns.has_result {
            columns.widths.push(Constraint::Min(10));
            columns.names.push("Routes");
        }
        columns
    }
}

fn draw_detail(frame: &mut Frame<'_>, area: Rect, detail: &mut Detail, theme: Theme) {
    detail.height = usize::from(area.height);
    let lines = match &detail.content {
        Content::Loading => vec![Line::styled("loading…", FAINT)],
        Content::Failed(text) => wrap(text, area.width)
            .into_iter()
            .map(|line| Line::styled(line, theme.bad()))
            .collect(),
        Content::Lines(lines) => {
            let styled = lines.iter().flat_map(|line| {
                let style = match line.kind {
                    Kind::Plain => Style::new(),
                    Kind::Heading => STRONG,
                    Kind::Good => theme.good(),
                    Kind::Bad => theme.bad(),
                };
                let wrapped = wrap(&line.text, area.width).into_iter();
                wrapped.map(move |line| Line::styled(line, style))
            });
            styled.collect()
        }
    };
    detail.offset = detail.offset.min(lines.len().saturating_sub(detail.height));
    let shown: Vec<_> = lines
        .into_iter()
        .skip(detail.offset)
        .take(detail.height)
        .collect();
    frame.render_widget(Paragraph::new(shown), area);
}

/// The keys, or the open question.
fn footer(app: &App, theme: Theme) -> Line<'static> {
    match &app.prompt {
        Some(Prompt::Filter { text, error }) => {
            let mut spans = vec![
                Span::styled("filter: ", STRONG),
                Span::raw(visible(text).into_owned()),
                Span::styled(" ", SELECTED),
            ];
            match error {
                Some(error) => spans.push(Span::styled(format!("  {error}"), theme.bad())),
                None => spans.push(Span::styled("  Enter apply  Esc cancel", FAINT)),
            }
            Line::from(spans)
        }
        Some(Prompt::Replay(id, routes)) => Line::styled(
            format!("Replay event {id} to {}? y n", routes.shown()),
            theme.warning().add_modifier(Modifier::BOLD),
        ),
        Some(Prompt::Help) => Line::styled("any key: close the help", FAINT),
        None => match (&app.notice, &app.detail) {
            (Some(notice), _) => Line::styled(notice.to_string(), STRONG),
            (None, Some(_)) => keys(&["Esc back", "↑↓ scroll", "r replay", "? help", "q quit"]),
            (None, None) => keys(&[
                "? help",
                "q quit",
                "Enter open",
                "/ filter",
                "p pause",
                "r replay",
            ]),
        },
    }
}

fn keys(keys: &[&str]) -> Line<'static> {
    Line::styled(keys.join("  "), FAINT)
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = HELP
        .iter()
        .map(|line| line.width())
        .max()
        .unwrap_or_default()
        + 2;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(HELP.len() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let help = Paragraph::new(HELP.map(Line::raw).to_vec()).block(Block::bordered().title("Keys"));
    frame.render_widget(help, place);
}

/// Returns a duration in one unit: `5 s`, `3 min`, `2 h` or `4 d`.
fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A row shows only the beginning of a result.
fn shortened(text: &str) -> String {
    text.chars().take(500).collect()
}

/// Breaks the text into lines of at most this width.
fn wrap(text: &str, width: u16) -> Vec<String> {
    let width = usize::from(width).max(2);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or_default();
        if used + wide > width {
            lines.push(String::new());
            used = 0;
        }
        used += wide;
        if let Some(line) = lines.last_mut() {
            line.push(c);
        }
    }
    lines
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
