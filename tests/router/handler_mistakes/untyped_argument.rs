//! The type of the event's payload isn't specified.

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |event| async move { println!("{}", event.id()) }); //~
}
