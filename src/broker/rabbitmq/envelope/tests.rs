use super::*;
use crate::inbound::{Destination, Inbound};
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
    let topic = Topic::parse("orders.17").unwrap();
    for target in [Target::Broadcast, Target::Topic(topic), Target::Instance(names.instance_name.clone())] {
        for (kind, payload) in [(PayloadKind::Text, "grüße"), (PayloadKind::Binary, "grüße"), (PayloadKind::Text, "")]
        {
            let id = MessageId::from_publisher("id-1");
            let sent = Message {
                id,
                target: target.clone(),
                kind,
                published_ms: 1_700_000_000_000,
                terms: None,
                payload: Bytes::from(payload),
            };
            let (exchange, key) = address(&names, &sent.target);
            let properties = properties(&sent, &incarnation, Some(17));
            let delivery = delivery(exchange.as_str(), key.as_str(), properties, payload.as_bytes());
            let (got, origin) = open(delivery, &names).unwrap();
            assert_eq!(
                (&got.id, &got.target, got.kind, got.published_ms, &got.payload),
                (&sent.id, &sent.target, kind, sent.published_ms, &sent.payload)
            );
            assert_eq!(origin, Some(Origin { incarnation: incarnation.as_str().into(), number: 17 }));
        }
    }
}

#[test]
fn terms_travel_with_their_milliseconds() {
    let (names, incarnation) = names();
    let terms = |key: Option<&str>, expires_ms| {
        let idempotency_key = key.map(|key| IdempotencyKey::parse(key).unwrap());
        Arc::new(Terms { idempotency_key, expires_ms, ..Terms::default() })
    };
    for terms in [terms(Some("k"), None), terms(None, Some(1_700_000_000_250)), terms(Some("k"), Some(u64::MAX / 4))] {
        let (target, payload) = (Target::Broadcast, Bytes::new());
        let published_ms = 1_700_000_000_123;
        let kind = PayloadKind::Text;
        let sent = Message { id: None, target, kind, published_ms, terms: Some(terms.clone()), payload };
        let properties = properties(&sent, &incarnation, Some(1));
        let (got, _) = open(delivery("warren.broadcast", "", properties, b""), &names).unwrap();
        assert_eq!(got.terms, Some(terms.clone()));
        assert_eq!(got.published_ms, if terms.expires_ms.is_some() { published_ms } else { 1_700_000_000_000 });
    }
}

#[test]
fn a_foreign_time_to_live_counts_from_the_end_of_the_timestamps_second() {
    let of = |ttl, timestamp| {
        let mut headers = FieldTable::default();
        headers.insert(TTL_MS.into(), ttl);
        read_terms(&headers, timestamp).and_then(|terms| terms.expires_ms)
    };
    assert_eq!(of(AMQPValue::LongInt(500), Some(7)), Some(8_499));
    assert_eq!(of(AMQPValue::LongInt(500), None), None, "from nowhere");
    assert_eq!(of(AMQPValue::LongInt(-1), Some(7)), None);
    assert_eq!(of(AMQPValue::LongString("500".into()), Some(7)), None);
}

#[test]
fn a_bare_foreign_message_is_delivered() {
    let (names, _) = names();
    let bare = |exchange, key, body| open(delivery(exchange, key, BasicProperties::default(), body), &names).unwrap();
    let (message, origin) = bare("warren.broadcast", "", b"hi");
    assert_eq!((message.target, message.kind, message.id, origin), (Target::Broadcast, PayloadKind::Text, None, None));
    assert_eq!(bare("warren.broadcast", "", b"\xff").0.kind, PayloadKind::Binary);
}

#[test]
fn addressed_to_this_instance_the_key_is_no_topic() {
    let (names, _) = names();
    let target = |exchange, key| target(&names, &ShortString::from(exchange), &ShortString::from(key)).unwrap();
    let own = Target::Instance(names.instance_name.clone());
    assert_eq!(target("warren.direct", "10.0.0.5_8080"), own);
    assert_eq!(target("10.0.0.5_8080", ""), own);
    assert_eq!(target("10.0.0.5_8080", "10.0.0.5_8080"), own);
    assert_eq!(target("10.0.0.5_8080", "news"), Target::Topic(Topic::parse("news").unwrap()));
    assert_eq!(target("amq.fanout", ""), Target::Broadcast);
}

#[test]
fn backends_are_told_who_says_it_and_where_to_answer() {
    let (names, incarnation) = names();
    let (destination, session) = (Destination::parse("/app/orders/new").unwrap(), SessionName::new(&incarnation, 17));
    let target = Target::Backends(Arc::new(Inbound { destination, session: session.clone() }));
    let (id, kind, payload) = (MessageId::from_publisher("id-1"), PayloadKind::Text, Bytes::new());
    let said = Message { id, target, kind, published_ms: 1_700_000_000_123, terms: None, payload };
    assert_eq!(address(&names, &said.target), ("warren.inbound".into(), "orders.new".into()));
    let properties = properties(&said, &incarnation, None);
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert_eq!(properties.message_id().as_ref().map(ShortString::as_str), Some("id-1"));
    let headers = properties.headers().as_ref().unwrap().inner();
    let text = |name: &str| match headers.get(name) {
        Some(AMQPValue::LongString(value)) => value.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((text(SESSION), text(INSTANCE)), (session.to_string(), "10.0.0.5_8080".to_owned()));
    assert_eq!(headers.len(), 2, "nothing by which an answer with the same headers could be mistaken for ours");

    // A backend may answer with all that it was given.
    let (message, origin) = open(delivery("warren.direct", "10.0.0.5_8080", properties, b"yes"), &names).unwrap();
    assert_eq!((message.target, origin), (Target::Session(session), None));
}

#[test]
fn an_answer_to_a_session_never_reaches_others() {
    let (names, incarnation) = names();
    let target = |exchange: &str, key: &str, name: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert(SESSION.into(), name);
        let properties = BasicProperties::default().with_headers(headers);
        open(delivery(exchange, key, properties, b""), &names).unwrap().0.target
    };
    let text = |name: &str| AMQPValue::LongString(name.into());
    let nobody = Target::Session(SessionName::from_publisher(""));
    for name in [AMQPValue::Boolean(true), AMQPValue::LongString(b"\xff"[..].into()), text("")] {
        assert_eq!(target("warren.direct", "10.0.0.5_8080", name), nobody);
    }
    let own = SessionName::new(&incarnation, 1);
    let short = AMQPValue::ShortString(own.as_str().into());
    assert_eq!(target("warren.direct", "10.0.0.5_8080", short), Target::Session(own.clone()));
    // Elsewhere the header says nothing: who answers to a topic may have kept it.
    let news = Target::Topic(Topic::parse("news").unwrap());
    assert_eq!(target("warren.broadcast", "news", text(own.as_str())), news);
}

#[test]
fn strange_properties_are_no_origin() {
    let (names, _) = names();
    for value in [AMQPValue::LongLongInt(-1), AMQPValue::Boolean(true), AMQPValue::LongString("7".into())] {
        let mut headers = FieldTable::default();
        headers.insert(SEQUENCE.into(), value);
        let properties = BasicProperties::default().with_headers(headers).with_app_id("x".into());
        assert_eq!(open(delivery("warren.broadcast", "", properties, b""), &names).unwrap().1, None);
    }
}

#[test]
fn a_topic_stands_in_the_routing_key_or_in_a_header_with_its_key() {
    let (names, _) = names();
    let topic = Topic::parse("orders.17").unwrap();
    let of = |exchange: &str, key: &str, name: Option<AMQPValue>| {
        let mut headers = FieldTable::default();
        if let Some(name) = name {
            headers.insert(TOPIC.into(), name);
        }
        let properties = BasicProperties::default().with_headers(headers);
        open(delivery(exchange, key, properties, b""), &names).map(|(message, _)| message.target)
    };
    let (named, right) = (Target::Topic(topic.clone()), topic.key().to_string());
    let text = |name: &str| Some(AMQPValue::LongString(name.into()));
    assert_eq!(of("warren.broadcast", "orders.17", None), Ok(named.clone()));
    assert_eq!(of("warren.broadcast", "/orders/17", None), Ok(named.clone()));
    assert_eq!(of("warren.topics", &right, text("orders.17")), Ok(named.clone()));
    assert_eq!(of("warren.topics", &right, text("/orders/17")), Ok(named));
    for (exchange, key, name) in [
        ("warren.broadcast", "a b", None),
        ("warren.broadcast", "orders.*", None),
        ("warren.topics", right.as_str(), None),
        ("warren.topics", right.as_str(), text("a..b")),
        ("warren.topics", right.as_str(), text("orders.18")),
        ("warren.topics", right.as_str(), Some(AMQPValue::Boolean(true))),
        ("warren.topics", "", text("orders.17")),
    ] {
        assert_eq!(of(exchange, key, name.clone()), Err(NotATopic), "{exchange} {key} {name:?}");
    }
}

#[test]
fn what_is_for_users_travels_with_who_says_it() {
    let (names, incarnation) = names();
    let (carol, class) = (UserName::parse("carol").unwrap(), GroupName::parse("class 7").unwrap());
    let from = Some(UserName::parse("alice").unwrap());
    let terms = |group| Terms { from: from.clone(), group, subject: Some("orders".into()), ..Terms::default() };
    let letter = |target| Message {
        id: MessageId::from_publisher("1"),
        target,
        kind: PayloadKind::Text,
        published_ms: 1_700_000_000_123,
        terms: Some(Arc::new(terms(None))),
        payload: Bytes::from_static(b"hi"),
    };
    for (target, exchange, key, group) in [
        (Target::User(carol.clone()), "", "warren.mailbox.carol", None),
        (Target::Unread(carol.clone()), "", "warren.unread.carol", None),
        (Target::Group(class.clone()), "warren.groups", "class 7", Some(class.clone())),
    ] {
        let sent = letter(target);
        let (to, routing_key) = address(&names, &sent.target);
        assert_eq!((to.as_str(), routing_key.as_str()), (exchange, key));
        let properties = properties(&sent, &incarnation, None);
        assert_eq!(*properties.delivery_mode(), Some(PERSISTENT));
        let got = open_letter(delivery(exchange, key, properties, b"hi"), &names, &carol).expect("a letter");
        assert_eq!((got.target, got.published_ms), (Target::User(carol.clone()), sent.published_ms));
        assert_eq!(got.terms.as_deref(), Some(&terms(group)));
    }
    assert!(open_letter(delivery("", "warren.mailbox.carol", look(), b""), &names, &carol).is_none());
}

#[test]
fn what_is_addressed_reaches_who_is_meant_and_nobody_else() {
    let (names, _) = names();
    let own = names.instance_name.clone();
    let target = |exchange: &str, headers: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        let properties = BasicProperties::default().with_headers(table);
        open(delivery(exchange, names.instance.as_str(), properties, b""), &names).unwrap().0.target
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let carol = UserName::parse("carol").unwrap();
    assert_eq!(target("warren.direct", &[(USER, text("carol"))]), Target::UserAt(own.clone(), carol));
    assert_eq!(target("warren.direct", &[(PEER, AMQPValue::Boolean(true))]), Target::Peer(own));
    assert_eq!(target("warren.peers", &[]), Target::Peers);
    // A name that is none is nobody's, not everybody's.
    let nobody = Target::Session(SessionName::from_publisher(""));
    for wrong in [text(" "), text("a\nb"), AMQPValue::LongInt(1)] {
        assert_eq!(target("warren.direct", &[(USER, wrong)]), nobody);
    }
}

#[test]
fn word_of_a_mailbox_comes_from_instances_alone() {
    let (names, _) = names();
    let carol = UserName::parse("carol").unwrap();
    let made = |exchange| made_mailbox(&delivery(exchange, "", mailbox_made(&carol), b""), &names);
    assert_eq!(made("warren.peers"), Some(carol.clone()));
    assert_eq!(made("warren.broadcast"), None);
}
