use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;

use super::events::is_success_or_busy;
use crate::commands::check::case::Finding;
use crate::commands::check::checker::{Checker, Got, describe, is_success};

pub(super) async fn load(checker: &Checker) -> Finding {
    let Some((requests, concurrency)) = checker.load else {
        return Finding::Skipped("only with --load".to_owned());
    };
    let left = AtomicU32::new(requests);
    let takes_one = || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    };
    let results = join_all((0..concurrency).map(|_| async {
        let (mut accepted, mut busy, mut bad) = (0, 0, None);
        let mut connection = None;
        while takes_one() {
            let got = one(checker, &mut connection).await;
            match is_success(&got) {
                true => accepted += 1,
                false if is_success_or_busy(&got) => busy += 1,
                false => bad = bad.or_else(|| Some(describe(&got))),
            }
        }
        (accepted, busy, bad)
    }))
    .await;
    let accepted: u32 = results.iter().map(|(accepted, _, _)| accepted).sum();
    let busy: u32 = results.iter().map(|(_, busy, _)| busy).sum();
    let bad = results.into_iter().find_map(|(_, _, bad)| bad);
    let text = format!("{accepted} of {requests} accepted, {busy} to be retried");
    match bad {
        None => Finding::Passed(text),
        Some(bad) => Finding::Failed(format!("{text}; one answer: {bad}")),
    }
}

/// Sends an event on a connection that is kept, or on a new one after an error.
async fn one(checker: &Checker, kept: &mut Option<crate::http::Connection>) -> Got {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => checker.connect().await?,
    };
    let request = checker.request(checker.event().to_bytes());
    let got = checker.send_on(&mut connection, request).await;
    // A server closes a connection after some errors, or after each answer.
    if is_success(&got) && got.as_ref().is_ok_and(|answer| !answer.closes) {
        *kept = Some(connection);
    }
    got
}
