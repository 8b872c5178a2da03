//! The host that a request names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, header};

/// Returns the host of a request, without the port. HTTP/2 puts the host into the URI. Returns `None` if the request names no host,
/// several hosts, or an invalid host.
pub(super) fn of(parts: &Parts) -> Option<&str> {
    authority(parts).and_then(without_port)
}

/// Returns the host and the port that a request names.
pub(super) fn authority(parts: &Parts) -> Option<&str> {
    let mut named = parts.headers.get_all(header::HOST).iter();
    let header = match (named.next(), named.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().ok()?),
        (Some(_), Some(_)) => return None,
    };
    match (parts.uri.authority().map(Authority::as_str), header) {
        // The URI of an HTTP/1 request to a proxy, or of an HTTP/2 request.
        (Some(uri), Some(header)) if !uri.eq_ignore_ascii_case(header) => None,
        (Some(authority), _) | (None, Some(authority)) => Some(authority),
        (None, None) => None,
    }
}

/// Returns the host of `host`, `host:port` or `[v6]:port`. Returns `None` for any other text.
pub(super) fn without_port(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rfind(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_port = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (has_port && !host.is_empty() && !host.contains('@')).then_some(host)
}

/// Returns whether no other site can point this host at this machine: an IP address, `localhost`, or a name below `localhost`.
pub(super) fn is_local(host: &str) -> bool {
    let name = without_dot(host);
    let is_below = || {
        let length = name.len().checked_sub(".localhost".len());
        length
            .and_then(|length| name.get(length..))
            .is_some_and(|end| end.eq_ignore_ascii_case(".localhost"))
    };
    let v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || is_below()
        || host.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Returns whether only a client on this machine names this host: a loopback address, the address of all interfaces, `localhost`, or a
/// name below `localhost`.
pub(super) fn is_loopback(host: &str) -> bool {
    let v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = v6.unwrap_or(host).parse::<IpAddr>();
    let is_own = |address: IpAddr| {
        let address = address.to_canonical();
        address.is_loopback() || address.is_unspecified()
    };
    is_local(host) && address.map_or(true, is_own)
}

/// Returns whether both names are the same host.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    without_dot(one).eq_ignore_ascii_case(without_dot(other))
}

fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// Returns the only value of a header, or an error if there are several values or other bytes than visible ASCII.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_host_has_no_port_and_is_named_once() {
        let host = |uri, hosts: &[&str]| of(&parts(uri, hosts)).map(str::to_owned);
        assert_eq!(host("/", &["a.example:3000"]).as_deref(), Some("a.example"));
        assert_eq!(host("/", &["[::1]:3000"]).as_deref(), Some("[::1]"));
        assert_eq!(host("http://a.example/", &[]).as_deref(), Some("a.example"));
        assert_eq!(
            host("http://a.example/", &["A.example"]).as_deref(),
            Some("a.example")
        );
        assert_eq!(host("http://a.example/", &["b.example"]), None);
        assert_eq!(host("/", &["a.example", "a.example"]), None);
        for odd in [
            "",
            ":80",
            "a:b",
            "a:80:80",
            "localhost@evil.example",
            "user@localhost",
            "[::1]x",
        ] {
            assert_eq!(host("/", &[odd]), None, "{odd}");
        }
        assert_eq!(host("/", &[]), None);
    }

    #[test]
    fn only_addresses_and_localhost_are_local() {
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "app.localhost",
            "127.0.0.1",
            "192.168.1.5",
            "[::1]",
            "[fe80::1]",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "localhost.example",
            "evillocalhost",
            "127.0.0.1.example",
            "0x7f.1",
            "127.1",
            "2130706433",
            "::1",
            "[::1",
            "é",
            ".localhosté",
        ] {
            assert!(!is_local(host), "{host}");
        }
        for host in [
            "localhost",
            "app.localhost.",
            "127.8.0.1",
            "0.0.0.0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "192.168.1.5",
            "203.0.113.5",
            "[fe80::1]",
            "a.example",
            "::1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
        assert!(is_same("Admin.Example.com", "admin.example.com."));
        assert!(!is_same("admin.example.com", "example.com"));
    }
}
