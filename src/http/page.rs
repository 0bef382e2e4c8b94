//! The index page, from `templates/`, and the headers that guard it.

use std::fmt::Write;

use warp::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use warp::http::uri::Authority;
use warp::reply::Response;
use warp::{Reply, http};

use super::Site;

const TEMPLATE: &str = include_str!("../../templates/index.html");

/// Headers that every answer carries: nothing is sniffed, framed or told to other sites.
pub const GUARDS: [(HeaderName, &str); 3] =
    [(X_CONTENT_TYPE_OPTIONS, "nosniff"), (X_FRAME_OPTIONS, "DENY"), (REFERRER_POLICY, "no-referrer")];

/// The page for the server that the request's `Host` names.
pub fn index(site: &Site, host: Option<&Authority>) -> Response {
    let nonce = nonce();
    let page = TEMPLATE
        .replace("{{nonce}}", &nonce)
        .replace("{{instance}}", &escape_html(site.incarnation.name().as_str()))
        .replace("{{version}}", env!("CARGO_PKG_VERSION"));
    http::Response::builder()
        .header(CONTENT_TYPE, "text/html; charset=utf-8")
        .header(CACHE_CONTROL, "no-store")
        .header(CONTENT_SECURITY_POLICY, policy(&nonce, host))
        .body(page)
        .into_response()
}

/// Only what the page itself carries runs, and it talks to its own server alone. Older WebKit does not count
/// WebSockets as `'self'`, so they are named.
fn policy(nonce: &str, host: Option<&Authority>) -> String {
    let mut policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; connect-src 'self'"
    );
    if let Some(host) = host.filter(|host| is_plain(host.as_str())) {
        let _ = write!(policy, " ws://{host} wss://{host}");
    }
    policy
}

/// Whether a `Host` is made only of what a host and a port are made of, and can't end the directive it is put into.
fn is_plain(host: &str) -> bool {
    host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]_".contains(&b))
}

/// 128 bits that nobody can guess, from the operating system's keys behind the standard library's hasher.
fn nonce() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}{:016x}", RandomState::new().hash_one(1), RandomState::new().hash_one(2))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
