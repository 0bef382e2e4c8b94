//! `GET /events`: a session as server-sent events (WHATWG HTML §9.2), for what cannot speak WebSocket, `curl` above all.
//!
//! The answer's head is hyper's, what follows is the session's own: its length is not told, so that it ends with the
//! connection (RFC 9112 §6.3), and hyper is given a body that ends at once, whereupon it lets go of the TCP stream as it
//! does behind a WebSocket's 101. HTTP/1.1 would have hyper write chunks; an answer in HTTP/1.0 has none, and says the
//! same as `Connection: close`. A client of either version reads until the end.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use url::form_urlencoded;
use warp::Reply;
use warp::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use warp::http::{HeaderName, Version};
use warp::reply::Response;

use super::api::{Problem, ProblemKind};
use super::identities::Unauthorized;
use super::upgrade::Successor;
use super::{Site, origin};
use crate::config::AllowedOrigins;
use crate::cursor::{Cursor, NotACursor};
use crate::identity::{Redeeming, may_hear};
use crate::interest::IN_FORCE_TIMEOUT;
use crate::session::{Channel, NoResumption, NotAdmitted, Start, WILDCARDS_MAX};
use crate::topic::{InvalidTopic, Pattern};

/// Parameters of the query.
const TOPIC: &str = "topic";
const BROADCAST: &str = "broadcast";
const SINCE: &str = "since";

/// By which a browser that connects again says what it was given last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells nginx and others like it to hand on what comes at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Why a request opens no stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("Pages of this origin may not connect (--allowed-origins).")]
    ForeignOrigin,
    #[error("There is no parameter {0:?}: the query has topic=, any number of times, broadcast=true and since=.")]
    UnknownParameter(String),
    #[error("broadcast is true or false, and is given once.")]
    BadBroadcast,
    #[error("There is nothing to hear: neither a topic nor the broadcast.")]
    Nothing,
    #[error("since is {0}.")]
    Since(NotACursor),
    #[error("No stream can go on where another was: {0}.")]
    NoResumption(NoResumption),
    #[error("The query is not UTF-8.")]
    NotUtf8,
    #[error("No topic: {0}.")]
    NotATopic(#[from] InvalidTopic),
    #[error("A session has at most {0} topics (--topics-per-session-max).")]
    TooManyTopics(usize),
    #[error("A session has at most {WILDCARDS_MAX} patterns with wildcards.")]
    TooManyWildcards,
    #[error("Nobody is known by this request: {0}.")]
    Unauthorized(Unauthorized),
    #[error("The token does not allow to hear this.")]
    Forbidden,
    #[error("This instance has not reached its broker yet.")]
    NotAttached,
    #[error("The broker does not deliver these topics yet.")]
    NotInForce,
    #[error("No session: {0}.")]
    NotAdmitted(NotAdmitted),
}

impl Refusal {
    /// As metrics name it, one of [`REFUSALS`](crate::metrics::REFUSALS); and the problem that is answered.
    fn facts(&self) -> (&'static str, ProblemKind) {
        match self {
            Refusal::ForeignOrigin => ("foreign_origin", ProblemKind::ForeignOrigin),
            Refusal::UnknownParameter(_)
            | Refusal::BadBroadcast
            | Refusal::Nothing
            | Refusal::Since(_)
            | Refusal::NoResumption(_)
            | Refusal::NotUtf8
            | Refusal::TooManyTopics(_)
            | Refusal::TooManyWildcards => ("bad_query", ProblemKind::BadQuery),
            Refusal::NotATopic(_) => ("bad_topic", ProblemKind::BadTopic),
            Refusal::Unauthorized(reason) if reason.may_pass() => ("cannot_verify", ProblemKind::CannotVerify),
            Refusal::Unauthorized(_) => ("unauthorized", ProblemKind::Unauthorized),
            Refusal::Forbidden => ("forbidden", ProblemKind::Forbidden),
            Refusal::NotAttached => ("not_attached", ProblemKind::NotHearing),
            Refusal::NotInForce => ("not_in_force", ProblemKind::NotHearing),
            Refusal::NotAdmitted(NotAdmitted::Full) => ("full", ProblemKind::NoRoom),
            Refusal::NotAdmitted(NotAdmitted::TooManyOfOneAddress) => ("address_full", ProblemKind::TooManySessions),
            Refusal::NotAdmitted(NotAdmitted::TooManyOfOneUser) => ("user_full", ProblemKind::TooManySessions),
            Refusal::NotAdmitted(NotAdmitted::Stopping) => ("stopping", ProblemKind::Stopping),
        }
    }
}

/// Answers a request for events. A stream begins if there is a `successor` for it, once the head is written; without one
/// the same is answered and nothing begins.
pub async fn answer(
    site: &Arc<Site>,
    headers: &HeaderMap,
    query: &str,
    successor: Option<Successor>,
    client: IpAddr,
) -> Response {
    let opened = open(site, headers, query, successor, client).await;
    opened.unwrap_or_else(|refusal| {
        log::debug!("{client}: no event stream: {refusal:?}");
        let (name, kind) = refusal.facts();
        site.sessions.metrics().refused(name);
        let problem = match refusal {
            Refusal::Unauthorized(reason) => Problem::from(reason),
            _ => Problem::new(kind, refusal.to_string()),
        };
        let mut response = problem.into_response();
        if refusal != Refusal::ForeignOrigin {
            share(&mut response, headers);
        }
        response
    })
}

async fn open(
    site: &Arc<Site>,
    headers: &HeaderMap,
    query: &str,
    successor: Option<Successor>,
    client: IpAddr,
) -> Result<Response, Refusal> {
    if !may_listen(site, headers) {
        return Err(Refusal::ForeignOrigin);
    }
    let Asked { patterns, broadcast, since } = asked(&site.identities.without_credentials(query))?;
    let since = start(headers, since, site.sessions.limits().resumption)?;
    check_number(&patterns, site.sessions.limits().topics_per_session_max)?;
    if site.link.borrow().attachments == 0 {
        return Err(Refusal::NotAttached);
    }
    let redeeming = if successor.is_some() { Redeeming::Spends } else { Redeeming::Looks };
    let identity = site.identities.of_session(headers, query, redeeming).await.map_err(Refusal::Unauthorized)?;
    if !may_hear(identity.as_deref(), site.identities.verifier.is_some(), &patterns, broadcast) {
        return Err(Refusal::Forbidden);
    }
    if let Some(successor) = successor {
        let permit = site.sessions.admit(client).map_err(Refusal::NotAdmitted)?;
        if let Some(identity) = &identity {
            // From the answer on they are written to whoever writes to their groups.
            let joined = site.sessions.users().join_all(&identity.user, &identity.groups).await;
            joined.map_err(|_| Refusal::NotInForce)?;
        }
        let start = match since {
            Some(start) => start,
            // Before it hears: so nothing lies between.
            None => Start::Now(Box::new(site.sessions.place().await)),
        };
        let channel = Channel::Events { patterns: patterns.clone(), broadcast, start };
        let opening = site.sessions.open(permit, false, channel, identity).map_err(Refusal::NotAdmitted)?;
        // The head is what tells the client that it will miss nothing.
        let all_in_force = async {
            for pattern in &patterns {
                site.interest.in_force(pattern).await;
            }
        };
        tokio::time::timeout(IN_FORCE_TIMEOUT, all_in_force).await.map_err(|_| Refusal::NotInForce)?;
        log::debug!("{}: an event stream for {client}", opening.id());
        successor.set(opening);
    }
    Ok(head(headers))
}

/// The head of a stream; its body ends at once.
fn head(headers: &HeaderMap) -> Response {
    let mut response = warp::reply::stream(stream::empty::<Result<Bytes, Infallible>>()).into_response();
    *response.version_mut() = Version::HTTP_10;
    let own = response.headers_mut();
    own.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    own.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    own.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    own.insert(CONNECTION, HeaderValue::from_static("close"));
    share(&mut response, headers);
    response
}

/// Whether pages of this origin may listen. Other than with WebSockets, browsers send no `Origin` for a page's own server,
/// nor where a page does not see the answer.
fn may_listen(site: &Site, headers: &HeaderMap) -> bool {
    let is_told = headers.contains_key(ORIGIN);
    let is_foreign = !is_told && site.allowed_origins != AllowedOrigins::Any && origin::is_of_another_site(headers);
    !is_foreign && origin::may_connect(&site.allowed_origins, headers)
}

/// Has the browser show the answer to a page of another origin, which may connect.
fn share(response: &mut Response, headers: &HeaderMap) {
    let own = response.headers_mut();
    own.insert(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = headers.get(ORIGIN) {
        own.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// No pattern twice.
    patterns: Vec<Pattern>,
    broadcast: bool,
    /// From where to go on.
    since: Option<Cursor>,
}

/// Where the stream begins, if it is not now. A browser that connects again tells the last id that it was given by itself,
/// later than what its page once asked for; whether or not that is a cursor, it is no reason to refuse it.
fn start(
    headers: &HeaderMap,
    since: Option<Cursor>,
    resumption: Result<(), NoResumption>,
) -> Result<Option<Start>, Refusal> {
    if since.is_some() {
        resumption.map_err(Refusal::NoResumption)?;
    }
    let Some(last) = headers.get(LAST_EVENT_ID) else { return Ok(since.map(|since| Start::Since(Box::new(since)))) };
    let last = last.to_str().ok().and_then(|id| Cursor::parse(id).ok()).filter(|_| resumption.is_ok());
    Ok(Some(last.map_or(Start::AfterAbsence, |last| Start::Since(Box::new(last)))))
}

fn asked(query: &str) -> Result<Asked, Refusal> {
    let (mut patterns, mut broadcast, mut since) = (Vec::new(), None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        // What is not UTF-8 has been replaced by now.
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(Refusal::NotUtf8);
        }
        match &*name {
            TOPIC => patterns.push(Pattern::parse(&value)?),
            BROADCAST => {
                let is_wanted = value.parse().map_err(|_| Refusal::BadBroadcast)?;
                if broadcast.replace(is_wanted).is_some() {
                    return Err(Refusal::BadBroadcast);
                }
            }
            SINCE => since = Some(Cursor::parse(&value).map_err(Refusal::Since)?),
            _ => return Err(Refusal::UnknownParameter(name.into_owned())),
        }
    }
    let mut seen = HashSet::new();
    patterns.retain(|pattern| seen.insert(pattern.clone()));
    // Without a topic it is what /message is without one.
    let broadcast = broadcast.unwrap_or(patterns.is_empty());
    if patterns.is_empty() && !broadcast {
        return Err(Refusal::Nothing);
    }
    Ok(Asked { patterns, broadcast, since })
}

fn check_number(patterns: &[Pattern], topics_max: usize) -> Result<(), Refusal> {
    if patterns.len() > topics_max {
        return Err(Refusal::TooManyTopics(topics_max));
    }
    if patterns.iter().filter(|pattern| pattern.as_topic().is_none()).count() > WILDCARDS_MAX {
        return Err(Refusal::TooManyWildcards);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::*;
    use crate::identity::Unverified;

    fn of(query: &str) -> Result<(Vec<String>, bool), Refusal> {
        let asked = asked(query)?;
        Ok((asked.patterns.iter().map(Pattern::to_string).collect(), asked.broadcast))
    }

    #[test]
    fn topics_the_broadcast_or_both_are_asked_for() {
        for (query, topics, broadcast) in [
            ("", &[][..], true),
            ("broadcast=true", &[], true),
            ("topic=a", &["a"], false),
            ("topic=a&topic=b.%23&topic=%2Fa", &["a", "b.#"], false),
            ("topic=a&broadcast=true", &["a"], true),
            ("broadcast=false&topic=a", &["a"], false),
            ("topic=gr%C3%BC%C3%9Fe", &["grüße"], false),
        ] {
            let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
            assert_eq!(of(query), Ok((topics, broadcast)), "{query:?}");
        }
    }

    #[test]
    fn what_there_is_not_is_refused() {
        for (query, refusal) in [
            ("topics=a", Refusal::UnknownParameter("topics".into())),
            ("topic=a&_=5", Refusal::UnknownParameter("_".into())),
            ("broadcast", Refusal::BadBroadcast),
            ("broadcast=1", Refusal::BadBroadcast),
            ("broadcast=true&broadcast=true", Refusal::BadBroadcast),
            ("broadcast=false", Refusal::Nothing),
            ("since=a-1", Refusal::Since(NotACursor)),
            ("topic=%FF", Refusal::NotUtf8),
            ("topic=", Refusal::NotATopic(InvalidTopic::Empty)),
            ("topic=a..b", Refusal::NotATopic(InvalidTopic::EmptyWord)),
        ] {
            assert_eq!(of(query), Err(refusal), "{query:?}");
        }
    }

    /// Whatever a query is, it is refused, or it asks for something.
    #[test]
    fn fuzz_queries_for_events() {
        let piece = proptest::sample::select(vec![
            "topic=",
            "broadcast=",
            "true",
            "false",
            "since=",
            "a",
            ".",
            "%2F",
            "%23",
            "*",
            "%FF",
            "&",
            "=",
            "+",
            "%",
            "é",
        ]);
        let query = proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        crate::fuzzing::fuzz("queries for events", query, |query| {
            let Ok(asked) = asked(&query) else { return };
            assert!(asked.broadcast || !asked.patterns.is_empty());
            let different: HashSet<_> = asked.patterns.iter().collect();
            assert_eq!(different.len(), asked.patterns.len());
        });
    }

    #[test]
    fn there_are_only_so_many() {
        let patterns = |count: usize, end: &str| -> Vec<Pattern> {
            (0..count).map(|number| Pattern::parse(&format!("a{number}{end}")).unwrap()).collect()
        };
        assert_eq!(check_number(&patterns(3, ""), 3), Ok(()));
        assert_eq!(check_number(&patterns(4, ""), 3), Err(Refusal::TooManyTopics(3)));
        assert_eq!(check_number(&patterns(WILDCARDS_MAX, ".*"), 1000), Ok(()));
        assert_eq!(check_number(&patterns(WILDCARDS_MAX + 1, ".*"), 1000), Err(Refusal::TooManyWildcards));
    }

    #[test]
    fn every_refusal_is_counted_and_answered_as_its_route_says() {
        use NotAdmitted::{Full, Stopping, TooManyOfOneAddress, TooManyOfOneUser};
        let first = [Refusal::ForeignOrigin, Refusal::Nothing, Refusal::NotATopic(InvalidTopic::Empty)];
        let nobody = Refusal::Unauthorized(Unauthorized::Missing);
        let unknown = Refusal::Unauthorized(Unauthorized::Token(Unverified::NoKeys));
        let then = [nobody, unknown, Refusal::Forbidden, Refusal::NotAttached, Refusal::NotInForce];
        let last = [Full, TooManyOfOneAddress, TooManyOfOneUser, Stopping].map(Refusal::NotAdmitted);
        for refusal in first.iter().chain(&then).chain(&last) {
            let (name, kind) = refusal.facts();
            assert!(crate::metrics::REFUSALS.contains(&name) && ProblemKind::OF_LISTENING.contains(&kind), "{refusal}");
        }
    }
}
