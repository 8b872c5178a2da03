use super::{HandlerError, Outcome};

/// The result of a handler that can fail.
pub type HandlerResult = Result<(), HandlerError>;

/// The types that a handler may return: `()`, or `Result<(), E>` where `E` converts to [`HandlerError`].
///
/// An `async` block that uses `?` doesn't name its error type, so rustc asks for a type annotation. End the block with
/// `Ok::<_, HandlerError>(())`, or write the handler as an `async fn` that returns [`HandlerResult`]:
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
    note = "if the last expression of the handler is a future, add `.await` to it",
    note = "end the handler with `Ok::<_, HandlerError>(())`, or make it an `async fn` that returns `HandlerResult`"
)]
pub trait IntoOutcome {
    /// Converts the value into an outcome.
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

/// The never type, for a handler such as `async { todo!() }`. Stable Rust can't name this type directly.
type Never = <fn() -> ! as never::Returns>::Type;

mod never {
    #[allow(unreachable_pub)] // the public API may not use a type of a private trait
    pub trait Returns {
        type Type;
    }

    impl<T> Returns for fn() -> T {
        type Type = T;
    }
}

// Without the attribute, rustc lists this impl in every message about a handler's return type.
#[diagnostic::do_not_recommend]
impl IntoOutcome for Never {
    fn into_outcome(self) -> Outcome {
        self
    }
}
