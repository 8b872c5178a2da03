//! The error type to which `?` converts isn't specified.

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |event: Event| async move {
            let _: u64 = event.id().parse()?;
            Ok(()) //~
        });
}
