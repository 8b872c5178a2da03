use serde::de::DeserializeOwned;

use super::Event;
use crate::error::Error;

/// The payload type of an [`Event<T>`](Event).
///
/// Every [`DeserializeOwned`] type and [`Raw`] implement this trait. The trait is sealed.
#[diagnostic::on_unimplemented(
    message = "an event's data can't be decoded as `{Self}`",
    label = "the payload of an event implements `serde::Deserialize`",
    note = "add `#[derive(serde::Deserialize)]` to `{Self}`, or take a plain `Event` and read its `raw_data()`"
)]
pub trait Payload: Sized + sealed::Sealed {
    /// Decodes the payload of an event.
    #[doc(hidden)]
    fn take(event: &Event) -> Result<Self, Error>;
}

/// The payload of a plain [`Event`], whose `data` stays JSON text.
#[derive(Clone, Copy, Debug)]
pub struct Raw(pub(super) ());

impl Payload for Raw {
    fn take(_: &Event) -> Result<Self, Error> {
        Ok(Self(()))
    }
}

impl<T: DeserializeOwned> Payload for T {
    fn take(event: &Event) -> Result<Self, Error> {
        event.decode()
    }
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Raw {}
    impl<T: serde::de::DeserializeOwned> Sealed for T {}
}
