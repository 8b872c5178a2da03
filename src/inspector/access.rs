use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use http::{StatusCode, Version};

use super::basic_auth::BasicAuth;
use super::host;
use super::permission::{Permission, Viewer};
use crate::catch_panic::catch_panic;
use crate::error::Error;
use crate::telemetry;

/// Decides which requests may read the [`Inspector`](super::Inspector)'s pages, and which may replay and delete events.
///
/// There is no default, because the pages show the sender's payloads and run handlers again.
///
/// # Hosts
///
/// Each request must name a host that is allowed: an IP address, `localhost` or a name below it, or a host that
/// [`allow_host`](Access::allow_host) names. [`loopback`](Access::loopback) allows only loopback addresses. Otherwise, the inspector answers 403 and says how to allow the host. So a site that
/// points its own name at this machine's address (DNS rebinding) reads nothing.
///
/// # Examples
///
/// A user `admin`, whose password is in an environment variable:
///
/// ```no_run
/// use botisimo_webhooks::{Access, Error};
///
/// # fn build() -> Result<Access, Error> {
/// let access = Access::basic_auth_from_env("admin", "ADMIN_PASSWORD")?.allow_host("admin.example.com");
/// # Ok(access)
/// # }
/// ```
///
/// The user that a proxy has authenticated. The proxy must remove `x-forwarded-user` from the client's requests:
///
/// ```
/// use botisimo_webhooks::{Access, Permission};
///
/// let access = Access::from_fn(|request| match request.headers.get("x-forwarded-user").map(|user| user.to_str()) {
///     Some(Ok("ana")) => Permission::operate("ana"),
///     Some(Ok(user)) => Permission::read(user),
///     _ => Permission::none(),
/// });
/// ```
#[derive(Clone)]
#[must_use]
pub struct Access {
    rule: Rule,
    hosts: Vec<Box<str>>,
    hides_payloads: bool,
}

type RuleFn = dyn Fn(&Parts) -> Permission + Send + Sync;
type PeerFn = dyn Fn(&Parts) -> Option<SocketAddr> + Send + Sync;

#[derive(Clone)]
enum Rule {
    Basic(BasicAuth),
    Function(Arc<RuleFn>),
    Loopback(Arc<PeerFn>),
}

/// A refused request: the status, and a text that says what to do.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) status: StatusCode,
    pub(super) text: String,
    /// Whether the browser should ask for a user and a password.
    pub(super) asks: bool,
}

impl Denied {
    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            text: text.into(),
            asks: false,
        }
    }
}

impl Access {
    /// Lets one user read and operate, by HTTP basic authentication. Passwords are compared in constant time.
    ///
    /// Browsers send the password with each request, so serve the pages over TLS.
    ///
    /// # Panics
    ///
    /// Panics if the password is empty, or if the user contains a colon.
    #[track_caller]
    pub fn basic_auth(user: impl Into<String>, password: impl AsRef<[u8]>) -> Self {
        Self::new(Rule::Basic(BasicAuth::new(user.into(), password.as_ref())))
    }

    /// Lets one user read and operate, with the password in an environment variable: see [`basic_auth`](Access::basic_auth). A
    /// trailing line break isn't part of the password.
    ///
    /// # Errors
    ///
    /// Returns an error of the kind [`Secret`](crate::ErrorKind::Secret) if the variable isn't set or is empty. The message names
    /// the variable.
    ///
    /// # Panics
    ///
    /// Panics if the user contains a colon.
    #[track_caller]
    pub fn basic_auth_from_env(
        user: impl Into<String>,
        variable: impl AsRef<str>,
    ) -> Result<Self, Error> {
        let auth = BasicAuth::from_env(user.into(), variable.as_ref())?;
        Ok(Self::new(Rule::Basic(auth)))
    }

    /// Lets a closure decide, for example by the user's session or by a header of a proxy.
    ///
    /// The closure runs for each request, so it must not block. A layer outside the inspector can put the result of slower work
    /// into the request's extensions. If the closure panics, the inspector logs the panic and refuses the request.
    pub fn from_fn(rule: impl Fn(&Parts) -> Permission + Send + Sync + 'static) -> Self {
        Self::new(Rule::Function(Arc::new(rule)))
    }

    /// Lets every client on this machine read and operate, and no other client.
    ///
    /// The closure returns the client's address, or `None` if the address is unknown.
    ///
    /// Every client of a proxy on this machine has the proxy's address. So the inspector also refuses requests with a header that
    /// proxies add, and requests over HTTP/1.0. The inspector also refuses requests to a host that is neither a loopback address
    /// nor `localhost`, unless [`allow_host`](Access::allow_host) names the host. A proxy that hides all these signs can't be
    /// detected: behind a proxy, use another rule.
    ///
    /// # Examples
    ///
    /// With axum, serve with `into_make_service_with_connect_info::<SocketAddr>()`:
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use axum::extract::ConnectInfo;
    /// use botisimo_webhooks::Access;
    ///
    /// let access = Access::loopback(|request| {
    ///     request.extensions.get().map(|ConnectInfo(address): &ConnectInfo<SocketAddr>| *address)
    /// });
    /// ```
    pub fn loopback(peer: impl Fn(&Parts) -> Option<SocketAddr> + Send + Sync + 'static) -> Self {
        Self::new(Rule::Loopback(Arc::new(peer)))
    }

    fn new(rule: Rule) -> Self {
        Self {
            rule,
            hosts: Vec::new(),
            hides_payloads: false,
        }
    }

    /// Also allows requests to this host, for example `admin.example.com`. The comparison ignores case and the port.
    pub fn allow_host(mut self, host: impl Into<Box<str>>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Hides the payloads from users who can only read. The reasons of failed routes stay visible, and may quote a payload.
    pub fn hide_payloads_from_readers(mut self) -> Self {
        self.hides_payloads = true;
        self
    }

    /// Returns the viewer, if the host is allowed and the user may read.
    pub(super) fn check(&self, parts: &Parts) -> Result<Viewer, Denied> {
        self.check_host(parts)?;
        match self.permission(parts) {
            Some(permission) => match permission.into_viewer(self.hides_payloads) {
                Some(viewer) => Ok(viewer),
                None => Err(self.denied()),
            },
            None => Err(Denied::forbidden("the access rule has failed: see the log")),
        }
    }

    fn check_host(&self, parts: &Parts) -> Result<(), Denied> {
        let Some(host) = host::of(parts) else {
            return Err(Denied::forbidden("the request must name one host"));
        };
        if self.allows(host) {
            return Ok(());
        }
        let text = format!(
            "the host {host:?} isn't allowed: call `Access::allow_host({host:?})` to serve the pages at this host"
        );
        Err(Denied::forbidden(text))
    }

    fn allows(&self, host: &str) -> bool {
        let is_allowed = match &self.rule {
            Rule::Basic(_) | Rule::Function(_) => host::is_local(host),
            // If the client names another address, a proxy on this machine may have forwarded the request.
            Rule::Loopback(_) => host::is_loopback(host),
        };
        is_allowed || self.names(host)
    }

    /// Returns whether [`allow_host`](Access::allow_host) names the host.
    pub(super) fn names(&self, host: &str) -> bool {
        self.hosts
            .iter()
            .any(|allowed| host::is_same(allowed, host))
    }

    /// Returns the permission, or `None` if user code has panicked.
    fn permission(&self, parts: &Parts) -> Option<Permission> {
        let permission = match &self.rule {
            Rule::Basic(auth) => Ok(auth.permission(&parts.headers)),
            Rule::Function(rule) => catch_panic(|| rule(parts)),
            Rule::Loopback(peer) => catch_panic(|| peer(parts)).map(|peer| {
                let is_local = peer.is_some_and(|peer| is_loopback(peer.ip()));
                match is_local && !is_forwarded(parts) {
                    true => Permission::operate("a user of this machine"),
                    false => Permission::none(),
                }
            }),
        };
        if permission.is_err() {
            telemetry::hook_panicked("access");
        }
        permission.ok()
    }

    fn denied(&self) -> Denied {
        match &self.rule {
            Rule::Basic(_) => Denied {
                status: StatusCode::UNAUTHORIZED,
                text: "a user and a password are needed".to_owned(),
                asks: true,
            },
            Rule::Function(_) => {
                Denied::forbidden("the access rule of the inspector doesn't allow this request")
            }
            Rule::Loopback(_) => Denied::forbidden(
                "the inspector answers only clients on this machine, without a proxy: if you are one, the closure of \
                 `Access::loopback` must return the client's address",
            ),
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The headers that proxies and content networks add, apart from those that begin with `x-forwarded-`.
const FORWARDED: [&str; 10] = [
    "cdn-loop",
    "cf-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-original-forwarded-for",
    "x-real-ip",
];

/// Returns whether a proxy has forwarded the request.
fn is_forwarded(parts: &Parts) -> bool {
    // By default, nginx adds no header and names its own upstream as the host, but it speaks HTTP/1.0. No browser does.
    parts.version < Version::HTTP_11
        || parts.headers.keys().any(|name| {
            let name = name.as_str();
            name.starts_with("x-forwarded-") || FORWARDED.contains(&name)
        })
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            Rule::Basic(_) => "basic auth",
            Rule::Function(_) => "a closure",
            Rule::Loopback(_) => "loopback",
        };
        f.debug_struct("Access")
            .field("rule", &rule)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}
