use serde::de::DeserializeOwned;

use super::Event;
use crate::error::Error;

/// What an [`Event<T>`](Event) can hold: any type that serde decodes, or [`Raw`].
///
/// It is implemented for every [`DeserializeOwned`] type and can't be implemented otherwise.
#[diagnostic::on_unimplemented(
    message = "an event's data can't be decoded as `{Self}`",
    label = "the payload of an event implements `serde::Deserialize`",
    note = "add `#[derive(serde::Deserialize)]` to `{Self}`, or take a plain `Event` and read its `raw_data()`"
)]
pub trait Payload: Sized + sealed::Sealed {
    /// Takes the payload out of an event.
    #[doc(hidden)]
    fn take(event: &Event) -> Result<Self, Error>;
}

/// The payload of a plain [`Event`]: `data` stays the text that was sent, until someone decodes it.
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
