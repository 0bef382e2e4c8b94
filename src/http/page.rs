//! The index page, from `templates/`, and the headers that guard it.

use std::fmt::Write;
use std::sync::LazyLock;

use warp::http::StatusCode;
use warp::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use warp::http::uri::Authority;
use warp::reply::Response;
use warp::{Reply, http};

use super::Site;

/// One file, as it needs nothing else to be shown.
static TEMPLATE: LazyLock<String> = LazyLock::new(|| {
    let script = concat!(
        include_str!("../../templates/page/account.js"),
        include_str!("../../templates/page/page.js"),
        include_str!("../../templates/page/messages.js"),
        include_str!("../../templates/page/topics.js"),
        include_str!("../../templates/page/publish.js"),
        include_str!("../../templates/page/backends.js"),
        include_str!("../../templates/page/users.js"),
    );
    let markup = include_str!("../../templates/index.html").replace("{{version}}", env!("CARGO_PKG_VERSION"));
    markup.replace("{{style}}", include_str!("../../templates/page/style.css")).replace("{{script}}", script)
});

/// Headers that every answer carries: nothing is sniffed, framed or told to other sites.
pub const GUARDS: [(HeaderName, &str); 3] =
    [(X_CONTENT_TYPE_OPTIONS, "nosniff"), (X_FRAME_OPTIONS, "DENY"), (REFERRER_POLICY, "no-referrer")];

/// The page for the server that the request's `Host` names.
pub fn index(site: &Site, host: Option<&Authority>) -> Response {
    let nonce = match nonce() {
        Ok(nonce) => nonce,
        Err(error) => {
            log::error!("no random numbers for the page: {error}");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let page = TEMPLATE
        .replace("{{nonce}}", &nonce)
        .replace("{{sign-in}}", sign_in(site))
        .replace("{{instance}}", &escape_html(site.incarnation.name().as_str()));
    http::Response::builder()
        .header(CONTENT_TYPE, "text/html; charset=utf-8")
        .header(CACHE_CONTROL, "no-store")
        .header(CONTENT_SECURITY_POLICY, policy(&nonce, host))
        .body(page)
        .into_response()
}

/// How somebody becomes somebody here: by a name, by a token, or not at all.
fn sign_in(site: &Site) -> &'static str {
    match (&site.sign_in, &site.identities.verifier) {
        (Some(_), _) => "name",
        (None, Some(_)) => "token",
        (None, None) => "none",
    }
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

/// 128 bits from the operating system, so that nobody can guess what the policy lets run.
fn nonce() -> Result<String, getrandom::Error> {
    Ok(format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
