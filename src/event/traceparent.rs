use http::{HeaderMap, HeaderName};

/// The name of the header, from <https://www.w3.org/TR/trace-context/>.
static HEADER: HeaderName = HeaderName::from_static("traceparent");

/// The number of bytes in a `traceparent`, for example `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
const LEN: usize = 55;

/// A valid `traceparent` of the W3C Trace Context: the version, the trace, the parent span and the flags.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Traceparent(
    /// A thin pointer, because each waiting event has this field.
    Box<[u8; LEN]>,
);

impl Traceparent {
    /// Returns the value if it is valid.
    ///
    /// The digits are lower-case hex, and neither the trace nor the parent is zero. The specification forbids version
    /// `ff`.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digits = |part: &str, count| part.len() == count && part.as_bytes().iter().all(hex);
        let named =
            |part: &str, count| digits(part, count) && part.bytes().any(|byte| byte != b'0');
        // Most invalid values are too long or too short, so the length is checked first.
        let bytes: &[u8; LEN] = value.as_bytes().try_into().ok()?;
        let mut parts = value.split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        let valid = digits(version, 2)
            && version != "ff"
            && named(trace, 32)
            && named(parent, 16)
            && parts.next().is_some_and(|flags| digits(flags, 2));
        valid.then(|| Self(Box::new(*bytes)))
    }

    /// Returns the `traceparent` of a request, unless the header is missing, repeated or invalid.
    pub(crate) fn of_request(headers: &HeaderMap) -> Option<Self> {
        // A request has few headers, so a search is faster than a lookup by hash.
        let mut values = headers.iter().filter(|(name, _)| **name == HEADER);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Self::parse(value.to_str().ok()?),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&*self.0).expect("only hex digits and hyphens are valid")
    }
}
