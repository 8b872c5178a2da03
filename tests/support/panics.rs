//! Panics that a test expects. Some of these panics aren't printed, and some are caught.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, panic_any, set_hook, take_hook};
use std::sync::Once;

/// The payload of a panic that the test causes on purpose.
struct OnPurpose;

/// A panic that [`catch_panic`] caught.
#[derive(Debug)]
pub(crate) struct CaughtPanic {
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) message: String,
}

thread_local! {
    /// Whether this thread is running the code of `catch_panic`.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<CaughtPanic>> = const { RefCell::new(None) };
}

/// Panics without a message in the output.
pub(crate) fn panic_on_purpose() -> ! {
    set_hook_once();
    panic_any(OnPurpose)
}

/// Runs code, and returns its panic, which isn't printed.
pub(crate) fn catch_panic(code: impl FnOnce()) -> Option<CaughtPanic> {
    set_hook_once();
    CATCHING.set(true);
    let _ = catch_unwind(AssertUnwindSafe(code));
    CATCHING.set(false);
    CAUGHT.take()
}

/// Sets a hook for all tests of the binary. The hook prints every panic that no test expects.
fn set_hook_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if CATCHING.get() {
                CAUGHT.set(Some(CaughtPanic::new(panic)));
            } else if !panic.payload().is::<OnPurpose>() {
                print(panic);
            }
        }));
    });
}

impl CaughtPanic {
    fn new(panic: &PanicHookInfo<'_>) -> Self {
        let (location, payload) = (panic.location().unwrap(), panic.payload());
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self {
            file: location.file().to_owned(),
            line: location.line(),
            message: text.unwrap_or_default().to_owned(),
        }
    }
}
