//! What a client asks for.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::cursor::Cursor;
use crate::inbound::Destination;
use crate::message::{MessageId, PayloadKind, Target};
use crate::topic::{InvalidTopic, Pattern, Topic};
use crate::user::{GroupName, InvalidName, UserName};

/// Bytes of a request's id: any UUID or counter fits.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Topics that one request may name, so that it is answered without holding anybody up.
pub const TOPICS_PER_REQUEST_MAX: usize = 1000;

/// Characters of an explanation: what a client sent may be part of it.
const EXPLANATION_CHARS_MAX: usize = 200;

/// Something that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// With everything that came behind the cursor, if there is one.
    Subscribe {
        id: Option<RequestId>,
        selection: Selection,
        since: Option<Box<Cursor>>,
    },
    Unsubscribe {
        id: Option<RequestId>,
        selection: Selection,
    },
    Publish {
        id: Option<RequestId>,
        target: Target,
        kind: PayloadKind,
        payload: Bytes,
    },
    /// To backends.
    Send {
        id: Option<RequestId>,
        destination: Destination,
        kind: PayloadKind,
        payload: Bytes,
    },
    /// To a user, or to the members of a group.
    SendTo {
        id: Option<RequestId>,
        to: Addressee,
        /// Until somebody has acknowledged it; else only who is connected hears it.
        is_kept: bool,
        kind: PayloadKind,
        payload: Bytes,
    },
    /// The client has what its user was sent.
    Acknowledge {
        message_id: MessageId,
    },
    /// To go on by another token.
    Authenticate {
        id: Option<RequestId>,
        token: Token,
    },
    Ping {
        id: Option<RequestId>,
    },
}

/// Who by name is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressee {
    User(UserName),
    Group(GroupName),
}

/// A token, which is shown nowhere.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Token(Box<str>);

impl Token {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What a client subscribes to, or no more. Never nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Each once.
    pub patterns: Vec<Pattern>,
    pub broadcast: bool,
}

/// By which a client knows the answer to a request: its own text, of at most [`REQUEST_ID_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Box<str>")]
pub struct RequestId(Box<str>);

impl RequestId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Box<str>> for RequestId {
    type Error = String;

    fn try_from(text: Box<str>) -> Result<RequestId, String> {
        if text.len() > REQUEST_ID_BYTES_MAX {
            return Err(format!("an id has at most {REQUEST_ID_BYTES_MAX} bytes"));
        }
        Ok(RequestId(text))
    }
}

/// Why a request is not granted. The numbers are for ever: below 200 the request itself is wrong, from 200 on it may be
/// granted another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    NotText = 100,
    NotJson = 101,
    UnknownType = 102,
    BadField = 103,
    BadTopic = 104,
    TooManyTopics = 105,
    BadDestination = 106,
    /// The server has no backends, and never will.
    WithoutBackends = 107,
    /// Nobody can go on where they were here.
    NoResumption = 108,
    /// The token does not grant it.
    Forbidden = 109,
    /// The token does not count, or is not the session's user's.
    NotAuthenticated = 110,
    /// The broker does not deliver the topics so far.
    NotInForce = 200,
    /// The broker has taken nothing for too long: it was not published.
    SpoolFull = 201,
    /// Nobody knows whether it was published.
    Unconfirmed = 202,
    /// The instance stops: it was not published.
    Stopping = 203,
    /// Nobody is bound to hear it: it was not published.
    NoBackend = 204,
    /// The backends' queue takes no more: it is not there, but may be in another group's.
    QueueFull = 205,
    /// The user's mailbox takes no more, or that of a member of the group, in which case others may have it.
    MailboxFull = 206,
    /// Nobody belongs to the group.
    NoMembers = 207,
    /// The user's mailbox cannot be reached: it is not there.
    NoMailbox = 208,
    /// The user has no session, and it was not to be kept.
    NotConnected = 209,
    /// The client has not acknowledged what its user was sent, and is sent no more for now.
    Unacknowledged = 210,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 22] = [
        ErrorCode::NotText,
        ErrorCode::NotJson,
        ErrorCode::UnknownType,
        ErrorCode::BadField,
        ErrorCode::BadTopic,
        ErrorCode::TooManyTopics,
        ErrorCode::BadDestination,
        ErrorCode::WithoutBackends,
        ErrorCode::NoResumption,
        ErrorCode::Forbidden,
        ErrorCode::NotAuthenticated,
        ErrorCode::NotInForce,
        ErrorCode::SpoolFull,
        ErrorCode::Unconfirmed,
        ErrorCode::Stopping,
        ErrorCode::NoBackend,
        ErrorCode::QueueFull,
        ErrorCode::MailboxFull,
        ErrorCode::NoMembers,
        ErrorCode::NoMailbox,
        ErrorCode::NotConnected,
        ErrorCode::Unacknowledged,
    ];

    pub fn number(self) -> u16 {
        self as u16
    }
}

/// A request that is not granted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request's, if it can be told.
    pub id: Option<RequestId>,
    pub code: ErrorCode,
    /// For people.
    pub explanation: String,
}

impl Refusal {
    pub fn new(id: Option<RequestId>, code: ErrorCode, explanation: impl fmt::Display) -> Refusal {
        let explanation = explanation.to_string().chars().take(EXPLANATION_CHARS_MAX).collect();
        Refusal { id, code, explanation }
    }
}

/// All fields that any request may have. Flat, and none of them nested: nothing is kept that no request has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: Option<RequestId>,
    topics: Option<Names>,
    topic: Option<Box<str>>,
    destination: Option<Box<str>>,
    broadcast: Option<bool>,
    text: Option<String>,
    base64: Option<String>,
    since: Option<Box<str>>,
    user: Option<Box<str>>,
    group: Option<Box<str>>,
    keep: Option<bool>,
    message_id: Option<Box<str>>,
    token: Option<Token>,
}

/// What can be told of a request though something else is wrong with it.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Id {
    id: RequestId,
}

struct Names(Vec<Box<str>>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {TOPICS_PER_REQUEST_MAX} topics")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = sequence.next_element()? {
                    if names.len() == TOPICS_PER_REQUEST_MAX {
                        return Err(A::Error::custom(format!(
                            "a request names at most {TOPICS_PER_REQUEST_MAX} topics"
                        )));
                    }
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_seq(Bounded)
    }
}

impl Request {
    /// The types of requests that there are.
    pub(super) const KINDS: [&str; 7] =
        ["subscribe", "unsubscribe", "publish", "send", "acknowledge", "authenticate", "ping"];

    /// What a text message asks for.
    pub fn parse(text: &[u8]) -> Result<Request, Refusal> {
        // A list would be read as the fields in their order.
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err(Refusal::new(None, ErrorCode::NotJson, "a request is a JSON object"));
        }
        let fields: Fields<'_> = serde_json::from_slice(text).map_err(|error| malformed(text, &error))?;
        let id = fields.id.clone();
        fields.into_request().map_err(|(code, explanation)| Refusal::new(id, code, explanation))
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> Option<&RequestId> {
        match self {
            Request::Subscribe { id, .. }
            | Request::Unsubscribe { id, .. }
            | Request::Publish { id, .. }
            | Request::Send { id, .. }
            | Request::SendTo { id, .. }
            | Request::Authenticate { id, .. }
            | Request::Ping { id } => id.as_ref(),
            Request::Acknowledge { .. } => None,
        }
    }
}

/// Says what is wrong in the words that help most, and whose answer it is if that can be told.
fn malformed(text: &[u8], error: &serde_json::Error) -> Refusal {
    let id = serde_json::from_slice(text).ok().map(|Id { id }| id);
    if serde_json::from_slice::<IgnoredAny>(text).is_err() {
        return Refusal::new(id, ErrorCode::NotJson, error);
    }
    match serde_json::from_slice(text) {
        Ok(Kind { kind }) if !Request::KINDS.contains(&&*kind) => unknown_type(&kind, id),
        _ => Refusal::new(id, ErrorCode::BadField, error),
    }
}

fn unknown_type(kind: &str, id: Option<RequestId>) -> Refusal {
    let kinds = Request::KINDS.join(", ");
    Refusal::new(id, ErrorCode::UnknownType, format!("the type is none of {kinds}: {kind:?}"))
}

type Wrong = (ErrorCode, String);

impl Fields<'_> {
    fn into_request(self) -> Result<Request, Wrong> {
        match &*self.kind {
            "subscribe" => {
                let since = self.since.as_deref().map(Cursor::parse).transpose();
                let since = since.map_err(|reason| bad_field(format!("since: {reason}")))?.map(Box::new);
                let (id, selection) = self.into_selection()?;
                Ok(Request::Subscribe { id, selection, since })
            }
            "unsubscribe" => {
                self.has_only(&["id", "topics", "broadcast"])?;
                let (id, selection) = self.into_selection()?;
                Ok(Request::Unsubscribe { id, selection })
            }
            "publish" => self.into_publication(),
            "send" => self.into_sending(),
            "acknowledge" => {
                self.has_only(&["message_id"])?;
                let message_id = self.message_id.as_deref().and_then(MessageId::from_publisher);
                let message_id =
                    message_id.ok_or_else(|| bad_field("message_id must be given, of at most 255 bytes"))?;
                Ok(Request::Acknowledge { message_id })
            }
            "authenticate" => {
                self.has_only(&["id", "token"])?;
                let token = self.token.ok_or_else(|| bad_field("a token must be given"))?;
                Ok(Request::Authenticate { id: self.id, token })
            }
            "ping" => {
                self.has_only(&["id"])?;
                Ok(Request::Ping { id: self.id })
            }
            unknown => {
                let refusal = unknown_type(unknown, None);
                Err((refusal.code, refusal.explanation))
            }
        }
    }

    fn into_selection(self) -> Result<(Option<RequestId>, Selection), Wrong> {
        self.has_only(&["id", "topics", "broadcast", "since"])?;
        let broadcast = self.broadcast == Some(true);
        let names = self.topics.map(|names| names.0).unwrap_or_default();
        if names.is_empty() && !broadcast {
            return Err(bad_field("neither topics nor broadcast is given"));
        }
        let patterns = names.iter().map(|name| Pattern::parse(name).map_err(|reason| bad_topic(name, reason)));
        let mut patterns = patterns.collect::<Result<Vec<_>, _>>()?;
        patterns.sort_unstable();
        patterns.dedup();
        Ok((self.id, Selection { patterns, broadcast }))
    }

    fn into_publication(self) -> Result<Request, Wrong> {
        self.has_only(&["id", "topic", "broadcast", "text", "base64"])?;
        let target = match (self.topic, self.broadcast == Some(true)) {
            (None, true) => Target::Broadcast,
            (Some(name), false) => {
                Topic::parse_to_publish(&name).map(Target::Topic).map_err(|reason| bad_topic(&name, reason))?
            }
            _ => return Err(bad_field("either topic or broadcast must be given")),
        };
        let (kind, payload) = payload(self.text, self.base64)?;
        Ok(Request::Publish { id: self.id, target, kind, payload })
    }

    fn into_sending(self) -> Result<Request, Wrong> {
        if self.user.is_some() || self.group.is_some() {
            return self.into_letter();
        }
        self.has_only(&["id", "destination", "text", "base64"])?;
        let name = self.destination.ok_or_else(|| bad_field("a destination, a user or a group must be given"))?;
        let destination =
            Destination::parse(&name).map_err(|reason| (ErrorCode::BadDestination, format!("{reason}: {name:?}")))?;
        let (kind, payload) = payload(self.text, self.base64)?;
        Ok(Request::Send { id: self.id, destination, kind, payload })
    }

    fn into_letter(self) -> Result<Request, Wrong> {
        self.has_only(&["id", "user", "group", "keep", "text", "base64"])?;
        let named = |reason: InvalidName| bad_field(reason.to_string());
        let to = match (self.user, self.group) {
            (Some(user), None) => Addressee::User(UserName::parse(&user).map_err(named)?),
            (None, Some(group)) => Addressee::Group(GroupName::parse(&group).map_err(named)?),
            _ => return Err(bad_field("either user or group must be given")),
        };
        let is_kept = self.keep != Some(false);
        if !is_kept && matches!(to, Addressee::Group(_)) {
            return Err(bad_field("what is said to a group is kept for each member"));
        }
        let (kind, payload) = payload(self.text, self.base64)?;
        Ok(Request::SendTo { id: self.id, to, is_kept, kind, payload })
    }

    /// Refuses fields that belong to other requests.
    fn has_only(&self, names: &[&str]) -> Result<(), Wrong> {
        let given = [
            ("id", self.id.is_some()),
            ("topics", self.topics.is_some()),
            ("topic", self.topic.is_some()),
            ("destination", self.destination.is_some()),
            ("broadcast", self.broadcast.is_some()),
            ("text", self.text.is_some()),
            ("base64", self.base64.is_some()),
            ("since", self.since.is_some()),
            ("user", self.user.is_some()),
            ("group", self.group.is_some()),
            ("keep", self.keep.is_some()),
            ("message_id", self.message_id.is_some()),
            ("token", self.token.is_some()),
        ];
        match given.iter().find(|(name, is_given)| *is_given && !names.contains(name)) {
            Some((name, _)) => Err(bad_field(format!("{} has no field {name}", self.kind))),
            None => Ok(()),
        }
    }
}

fn payload(text: Option<String>, base64: Option<String>) -> Result<(PayloadKind, Bytes), Wrong> {
    match (text, base64) {
        (Some(text), None) => Ok((PayloadKind::Text, text.into())),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(base64).map_err(|reason| bad_field(format!("base64: {reason}")))?;
            Ok((PayloadKind::Binary, decoded.into()))
        }
        _ => Err(bad_field("either text or base64 must be given")),
    }
}

fn bad_field(explanation: impl Into<String>) -> Wrong {
    (ErrorCode::BadField, explanation.into())
}

fn bad_topic(name: &str, reason: InvalidTopic) -> Wrong {
    (ErrorCode::BadTopic, format!("{reason}: {name:?}"))
}
