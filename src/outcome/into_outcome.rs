use super::{HandlerError, Outcome};

/// What a handler returns when it can fail.
pub type HandlerResult = Result<(), HandlerError>;

/// What a handler may return: `()`, or `Result<(), E>` where `E` converts to [`HandlerError`].
///
/// An `async` block that uses `?` has no place where its error type is written, and rustc asks for
/// one. AttemptEnd it with `Ok::<_, HandlerError>(())`, or name the handler as an `async fn` that returns
/// [`HandlerResult`]:
///
/// ```
/// use botisimo_webhooks::{Event, EventRouter, HandlerError, HandlerResult};
///
/// async fn named(event: Event) -> HandlerResult {
///     let _: u64 = event.id().parse()?;
///     Ok(())
/// }
///
/// let router = EventRouter::new().on("account.created", named).on("account.updated", |event: Event| async move {
///     let _: u64 = event.id().parse()?;
///     Ok::<_, HandlerError>(())
/// });
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler can't return `{Self}`",
    label = "a handler returns `()` or `Result<(), E>` where `E` converts to `HandlerError`",
    note = "end the handler with `Ok::<_, HandlerError>(())`, or make it an `async fn` that returns `HandlerResult`"
)]
pub trait IntoOutcome {
    /// Returns the outcome that this value stands for.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Handled
    }
}

impl<E: Into<HandlerError>> IntoOutcome for Result<(), E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(()) => Outcome::Handled,
            Err(error) => Outcome::Failed(error.into()),
        }
    }
}

/// What `async { todo!() }` returns: a type that has no name of its own yet.
type Never = <fn() -> ! as never::Returns>::Type;

mod never {
    #[allow(unreachable_pub)] // a type in the public API may not go through a private trait
    pub trait Returns {
        type Type;
    }

    impl<T> Returns for fn() -> T {
        type Type = T;
    }
}

// Else every message about a handler's return type would list this impl, and how it is named.
#[diagnostic::do_not_recommend]
impl IntoOutcome for Never {
    fn into_outcome(self) -> Outcome {
        self
    }
}
