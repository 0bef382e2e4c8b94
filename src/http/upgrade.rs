//! From an HTTP request to a session: the opening handshake (RFC 6455 §4.2) and taking over the TCP stream.
//!
//! Done by hand rather than by warp's own WebSocket filter, which keeps 129 KiB per idle connection and ends the
//! stream without a close frame when a client breaks the protocol.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use warp::http::header::{
    CONNECTION, HOST, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use warp::http::{HeaderMap, HeaderName, Response as HttpResponse, StatusCode};
use warp::reply::Response;
use warp::{Reply, http};

use super::identities::Unauthorized;
use super::replay::{self, NotReplayed};
use super::topic::{self, NotATopic};
use super::{Site, origin};
use crate::identity::{self, Identity, Redeeming};
use crate::interest::IN_FORCE_TIMEOUT;
use crate::protocol::extensions::{self, negotiate};
use crate::protocol::handshake::{accept_key, is_valid_key};
use crate::protocol::subprotocols::{self, Subprotocol};
use crate::session::{Channel, NotAdmitted, Opening};

/// The one version of the protocol that there is (RFC 6455 §4.1).
const VERSION: &str = "13";

/// Why a request on `/message` opens no session.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    NotAnUpgrade,
    BadHost,
    UnknownVersion,
    BadKey,
    BadExtensions,
    BadSubprotocols,
    ForeignOrigin,
    NotATopic(NotATopic),
    NotReplayed(NotReplayed),
    Unauthorized(Unauthorized),
    /// The token does not grant what is to be heard.
    Forbidden,
    /// It has never heard the broker so far, so that a session would be deaf.
    NotAttached,
    /// The broker does not deliver the topic so far.
    NotInForce,
    NotAdmitted(NotAdmitted),
}

impl Refusal {
    /// As metrics name it, one of [`REFUSALS`](crate::metrics::REFUSALS).
    fn name(&self) -> &'static str {
        match self {
            Refusal::NotAnUpgrade => "not_an_upgrade",
            Refusal::UnknownVersion => "unknown_version",
            Refusal::BadHost => "bad_host",
            Refusal::BadKey => "bad_key",
            Refusal::BadExtensions => "bad_extensions",
            Refusal::BadSubprotocols => "bad_subprotocols",
            Refusal::ForeignOrigin => "foreign_origin",
            Refusal::NotATopic(_) => "bad_topic",
            Refusal::NotReplayed(_) => "not_replayed",
            Refusal::Unauthorized(reason) if reason.may_pass() => "cannot_verify",
            Refusal::Unauthorized(_) => "unauthorized",
            Refusal::Forbidden => "forbidden",
            Refusal::NotAttached => "not_attached",
            Refusal::NotInForce => "not_in_force",
            Refusal::NotAdmitted(NotAdmitted::Full) => "full",
            Refusal::NotAdmitted(NotAdmitted::TooManyOfOneAddress) => "address_full",
            Refusal::NotAdmitted(NotAdmitted::TooManyOfOneUser) => "user_full",
            Refusal::NotAdmitted(NotAdmitted::Stopping) => "stopping",
        }
    }
}

/// What becomes of a connection once an answer on it is written: the session that its request opened, if any.
#[derive(Clone, Default)]
pub struct Successor(Arc<Mutex<Option<Opening>>>);

impl Successor {
    /// What stands behind the answer.
    pub fn set(&self, opening: Opening) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(opening);
    }

    /// Lets the session begin, if there is one; `first` is what the client sent behind its handshake.
    ///
    /// The TCP stream is taken off this runtime's reactor, and the session registers it anew. The old registration
    /// would keep hyper's finished task alive through its waker (measured: 3.2 → 1.3 KiB per idle session).
    pub fn take_over(&self, stream: TcpStream, first: &[u8]) {
        let Some(opening) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if let Err(error) = stream.into_std().and_then(|stream| opening.begin(stream, first)) {
            log::warn!("cannot take a connection over: {error}");
        }
    }
}

/// Answers a GET on `/message`; an `upgrade` that is granted has the session to begin once the answer is written. `topic`
/// is what stands behind `/message/`.
pub async fn answer(
    site: &Arc<Site>,
    headers: &HeaderMap,
    topic: &str,
    query: String,
    upgrade: Option<Successor>,
    client: IpAddr,
) -> Response {
    match open(site, headers, topic, &query, upgrade, client).await {
        Ok(response) => response,
        Err(refusal) => {
            log::debug!("{client}: no session: {refusal:?}");
            site.sessions.metrics().refused(refusal.name());
            refusal.into_response()
        }
    }
}

async fn open(
    site: &Arc<Site>,
    headers: &HeaderMap,
    topic: &str,
    query: &str,
    upgrade: Option<Successor>,
    client: IpAddr,
) -> Result<Response, Refusal> {
    let key = check(headers)?;
    let successor = upgrade.ok_or(Refusal::NotAnUpgrade)?;
    if !origin::may_connect(&site.allowed_origins, headers) {
        return Err(Refusal::ForeignOrigin);
    }
    let extension = if site.compression { extension(headers)? } else { None };
    let subprotocol = subprotocol(headers)?;
    let channel = channel(site, topic, query, subprotocol)?;
    if site.link.borrow().attachments == 0 {
        return Err(Refusal::NotAttached);
    }
    let identity =
        site.identities.of_session(headers, query, Redeeming::Spends).await.map_err(Refusal::Unauthorized)?;
    if !may_hear(identity.as_deref(), site.identities.verifier.is_some(), &channel) {
        return Err(Refusal::Forbidden);
    }
    let permit = site.sessions.admit(client).map_err(Refusal::NotAdmitted)?;
    if let Some(identity) = &identity {
        // From the answer on they are written to whoever writes to their groups.
        let joined = site.sessions.users().join_all(&identity.user, &identity.groups).await;
        joined.map_err(|_| Refusal::NotInForce)?;
    }
    let opening = site.sessions.open(permit, extension.is_some(), channel.clone(), identity);
    let opening = opening.map_err(Refusal::NotAdmitted)?;
    if let Channel::Topic(pattern) | Channel::Since(Some(pattern), _) = &channel {
        // The answer is what tells the client that it will miss nothing.
        let in_force = tokio::time::timeout(IN_FORCE_TIMEOUT, site.interest.in_force(pattern));
        in_force.await.map_err(|_| Refusal::NotInForce)?;
    }
    log::debug!("{}: opened for {client}", opening.id());
    successor.set(opening);
    let mut response = HttpResponse::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, accept_key(key));
    if let Some(extension) = extension {
        response = response.header(SEC_WEBSOCKET_EXTENSIONS, extension);
    }
    if let Some(subprotocol) = subprotocol {
        response = response.header(SEC_WEBSOCKET_PROTOCOL, subprotocol.name());
    }
    Ok(response.body("").into_response())
}

/// Whether what is heard from the start may be.
fn may_hear(identity: Option<&Identity>, there_are_tokens: bool, channel: &Channel) -> bool {
    let (patterns, broadcast) = match channel {
        Channel::Topic(pattern) | Channel::Since(Some(pattern), _) => (std::slice::from_ref(pattern), false),
        Channel::Broadcast(_) | Channel::Since(None, _) => (&[][..], true),
        Channel::Events { patterns, broadcast, .. } => (&patterns[..], *broadcast),
        // Each request is looked at by itself.
        Channel::Requests => return true,
    };
    identity::may_hear(identity, there_are_tokens, patterns, broadcast)
}

/// What the client wants to hear.
fn channel(site: &Site, topic: &str, query: &str, subprotocol: Option<Subprotocol>) -> Result<Channel, Refusal> {
    let topic = topic::asked(topic, query).map_err(Refusal::NotATopic)?;
    let replay = replay::asked(query, site.replay).map_err(Refusal::NotReplayed)?;
    let since = replay::since(query, site.sessions.limits().resumption).map_err(Refusal::NotReplayed)?;
    if let Some(since) = since {
        return match (subprotocol, replay) {
            (Some(Subprotocol::Json), _) => Err(Refusal::NotReplayed(NotReplayed::OfRequests)),
            (_, Some(_)) => Err(Refusal::NotReplayed(NotReplayed::Both)),
            (_, None) => Ok(Channel::Since(topic, Box::new(since))),
        };
    }
    if subprotocol == Some(Subprotocol::Json) {
        return match (topic, replay) {
            (None, None) => Ok(Channel::Requests),
            (Some(_), _) => Err(Refusal::NotATopic(NotATopic::OfRequests)),
            (None, Some(_)) => Err(Refusal::NotReplayed(NotReplayed::OfRequests)),
        };
    }
    match (topic, replay) {
        (None, replay) => Ok(Channel::Broadcast(replay)),
        (Some(topic), None) => Ok(Channel::Topic(topic)),
        (Some(_), Some(_)) => Err(Refusal::NotReplayed(NotReplayed::OfTopic)),
    }
}

/// The client's key, if the request is an opening handshake (RFC 6455 §4.2.1).
fn check(headers: &HeaderMap) -> Result<&str, Refusal> {
    if !has_token(headers, UPGRADE, "websocket") || !has_token(headers, CONNECTION, "upgrade") {
        return Err(Refusal::NotAnUpgrade);
    }
    if single(headers, HOST).is_none() {
        return Err(Refusal::BadHost);
    }
    if single(headers, SEC_WEBSOCKET_VERSION) != Some(VERSION) {
        return Err(Refusal::UnknownVersion);
    }
    single(headers, SEC_WEBSOCKET_KEY).filter(|key| is_valid_key(key)).ok_or(Refusal::BadKey)
}

/// The value of a header that must occur once and does (RFC 6455 §11.3.1 and §11.3.5, RFC 9112 §3.2).
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// What the client's offers of extensions are answered.
fn extension(headers: &HeaderMap) -> Result<Option<&'static str>, Refusal> {
    let lines = lines(headers, SEC_WEBSOCKET_EXTENSIONS).ok_or(Refusal::BadExtensions)?;
    negotiate(lines).map_err(|extensions::Malformed| Refusal::BadExtensions)
}

/// The subprotocol that is spoken of those that the client offers.
fn subprotocol(headers: &HeaderMap) -> Result<Option<Subprotocol>, Refusal> {
    let lines = lines(headers, SEC_WEBSOCKET_PROTOCOL).ok_or(Refusal::BadSubprotocols)?;
    subprotocols::negotiate(lines).map_err(|subprotocols::Malformed| Refusal::BadSubprotocols)
}

/// The lines of a header, if all are text.
fn lines(headers: &HeaderMap, name: HeaderName) -> Option<Vec<&str>> {
    headers.get_all(name).iter().map(|line| line.to_str().ok()).collect()
}

/// Whether a comma-separated header names `token`, in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

impl Reply for Refusal {
    fn into_response(self) -> Response {
        let refuse = |status, text: &str| http::Response::builder().status(status).body(text.to_owned());
        let mut response = match &self {
            Refusal::NotAnUpgrade => refuse(
                StatusCode::UPGRADE_REQUIRED,
                "This address speaks WebSocket (RFC 6455): connect with a WebSocket client, or open / in a browser.\n",
            ),
            Refusal::UnknownVersion => {
                refuse(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13 (RFC 6455).\n")
            }
            Refusal::BadHost => refuse(StatusCode::BAD_REQUEST, "Host must be given, once (RFC 9112).\n"),
            Refusal::BadKey => {
                refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be one base64 value of 16 bytes.\n")
            }
            Refusal::BadExtensions => {
                refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Extensions must be a list of extensions (RFC 6455).\n")
            }
            Refusal::BadSubprotocols => {
                refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Protocol must be a list of subprotocols (RFC 6455).\n")
            }
            Refusal::ForeignOrigin => {
                refuse(StatusCode::FORBIDDEN, "Pages of this origin may not connect (--allowed-origins).\n")
            }
            Refusal::NotATopic(reason) => refuse(StatusCode::BAD_REQUEST, &format!("{reason}\n")),
            Refusal::NotReplayed(reason) => refuse(StatusCode::BAD_REQUEST, &format!("{reason}\n")),
            Refusal::Unauthorized(reason) if reason.may_pass() => {
                refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("It cannot be told just now who asks: {reason}.\n"))
            }
            Refusal::Unauthorized(reason) => {
                refuse(StatusCode::UNAUTHORIZED, &format!("Nobody is known by this request: {reason}.\n"))
            }
            Refusal::Forbidden => refuse(StatusCode::FORBIDDEN, "The token does not allow to hear this.\n"),
            Refusal::NotAttached => {
                refuse(StatusCode::SERVICE_UNAVAILABLE, "This instance has not reached its broker yet.\n")
            }
            Refusal::NotInForce => {
                refuse(StatusCode::SERVICE_UNAVAILABLE, "The broker does not deliver this topic yet.\n")
            }
            Refusal::NotAdmitted(NotAdmitted::Full) => {
                refuse(StatusCode::SERVICE_UNAVAILABLE, "This instance takes no more sessions now (--sessions-max).\n")
            }
            Refusal::NotAdmitted(NotAdmitted::Stopping) => {
                refuse(StatusCode::SERVICE_UNAVAILABLE, "This instance is stopping: connect to another one.\n")
            }
            Refusal::NotAdmitted(NotAdmitted::TooManyOfOneAddress) => refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "Your address has as many sessions as it may have (--sessions-per-address-max).\n",
            ),
            Refusal::NotAdmitted(NotAdmitted::TooManyOfOneUser) => refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "You have as many sessions as one user may have (--sessions-per-user-max).\n",
            ),
        }
        .into_response();
        let headers = response.headers_mut();
        match self {
            Refusal::NotAnUpgrade | Refusal::UnknownVersion => {
                // RFC 9110 §15.5.22 wants Upgrade in a 426; RFC 6455 §4.2.2 wants the version that is spoken.
                headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
                headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
                headers.insert(SEC_WEBSOCKET_VERSION, http::HeaderValue::from_static(VERSION));
            }
            Refusal::Unauthorized(reason) if !reason.may_pass() => {
                headers.insert(WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
            }
            Refusal::Unauthorized(_) | Refusal::NotAttached | Refusal::NotInForce | Refusal::NotAdmitted(_) => {
                headers.insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
            }
            Refusal::BadHost
            | Refusal::Forbidden
            | Refusal::BadKey
            | Refusal::BadExtensions
            | Refusal::BadSubprotocols
            | Refusal::ForeignOrigin
            | Refusal::NotATopic(_)
            | Refusal::NotReplayed(_) => {}
        }
        response
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Unverified;

    fn request(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn a_handshake_is_recognised_in_any_case_and_among_other_tokens() {
        let headers = request(&[
            ("host", "warren.example"),
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ]);
        assert_eq!(check(&headers), Ok(KEY));
    }

    #[test]
    fn every_refusal_has_a_series_of_its_own() {
        use NotAdmitted::{Full, Stopping, TooManyOfOneAddress, TooManyOfOneUser};
        use Refusal::{
            BadExtensions, BadHost, BadKey, BadSubprotocols, Forbidden, ForeignOrigin, NotATopic, NotAnUpgrade,
            NotAttached, NotInForce, UnknownVersion,
        };
        let not_replayed = Refusal::NotReplayed(NotReplayed::Malformed);
        let first = [NotAnUpgrade, UnknownVersion, BadHost, BadKey, BadExtensions, BadSubprotocols, ForeignOrigin];
        let nobody = Refusal::Unauthorized(Unauthorized::Missing);
        let unknown = Refusal::Unauthorized(Unauthorized::Token(Unverified::NoKeys));
        let then = [NotATopic(topic::NotATopic::Several), not_replayed, nobody, unknown, Forbidden];
        let then = then.into_iter().chain([NotAttached, NotInForce]);
        let last = [Full, TooManyOfOneAddress, TooManyOfOneUser, Stopping].map(Refusal::NotAdmitted);
        let names: Vec<_> = first.into_iter().chain(then).chain(last).map(|refusal| refusal.name()).collect();
        // A WebSocket may have other parameters in its query.
        let of_both = crate::metrics::REFUSALS.into_iter().filter(|name| *name != "bad_query");
        assert!(of_both.eq(names));
    }

    #[test]
    fn what_is_missing_is_told_apart() {
        assert_eq!(check(&request(&[])), Err(Refusal::NotAnUpgrade));
        let mut headers = request(&[("upgrade", "websocket"), ("connection", "upgrade")]);
        assert_eq!(check(&headers), Err(Refusal::BadHost));
        headers.insert(HOST, "warren.example".parse().unwrap());
        assert_eq!(check(&headers), Err(Refusal::UnknownVersion));
        headers.insert(SEC_WEBSOCKET_VERSION, "8".parse().unwrap());
        assert_eq!(check(&headers), Err(Refusal::UnknownVersion));
        headers.insert(SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
        assert_eq!(check(&headers), Err(Refusal::BadKey));
        headers.insert(SEC_WEBSOCKET_KEY, "short".parse().unwrap());
        assert_eq!(check(&headers), Err(Refusal::BadKey));
    }
}
