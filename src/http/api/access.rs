//! Who may publish: whoever has an API key; where there are no keys, programs on this host.
//!
//! Without keys a browser on this host is the danger: any page of the web may let it send a form here, and by a name that
//! resolves to this host (DNS rebinding) even read the answer. So the name must be this host's own, no foreign page may
//! stand behind the request, and the body must be of a type that a form cannot have, but for plain text, where the origin
//! alone tells. A proxy on this host would pass strangers
//! off as local ones; what a proxy has written into a request shows it.

use warp::http::HeaderMap;
use warp::http::header::{AUTHORIZATION, FORWARDED, HOST, VIA};
use warp::http::uri::Authority;

use super::problem::{Kind, Problem};
use crate::config::{AllowedOrigins, ApiKeys};
use crate::http::gate::Caller;
use crate::http::origin;

/// Names that this host gives itself.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// How headers begin that only proxies write, beside the standard ones.
const MARKS: [&str; 8] = [
    "x-forwarded",
    "x-original-",
    "x-envoy-",
    "x-real-ip",
    "x-cluster-",
    "cf-connecting-ip",
    "true-client-ip",
    "proxy-connection",
];

/// Lets a publisher in, or says what is missing.
pub fn admit(keys: Option<&ApiKeys>, caller: &Caller<'_>) -> Result<(), Problem> {
    match keys {
        Some(keys) => has_key(keys, caller.headers),
        None => is_local(caller),
    }
}

fn has_key(keys: &ApiKeys, headers: &HeaderMap) -> Result<(), Problem> {
    let unauthorized = |detail| Problem::new(Kind::Unauthorized, detail);
    let key = bearer(headers).ok_or_else(|| unauthorized("Send one header \"Authorization: Bearer KEY\"."))?;
    let owner = keys.owner(key.as_bytes()).ok_or_else(|| unauthorized("This API key is not known."))?;
    log::debug!("publishing for {owner}");
    Ok(())
}

/// The token of the only `Authorization` (RFC 6750 §2.1); the scheme in any case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn is_local(caller: &Caller<'_>) -> Result<(), Problem> {
    let headers = caller.headers;
    let refused = if !caller.peer.0.to_canonical().is_loopback() {
        "Without API keys (--api-keys-file) only programs on this host may publish."
    } else if is_forwarded(headers) {
        "A proxy sent this: without API keys (--api-keys-file) only programs on this host may publish."
    } else if !is_addressed_to_this_host(headers) {
        "Without API keys (--api-keys-file) the server must be called localhost, 127.0.0.1 or [::1]."
    } else if !origin::may_connect(&AllowedOrigins::SameOrigin, headers) || origin::is_of_another_site(headers) {
        "Pages of another origin may not publish."
    } else {
        return Ok(());
    };
    Err(Problem::new(Kind::Forbidden, refused))
}

/// Whether any proxy has left its mark.
fn is_forwarded(headers: &HeaderMap) -> bool {
    let is_mark = |name: &str| MARKS.iter().any(|mark| name.starts_with(mark)) || name.ends_with("client-ip");
    headers.contains_key(FORWARDED) || headers.contains_key(VIA) || headers.keys().any(|name| is_mark(name.as_str()))
}

/// Whether the only `Host` names this host.
fn is_addressed_to_this_host(headers: &HeaderMap) -> bool {
    let is_local = |host: &str| LOCAL_HOSTS.iter().any(|local| local.eq_ignore_ascii_case(host));
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let names_user = host.as_str().contains('@');
    !names_user && is_local(host.host())
}

#[cfg(test)]
mod tests {
    use warp::http::{HeaderName, Method};

    use super::*;
    use crate::http::peer::Peer;

    fn status(keys: Option<&ApiKeys>, peer: &str, headers: &[(&'static str, &str)]) -> u16 {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let peer = Peer(peer.parse().unwrap());
        let caller = Caller { method: &Method::POST, path: "/api/publish", headers: &headers, peer };
        admit(keys, &caller).map_or_else(|problem| problem.to_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn without_keys_programs_of_this_host_may_publish() {
        for host in ["localhost", "localhost:8080", "LOCALHOST", "127.0.0.1:1", "127.0.0.1", "[::1]", "[::1]:8080"] {
            for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
                assert_eq!(status(None, peer, &[("host", host)]), 200, "{host} {peer}");
            }
        }
        let own_page =
            [("host", "localhost:8080"), ("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")];
        assert_eq!(status(None, "127.0.0.1", &own_page), 200);
    }

    #[test]
    fn without_keys_nobody_else_may() {
        let local = "127.0.0.1";
        for peer in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "0.0.0.0"] {
            assert_eq!(status(None, peer, &[("host", "localhost")]), 403, "{peer}");
        }
        assert_eq!(status(None, local, &[]), 403, "no Host");
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "127.0.0.2", "x@localhost", "::1", ""]
        {
            assert_eq!(status(None, local, &[("host", host)]), 403, "{host:?}");
        }
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:3000"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("forwarded", "for=10.0.0.1"),
            ("via", "1.1 proxy"),
            ("cf-connecting-ip", "10.0.0.1"),
            ("x-client-ip", "10.0.0.1"),
            ("fastly-client-ip", "10.0.0.1"),
            ("x-original-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "localhost"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "127.0.0.1"),
        ] {
            assert_eq!(status(None, local, &[("host", "localhost:8080"), (name, value)]), 403, "{name}: {value}");
        }
    }

    #[test]
    fn with_keys_only_a_key_counts() {
        // The hash of "abc".
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let keys = ApiKeys::parse(&format!("shop {hash}")).unwrap();
        let of = |value: Option<&str>| {
            let headers: Vec<_> = value.map(|value| ("authorization", value)).into_iter().collect();
            [("10.0.0.1", &headers), ("127.0.0.1", &headers)].map(|(peer, headers)| status(Some(&keys), peer, headers))
        };
        for value in ["Bearer abc", "bearer abc", "BEARER  abc"] {
            assert_eq!(of(Some(value)), [200; 2], "{value}");
        }
        for value in [None, Some("abc"), Some("Basic abc"), Some("Bearer"), Some("Bearer abd"), Some("Bearer ab c")] {
            assert_eq!(of(value), [401; 2], "{value:?}");
        }
        assert_eq!(of(Some(&format!("Bearer {hash}"))), [401; 2], "the hash is no key");
    }
}
