//! The handler's future holds an `Rc` across an `.await`, so it can't move between threads.

use std::rc::Rc;

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |event: Event| async move {
            let id = Rc::new(event.id().to_owned()); //~
            std::future::ready(()).await;
            println!("{id}");
        });
}
