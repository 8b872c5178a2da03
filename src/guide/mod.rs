//! The guide, with one page per topic. The code of each page compiles with the tests of this crate.
//!
//! | page | answers |
//! |---|---|
//! | [Getting started](getting_started) | How do I receive the first event? Where does the layer go? |
//! | [Handlers and patterns](handlers) | Which events does a route match? How do handlers share state and report errors? |
//! | [Route options](route_options) | How does a route skip events that are too old, or run once for several events? How does one route get its own timeout, concurrency and retries? |
//! | [Cookbook](cookbook) | How do I announce a stream once and in time, count every purchase once, or show the latest state? |
//! | [Inboxes and guarantees](inboxes) | Which events survive a crash? What are the limits? |
//! | [Events](events) | Did an event arrive, how did each attempt end, and how do I run one route again? |
//! | [Inspector](inspector) | How do I look at events and replay them in a browser? Which users may do so? |
//! | [Dead letters](dead_letters) | How do I list, inspect, replay and delete failed events? |
//! | [Retries](retries) | How long do 5 attempts last? How do I keep events through an outage of several hours? |
//! | [Shutdown and deployment](deployment) | In which order do the inbox and the server stop? How do I deploy in containers and behind proxies, and back up? |
//! | [Testing](testing) | How do I test handlers, secrets and retries without waiting? |
//! | [Command line](command_line) | How do I send an event, try an endpoint, record deliveries, and look into an inbox? |
//! | [Metrics](metrics) | Which metrics are there? How do I scrape them? |
//! | [Operating](operating) | Which counts do I watch? What happens when a disk or a server fails? |
//! | [More than one machine](scaling) | How do several processes share the events, in PostgreSQL or over JetStream? |
//! | [Benchmarks](benchmarks) | How fast is this crate, and how was it measured? |

#[doc = include_str!("benchmarks.md")]
pub mod benchmarks {}
#[doc = include_str!("command_line/overview.md")]
#[doc = include_str!("command_line/send.md")]
#[doc = include_str!("command_line/check.md")]
#[doc = include_str!("command_line/rehearse.md")]
#[doc = include_str!("command_line/record.md")]
#[doc = include_str!("command_line/inbox.md")]
#[doc = include_str!("command_line/watch.md")]
pub mod command_line {}
// The page's code needs a SQLite client.
#[cfg_attr(any(not(doctest), feature = "sqlite"), doc = include_str!("cookbook.md"))]
pub mod cookbook {}
#[doc = include_str!("dead_letters.md")]
pub mod dead_letters {}
#[doc = include_str!("deployment.md")]
pub mod deployment {}
#[doc = include_str!("events.md")]
pub mod events {}
#[doc = include_str!("getting_started.md")]
pub mod getting_started {}
#[doc = include_str!("handlers.md")]
pub mod handlers {}
#[doc = include_str!("inboxes.md")]
pub mod inboxes {}
// The first page with a definition of an image wins, so the docs contain the images.
#[doc = include_str!("images/inspector.txt")]
#[cfg_attr(any(not(doctest), feature = "inspector"), doc = include_str!("inspector.md"))]
pub mod inspector {}
#[doc = include_str!("metrics.md")]
pub mod metrics {}
#[doc = include_str!("operating.md")]
pub mod operating {}
#[doc = include_str!("retries.md")]
pub mod retries {}
// The page's code needs the test kit.
#[cfg_attr(any(not(doctest), feature = "testing"), doc = include_str!("route_options.md"))]
pub mod route_options {}
// The page's code needs both features.
#[cfg_attr(any(not(doctest), all(feature = "jetstream", feature = "postgres")), doc = include_str!("scaling.md"))]
pub mod scaling {}
#[doc = include_str!("testing.md")]
pub mod testing {}
