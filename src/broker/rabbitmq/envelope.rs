//! A message as AMQP carries it: the payload is the body, byte for byte; the rest travels in properties.
//!
//! A message without the properties, someone else's program's, is delivered all the same. None can hurt a session. (One
//! whose routing key or properties are not UTF-8 does not get here: lapin ends the connection over it.)

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::topology::Names;
use crate::instance::Incarnation;
use crate::message::{Message, MessageId, PayloadKind, Target, now_unix_ms};
use crate::topic::Topic;

/// The header with the sequence number; 64 bits, from 1, per incarnation (`app_id`) and route.
const SEQUENCE: &str = "x-warren-sequence";

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// Not persistent: no queue of Warren's survives the broker. (A durable queue that another program binds loses these at
/// a restart.)
const TRANSIENT: u8 = 1;

/// Exchange and routing key that carry a message to its target.
pub fn address(names: &Names, target: &Target) -> (ShortString, ShortString) {
    match target {
        Target::Broadcast => (names.broadcast.clone(), ShortString::default()),
        Target::Topic(topic) => (names.broadcast.clone(), topic.as_str().into()),
        Target::Instance(name) => (names.direct.clone(), name.as_str().into()),
    }
}

/// The properties of one of our own messages.
pub fn properties(message: &Message, incarnation: &Incarnation, number: u64) -> BasicProperties {
    let content_type = match message.kind {
        PayloadKind::Text => TEXT,
        PayloadKind::Binary => BINARY,
    };
    let mut headers = FieldTable::default();
    headers.insert(SEQUENCE.into(), AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX)));
    let properties = BasicProperties::default()
        .with_content_type(content_type.into())
        .with_delivery_mode(TRANSIENT)
        .with_timestamp(message.published_ms / 1000)
        .with_app_id(incarnation.as_str().into())
        .with_headers(headers);
    match &message.id {
        Some(id) => properties.with_message_id(id.as_str().into()),
        None => properties,
    }
}

/// Who published a delivery, and as which of its messages on this route.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    pub incarnation: ShortString,
    pub number: u64,
}

/// The message of a delivery; beside it its origin, if it names one.
pub fn open(delivery: Delivery, names: &Names) -> (Message, Option<Origin>) {
    let Delivery { exchange, routing_key, properties, data, .. } = delivery;
    let number = properties.headers().as_ref().and_then(sequence);
    let origin = match (properties.app_id(), number) {
        (Some(incarnation), Some(number)) => Some(Origin { incarnation: incarnation.clone(), number }),
        _ => None,
    };
    let message = Message {
        id: properties.message_id().as_ref().and_then(|id| MessageId::from_publisher(id.as_str())),
        target: target(names, &exchange, &routing_key),
        kind: kind(properties.content_type().as_ref(), &data),
        published_ms: properties.timestamp().map_or_else(now_unix_ms, |seconds| seconds.saturating_mul(1000)),
        payload: Bytes::from(data),
    };
    (message, origin)
}

/// Whom a delivery is meant for. The empty key is the broadcast, any other a topic; unless it was addressed to this
/// instance, where the key only names it.
fn target(names: &Names, exchange: &ShortString, key: &ShortString) -> Target {
    let to_this_instance = *exchange == names.direct || (*exchange == names.instance && *key == names.instance);
    match Topic::from_routing_key(key.as_str()) {
        Some(topic) if !to_this_instance => Target::Topic(topic),
        None if *exchange != names.instance => Target::Broadcast,
        _ => Target::Instance(names.instance_name.clone()),
    }
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
mod tests {
    use super::*;
    use crate::instance::InstanceName;

    fn names() -> (Names, Incarnation) {
        let incarnation = Incarnation::begin(InstanceName::parse("10.0.0.5_8080").unwrap());
        (Names::new("warren", &incarnation), incarnation)
    }

    fn delivery(exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> Delivery {
        let mut delivery = Delivery::mock(1, exchange.into(), key.into(), false, body.to_vec());
        delivery.properties = properties;
        delivery
    }

    #[test]
    fn a_message_survives_the_way_through_amqp() {
        let (names, incarnation) = names();
        let topic = Topic::from_routing_key("orders.17").unwrap();
        for target in [Target::Broadcast, Target::Topic(topic), Target::Instance(names.instance_name.clone())] {
            for (kind, payload) in
                [(PayloadKind::Text, "grüße"), (PayloadKind::Binary, "grüße"), (PayloadKind::Text, "")]
            {
                let id = MessageId::from_publisher("id-1");
                let sent = Message {
                    id,
                    target: target.clone(),
                    kind,
                    published_ms: 1_700_000_000_000,
                    payload: Bytes::from(payload),
                };
                let (exchange, key) = address(&names, &sent.target);
                let properties = properties(&sent, &incarnation, 17);
                let delivery = delivery(exchange.as_str(), key.as_str(), properties, payload.as_bytes());
                let (got, origin) = open(delivery, &names);
                assert_eq!(
                    (&got.id, &got.target, got.kind, got.published_ms, &got.payload),
                    (&sent.id, &sent.target, kind, sent.published_ms, &sent.payload)
                );
                assert_eq!(origin, Some(Origin { incarnation: incarnation.as_str().into(), number: 17 }));
            }
        }
    }

    #[test]
    fn a_bare_foreign_message_is_delivered() {
        let (names, _) = names();
        let bare = |exchange, key, body| open(delivery(exchange, key, BasicProperties::default(), body), &names);
        let (message, origin) = bare("warren.broadcast", "", b"hi");
        assert_eq!(
            (message.target, message.kind, message.id, origin),
            (Target::Broadcast, PayloadKind::Text, None, None)
        );
        assert_eq!(bare("warren.broadcast", "", b"\xff").0.kind, PayloadKind::Binary);
    }

    #[test]
    fn addressed_to_this_instance_the_key_is_no_topic() {
        let (names, _) = names();
        let target = |exchange, key| target(&names, &ShortString::from(exchange), &ShortString::from(key));
        let own = Target::Instance(names.instance_name.clone());
        assert_eq!(target("warren.direct", "10.0.0.5_8080"), own);
        assert_eq!(target("10.0.0.5_8080", ""), own);
        assert_eq!(target("10.0.0.5_8080", "10.0.0.5_8080"), own);
        assert_eq!(target("10.0.0.5_8080", "news"), Target::Topic(Topic::from_routing_key("news").unwrap()));
        assert_eq!(target("amq.fanout", ""), Target::Broadcast);
    }

    #[test]
    fn strange_properties_are_no_origin() {
        let (names, _) = names();
        for value in [AMQPValue::LongLongInt(-1), AMQPValue::Boolean(true), AMQPValue::LongString("7".into())] {
            let mut headers = FieldTable::default();
            headers.insert(SEQUENCE.into(), value);
            let properties = BasicProperties::default().with_headers(headers).with_app_id("x".into());
            assert_eq!(open(delivery("warren.broadcast", "", properties, b""), &names).1, None);
        }
    }
}
