use http::header::LOCATION;
use http::uri::Scheme;

use crate::commands::check::case::Finding;
use crate::commands::check::checker::{Checker, describe};
use crate::connection::shown;

pub(super) async fn connect(checker: &Checker) -> Finding {
    match checker.connect().await {
        Ok(_) => Finding::Passed("connected".to_owned()),
        Err(error) => Finding::Failed(error.to_string()),
    }
}

pub(super) async fn https(checker: &Checker) -> Finding {
    let uri = &checker.site.uri;
    if uri.scheme() == Some(&Scheme::HTTPS) {
        return Finding::Passed("https://".to_owned());
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        return Finding::Skipped("the server is on this machine".to_owned());
    }
    Finding::Failed("http://".to_owned())
}

pub(super) async fn redirect(checker: &Checker) -> Finding {
    let got = checker.post(checker.event().to_bytes()).await;
    let Ok(answer) = &got else {
        return Finding::Failed(describe(&got));
    };
    if !answer.status.is_redirection() {
        return Finding::Passed(answer.status.to_string());
    }
    let location = answer
        .headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let location = match location.map(str::parse::<http::Uri>) {
        Some(Ok(uri)) if uri.host().is_some() => shown(&uri),
        Some(Ok(uri)) => uri.path().to_owned(),
        _ => "nowhere".to_owned(),
    };
    Finding::Failed(format!(
        "{} to {location}: register that URL",
        answer.status
    ))
}
