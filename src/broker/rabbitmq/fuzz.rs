//! What any AMQP program may publish, at volume: see [`crate::fuzzing`].

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, ShortString};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::Names;
use super::envelope::open;
use crate::config::Prefix;
use crate::fuzzing::fuzz;
use crate::inbound::Destination;
use crate::instance::{Incarnation, InstanceName};
use crate::message::{MessageId, PayloadKind, Target};
use crate::topic::{Pattern, Topic};

/// Whatever the properties are, the payload arrives byte for byte, what is called text is text, and the key names the
/// topic.
#[test]
fn fuzz_amqp_messages() {
    let incarnation = Incarnation::begin(InstanceName::parse("10.0.0.5_8080").expect("a name"));
    let names = Names::new("warren", &incarnation);
    let exchange = prop_oneof![
        4 => select(vec!["warren.broadcast", "warren.topics", "warren.direct", "10.0.0.5_8080", "amq.fanout", ""]).prop_map(str::to_owned),
        1 => short_text(),
    ];
    let key = prop_oneof![2 => Just(String::new()), 1 => Just("10.0.0.5_8080".to_owned()), 3 => short_text()];
    let body = prop_oneof![2 => "\\PC{0,40}".prop_map(String::into_bytes), 3 => vec(any::<u8>(), 0..80)];
    fuzz("AMQP messages", (exchange, key, properties(), body), |(exchange, key, properties, body)| {
        let is_bare = properties.content_type().is_none();
        let mut delivery = Delivery::mock(1, exchange.as_str().into(), key.as_str().into(), false, body.clone());
        delivery.properties = properties;
        let Ok((message, _)) = open(delivery, &names) else {
            assert!(exchange == "warren.topics" || Topic::parse(&key).is_err(), "{exchange} {key}");
            return;
        };
        assert_eq!(message.payload, body);
        let is_utf8 = std::str::from_utf8(&body).is_ok();
        assert!(is_utf8 || message.kind == PayloadKind::Binary, "text that is none");
        assert!(!(is_utf8 && is_bare) || message.kind == PayloadKind::Text, "text that nobody called binary");
        match message.target {
            Target::Topic(topic) if exchange == "warren.topics" => assert_eq!(topic.key().to_string(), key),
            Target::Topic(topic) => assert_eq!(Topic::parse(&key), Ok(topic)),
            Target::Broadcast => assert_eq!(key, ""),
            Target::Instance(name) => assert_eq!(name, *incarnation.name()),
            Target::Session(_) => assert_eq!(exchange, "warren.direct"),
            Target::UserAt(name, _) | Target::Peer(name) => {
                assert_eq!((&*exchange, &name), ("warren.direct", incarnation.name()));
            }
            Target::Peers => assert_eq!(exchange, "warren.peers"),
            Target::Backends(_) | Target::User(_) | Target::Unread(_) | Target::Group(_) => {
                panic!("that comes to no instance")
            }
        }
    });
}

/// A name is taken or refused by its length and its characters; what is taken is kept, and fits everything that is made
/// of it.
#[test]
fn fuzz_names() {
    let word = "[a-zA-Z0-9_.:-]{0,140}";
    let name = || prop_oneof![4 => word.prop_map(String::from), 1 => "amq\\.?[a-z]{0,3}", 2 => "\\PC{0,100}", 1 => "[/.]?app[./]?\\PC{0,20}", 1 => short_text()];
    fuzz("names", (name(), name()), |(prefix, name)| {
        if let Ok(pattern) = Pattern::parse(&name) {
            assert!((1..=255).contains(&pattern.as_str().len()));
            assert_eq!(Pattern::parse(pattern.as_str()), Ok(pattern.clone()), "one form");
            assert_eq!(pattern.as_topic(), Topic::parse(&name).ok());
        }
        if let Ok(destination) = Destination::parse(&name) {
            let key = destination.routing_key();
            assert_eq!(Destination::parse(&format!("/app/{key}")).as_ref(), Ok(&destination), "one form");
            assert_eq!(Topic::parse(&name).map(|topic| topic.to_string()), Ok(format!("app.{key}")));
        }
        let id = MessageId::from_publisher(&name);
        assert_eq!(id.is_some(), name.len() <= 255);

        let prefix = prefix.parse::<Prefix>();
        let instance = InstanceName::parse(&name);
        assert!(instance.as_ref().is_ok_and(|taken| taken.as_str() == name) || instance.is_err());
        // Longer ones than AMQP has room for would panic here.
        if let (Ok(prefix), Ok(instance)) = (prefix, instance) {
            Names::new(prefix.as_str(), &Incarnation::begin(instance));
        }
    });
}

/// What an AMQP short string can hold.
fn short_text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "\\PC{0,12}", 1 => "\\PC{0,300}"].prop_map(|mut text: String| {
        while text.len() > 255 {
            text.pop();
        }
        text
    })
}

fn short_string() -> impl Strategy<Value = ShortString> {
    short_text().prop_map(ShortString::from)
}

fn properties() -> impl Strategy<Value = BasicProperties> {
    let content_type = prop_oneof![
        2 => select(vec!["text/plain; charset=utf-8", "text/plain", "application/octet-stream", "application/json"])
            .prop_map(ShortString::from),
        1 => short_string(),
    ];
    let app_id = prop_oneof![Just(ShortString::from("10.0.0.6_8080@65f0c0ffee")), short_string()];
    let numbers = (of(any::<u8>()), of(any::<u8>()), of(any::<u64>()));
    let texts = (of(short_string()), of(short_string()), of(short_string()));
    (of(content_type), of(app_id), of(table()), numbers, texts).prop_map(
        |(content_type, app_id, headers, (mode, priority, timestamp), (id, reply_to, encoding))| {
            let mut properties = BasicProperties::default();
            macro_rules! set {
                ($($with:ident: $value:expr),*) => {
                    $(if let Some(value) = $value { properties = properties.$with(value); })*
                };
            }
            set!(
                with_content_type: content_type, with_app_id: app_id, with_headers: headers, with_delivery_mode: mode,
                with_priority: priority, with_timestamp: timestamp, with_message_id: id, with_reply_to: reply_to,
                with_content_encoding: encoding
            );
            properties
        },
    )
}

/// Headers, our own names among them, with values of every type.
fn table() -> impl Strategy<Value = FieldTable> {
    let name = prop_oneof![
        4 => select(vec![
            "x-warren-sequence", "x-warren-idempotency-key", "x-warren-ttl-ms", "x-warren-published-ms", "x-stream-offset",
            "x-death", "x-warren-session",
        ]).prop_map(ShortString::from),
        1 => short_string(),
    ];
    vec((name, value()), 0..6).prop_map(|entries| {
        let mut table = FieldTable::default();
        entries.into_iter().for_each(|(name, value)| {
            table.insert(name, value);
        });
        table
    })
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let plain = prop_oneof![
        1 => any::<bool>().prop_map(AMQPValue::Boolean),
        1 => any::<i8>().prop_map(AMQPValue::ShortShortInt),
        1 => any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        1 => any::<i16>().prop_map(AMQPValue::ShortInt),
        1 => any::<u16>().prop_map(AMQPValue::ShortUInt),
        1 => any::<i32>().prop_map(AMQPValue::LongInt),
        1 => any::<u32>().prop_map(AMQPValue::LongUInt),
        4 => prop_oneof![any::<i64>(), -2_i64..20, Just(i64::MIN), Just(i64::MAX)].prop_map(AMQPValue::LongLongInt),
        1 => any::<f32>().prop_map(AMQPValue::Float),
        1 => any::<f64>().prop_map(AMQPValue::Double),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        1 => short_string().prop_map(AMQPValue::ShortString),
        1 => vec(any::<u8>(), 0..30).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        1 => any::<u64>().prop_map(AMQPValue::Timestamp),
        1 => vec(any::<u8>(), 0..30).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        1 => Just(AMQPValue::Void),
    ];
    plain.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| AMQPValue::FieldArray(FieldArray::from(values))),
            vec((short_string(), inner), 0..4).prop_map(|entries| {
                let mut table = FieldTable::default();
                entries.into_iter().for_each(|(name, value)| {
                    table.insert(name, value);
                });
                AMQPValue::FieldTable(table)
            }),
        ]
    })
}
