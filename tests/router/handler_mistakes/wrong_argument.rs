//! The handler takes the payload, not the event that holds it.

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |name: String| async move { println!("{name}") }); //~
}
