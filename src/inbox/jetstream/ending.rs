//! How the work on an event ends: acknowledged, among the dead letters, or back with the server.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::AckKind;

use super::delivered::Delivered;
use super::graves::Remains;
use super::running::Running;
use super::worker_stats::Exit;
use crate::delivery::Progress;
use crate::telemetry;

/// How often a dead letter is tried to be kept before its event is handed back to the server.
const BURIALS: u32 = 5;

impl Running {
    /// Keeps a dead letter, and only then tells the server that the event is done.
    pub(super) async fn bury(
        &self,
        remains: Remains,
        delivered: &Delivered,
        received_at: SystemTime,
        progress: &Progress,
        cause: Option<String>,
    ) -> Exit {
        let executor = &self.shop.executor;
        let times = (received_at, executor.time_of_day());
        for tries in 0..BURIALS {
            let buried = self.shop.graves.bury(
                &remains,
                (&self.bench.plan.consumer, delivered.sequence),
                times,
                progress,
                cause.as_deref(),
            );
            match buried.await {
                Ok(letter) => {
                    let exit = self.acknowledge(Exit::Dead).await;
                    executor.dead_lettered(&letter);
                    return exit;
                }
                Err(error) => {
                    if tries == 0 {
                        telemetry::dead_letter_not_stored(&self.bench.plan.name, &error);
                    }
                    let wait = Duration::from_millis(200) * (tries + 1);
                    executor.runtime.sleep(wait).await;
                }
            }
        }
        self.negative(self.shop.ack_wait).await;
        Exit::Retried
    }

    /// Tells the server that the event is done, until it says that it knows. If it doesn't in the time after which it
    /// would deliver the event again, it will.
    pub(super) async fn acknowledge(&self, exit: Exit) -> Exit {
        let runtime = &self.shop.executor.runtime;
        let begun = runtime.now();
        while !self.is_acknowledged().await {
            if runtime.now().saturating_duration_since(begun) >= self.shop.ack_wait {
                return Exit::Retried;
            }
            runtime.sleep(Duration::from_millis(100)).await;
        }
        exit
    }

    /// Tells the server that the event is done, and returns whether it answered. The client's own double
    /// acknowledgement takes it for an answer that nobody is there to answer, as while a leader is elected.
    async fn is_acknowledged(&self) -> bool {
        let Some(reply) = self.message.reply.clone() else {
            return false;
        };
        let client = self.shop.graves.client();
        client.request(reply, "+ACK".into()).await.is_ok()
    }

    /// Hands the event back, to be delivered again after a time. If that gets lost it is after `ack_wait`.
    pub(super) async fn negative(&self, delay: Duration) {
        let delay = (!delay.is_zero()).then_some(delay);
        let _ = self.message.ack_with(AckKind::Nak(delay)).await;
    }
}
