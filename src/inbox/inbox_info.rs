/// The kind and the place of an inbox, for the log.
#[derive(Clone, Debug)]
pub(crate) struct InboxInfo {
    pub(crate) kind: &'static str,
    /// The file or the stream, if the inbox has one.
    pub(crate) location: Option<String>,
    /// The number of events that the inbox found in its file.
    pub(crate) recovered: Option<u64>,
    /// Whether events that haven't ended run after a restart.
    pub(crate) is_durable: bool,
}
