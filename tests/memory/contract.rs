//! The memory inbox passes the contract tests.

use botisimo_webhooks::{EventRouter, MemoryInbox};

use crate::support::contract::{DeliverySettings, InboxFactory, Opened};

struct Memory;

impl InboxFactory for Memory {
    type Inbox = MemoryInbox;

    async fn open(&self, router: EventRouter, settings: DeliverySettings) -> Opened<MemoryInbox> {
        let inbox = MemoryInbox::builder()
            .retry(settings.retry)
            .attempt_timeout(settings.attempt_timeout)
            .build(router);
        Opened::new(inbox)
    }
}

crate::contract_tests! { #[tokio::test] Memory }

mod in_paused_time {
    use super::Memory;

    crate::contract_tests! { #[tokio::test(start_paused = true)] Memory }
}
