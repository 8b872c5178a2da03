//! The handler returns `()` instead of a future.

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |event: Event| println!("{event:?}")); //~
}
