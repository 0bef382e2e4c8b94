//! Which web pages may connect. A browser sends its page's `Origin` with every WebSocket handshake (RFC 6455 §10.2)
//! and does not stop a foreign page by itself; other clients send none and are not a browser's victim.

use warp::http::HeaderMap;
use warp::http::header::{HOST, ORIGIN};

use crate::config::{AllowedOrigins, Origin};

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Whether whoever sent the request may connect: a page of the server's own origin, of a listed one, or no page.
pub fn may_connect(allowed: &AllowedOrigins, headers: &HeaderMap) -> bool {
    let listed: &[Origin] = match allowed {
        AllowedOrigins::Any => return true,
        AllowedOrigins::SameOrigin => &[],
        AllowedOrigins::Listed(listed) => listed,
    };
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    if origins.next().is_some() {
        // No browser sends two.
        return false;
    }
    let Some(origin) = origin.to_str().ok().and_then(|text| text.parse().ok()) else { return false };
    listed.contains(&origin)
        || headers.get(HOST).and_then(|host| host.to_str().ok()).is_some_and(|host| is_of(&origin, host))
}

/// Whether a browser says itself that a page of another origin asks, where it says anything (Fetch Metadata): it sends no
/// `Origin` with a GET whose answer it will not show to the page.
pub fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none")
}

/// Whether a browser says itself that a page of this very server asks.
pub fn is_of_same_origin(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    sites.next().is_some_and(|site| site == "same-origin") && sites.next().is_none()
}

/// Whether a page of this origin came from the server that the request's `Host` names. The scheme is taken as the
/// page's: behind a proxy that ends TLS the server cannot know its own.
fn is_of(origin: &Origin, host: &str) -> bool {
    let scheme = origin.as_str().split("://").next().unwrap_or_default();
    format!("{scheme}://{host}").parse::<Origin>().is_ok_and(|own| own == *origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(listed: &[&str], origin: Option<&'static str>, host: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        let listed = listed.iter().map(|text| text.parse().unwrap()).collect();
        may_connect(&AllowedOrigins::Listed(listed), &headers)
    }

    #[test]
    fn same_origin_and_no_origin_may_connect() {
        assert!(allows(&[], None, "localhost:8080"));
        assert!(allows(&[], Some("http://localhost:8080"), "localhost:8080"));
        assert!(allows(&[], Some("https://chat.example"), "chat.example"));
        assert!(allows(&[], Some("https://chat.example"), "Chat.Example:443"));
        assert!(allows(&[], Some("http://[::1]:8080"), "[::1]:8080"));
    }

    #[test]
    fn others_may_not() {
        assert!(!allows(&[], Some("http://evil.example"), "localhost:8080"));
        assert!(!allows(&[], Some("http://localhost:8081"), "localhost:8080"));
        assert!(!allows(&[], Some("null"), "localhost:8080"));
        assert!(!allows(&[], Some("http://evil.example@localhost:8080"), "localhost:8080"));
        assert!(!allows(&[], Some("http://localhost"), "localhost:443"));
        let mut two = HeaderMap::new();
        two.insert(HOST, "localhost".parse().unwrap());
        two.append(ORIGIN, "http://localhost".parse().unwrap());
        two.append(ORIGIN, "http://evil.example".parse().unwrap());
        assert!(!may_connect(&AllowedOrigins::SameOrigin, &two));
    }

    #[test]
    fn unless_they_are_listed() {
        assert!(allows(&["https://app.example"], Some("https://app.example:443"), "warren.example"));
        assert!(!allows(&["https://app.example"], Some("http://app.example"), "warren.example"));
        assert!(may_connect(&AllowedOrigins::Any, &[(ORIGIN, "http://x".parse().unwrap())].into_iter().collect()));
    }
}
