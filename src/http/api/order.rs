//! What a request asks to publish, read strictly: nothing that it says is passed over.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use warp::http::HeaderMap;

use super::problem::{Kind, Problem};
use crate::message::{PayloadKind, Target};
use crate::terms::{IdempotencyKey, SUBJECT_BYTES_MAX};
use crate::topic::Topic;
use crate::user::UserName;

/// The header with the idempotency key of a whole request.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// One message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub target: Target,
    pub kind: PayloadKind,
    pub payload: Bytes,
    pub ttl_ms: Option<u64>,
    pub key: Option<IdempotencyKey>,
    /// The user in whose name it is said.
    pub from: Option<UserName>,
    pub subject: Option<Box<str>>,
    /// Of what is said to a user: until somebody has acknowledged it; else only who is connected hears it.
    pub is_kept: bool,
}

/// The bounds of what is taken.
#[derive(Clone, Copy, Debug)]
pub struct OrderLimits {
    pub message_bytes_max: usize,
    pub batch_max: usize,
}

/// One message, or several that are answered together.
#[derive(Debug, PartialEq, Eq)]
pub enum Orders {
    One(Order),
    Batch(Vec<Order>),
}

/// The body of `POST /api/notification`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notification {
    topic: String,
    message: String,
}

/// What `POST /api/publish` has once or in an array.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    topic: Option<String>,
    #[serde(default)]
    broadcast: bool,
    text: Option<String>,
    base64: Option<String>,
    ttl_ms: Option<u64>,
    idempotency_key: Option<String>,
}

/// Reads `{"topic": …, "message": …}`.
pub fn notification(body: &[u8], key: Option<IdempotencyKey>, limits: OrderLimits) -> Result<Order, Problem> {
    let Object(Notification { topic, message }) = json(body)?;
    let (target, kind, payload) = (Target::Topic(topic_named(&topic)?), PayloadKind::Text, message.into());
    Order { key, ..Order::new(target, kind, payload) }.within(limits)
}

/// Reads one item or an array of them. A request's key is that of its only message; in a batch each has the key with its
/// index behind it.
pub fn items(body: &[u8], key: Option<IdempotencyKey>, limits: OrderLimits) -> Result<Orders, Problem> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        let Object(item) = json::<Object<Item>>(body)?;
        return item.order(key, limits).map(Orders::One);
    }
    let items = batch(body, limits.batch_max)?;
    let orders = items.into_iter().enumerate().map(|(index, item)| {
        let key = key.as_ref().map(|key| key_named(&format!("{key}.{index}"))).transpose();
        key.and_then(|key| item.order(key, limits)).map_err(|problem| problem.at(index))
    });
    let orders = orders.collect::<Result<Vec<_>, _>>()?;
    each_key_is_one_messages(&orders)?;
    Ok(Orders::Batch(orders))
}

/// What `POST /api/users/{user}/messages` and the like have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LetterItem {
    text: Option<String>,
    base64: Option<String>,
    ttl_ms: Option<u64>,
    subject: Option<Box<str>>,
    keep: Option<bool>,
}

/// Reads a message to somebody, in JSON.
pub fn letter(
    target: Target,
    body: &[u8],
    key: Option<IdempotencyKey>,
    from: Option<UserName>,
    limits: OrderLimits,
) -> Result<Order, Problem> {
    let Object(item) = json::<Object<LetterItem>>(body)?;
    let invalid = |detail: &str| Problem::new(Kind::InvalidMessage, detail);
    let (kind, payload) = payload(item.text, item.base64)?;
    check_ttl(item.ttl_ms)?;
    let is_kept = item.keep != Some(false);
    if !is_kept && matches!(target, Target::Group(_)) {
        return Err(invalid("What is said to a group is kept for each member."));
    }
    item.subject.as_deref().map_or(Ok(()), check_subject)?;
    let order = Order::new(target, kind, payload.into());
    Order { ttl_ms: item.ttl_ms, key, from, subject: item.subject, is_kept, ..order }.within(limits)
}

fn payload(text: Option<String>, base64: Option<String>) -> Result<(PayloadKind, Vec<u8>), Problem> {
    let invalid = |detail: &str| Problem::new(Kind::InvalidMessage, detail);
    match (text, base64) {
        (Some(text), None) => Ok((PayloadKind::Text, text.into_bytes())),
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64).map_err(|_| invalid("\"base64\" is not base64 (RFC 4648 §4)."))?;
            Ok((PayloadKind::Binary, bytes))
        }
        _ => Err(invalid("A message has either \"text\" or \"base64\".")),
    }
}

/// That a text can be what a message is about.
pub fn check_subject(subject: &str) -> Result<(), Problem> {
    if (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) {
        return Ok(());
    }
    Err(Problem::new(Kind::InvalidMessage, format!("A subject has 1 to {SUBJECT_BYTES_MAX} bytes.")))
}

fn check_ttl(ttl_ms: Option<u64>) -> Result<(), Problem> {
    if ttl_ms == Some(0) {
        return Err(Problem::new(Kind::InvalidMessage, "\"ttl_ms\" is at least 1."));
    }
    Ok(())
}

/// A raw body for the topic that a path ends with.
pub fn raw(
    path: &str,
    kind: PayloadKind,
    payload: Bytes,
    key: Option<IdempotencyKey>,
    limits: OrderLimits,
) -> Result<Order, Problem> {
    let not_utf8 = |_| Problem::new(Kind::BadTopic, "The topic is not UTF-8.");
    let name = percent_decode_str(path).decode_utf8().map_err(not_utf8)?;
    if kind == PayloadKind::Text && std::str::from_utf8(&payload).is_err() {
        return Err(Problem::new(Kind::InvalidMessage, "The text is not UTF-8."));
    }
    Order { key, ..Order::new(Target::Topic(topic_named(&name)?), kind, payload) }.within(limits)
}

/// The request's idempotency key: the header's only value, as it stands or as a string of structured fields (RFC 9651).
pub fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Kind::BadIdempotencyKey, "Give one Idempotency-Key."));
    }
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    key_named(text).map(Some)
}

impl Item {
    fn order(self, of_request: Option<IdempotencyKey>, limits: OrderLimits) -> Result<Order, Problem> {
        let invalid = |detail: &str| Problem::new(Kind::InvalidMessage, detail);
        let target = match (self.topic, self.broadcast) {
            (Some(topic), false) => Target::Topic(topic_named(&topic)?),
            (None, true) => Target::Broadcast,
            _ => return Err(invalid("A message has either \"topic\" or \"broadcast\": true.")),
        };
        let (kind, payload) = payload(self.text, self.base64)?;
        check_ttl(self.ttl_ms)?;
        let key = match (self.idempotency_key, of_request) {
            (Some(own), None) => Some(key_named(&own)?),
            (None, of_request) => of_request,
            (Some(_), Some(_)) => {
                let detail = "Give either the header Idempotency-Key or \"idempotency_key\".";
                return Err(Problem::new(Kind::BadIdempotencyKey, detail));
            }
        };
        Order { ttl_ms: self.ttl_ms, key, ..Order::new(target, kind, payload.into()) }.within(limits)
    }
}

impl Order {
    /// One that asks for nothing beside.
    pub fn new(target: Target, kind: PayloadKind, payload: Bytes) -> Order {
        Order { target, kind, payload, ttl_ms: None, key: None, from: None, subject: None, is_kept: true }
    }

    pub fn within(self, limits: OrderLimits) -> Result<Order, Problem> {
        if self.payload.len() <= limits.message_bytes_max {
            return Ok(self);
        }
        Err(Problem::new(Kind::TooLarge, format!("A message may have {} bytes.", limits.message_bytes_max)))
    }
}

/// Receivers would drop the second, and it would be answered as published.
fn each_key_is_one_messages(orders: &[Order]) -> Result<(), Problem> {
    let mut known = HashSet::new();
    for (index, order) in orders.iter().enumerate() {
        let pair = order.key.as_ref().map(|key| (&order.target, key));
        if pair.is_some_and(|pair| !known.insert(pair)) {
            let detail = "Another message of the batch has this key and this target.";
            return Err(Problem::new(Kind::BadIdempotencyKey, detail).at(index));
        }
    }
    Ok(())
}

/// The items of an array. Those past the limit are looked at and not kept: the shortest takes 3 bytes, and 40 times that
/// in memory.
fn batch(body: &[u8], batch_max: usize) -> Result<Vec<Item>, Problem> {
    let malformed = |error: serde_json::Error| Problem::new(Kind::MalformedJson, error.to_string());
    let mut json = serde_json::Deserializer::from_slice(body);
    let batch = json.deserialize_seq(BatchVisitor { batch_max }).map_err(malformed)?;
    json.end().map_err(malformed)?;
    let kind = match batch.len() {
        0 => Kind::InvalidMessage,
        length if length > batch_max => Kind::TooLarge,
        _ => return Ok(batch),
    };
    Err(Problem::new(kind, format!("A batch has 1 to {batch_max} messages.")))
}

/// An object of JSON. serde would take an array of its fields for it, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Takes one item more than there may be, so that this shows.
struct BatchVisitor {
    batch_max: usize,
}

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Vec<Item>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<Item>, A::Error> {
        let mut items = Vec::new();
        while items.len() <= self.batch_max
            && let Some(Object(item)) = array.next_element()?
        {
            items.push(item);
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(Kind::MalformedJson, error.to_string()))
}

fn topic_named(name: &str) -> Result<Topic, Problem> {
    Topic::parse_to_publish(name).map_err(|reason| Problem::new(Kind::BadTopic, reason.to_string()))
}

fn key_named(text: &str) -> Result<IdempotencyKey, Problem> {
    IdempotencyKey::parse(text).map_err(|reason| Problem::new(Kind::BadIdempotencyKey, reason.to_string()))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
