use std::fmt;

/// A platform. Some documented event types end with the name of a platform, for example
/// `connection.stream.started.twitch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // the names are the docs
pub enum Platform {
    Twitch,
    YouTube,
    Facebook,
    Trovo,
    DLive,
    Brime,
    Zoom,
    Twitter,
    TikTok,
}

impl Platform {
    /// All platforms, in the order of the specification.
    pub const ALL: [Self; 9] = [
        Self::Twitch,
        Self::YouTube,
        Self::Facebook,
        Self::Trovo,
        Self::DLive,
        Self::Brime,
        Self::Zoom,
        Self::Twitter,
        Self::TikTok,
    ];

    /// Returns the name as event types spell it, for example `twitch`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Twitch => "twitch",
            Self::YouTube => "youtube",
            Self::Facebook => "facebook",
            Self::Trovo => "trovo",
            Self::DLive => "dlive",
            Self::Brime => "brime",
            Self::Zoom => "zoom",
            Self::Twitter => "twitter",
            Self::TikTok => "tiktok",
        }
    }

    /// Splits an event type, such as `connection.stream.started.twitch`, before its platform.
    pub(super) fn split(event_type: &str) -> Option<(&str, Self)> {
        let (base, last) = event_type.rsplit_once('.')?;
        let platform = Self::ALL
            .into_iter()
            .find(|platform| platform.as_str() == last)?;
        Some((base, platform))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
