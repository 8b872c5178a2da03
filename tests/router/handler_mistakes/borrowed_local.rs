//! The handler borrows a local variable that it outlives.

use botisimo_webhooks::{Event, EventRouter};

fn main() {
    let greeting = String::from("hello");
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |_: Event| async { println!("{greeting}") }); //~
}
