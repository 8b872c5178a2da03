//! The last expression is a future without `.await`.

use botisimo_webhooks::{Event, EventRouter, HandlerResult};

async fn save(_: Event) -> HandlerResult {
    Ok(())
}

fn main() {
    let _ = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on("account.updated", |event: Event| async move { save(event) }); //~
}
