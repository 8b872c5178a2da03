//! The handler takes no event.

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", || async {}); //~
}
