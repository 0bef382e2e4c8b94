//! What the server tells a client.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::request::{Refusal, RequestId};
use crate::cursor::Cursor;
use crate::message::{Message, MessageId, PayloadKind, Target};
use crate::place::{Gap, Partition, Scope};
use crate::protocol::{events, frame};

/// Something that the server tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Notice<'a> {
    /// The session has begun. The first of all.
    Welcome { protocol: Cow<'a, str>, session: Cow<'a, str>, instance: Cow<'a, str>, limits: SessionLimits },
    /// A message of a topic, of the broadcast, or to this session alone.
    Message {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        topic: Option<Cow<'a, str>>,
        #[serde(default, skip_serializing_if = "is_false")]
        broadcast: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        direct: bool,
        /// To this user: the client acknowledges it by its id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<Cow<'a, str>>,
        /// Through this group of the user's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<Cow<'a, str>>,
        /// The user who says it, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Cow<'a, str>>,
        /// What it is about, where its sender said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<Cow<'a, str>>,
        /// As its publisher gave it, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Cow<'a, str>>,
        /// When it was published: RFC 3339 in UTC, with milliseconds.
        time: Cow<'a, str>,
        /// The payload of a text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<Cow<'a, str>>,
        /// That of any other bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<Cow<'a, str>>,
        /// From where to go on with everything that the session hears; see [`crate::cursor`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<Cow<'a, str>>,
    },
    /// Messages that were accepted will not come, or may not.
    Gap {
        scope: GapScope,
        /// How many, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<u64>,
    },
    /// The session's token ends in so many milliseconds, and the session with it unless it is renewed.
    Expiring { in_ms: u64 },
    /// A request was granted.
    Ack {
        id: Cow<'a, str>,
        /// From where to go on, where that is offered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<Cow<'a, str>>,
        /// By which everybody knows what was published.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<Cow<'a, str>>,
    },
    Pong {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Cow<'a, str>>,
    },
    /// A request was not granted.
    Error {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Cow<'a, str>>,
        code: u16,
        message: Cow<'a, str>,
    },
}

/// Of what a session hears something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapScope {
    Broadcast,
    /// Some of its topics.
    Topics,
    Everything,
}

/// What a client had better know before it meets a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionLimits {
    /// Of the text message that a request is.
    pub message_bytes_max: usize,
    pub topics_per_session_max: usize,
    pub topics_per_request_max: usize,
    pub pending_requests_max: u32,
}

impl<'a> Notice<'a> {
    pub fn ack(request: &'a RequestId, message: Option<&'a MessageId>) -> Notice<'a> {
        let message_id = message.map(|id| id.as_str().into());
        Notice::Ack { id: request.as_str().into(), cursor: None, message_id }
    }

    /// A subscription was granted; `at` is how far everything was heard then.
    pub fn subscribed(request: &'a RequestId, at: &Cursor) -> Notice<'a> {
        Notice::Ack { id: request.as_str().into(), cursor: cursor(at), message_id: None }
    }

    /// What somebody who was away has not heard of a partition is not kept any more.
    pub fn gone(partition: Partition) -> Notice<'static> {
        // With the broadcast are those messages of topics that came by its entrance.
        let scope = if partition == Partition::BROADCAST { GapScope::Everything } else { GapScope::Topics };
        Notice::Gap { scope, missing: None }
    }

    pub fn gap(gap: Gap) -> Notice<'static> {
        let scope = match gap.scope {
            Scope::Broadcast => GapScope::Broadcast,
            Scope::Key(_) => GapScope::Topics,
            Scope::Everything => GapScope::Everything,
        };
        Notice::Gap { scope, missing: gap.missing }
    }

    pub fn pong(request: Option<&'a RequestId>) -> Notice<'a> {
        Notice::Pong { id: request.map(|id| id.as_str().into()) }
    }

    /// As an event.
    pub fn event(&self) -> Bytes {
        let mut event = BytesMut::new();
        events::encode(None, &self.text(), &mut event);
        event.freeze()
    }

    /// The frame to send.
    pub fn frame(&self) -> Bytes {
        frame::message(PayloadKind::Text, &self.text())
    }

    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, self).expect("memory takes what is written, and all keys are texts");
    }
}

impl<'a> From<&'a Refusal> for Notice<'a> {
    fn from(refusal: &'a Refusal) -> Notice<'a> {
        Notice::Error {
            id: refusal.id.as_ref().map(|id| id.as_str().into()),
            code: refusal.code.number(),
            message: refusal.explanation.as_str().into(),
        }
    }
}

/// Makes `text` what a message is for every session that hears it.
/// `at` is how far everything was heard with it; an empty one is not told.
pub fn encode_message(message: &Message, at: &Cursor, text: &mut Vec<u8>) {
    let topic = match &message.target {
        Target::Topic(topic) => Some(topic.as_str().into()),
        // What is meant for one instance alone is a broadcast to who hears it.
        _ => None,
    };
    let user = match &message.target {
        Target::User(user) | Target::UserAt(_, user) => Some(user.as_str().into()),
        _ => None,
    };
    let terms = message.terms.as_deref();
    let direct = matches!(message.target, Target::Session(_));
    let (said, encoded) = match (message.kind, std::str::from_utf8(&message.payload)) {
        (PayloadKind::Text, Ok(said)) => (Some(said.into()), None),
        _ => (None, Some(STANDARD.encode(&message.payload).into())),
    };
    text.clear();
    Notice::Message {
        broadcast: topic.is_none() && user.is_none() && !direct,
        user,
        group: terms.and_then(|terms| terms.group.as_ref()).map(|group| group.as_str().into()),
        from: terms.and_then(|terms| terms.from.as_ref()).map(|from| from.as_str().into()),
        subject: terms.and_then(|terms| terms.subject.as_deref()).map(Into::into),
        direct,
        topic,
        id: message.id.as_ref().map(|id| id.as_str().into()),
        time: time(message.published_ms).into(),
        text: said,
        base64: encoded,
        cursor: cursor(at),
    }
    .write(text);
}

/// Appends the event of a message whose text is `data`. Its id is what a browser sends when it connects again: from where to
/// go on, or where nobody can, what the message is known by. What is said to a user alone has none: from there nobody goes on.
pub fn encode_event(message: &Message, at: &Cursor, data: &[u8], out: &mut BytesMut) {
    let cursor = cursor(at);
    let id = cursor.as_deref().or_else(|| message.id.as_ref().map(MessageId::as_str));
    let id = id.filter(|_| !matches!(message.target, Target::User(_)));
    events::encode(id, data, out);
}

fn cursor(at: &Cursor) -> Option<Cow<'static, str>> {
    (!at.is_empty()).then(|| at.to_string().into())
}

/// What lies outside the years of RFC 3339 is told as the last moment of them: a foreign publisher may claim any time.
fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or(Timestamp::MAX))
}

fn is_false(value: &bool) -> bool {
    !value
}
