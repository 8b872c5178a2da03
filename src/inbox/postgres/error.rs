//! The errors of the inbox, its pool and its server.

use std::fmt;

use deadpool_postgres::PoolError;
use tokio_postgres::Error as PgError;
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::error::{BoxError, Error, ErrorKind};
use crate::inbox::{AcceptError, AcceptErrorKind};

/// A failed statement.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether the server may have committed the statement.
    pub(super) may_be_committed: bool,
    /// Whether the values of the statement caused the failure.
    pub(super) is_of_values: bool,
}

/// The server's error without its details, which may quote values.
#[derive(Debug)]
struct ServerError {
    code: SqlState,
    message: Option<Box<str>>,
}

impl ServerError {
    fn new(error: &DbError) -> Self {
        let code = error.code().clone();
        Self {
            message: (!is_of_values(&code)).then(|| error.message().into()),
            code,
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message) = &self.message {
            write!(f, "{message} ")?;
        }
        write!(f, "(SQLSTATE {})", self.code.code())
    }
}

impl std::error::Error for ServerError {}

impl Failure {
    /// Returns the failure of a statement that the server didn't run.
    pub(super) fn before(error: Error) -> Self {
        Self {
            error,
            may_be_committed: false,
            is_of_values: false,
        }
    }

    /// Returns the failure of a statement that the server hasn't answered in time.
    pub(super) fn unanswered() -> Self {
        Self {
            error: inbox("the PostgreSQL server doesn't answer"),
            may_be_committed: true,
            is_of_values: false,
        }
    }

    pub(super) fn of(error: PgError) -> Self {
        let code = error.as_db_error().map(DbError::code);
        let is_error = error
            .as_db_error()
            .is_some_and(|error| matches!(error.parsed_severity(), Some(Severity::Error)));
        Self {
            is_of_values: code.is_some_and(is_of_values),
            // A fatal error may follow a commit whose answer is lost.
            may_be_committed: !is_error,
            error: failing(error),
        }
    }
}

/// Returns whether values cause this error: a data exception, a violated constraint or an exceeded limit.
fn is_of_values(code: &SqlState) -> bool {
    ["22", "23", "54"].contains(&&code.code()[..2])
}

/// Returns the fault that an error code describes, worded for the operator.
fn fault(code: &SqlState) -> &'static str {
    match code.code() {
        "25006" => {
            "the PostgreSQL server is read-only: check that the connection leads to the primary"
        }
        "53100" => "the disk of the PostgreSQL server is full",
        "53300" => "the PostgreSQL server has too many connections: raise `max_connections`",
        "28000" | "28P01" => {
            "the PostgreSQL server refuses the role: check the user and the password"
        }
        "3D000" => "the database doesn't exist",
        "42501" => "the role lacks a permission: see the docs of `PostgresInbox`",
        "BW001" => "another worker has taken the event: roll back",
        "BW002" => "the route has already handled the event: roll back",
        "3F000" | "42883" | "42P01" => {
            "the schema of the inbox is missing: restore it, or restart the process to create it"
        }
        "57P01" | "57P02" | "57P03" => "the PostgreSQL server is restarting",
        code if code.starts_with("08") => "the connection to the PostgreSQL server is broken",
        _ => "the PostgreSQL server fails",
    }
}

/// Returns the error of a statement or a connection.
pub(super) fn failing(error: PgError) -> Error {
    match error.as_db_error() {
        Some(db) => inbox_caused(fault(db.code()), ServerError::new(db)),
        None => inbox_caused("the connection to the PostgreSQL server is broken", error),
    }
}

/// Returns the error of a pool that has no connection.
pub(super) fn no_connection(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => match error.as_db_error() {
            Some(_) => failing(error),
            None => inbox_caused("the PostgreSQL server can't be reached", error),
        },
        PoolError::Timeout(_) => pool_exhausted(),
        error => inbox_caused("the pool has no connection", error),
    }
}

/// Returns the error of a pool whose connections are all in use.
pub(super) fn pool_exhausted() -> Error {
    inbox("the pool has no free connection: raise its `max_size`")
}

/// Returns the error of an inbox that can't be opened.
pub(super) fn not_opened(schema: &str, why: impl fmt::Display) -> Error {
    inbox(format!(
        "the inbox in the schema {schema} can't be opened: {why}"
    ))
}

/// Returns the error of an inbox that can't be opened because of `error`.
pub(super) fn open_failed(schema: &str, error: &Error) -> Error {
    let text = format!("the inbox in the schema {schema} can't be opened: {error}");
    match std::error::Error::source(error) {
        Some(source) => inbox_caused(text, source.to_string()),
        None => inbox(text),
    }
}

/// Returns the error of a route with an option that the inbox doesn't support.
pub(super) fn route_option(route: &str, option: &str) -> Error {
    inbox(format!(
        "`PostgresInbox` doesn't support `{option}`, which the route {route:?} has: remove the option, or use `SqliteInbox`"
    ))
}

/// Returns the error of an inbox outside a tokio runtime.
pub(super) fn runtime_missing(error: tokio::runtime::TryCurrentError) -> Error {
    inbox_caused(
        "the inbox needs a tokio runtime: open it in an async function on tokio",
        error,
    )
}

/// Returns the error of an event that no handler of the inbox runs.
pub(super) fn not_in_a_handler() -> Error {
    inbox("the event isn't in a handler of an `EventRouter` over a `PostgresInbox`")
}

/// Returns the error of a replay that the inbox refuses.
pub(super) fn not_replayed(kind: AcceptErrorKind) -> Error {
    inbox_caused("the event can't be replayed", AcceptError::new(kind))
}

fn inbox(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Inbox, text)
}

fn inbox_caused(
    text: impl Into<std::borrow::Cow<'static, str>>,
    source: impl Into<BoxError>,
) -> Error {
    Error::caused(ErrorKind::Inbox, text, source)
}
