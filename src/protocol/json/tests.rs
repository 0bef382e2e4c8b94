//! What requests mean, what is none, and that what is told can be read back.

use std::borrow::Cow;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::notice::GapScope;
use super::*;
use crate::cursor::Cursor;
use crate::inbound::{Destination, SessionName};
use crate::message::{Message, MessageId, PayloadKind, Target};
use crate::topic::{Pattern, Topic};

fn parse(value: &Value) -> Result<Request, Refusal> {
    Request::parse(value.to_string().as_bytes())
}

fn id(text: &str) -> Option<RequestId> {
    RequestId::try_from(Box::from(text)).ok()
}

fn selection(patterns: &[&str], broadcast: bool) -> Selection {
    Selection { patterns: patterns.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect(), broadcast }
}

fn publish(id: Option<RequestId>, target: Target, kind: PayloadKind, payload: &'static [u8]) -> Request {
    Request::Publish { id, target, kind, payload: Bytes::from_static(payload) }
}

fn send(id: Option<RequestId>, destination: &str, kind: PayloadKind, payload: &'static [u8]) -> Request {
    let destination = Destination::parse(destination).unwrap();
    Request::Send { id, destination, kind, payload: Bytes::from_static(payload) }
}

#[test]
fn requests_mean_what_they_say() {
    let news = || Target::Topic(Topic::parse("news").unwrap());
    for (said, meant) in [
        (json!({"type": "ping"}), Request::Ping { id: None }),
        (json!({"type": "ping", "id": null}), Request::Ping { id: None }),
        (json!({"id": "", "type": "ping"}), Request::Ping { id: id("") }),
        (
            json!({"type": "subscribe", "id": "1", "topics": ["b", "/a/*", "a.*"]}),
            Request::Subscribe { id: id("1"), selection: selection(&["a.*", "b"], false), since: None },
        ),
        (
            json!({"type": "subscribe", "topics": [], "broadcast": true}),
            Request::Subscribe { id: None, selection: selection(&[], true), since: None },
        ),
        (
            json!({"type": "unsubscribe", "id": "2", "topics": ["#"], "broadcast": false}),
            Request::Unsubscribe { id: id("2"), selection: selection(&["#"], false) },
        ),
        (
            json!({"type": "publish", "id": "3", "topic": "/news", "text": "Grüße\u{0}"}),
            publish(id("3"), news(), PayloadKind::Text, "Grüße\0".as_bytes()),
        ),
        (
            json!({"type": "publish", "topic": "news", "broadcast": false, "base64": "AP8="}),
            publish(None, news(), PayloadKind::Binary, b"\x00\xFF"),
        ),
        (
            json!({"type": "publish", "broadcast": true, "text": ""}),
            publish(None, Target::Broadcast, PayloadKind::Text, b""),
        ),
        (
            json!({"type": "send", "id": "4", "destination": "/app/orders/new", "text": "one"}),
            send(id("4"), "app.orders.new", PayloadKind::Text, b"one"),
        ),
        (
            json!({"type": "send", "destination": "app.test", "base64": "AP8="}),
            send(None, "/app/test", PayloadKind::Binary, b"\x00\xFF"),
        ),
    ] {
        assert_eq!(parse(&said), Ok(meant.clone()), "{said}");
        assert_eq!(meant.id().map(RequestId::as_str), said["id"].as_str());
    }
    assert_eq!(Request::parse(b" \r\n\t{\"type\" : \"ping\"} "), Ok(Request::Ping { id: None }));
}

#[test]
fn what_is_no_request_is_told_why_and_by_its_id() {
    use ErrorCode::{BadDestination, BadField, BadTopic, NotJson, UnknownType};
    for (text, code) in [
        ("", NotJson),
        ("hello", NotJson),
        ("{", NotJson),
        (r#"{"type":"ping"} {}"#, NotJson),
        (r#"{"type":"ping",}"#, NotJson),
        ("null", NotJson),
        ("[]", NotJson),
        (r#"["ping",null,null,null,null,null,null]"#, NotJson),
        ("{}", BadField),
        (r#"{"type":1}"#, BadField),
        (r#"{"type":"ping","type":"ping"}"#, BadField),
        (r#"{"type":"Ping"}"#, UnknownType),
        (r#"{"type":"since","cursor":{"a":[1]}}"#, UnknownType),
        (r#"{"type":"ping","colour":"red"}"#, BadField),
        (r#"{"type":"ping","text":"a"}"#, BadField),
        (r#"{"type":"ping","id":1}"#, BadField),
        (r#"{"type":"subscribe"}"#, BadField),
        (r#"{"type":"subscribe","topics":[]}"#, BadField),
        (r#"{"type":"subscribe","broadcast":false}"#, BadField),
        (r#"{"type":"subscribe","topics":"a"}"#, BadField),
        (r#"{"type":"subscribe","topics":["a",1]}"#, BadField),
        (r#"{"type":"subscribe","topics":["a"],"topic":"a"}"#, BadField),
        (r#"{"type":"subscribe","topics":["a","b c"]}"#, BadTopic),
        (r#"{"type":"unsubscribe","topics":["a*"]}"#, BadTopic),
        (r#"{"type":"publish","text":"a"}"#, BadField),
        (r#"{"type":"publish","topic":"a"}"#, BadField),
        (r#"{"type":"publish","topic":"a","broadcast":true,"text":"a"}"#, BadField),
        (r#"{"type":"publish","topic":"a","text":"a","base64":"YQ=="}"#, BadField),
        (r#"{"type":"publish","topic":"a","base64":"YQ"}"#, BadField),
        (r#"{"type":"publish","topic":"a","base64":"Y Q=="}"#, BadField),
        (r#"{"type":"publish","topic":"a","text":"\ud800"}"#, BadField),
        (r#"{"type":"publish","topic":"a.*","text":"a"}"#, BadTopic),
        (r#"{"type":"publish","topic":"","text":"a"}"#, BadTopic),
        (r#"{"type":"publish","topics":["a"],"text":"a"}"#, BadField),
        (r#"{"type":"publish","topic":"a","destination":"/app/a","text":"a"}"#, BadField),
        (r#"{"type":"subscribe","topics":["a"],"destination":"/app/a"}"#, BadField),
        (r#"{"type":"send","text":"a"}"#, BadField),
        (r#"{"type":"send","destination":"/app/a"}"#, BadField),
        (r#"{"type":"send","destination":"/app/a","text":"a","base64":"YQ=="}"#, BadField),
        (r#"{"type":"send","destination":"/app/a","topic":"a","text":"a"}"#, BadField),
        (r#"{"type":"send","destination":"/app/a","broadcast":true,"text":"a"}"#, BadField),
        (r#"{"type":"send","destination":["/app/a"],"text":"a"}"#, BadField),
        (r#"{"type":"send","destination":"/topic/a","text":"a"}"#, BadDestination),
        (r#"{"type":"send","destination":"/app/a..b","text":"a"}"#, BadDestination),
        (r#"{"type":"send","destination":"/app/#","text":"a"}"#, BadDestination),
    ] {
        let refusal = Request::parse(text.as_bytes()).unwrap_err();
        assert_eq!((refusal.code, &refusal.id), (code, &None), "{text}: {}", refusal.explanation);
        // Wherever an object can be read, so can its id.
        if code != NotJson && !text.contains("\"id\"") {
            let text = format!("{},\"id\":\"x\"}}", text.strip_suffix('}').unwrap()).replace("{,", "{");
            let refusal = Request::parse(text.as_bytes()).unwrap_err();
            assert_eq!((refusal.code, refusal.id), (code, id("x")), "{text}: {}", refusal.explanation);
        }
    }
}

#[test]
fn what_a_client_sent_makes_no_explanation_long() {
    let long = "x".repeat(10_000);
    for said in [
        json!({"type": long}),
        json!({"type": "ping", long.as_str(): 1}),
        json!({"type": "ping", "id": long}),
        json!({"type": "publish", "topic": long, "text": ""}),
    ] {
        let explanation = parse(&said).unwrap_err().explanation;
        assert!((10..=200).contains(&explanation.chars().count()), "{explanation}");
    }
}

#[test]
fn what_a_request_may_have_is_limited() {
    let topics = |count: usize| json!({"type": "subscribe", "topics": (0..count).map(|number| format!("a.{number}")).collect::<Vec<_>>()});
    assert!(parse(&topics(TOPICS_PER_REQUEST_MAX)).is_ok());
    assert_eq!(parse(&topics(TOPICS_PER_REQUEST_MAX + 1)).unwrap_err().code, ErrorCode::BadField);
    let with_id = |bytes: usize| json!({"type": "ping", "id": "x".repeat(bytes)});
    assert!(parse(&with_id(REQUEST_ID_BYTES_MAX)).is_ok());
    assert_eq!(parse(&with_id(REQUEST_ID_BYTES_MAX + 1)).unwrap_err().code, ErrorCode::BadField);
}

#[test]
fn codes_have_numbers_of_their_own() {
    let mut numbers = ErrorCode::ALL.map(ErrorCode::number).to_vec();
    numbers.dedup();
    let (refused, passing) = (100..=110, 200..=210);
    assert_eq!(numbers, refused.chain(passing).collect::<Vec<u16>>());
}

fn told(message: &Message) -> Value {
    let mut text = b"what was there before".to_vec();
    encode_message(message, &Cursor::default(), &mut text);
    serde_json::from_slice(&text).unwrap()
}

/// Computed with Python's `datetime`.
#[test]
fn times_are_told_to_the_millisecond_and_never_out_of_range() {
    for (published_ms, time) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_827_696_789, "2000-02-29T12:34:56.789Z"),
        (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
        (253_402_300_799_999, "9999-12-30T22:00:00.999Z"),
        (u64::MAX, "9999-12-30T22:00:00.999Z"),
    ] {
        let message = Message {
            id: None,
            target: Target::Broadcast,
            kind: PayloadKind::Text,
            published_ms,
            terms: None,
            payload: Bytes::new(),
        };
        let expected = json!({"type": "message", "broadcast": true, "time": time, "text": ""});
        assert_eq!(told(&message), expected);
    }
}

#[test]
fn a_text_that_is_none_is_told_as_bytes() {
    let payload = Bytes::from_static(b"\xFF");
    let target = Target::Topic(Topic::parse("a.b").unwrap());
    let message = Message { id: None, target, kind: PayloadKind::Text, published_ms: 0, terms: None, payload };
    let expected = json!({"type": "message", "topic": "a.b", "time": "1970-01-01T00:00:00.000Z", "base64": "/w=="});
    assert_eq!(told(&message), expected);
}

#[test]
fn what_is_said_to_one_session_is_told_as_that() {
    let target = Target::Session(SessionName::from_publisher("a_1@0/1"));
    let (kind, payload) = (PayloadKind::Text, Bytes::from_static(b"a"));
    let message = Message { id: None, target, kind, published_ms: 0, terms: None, payload };
    let expected = json!({"type": "message", "direct": true, "time": "1970-01-01T00:00:00.000Z", "text": "a"});
    assert_eq!(told(&message), expected);
}

pub(super) fn message() -> impl Strategy<Value = Message> {
    let target = prop_oneof![
        Just(Target::Broadcast),
        "[a-zß\"\\\\]{1,9}".prop_map(|name| { Target::Topic(Topic::parse(&name).unwrap()) })
    ];
    let id = proptest::option::of(".{0,20}".prop_map(|id| MessageId::from_publisher(&id).unwrap()));
    let payload = prop_oneof![
        ".{0,50}".prop_map(|text| (PayloadKind::Text, text.into_bytes())),
        any::<Vec<u8>>().prop_map(|bytes| (PayloadKind::Binary, bytes)),
    ];
    (id, target, payload, any::<u64>()).prop_map(|(id, target, (kind, payload), published_ms)| Message {
        id,
        target,
        kind,
        published_ms: published_ms >> (published_ms % 64),
        terms: None,
        payload: payload.into(),
    })
}

proptest! {
    /// Whatever is published is told so that it can be published again as it was.
    #[test]
    fn a_message_is_told_whole(message in message()) {
        let mut told = told(&message);
        let fields = told.as_object_mut().unwrap();
        prop_assert_eq!(fields.remove("id"), message.id.map(|id| json!(id.as_str())));
        let time: jiff::Timestamp = fields.remove("time").unwrap().as_str().unwrap().parse().unwrap();
        let published_ms = i64::try_from(message.published_ms).unwrap_or(i64::MAX);
        prop_assert_eq!(time.as_millisecond(), published_ms.min(jiff::Timestamp::MAX.as_millisecond()));
        fields.insert("type".into(), json!("publish"));
        let again = parse(&told);
        let Message { target, kind, payload, .. } = message;
        prop_assert_eq!(again, Ok(Request::Publish { id: None, target, kind, payload }));
    }

    #[test]
    fn what_is_told_can_be_read(
        id in proptest::option::of(".{0,20}"), text in ".{0,20}", code in any::<u16>(), number in any::<u32>(),
    ) {
        let text = || Cow::Owned(text.clone());
        let id = || id.clone().map(Cow::Owned);
        let limits = SessionLimits {
            message_bytes_max: number as usize,
            topics_per_session_max: 2,
            topics_per_request_max: 3,
            pending_requests_max: number,
        };
        for notice in [
            Notice::Welcome { protocol: text(), session: text(), instance: text(), limits },
            Notice::Ack { id: text(), cursor: id(), message_id: id() },
            Notice::Gap { scope: GapScope::Topics, missing: None },
            Notice::Pong { id: id() },
            Notice::Error { id: id(), code, message: text() },
        ] {
            prop_assert_eq!(serde_json::from_slice::<Notice>(&notice.text()).unwrap(), notice);
        }
    }
}
