/// How an inbox accepted an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Accepted {
    /// The inbox has stored the event.
    New,
    /// The inbox has already accepted an event with the same `messageId`.
    Duplicate,
}

impl Accepted {
    /// Returns the value of the label `reason` in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::New => "accepted",
            Self::Duplicate => "duplicate",
        }
    }
}
