//! The memory inbox passes the contract tests.

use botisimo_webhooks::{DeliverySettings, EventRouter, MemoryInbox};

use crate::support::contract::{InboxFactory, Opened};

struct Memory;

impl InboxFactory for Memory {
    type Inbox = MemoryInbox;

    async fn open(&self, router: EventRouter, delivery: DeliverySettings) -> Opened<MemoryInbox> {
        let inbox = MemoryInbox::builder().delivery(delivery).build(router);
        Opened::new(inbox)
    }
}

crate::contract_tests! { #[tokio::test] Memory }

mod in_paused_time {
    use super::Memory;

    crate::contract_tests! { #[tokio::test(start_paused = true)] Memory }
}
