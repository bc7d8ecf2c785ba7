//! Protection against DNS rebinding: the names under which the server may be asked, and the pages that may ask.
//!
//! A web page may ask any address that its own name resolves to, and read the answers. An attacker who controls that
//! name lets it point at this host for a moment ("DNS rebinding"); the browser then sends the attacker's name as
//! `Host`. So the server answers only requests for names of this host, and for addresses, which nobody can let point
//! elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::json as value;

use super::routes::{is_health, json, text};

/// Names under which the server may be asked, in addition to its addresses.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// Patterns of names, in lower case and without a dot at the end.
    names: Vec<Pattern>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Pattern {
    Any,
    Name(String),
    /// Every name with this suffix, which begins with a dot.
    Below(String),
}

/// Value of `--allowed-host`: `stallscope.example.com`, `*.example.com` for all names below, or `*` for any.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllowedHost(Pattern);

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        if given == "*" {
            return Ok(Self(Pattern::Any));
        }
        let (below, rest) = match given.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, given),
        };
        match Host::name(rest) {
            Some(name) if below => Ok(Self(Pattern::Below(format!(".{name}")))),
            Some(name) => Ok(Self(Pattern::Name(name))),
            None if Host::parse(given).is_some() => {
                Err("expected a name without a port; addresses are always answered".to_owned())
            }
            None => Err(
                "expected a name such as stallscope.example.com, *.example.com for all below, or * for any"
                    .to_owned(),
            ),
        }
    }
}

impl Hosts {
    /// Allows `localhost`, the name of this machine, and those given.
    #[must_use]
    pub fn new(given: impl IntoIterator<Item = AllowedHost>) -> Self {
        let machine = rustix::system::uname();
        Self::of(&machine.nodename().to_string_lossy(), given)
    }

    fn of(machine: &str, given: impl IntoIterator<Item = AllowedHost>) -> Self {
        let own = ["localhost", machine].into_iter().filter_map(Host::name);
        let given = given.into_iter().map(|host| host.0);
        Self {
            names: own.map(Pattern::Name).chain(given).collect(),
        }
    }

    fn admits(&self, host: &Host) -> bool {
        match &host.name {
            Name::Address(_) => true,
            Name::Name(name) => self.names.iter().any(|pattern| match pattern {
                Pattern::Any => true,
                Pattern::Name(known) => known == name,
                Pattern::Below(end) => name.ends_with(end.as_str()),
            }),
        }
    }

    /// Returns an error with the reason if the request must not be answered.
    fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        let hosts: Vec<_> = headers.get_all(header::HOST).iter().collect();
        let in_header = match hosts[..] {
            // HTTP/1.0 has no such header, and browsers have not used that version for decades.
            [] if version < Version::HTTP_11 => None,
            [host] => Some(Host::read(host).ok_or(Refused::Malformed)?),
            _ => return Err(Refused::Malformed),
        };
        // A target in absolute form overrides the header (RFC 9112, 3.2.2).
        let in_target = match uri.authority() {
            Some(authority) => Some(Host::parse(authority.as_str()).ok_or(Refused::Malformed)?),
            None => None,
        };
        let asked = [&in_header, &in_target];
        if let Some(host) = asked.into_iter().flatten().find(|host| !self.admits(host)) {
            return Err(Refused::Name(host.to_string()));
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let own = in_target.or(in_header);
        if origins.all(|origin| own.as_ref().is_some_and(|own| own.is_origin(origin))) {
            Ok(())
        } else {
            Err(Refused::Origin)
        }
    }
}

/// Reason why a request is not answered.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Refused {
    Malformed,
    Name(String),
    Origin,
}

impl Refused {
    fn response(&self, path: &str) -> Response {
        let (status, reason) = match self {
            Self::Malformed => (
                StatusCode::BAD_REQUEST,
                "expected one Host header with a name or an address, and perhaps a port".to_owned(),
            ),
            Self::Name(name) => (
                StatusCode::MISDIRECTED_REQUEST,
                format!(
                    "{name} is not known as a name of this host: ask for its address, or start the agent with \
                     --allowed-host {name}"
                ),
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "pages of other origins are not answered".to_owned(),
            ),
        };
        if path.starts_with("/api/") {
            json(status, text(&value!({ "error": reason })))
        } else {
            (status, format!("{reason}\n")).into_response()
        }
    }
}

/// Value of a `Host` header: a name or address, and perhaps a port.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Host {
    name: Name,
    port: Option<u16>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Name {
    Address(IpAddr),
    /// In lower case, without a dot at the end.
    Name(String),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Name::Address(address) => address.fmt(f),
            Name::Name(name) => f.write_str(name),
        }
    }
}

impl Host {
    fn read(value: &HeaderValue) -> Option<Self> {
        Self::parse(value.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            // A zone names the link that the address is on; it involves no resolver.
            let address = address.split('%').next().unwrap_or_default();
            let address: Ipv6Addr = address.parse().ok()?;
            (Name::Address(address.into()), port)
        } else {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let address = name.strip_suffix('.').unwrap_or(name).parse::<Ipv4Addr>();
            let name = match address {
                Ok(address) => Name::Address(address.into()),
                Err(_) => Name::Name(Self::name(name)?),
            };
            (name, port)
        };
        let port = match port.strip_prefix(':') {
            None if !port.is_empty() => return None,
            None | Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Self { name, port })
    }

    /// Normalizes a name for comparison. Names of hosts have letters, digits, dots, hyphens, and sometimes underscores.
    fn name(text: &str) -> Option<String> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let whole = !name.is_empty() && name.len() <= 253 && name.bytes().all(fits);
        (whole && name.parse::<Ipv4Addr>().is_err()).then_some(name)
    }

    /// Returns whether a page of this origin came from here.
    fn is_origin(&self, origin: &HeaderValue) -> bool {
        let Some((scheme, host)) = origin.to_str().ok().and_then(|text| text.split_once("://"))
        else {
            return false;
        };
        // For https a proxy in front terminates TLS.
        let port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        Self::parse(host).is_some_and(|host| {
            host.name == self.name && host.port.unwrap_or(port) == self.port.unwrap_or(port)
        })
    }
}

/// Answers only requests for a name of this host, and none from another origin's page. Requests for health always pass.
pub(super) async fn guard(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    const HEADERS: [(HeaderName, HeaderValue); 2] = [
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        // Keeps other origins' pages from embedding an answer, as an image or a script.
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    let path = request.uri().path();
    let checked = hosts.check(request.version(), request.uri(), request.headers());
    let response = match checked {
        Err(refused) if !is_health(path) => refused.response(path),
        _ => next.run(request).await,
    };
    (HEADERS, response).into_response()
}
