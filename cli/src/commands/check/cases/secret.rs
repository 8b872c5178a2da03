use crate::commands::check::case::Finding;
use crate::commands::check::checker::{Checker, describe};

pub(super) async fn refused(checker: &Checker) -> Finding {
    let Some(bare) = &checker.without_secret else {
        let text = "no secret is set: anyone who learns the URL can send events";
        return Finding::Skipped(text.to_owned());
    };
    let mut texts = Vec::new();
    let mut all_refused = true;
    for (name, endpoint) in [("without", &bare.none), ("wrong", &bare.wrong)] {
        let mut request = checker.request(checker.event().to_bytes());
        *request.uri_mut() = endpoint.uri.clone();
        request.headers_mut().clone_from(&endpoint.headers);
        let got = checker.send(request).await;
        all_refused &= got
            .as_ref()
            .is_ok_and(|answer| answer.status.is_client_error());
        texts.push(format!("{name}: {}", describe(&got)));
    }
    Finding::when(all_refused, texts.join("; "))
}

/// Looks back at all answers, so this is the last case.
pub(super) async fn echo(checker: &Checker) -> Finding {
    if checker.endpoint.secret.is_none() {
        return Finding::Skipped("no secret is set".to_owned());
    }
    match checker.leak() {
        Some(place) => Finding::Failed(format!("{place} contains the secret")),
        None => Finding::Passed("no answer contains it".to_owned()),
    }
}
