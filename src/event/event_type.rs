use std::borrow::Borrow;
use std::cmp::Ordering;
use std::convert::Infallible;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names;
use super::platform::Platform;

/// The number of event types in the specification.
const COUNT: usize = 91;

/// Defines the enum and its table of names from one list, in the order of the specification.
macro_rules! event_types {
    ($($variant:ident = $name:literal,)*) => {
        /// The type of an event: a documented name, or any other name.
        ///
        /// The variants are the names that the sender's specification lists under "Event Types". Any other name is an
        /// [`Undocumented`](EventType::Undocumented) event type, which routes match in the same way. Event types are
        /// compared, ordered and hashed by name.
        ///
        /// # Examples
        ///
        /// ```
        /// use botisimo_webhooks::{EventType, Platform};
        ///
        /// let started = EventType::from("connection.stream.started.twitch");
        /// assert_eq!(started, EventType::ConnectionStreamStartedTwitch);
        /// assert_eq!(started.platform(), Some(Platform::Twitch));
        /// assert_eq!(started.without_platform(), EventType::ConnectionStreamStarted);
        ///
        /// match EventType::from("planet.discovered") {
        ///     EventType::AccountCreated => unreachable!(),
        ///     EventType::Undocumented(name) => assert_eq!(&*name, "planet.discovered"),
        ///     _ => unreachable!(),
        /// }
        /// ```
        #[derive(Clone)]
        #[non_exhaustive]
        pub enum EventType {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant,
            )*
            /// A name that the specification doesn't list.
            ///
            /// `EventType::from` finds the variant of a name.
            Undocumented(Arc<str>),
        }

        impl EventType {
            /// All documented event types, in the order of the specification.
            pub const ALL: [Self; COUNT] = [$(Self::$variant),*];

            /// Returns the name, for example `connection.stream.started`.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Undocumented(name) => name,
                }
            }

            /// Returns the index of a documented event type in [`ALL`](EventType::ALL).
            pub(crate) fn index(&self) -> Option<usize> {
                enum Index { $($variant,)* }
                match self {
                    $(Self::$variant => Some(Index::$variant as usize),)*
                    Self::Undocumented(_) => None,
                }
            }
        }

        /// [`EventType::ALL`] as a static, because each use of a constant creates a new array.
        pub(crate) static DOCUMENTED: [EventType; COUNT] = EventType::ALL;

        /// The documented names, in the order of the specification.
        static NAMES: [&str; COUNT] = [$($name),*];

        /// The hash table of the documented names.
        static TABLE: names::Table = names::table(&[$($name),*]);
    };
}

event_types! {
    AccountCreated = "account.created",
    AccountUpdated = "account.updated",
    AccountDiscordUpdated = "account.discord.updated",
    AccountSlackUpdated = "account.slack.updated",
    AccountCustomBotUpdated = "account.custom_bot.updated",
    AccountCustomBotUpdatedTwitch = "account.custom_bot.updated.twitch",
    AccountCustomBotUpdatedYouTube = "account.custom_bot.updated.youtube",
    AccountCustomBotUpdatedFacebook = "account.custom_bot.updated.facebook",
    AccountCustomBotUpdatedTrovo = "account.custom_bot.updated.trovo",
    AccountCustomBotUpdatedDLive = "account.custom_bot.updated.dlive",
    AccountCustomBotUpdatedBrime = "account.custom_bot.updated.brime",
    AccountCustomBotUpdatedZoom = "account.custom_bot.updated.zoom",
    AccountCustomBotUpdatedTwitter = "account.custom_bot.updated.twitter",
    AccountCustomBotUpdatedTikTok = "account.custom_bot.updated.tiktok",
    ConnectionCreated = "connection.created",
    ConnectionCreatedTwitch = "connection.created.twitch",
    ConnectionCreatedYouTube = "connection.created.youtube",
    ConnectionCreatedFacebook = "connection.created.facebook",
    ConnectionCreatedTrovo = "connection.created.trovo",
    ConnectionCreatedDLive = "connection.created.dlive",
    ConnectionCreatedBrime = "connection.created.brime",
    ConnectionCreatedZoom = "connection.created.zoom",
    ConnectionCreatedTwitter = "connection.created.twitter",
    ConnectionCreatedTikTok = "connection.created.tiktok",
    ConnectionUpdated = "connection.updated",
    ConnectionUpdatedTwitch = "connection.updated.twitch",
    ConnectionUpdatedYouTube = "connection.updated.youtube",
    ConnectionUpdatedFacebook = "connection.updated.facebook",
    ConnectionUpdatedTrovo = "connection.updated.trovo",
    ConnectionUpdatedDLive = "connection.updated.dlive",
    ConnectionUpdatedBrime = "connection.updated.brime",
    ConnectionUpdatedZoom = "connection.updated.zoom",
    ConnectionUpdatedTwitter = "connection.updated.twitter",
    ConnectionUpdatedTikTok = "connection.updated.tiktok",
    ConnectionDeleted = "connection.deleted",
    ConnectionDeletedTwitch = "connection.deleted.twitch",
    ConnectionDeletedYouTube = "connection.deleted.youtube",
    ConnectionDeletedFacebook = "connection.deleted.facebook",
    ConnectionDeletedTrovo = "connection.deleted.trovo",
    ConnectionDeletedDLive = "connection.deleted.dlive",
    ConnectionDeletedBrime = "connection.deleted.brime",
    ConnectionDeletedZoom = "connection.deleted.zoom",
    ConnectionDeletedTwitter = "connection.deleted.twitter",
    ConnectionDeletedTikTok = "connection.deleted.tiktok",
    ConnectionStreamStarted = "connection.stream.started",
    ConnectionStreamStartedTwitch = "connection.stream.started.twitch",
    ConnectionStreamStartedYouTube = "connection.stream.started.youtube",
    ConnectionStreamStartedFacebook = "connection.stream.started.facebook",
    ConnectionStreamStartedTrovo = "connection.stream.started.trovo",
    ConnectionStreamStartedDLive = "connection.stream.started.dlive",
    ConnectionStreamStartedBrime = "connection.stream.started.brime",
    ConnectionStreamStartedTikTok = "connection.stream.started.tiktok",
    ConnectionStreamEnded = "connection.stream.ended",
    ConnectionStreamEndedTwitch = "connection.stream.ended.twitch",
    ConnectionStreamEndedYouTube = "connection.stream.ended.youtube",
    ConnectionStreamEndedFacebook = "connection.stream.ended.facebook",
    ConnectionStreamEndedTrovo = "connection.stream.ended.trovo",
    ConnectionStreamEndedDLive = "connection.stream.ended.dlive",
    ConnectionStreamEndedBrime = "connection.stream.ended.brime",
    ConnectionStreamEndedTikTok = "connection.stream.ended.tiktok",
    StreamReportCreated = "stream_report.created",
    CreatorSiteUpdated = "creator_site.updated",
    StreamFrameUpdated = "stream_frame.updated",
    StreamOverlaysUpdated = "stream_overlays.updated",
    SpamFilterUpdated = "spam_filter.updated",
    MusicUpdated = "music.updated",
    CommandCreated = "command.created",
    CommandUpdated = "command.updated",
    CommandDeleted = "command.deleted",
    GiveawayCreated = "giveaway.created",
    GiveawayUpdated = "giveaway.updated",
    GiveawayDeleted = "giveaway.deleted",
    GiveawayWinnerCreated = "giveaway.winner.created",
    PollCreated = "poll.created",
    PollUpdated = "poll.updated",
    PollDeleted = "poll.deleted",
    PollWinnerCreated = "poll.winner.created",
    EventCreated = "event.created",
    EventUpdated = "event.updated",
    EventDeleted = "event.deleted",
    ShopItemCreated = "shop_item.created",
    ShopItemUpdated = "shop_item.updated",
    ShopItemDeleted = "shop_item.deleted",
    ShopItemPurchaseRedeemed = "shop_item.purchase.redeemed",
    ShopItemPurchaseRefunded = "shop_item.purchase.refunded",
    VideoCreated = "video.created",
    VideoUpdated = "video.updated",
    VideoDeleted = "video.deleted",
    TimerCreated = "timer.created",
    TimerUpdated = "timer.updated",
    TimerDeleted = "timer.deleted",
}

impl EventType {
    /// Returns the platform that the name ends with, whether or not the name is documented.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        Platform::split(self.as_str()).map(|(_, platform)| platform)
    }

    /// Returns the event type without its platform. If the event type has no platform, returns a clone.
    #[must_use]
    pub fn without_platform(&self) -> Self {
        match Platform::split(self.as_str()) {
            Some((base, _)) => Self::from(base),
            None => self.clone(),
        }
    }
}

/// The conversion allocates only if the name is undocumented.
impl From<&str> for EventType {
    fn from(name: &str) -> Self {
        match names::find(&NAMES, &TABLE, name) {
            Some(index) => DOCUMENTED[index].clone(),
            None => Self::Undocumented(Arc::from(name)),
        }
    }
}

impl From<String> for EventType {
    fn from(name: String) -> Self {
        Self::from(name.as_str())
    }
}

impl FromStr for EventType {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(Self::from(name))
    }
}

/// Event types are compared, ordered and hashed by name, so a lookup by `&str` works in a map of
/// event types.
impl Borrow<str> for EventType {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for EventType {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for EventType {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for EventType {}

impl PartialEq<str> for EventType {
    fn eq(&self, name: &str) -> bool {
        self.as_str() == name
    }
}

impl PartialEq<&str> for EventType {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
    }
}

impl Ord for EventType {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for EventType {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for EventType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventType({:?})", self.as_str())
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = EventType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<EventType, E> {
                Ok(EventType::from(name))
            }
        }

        deserializer.deserialize_str(Name)
    }
}
