//! A message as AMQP carries it: the payload is the body, byte for byte; the rest travels in properties.
//!
//! A message without the properties, someone else's program's, is delivered all the same. None can hurt a session. (One
//! whose routing key or properties are not UTF-8 does not get here: lapin ends the connection over it.)

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::topology::Names;
use crate::broker::MailboxName;
use crate::inbound::SessionName;
use crate::instance::Incarnation;
use crate::message::{Message, MessageId, PayloadKind, Target, now_unix_ms};
use crate::terms::{IdempotencyKey, SUBJECT_BYTES_MAX, Terms};
use crate::topic::Topic;
use crate::user::{GroupName, UserName};

/// The header with the sequence number; 64 bits, from 1, per incarnation (`app_id`) and route.
const SEQUENCE: &str = "x-warren-sequence";

/// The header with a topic's name, where the routing key is only its key.
const TOPIC: &str = "x-warren-topic";

/// The header with an idempotency key.
const IDEMPOTENCY_KEY: &str = "x-warren-idempotency-key";

/// The header with a time to live: milliseconds from when the message was published.
const TTL_MS: &str = "x-warren-ttl-ms";

/// The header with when it was published, in milliseconds of Unix time: AMQP's own timestamp has whole seconds. Only where
/// a time to live counts from it.
const PUBLISHED_MS: &str = "x-warren-published-ms";

/// The header that names one session: in what backends hear, the one that says it; in what comes to `{prefix}.direct`, the
/// one that is meant.
const SESSION: &str = "x-warren-session";

/// The header with the instance to which a session's answers are addressed.
const INSTANCE: &str = "x-warren-instance";

/// The header with the user whose sessions on one instance are meant.
const USER: &str = "x-warren-user";

/// The header of what one instance tells another: no session hears it.
const PEER: &str = "x-warren-peer";

/// The header with the user whose mailbox was made.
const MAILBOX: &str = "x-warren-mailbox";

/// The header of what only looks whether a mailbox stands.
const LOOK: &str = "x-warren-look";

/// The header with the user who says something.
const FROM: &str = "x-warren-from";

/// The header with the group to which something was said.
const GROUP: &str = "x-warren-group";

/// RabbitMQ's limit of a time to live: what fits 32 bits.
const EXPIRATION_MS_MAX: u64 = u32::MAX as u64;

/// The header with what a message is about.
const SUBJECT: &str = "x-warren-subject";

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// Not persistent: no queue of Warren's survives the broker. (A durable queue that another program binds loses these at
/// a restart.)
const TRANSIENT: u8 = 1;

/// What is said to backends, and to users: those queues are durable.
const PERSISTENT: u8 = 2;

/// Exchange and routing key that carry a message to its target.
pub fn address(names: &Names, target: &Target) -> (ShortString, ShortString) {
    match target {
        Target::Broadcast => (names.broadcast.clone(), ShortString::default()),
        Target::Topic(topic) => (names.topics.clone(), topic.key().to_string().into()),
        Target::Instance(name) => (names.direct.clone(), name.as_str().into()),
        // Only backends speak to one session, and their answers come from there.
        Target::Session(_) => (names.direct.clone(), names.instance.clone()),
        Target::Backends(inbound) => (names.inbound.clone(), inbound.destination.routing_key().into()),
        // By the default exchange, to which every queue is bound by its name.
        Target::User(user) => (ShortString::default(), names.mailbox(&MailboxName::of_user(user.clone()))),
        Target::Unread(user) => (ShortString::default(), names.mailbox(&MailboxName::of_unread(user.clone()))),
        Target::Group(group) => (names.groups.clone(), group.as_str().into()),
        Target::UserAt(name, _) | Target::Peer(name) => (names.direct.clone(), name.as_str().into()),
        Target::Peers => (names.peers.clone(), ShortString::default()),
    }
}

/// The properties of one of our own messages. What has no number has no header for it, either: a backend that answers
/// with the headers of what it answers must not look like this instance.
pub fn properties(message: &Message, incarnation: &Incarnation, number: Option<u64>) -> BasicProperties {
    let content_type = match message.kind {
        PayloadKind::Text => TEXT,
        PayloadKind::Binary => BINARY,
    };
    let mut headers = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    if let Some(number) = number {
        headers.insert(SEQUENCE.into(), AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX)));
    }
    match &message.target {
        Target::Topic(topic) => drop(headers.insert(TOPIC.into(), text(topic.as_str()))),
        Target::Backends(inbound) => {
            headers.insert(SESSION.into(), text(inbound.session.as_str()));
            headers.insert(INSTANCE.into(), text(incarnation.name().as_str()));
        }
        Target::UserAt(_, user) => drop(headers.insert(USER.into(), text(user.as_str()))),
        Target::Peer(_) => drop(headers.insert(PEER.into(), AMQPValue::Boolean(true))),
        Target::Broadcast
        | Target::Instance(_)
        | Target::Session(_)
        | Target::User(_)
        | Target::Unread(_)
        | Target::Group(_)
        | Target::Peers => {}
    }
    let is_letter = matches!(message.target, Target::User(_) | Target::Unread(_) | Target::Group(_));
    let is_kept = is_letter || matches!(message.target, Target::Backends(_));
    if is_letter {
        // Whether it came before its user did is told by less than seconds.
        let published_ms = i64::try_from(message.published_ms).unwrap_or(i64::MAX);
        headers.insert(PUBLISHED_MS.into(), AMQPValue::LongLongInt(published_ms));
    }
    if let Some(terms) = &message.terms {
        write_terms(&mut headers, terms, message.published_ms);
    }
    let properties = BasicProperties::default()
        .with_content_type(content_type.into())
        .with_delivery_mode(if is_kept { PERSISTENT } else { TRANSIENT })
        .with_timestamp(message.published_ms / 1000)
        .with_app_id(incarnation.as_str().into())
        .with_headers(headers);
    let properties = match message.terms.as_ref().and_then(|terms| terms.expires_ms).filter(|_| is_kept) {
        // RabbitMQ keeps it no longer.
        Some(expires_ms) => {
            // More closes the channel; the mailbox's own limit is shorter anyway.
            let left_ms = expires_ms.saturating_sub(now_unix_ms()).min(EXPIRATION_MS_MAX);
            properties.with_expiration(left_ms.to_string().into())
        }
        None => properties,
    };
    match &message.id {
        Some(id) => properties.with_message_id(id.as_str().into()),
        None => properties,
    }
}

fn write_terms(headers: &mut FieldTable, terms: &Terms, published_ms: u64) {
    let number = |value: u64| AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX));
    if let Some(key) = &terms.idempotency_key {
        headers.insert(IDEMPOTENCY_KEY.into(), AMQPValue::LongString(key.as_str().into()));
    }
    if let Some(expires_ms) = terms.expires_ms {
        headers.insert(TTL_MS.into(), number(expires_ms.saturating_sub(published_ms)));
        headers.insert(PUBLISHED_MS.into(), number(published_ms));
    }
    let text = |text: &str| AMQPValue::LongString(text.into());
    if let Some(from) = &terms.from {
        headers.insert(FROM.into(), text(from.as_str()));
    }
    if let Some(group) = &terms.group {
        headers.insert(GROUP.into(), text(group.as_str()));
    }
    if let Some(subject) = &terms.subject {
        headers.insert(SUBJECT.into(), text(subject));
    }
}

/// What the headers ask for; what they say wrongly they do not say. A time to live needs a time from which it counts:
/// the header's, or the end of the second that AMQP's timestamp names.
fn read_terms(headers: &FieldTable, timestamp: Option<u64>) -> Option<Arc<Terms>> {
    let idempotency_key = text_of(headers, IDEMPOTENCY_KEY).and_then(|key| IdempotencyKey::parse(key).ok());
    let end_of_second = || Some(timestamp?.saturating_mul(1000).saturating_add(999));
    let expires_ms = whole(headers, TTL_MS).and_then(|ttl_ms| {
        let published_ms = whole(headers, PUBLISHED_MS).or_else(end_of_second)?;
        Some(published_ms.saturating_add(ttl_ms))
    });
    let from = text_of(headers, FROM).and_then(|name| UserName::parse(name).ok());
    let subject = text_of(headers, SUBJECT).filter(|text| text.len() <= SUBJECT_BYTES_MAX).map(Into::into);
    let group = text_of(headers, GROUP).and_then(|name| GroupName::parse(name).ok());
    let terms = Terms { idempotency_key, expires_ms, from, group, subject };
    (terms != Terms::default()).then(|| Arc::new(terms))
}

/// A header's text, as either kind of string.
fn text_of<'a>(headers: &'a FieldTable, name: &str) -> Option<&'a str> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// A header's number, of whichever size a client library chose.
fn whole(headers: &FieldTable, name: &str) -> Option<u64> {
    match headers.inner().get(name)? {
        AMQPValue::ShortInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// Who published a delivery, and as which of its messages on this route.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    pub incarnation: ShortString,
    pub number: u64,
}

/// A delivery that names no topic that there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATopic;

/// The message of a delivery; beside it its origin, if it names one.
pub fn open(delivery: Delivery, names: &Names) -> Result<(Message, Option<Origin>), NotATopic> {
    let Delivery { exchange, routing_key, properties, data, .. } = delivery;
    let headers = properties.headers().as_ref();
    let origin = match (properties.app_id(), headers.and_then(sequence)) {
        (Some(incarnation), Some(number)) => Some(Origin { incarnation: incarnation.clone(), number }),
        _ => None,
    };
    let target = if exchange == names.topics {
        hashed_topic(&routing_key, headers).map(Target::Topic)?
    } else {
        match addressed(names, &exchange, headers) {
            Some(target) => target,
            None => target(names, &exchange, &routing_key)?,
        }
    };
    Ok((message(target, &properties, data), origin))
}

/// Whether what came back is this message, which was published with this number by the same routing key.
pub fn is_of(message: &Message, number: Option<u64>, returned: &Delivery) -> bool {
    let properties = &returned.properties;
    let id = properties.message_id().as_ref().map(ShortString::as_str);
    id == message.id.as_ref().map(MessageId::as_str) && properties.headers().as_ref().and_then(sequence) == number
}

/// What says to every instance that a mailbox stands.
pub fn mailbox_made(user: &UserName) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(MAILBOX.into(), AMQPValue::LongString(user.as_str().into()));
    BasicProperties::default().with_delivery_mode(TRANSIENT).with_headers(headers)
}

/// Whose mailbox a delivery says to stand.
pub fn made_mailbox(delivery: &Delivery, names: &Names) -> Option<UserName> {
    let headers = delivery.properties.headers().as_ref().filter(|_| delivery.exchange == names.peers)?;
    UserName::parse(text_of(headers, MAILBOX)?).ok()
}

/// What looks whether a mailbox stands: it expires on arrival, unless somebody reads there.
pub fn look() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(LOOK.into(), AMQPValue::Boolean(true));
    BasicProperties::default().with_delivery_mode(TRANSIENT).with_expiration("0".into()).with_headers(headers)
}

/// The message of a delivery from a user's mailbox; none if it only looked whether that stands.
pub fn open_letter(delivery: Delivery, names: &Names, user: &UserName) -> Option<Message> {
    let Delivery { exchange, routing_key, properties, data, .. } = delivery;
    let headers = properties.headers().as_ref();
    if headers.is_some_and(|headers| headers.inner().contains_key(LOOK)) {
        return None;
    }
    let group = (exchange == names.groups).then(|| GroupName::parse(routing_key.as_str()).ok()).flatten();
    let mut message = message(Target::User(user.clone()), &properties, data);
    if group.is_some() {
        let terms = message.terms.as_deref().cloned().unwrap_or_default();
        message.terms = Some(Arc::new(Terms { group, ..terms }));
    }
    Some(message)
}

/// What a delivery says to its target.
fn message(target: Target, properties: &BasicProperties, data: Vec<u8>) -> Message {
    let headers = properties.headers().as_ref();
    Message {
        id: properties.message_id().as_ref().and_then(|id| MessageId::from_publisher(id.as_str())),
        target,
        kind: kind(properties.content_type().as_ref(), &data),
        published_ms: match (headers.and_then(|headers| whole(headers, PUBLISHED_MS)), properties.timestamp()) {
            (Some(millis), _) => millis,
            (None, Some(seconds)) => seconds.saturating_mul(1000),
            (None, None) => now_unix_ms(),
        },
        terms: headers.and_then(|headers| read_terms(headers, *properties.timestamp())),
        payload: Bytes::from(data),
    }
}

/// The topic that a header names where the routing key is only its key. The wrong key would reach the wrong instances, so
/// it reaches none: better always than sometimes.
fn hashed_topic(key: &ShortString, headers: Option<&FieldTable>) -> Result<Topic, NotATopic> {
    let Some(AMQPValue::LongString(name)) = headers.and_then(|headers| headers.inner().get(TOPIC)) else {
        return Err(NotATopic);
    };
    let name = std::str::from_utf8(name.as_bytes()).map_err(|_| NotATopic)?;
    let topic = Topic::parse(name).map_err(|_| NotATopic)?;
    if topic.key().to_string() == key.as_str() { Ok(topic) } else { Err(NotATopic) }
}

/// Who alone is meant by what came to `{prefix}.direct` or `{prefix}.peers`. A header that is no text names nobody: it must
/// not reach everybody here.
fn addressed(names: &Names, exchange: &ShortString, headers: Option<&FieldTable>) -> Option<Target> {
    if *exchange == names.peers {
        return Some(Target::Peers);
    }
    let headers = headers.filter(|_| *exchange == names.direct)?;
    let has = |name| headers.inner().contains_key(name);
    if has(PEER) {
        return Some(Target::Peer(names.instance_name.clone()));
    }
    let nobody = || Target::Session(SessionName::from_publisher(""));
    if has(USER) {
        let user = text_of(headers, USER).and_then(|name| UserName::parse(name).ok());
        return Some(user.map_or_else(nobody, |user| Target::UserAt(names.instance_name.clone(), user)));
    }
    has(SESSION).then(|| Target::Session(SessionName::from_publisher(text_of(headers, SESSION).unwrap_or_default())))
}

/// Whom a delivery is meant for. The empty key is the broadcast, any other a topic; unless it was addressed to this
/// instance, where the key only names it.
fn target(names: &Names, exchange: &ShortString, key: &ShortString) -> Result<Target, NotATopic> {
    let to_this_instance = *exchange == names.direct || (*exchange == names.instance && *key == names.instance);
    if to_this_instance || (key.as_str().is_empty() && *exchange == names.instance) {
        return Ok(Target::Instance(names.instance_name.clone()));
    }
    if key.as_str().is_empty() {
        return Ok(Target::Broadcast);
    }
    Topic::parse(key.as_str()).map(Target::Topic).map_err(|_| NotATopic)
}

/// Text is what can be sent as text: valid UTF-8, unless the publisher says that it is not meant as text.
fn kind(content_type: Option<&ShortString>, payload: &[u8]) -> PayloadKind {
    let said_binary = content_type.is_some_and(|value| value.as_str() == BINARY);
    if !said_binary && std::str::from_utf8(payload).is_ok() { PayloadKind::Text } else { PayloadKind::Binary }
}

fn sequence(headers: &FieldTable) -> Option<u64> {
    match headers.inner().get(SEQUENCE)? {
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
