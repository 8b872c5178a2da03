//! Nothing says what the payload of the event is decoded as.

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |event| async move { println!("{}", event.id()) }); //~
}
