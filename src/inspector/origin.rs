//! The page that sends a form: only the inspector's own pages may.

use http::request::Parts;

use super::access::{Access, Denied};
use super::host;
use super::query::Query;
use super::token::Token;

/// Checks that a form comes from a page of this inspector.
///
/// Browsers say where a form comes from, in `Sec-Fetch-Site` or in `Origin`. The form's token decides only if the client sends
/// neither. On plain HTTP, browsers send only `Origin`.
pub(super) fn check(
    access: &Access,
    parts: &Parts,
    form: &Query,
    token: &Token,
) -> Result<(), Denied> {
    let refused = |text: &str| {
        Err(Denied::forbidden(format!(
            "the request isn't from a page of the inspector: {text}"
        )))
    };
    let headers = &parts.headers;
    let (Ok(site), Ok(origin)) = (
        host::single(headers, "sec-fetch-site"),
        host::single(headers, "origin"),
    ) else {
        return refused("a header is repeated");
    };
    match (site, origin) {
        (Some("same-origin"), _) => Ok(()),
        (Some(_), _) => refused("`Sec-Fetch-Site` isn't `same-origin`"),
        (None, Some(origin)) if is_own(access, parts, origin) => Ok(()),
        (None, Some(_)) => refused("`Origin` is another site"),
        (None, None) if form.get("token").is_some_and(|given| token.is(given)) => Ok(()),
        (None, None) => refused("load the page again, because its token has changed"),
    }
}

/// Returns whether the origin is the host of the request, or another allowed host that a proxy has replaced.
fn is_own(access: &Access, parts: &Parts, origin: &str) -> bool {
    let Some((scheme @ ("http" | "https"), authority)) = origin.split_once("://") else {
        return false;
    };
    let is_host = host::authority(parts).is_some_and(|own| is_same(scheme, authority, own));
    is_host || host::without_port(authority).is_some_and(|host| access.names(host))
}

/// Returns whether both are the same host and port. The default port of the scheme may be missing.
fn is_same(scheme: &str, origin: &str, own: &str) -> bool {
    let default = if scheme == "https" { ":443" } else { ":80" };
    let short = |authority: &str| {
        authority
            .strip_suffix(default)
            .unwrap_or(authority)
            .to_ascii_lowercase()
    };
    short(origin) == short(own)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::inspector::permission::Permission;

    fn checked(headers: &[(&str, &str)], token: Option<&str>) -> Result<(), Denied> {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let access =
            Access::from_fn(|_| Permission::operate("ana")).allow_host("admin.example.com");
        let own = Token::new().unwrap();
        let given = token.unwrap_or(own.as_str());
        check(
            &access,
            &parts,
            &Query::parse(format!("token={given}").as_bytes()),
            &own,
        )
    }

    #[test]
    fn the_inspectors_own_pages_may_send_forms() {
        for headers in [
            &[
                ("host", "localhost:3000"),
                ("sec-fetch-site", "same-origin"),
                ("origin", "http://localhost:3000"),
            ][..],
            &[
                ("host", "192.168.1.5:3000"),
                ("origin", "http://192.168.1.5:3000"),
            ],
            &[("host", "[::1]:3000"), ("origin", "http://[::1]:3000")],
            &[
                ("host", "admin.example.com"),
                ("origin", "https://Admin.Example.com"),
            ],
            &[
                ("host", "admin.example.com:443"),
                ("origin", "https://admin.example.com"),
            ],
            // A proxy has replaced the host.
            &[
                ("host", "127.0.0.1:3000"),
                ("origin", "https://admin.example.com"),
            ],
        ] {
            assert!(checked(headers, Some("wrong")).is_ok(), "{headers:?}");
        }
        assert!(
            checked(&[("host", "localhost")], None).is_ok(),
            "the right token"
        );
    }

    #[test]
    fn no_other_page_may_send_forms() {
        for headers in [
            &[("host", "localhost:3000"), ("sec-fetch-site", "cross-site")][..],
            &[
                ("host", "localhost:3000"),
                ("sec-fetch-site", "same-site"),
                ("origin", "http://localhost:3000"),
            ],
            &[("host", "localhost:3000"), ("sec-fetch-site", "none")],
            &[
                ("host", "localhost:3000"),
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-site", "cross-site"),
            ],
            &[
                ("host", "localhost:3000"),
                ("origin", "http://localhost:4000"),
            ],
            &[("host", "localhost:3000"), ("origin", "null")],
            &[
                ("host", "localhost:3000"),
                ("origin", "http://evil.example"),
            ],
            &[
                ("host", "localhost:3000"),
                ("origin", "http://localhost:3000@evil.example"),
            ],
            &[
                ("host", "localhost:3000"),
                ("origin", "http://localhost:3000"),
                ("origin", "http://evil.example"),
            ],
            &[
                ("host", "localhost:3000"),
                ("origin", "ftp://localhost:3000"),
            ],
            // Any site may run on another port of an address.
            &[
                ("host", "127.0.0.1:3000"),
                ("origin", "http://127.0.0.1:4000"),
            ],
            &[
                ("host", "admin.example.com"),
                ("origin", "https://admin.example.com.evil.example"),
            ],
        ] {
            assert!(checked(headers, None).is_err(), "{headers:?}");
        }
        for wrong in ["", "wrong"] {
            assert!(checked(&[("host", "localhost")], Some(wrong)).is_err());
        }
    }
}
