/// The kind, the place and the limits of an inbox, for the log and the inspector.
#[derive(Clone, Debug)]
pub(crate) struct InboxInfo {
    pub(crate) kind: &'static str,
    /// The file or the stream, if the inbox has one.
    pub(crate) location: Option<String>,
    /// The number of events that the inbox found in its file.
    pub(crate) recovered: Option<u64>,
    /// Whether events that haven't ended run after a restart.
    pub(crate) is_durable: bool,
    /// The maximum number of events in flight and the maximum number of their bytes, if the inbox itself limits both.
    pub(crate) limits: Option<(u64, u64)>,
}
