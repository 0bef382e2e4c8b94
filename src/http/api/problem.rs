//! What is wrong with a request, for machines and for people: problem details in JSON (RFC 9457).

use serde::Serialize;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderName, StatusCode};
use warp::reply::Response;
use warp::{Reply, http};

use super::outcome::Told;

/// What every type begins with.
const TYPES: &str = "urn:warren:problem:";

/// What can be wrong. Each has a type of its own, which stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    MalformedJson,
    InvalidMessage,
    BadTopic,
    BadIdempotencyKey,
    BadQuery,
    Unauthorized,
    Forbidden,
    ForeignOrigin,
    NotFound,
    WrongMethod,
    BodyTimeout,
    TooLarge,
    UnsupportedMediaType,
    TooManySessions,
    MailboxFull,
    NotKept,
    NoMembers,
    NotConnected,
    BadName,
    CannotVerify,
    Overloaded,
    NotSpooled,
    NotHearing,
    NoRoom,
    Stopping,
    OutcomeUnknown,
}

impl Kind {
    /// All of them, as `docs/http.md` lists them.
    #[cfg(test)]
    pub const ALL: [Kind; 26] = [
        Kind::MalformedJson,
        Kind::InvalidMessage,
        Kind::BadTopic,
        Kind::BadIdempotencyKey,
        Kind::BadQuery,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::ForeignOrigin,
        Kind::NotFound,
        Kind::WrongMethod,
        Kind::BodyTimeout,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::TooManySessions,
        Kind::MailboxFull,
        Kind::NotKept,
        Kind::NoMembers,
        Kind::NotConnected,
        Kind::BadName,
        Kind::CannotVerify,
        Kind::Overloaded,
        Kind::NotSpooled,
        Kind::NotHearing,
        Kind::NoRoom,
        Kind::Stopping,
        Kind::OutcomeUnknown,
    ];

    /// Those of `/events`.
    #[cfg(test)]
    pub const OF_LISTENING: [Kind; 11] = [
        Kind::BadTopic,
        Kind::BadQuery,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::ForeignOrigin,
        Kind::WrongMethod,
        Kind::TooManySessions,
        Kind::CannotVerify,
        Kind::NotHearing,
        Kind::NoRoom,
        Kind::Stopping,
    ];

    /// Those of `/api/presence` and beneath.
    #[cfg(test)]
    pub const OF_PRESENCE: [Kind; 7] = [
        Kind::BadTopic,
        Kind::BadQuery,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::WrongMethod,
        Kind::CannotVerify,
        Kind::Overloaded,
    ];

    /// Those of the routes that publish.
    #[cfg(test)]
    pub fn of_publishing() -> impl Iterator<Item = Kind> {
        let also_of_both = [
            Kind::BadTopic,
            Kind::Unauthorized,
            Kind::Forbidden,
            Kind::WrongMethod,
            Kind::CannotVerify,
            Kind::Stopping,
        ];
        let of_names = [Kind::MailboxFull, Kind::NotKept, Kind::NoMembers, Kind::NotConnected, Kind::BadName];
        let is_other = move |kind: &Kind| !Kind::OF_LISTENING.contains(kind) && !of_names.contains(kind);
        Kind::ALL.into_iter().filter(move |kind| is_other(kind) || also_of_both.contains(kind))
    }

    /// The end of its type, its status, and its title.
    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Kind::MalformedJson => {
                ("malformed-json", StatusCode::BAD_REQUEST, "The body is not the JSON that is expected")
            }
            Kind::InvalidMessage => ("invalid-message", StatusCode::BAD_REQUEST, "There is no such message"),
            Kind::BadTopic => ("bad-topic", StatusCode::BAD_REQUEST, "This names no topic"),
            Kind::BadIdempotencyKey => {
                ("bad-idempotency-key", StatusCode::BAD_REQUEST, "The idempotency key cannot be used")
            }
            Kind::BadQuery => ("bad-query", StatusCode::BAD_REQUEST, "The query asks for what there is not"),
            Kind::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "An API key or a token is required"),
            Kind::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "This is not allowed"),
            Kind::ForeignOrigin => ("foreign-origin", StatusCode::FORBIDDEN, "Pages of this origin may not connect"),
            Kind::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such route"),
            Kind::WrongMethod => ("wrong-method", StatusCode::METHOD_NOT_ALLOWED, "The route has not this method"),
            Kind::BodyTimeout => ("body-timeout", StatusCode::REQUEST_TIMEOUT, "The body did not come in time"),
            Kind::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "This is larger than is taken"),
            Kind::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is of a type that is not taken",
            ),
            Kind::TooManySessions => (
                "too-many-sessions",
                StatusCode::TOO_MANY_REQUESTS,
                "The address or the user has as many sessions as it may have",
            ),
            Kind::MailboxFull => ("mailbox-full", StatusCode::INSUFFICIENT_STORAGE, "The mailbox is full"),
            Kind::NotKept => ("not-kept", StatusCode::SERVICE_UNAVAILABLE, "The message could not be kept"),
            Kind::NoMembers => ("no-members", StatusCode::NOT_FOUND, "The group has no members"),
            Kind::NotConnected => ("not-connected", StatusCode::NOT_FOUND, "The user is not connected"),
            Kind::BadName => ("bad-name", StatusCode::BAD_REQUEST, "This names no user or group"),
            Kind::CannotVerify => {
                ("cannot-verify", StatusCode::SERVICE_UNAVAILABLE, "It cannot be told just now who asks")
            }
            Kind::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too many requests are under way"),
            Kind::NotSpooled => ("not-spooled", StatusCode::SERVICE_UNAVAILABLE, "The message was not taken"),
            Kind::NotHearing => {
                ("not-hearing", StatusCode::SERVICE_UNAVAILABLE, "The broker does not deliver this yet")
            }
            Kind::NoRoom => ("no-room", StatusCode::SERVICE_UNAVAILABLE, "There are as many sessions as there may be"),
            Kind::Stopping => ("stopping", StatusCode::SERVICE_UNAVAILABLE, "The instance is stopping"),
            Kind::OutcomeUnknown => {
                ("outcome-unknown", StatusCode::GATEWAY_TIMEOUT, "It is not known whether the message is delivered")
            }
        }
    }

    pub fn status(self) -> StatusCode {
        self.facts().1
    }

    /// A header that its status asks for, or that tells what to do.
    fn header(self) -> Option<(HeaderName, &'static str)> {
        match self {
            Kind::Unauthorized => Some((WWW_AUTHENTICATE, "Bearer")),
            Kind::TooManySessions
            | Kind::CannotVerify
            | Kind::Overloaded
            | Kind::NotKept
            | Kind::NotSpooled
            | Kind::NotHearing
            | Kind::NoRoom
            | Kind::Stopping => Some((RETRY_AFTER, "1")),
            _ => None,
        }
    }
}

/// One problem.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    type_urn: Box<str>,
    title: &'static str,
    status: u16,
    detail: String,
    /// Why nobody is known by a request, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// In a batch, which of its messages is meant, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// Of a batch, what became of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Box<[Told]>>,
    #[serde(skip)]
    kind: Kind,
}

impl Problem {
    /// For people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        let (name, status, title) = kind.facts();
        Problem {
            type_urn: format!("{TYPES}{name}").into(),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            reason: None,
            index: None,
            results: None,
            kind,
        }
    }

    /// With the reason in one word.
    pub fn because(self, reason: &'static str) -> Problem {
        Problem { reason: Some(reason), ..self }
    }

    /// That of one message of a batch.
    pub fn at(self, index: usize) -> Problem {
        Problem { index: Some(index), ..self }
    }

    /// With what became of each message.
    pub fn with_results(self, results: Vec<Told>) -> Problem {
        Problem { results: Some(results.into()), ..self }
    }

    pub fn to_response(&self) -> Response {
        // Of strings and numbers: nothing that cannot be written.
        let body = serde_json::to_vec(self).unwrap_or_default();
        let mut response = http::Response::builder()
            .status(self.kind.status())
            .header(CONTENT_TYPE, "application/problem+json")
            .header(CACHE_CONTROL, "no-store");
        if let Some((name, value)) = self.kind.header() {
            response = response.header(name, value);
        }
        response.body(body).into_response()
    }
}

impl Reply for Problem {
    fn into_response(self) -> Response {
        self.to_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_documented() {
        let documentation = include_str!("../../../docs/http.md");
        for kind in Kind::ALL {
            let (name, status, title) = kind.facts();
            let row = format!("| `{TYPES}{name}` | {} | {title} |", status.as_u16());
            assert!(documentation.contains(&row), "docs/http.md lacks:\n{row}");
        }
        assert_eq!(documentation.matches(&format!("| `{TYPES}")).count(), Kind::ALL.len());
    }

    #[test]
    fn a_problem_is_written_as_the_rfc_says() {
        let problem = Problem::new(Kind::BadTopic, "a word is missing").at(3);
        let json = serde_json::to_value(&problem).unwrap();
        let expected = serde_json::json!({
            "type": "urn:warren:problem:bad-topic", "title": "This names no topic", "status": 400,
            "detail": "a word is missing", "index": 3,
        });
        assert_eq!(json, expected);
    }
}
