//! What is read, and what is refused.

use super::*;

const LIMITS: OrderLimits = OrderLimits { message_bytes_max: 8, batch_max: 3 };

fn topic(name: &str) -> Target {
    Target::Topic(Topic::parse(name).unwrap())
}

fn order(target: Target, kind: PayloadKind, payload: &'static [u8]) -> Order {
    Order::new(target, kind, Bytes::from_static(payload))
}

fn some_key(text: &str) -> Option<IdempotencyKey> {
    Some(IdempotencyKey::parse(text).unwrap())
}

/// The end of the problem's type, and its index.
fn wrong<T: fmt::Debug>(result: Result<T, Problem>) -> (String, Option<u64>) {
    let json = serde_json::to_value(result.expect_err("a problem")).unwrap();
    let name = json["type"].as_str().unwrap().strip_prefix("urn:warren:problem:").unwrap().to_owned();
    (name, json["index"].as_u64())
}

#[test]
fn a_notification_is_text_for_a_topic() {
    let body = br#" {"message": "gr\u00fc\u00dfe", "topic": "/orders/17"} "#;
    let expected = order(topic("orders.17"), PayloadKind::Text, "grüße".as_bytes());
    assert_eq!(notification(body, None, LIMITS).unwrap(), expected);
}

#[test]
fn a_notification_has_nothing_else() {
    for (body, name) in [
        (&b""[..], "malformed-json"),
        (b"{", "malformed-json"),
        (b"[]", "malformed-json"),
        (b"null", "malformed-json"),
        (b"\"\xff\"", "malformed-json"),
        (br#"{"topic": "a", "message": "b"} x"#, "malformed-json"),
        (br#"{"topic": "a", "topic": "a", "message": "b"}"#, "malformed-json"),
        (br#"{"topic": "a", "message": "b", "ttl": 1}"#, "malformed-json"),
        (br#"{"topic": "a", "message": 1}"#, "malformed-json"),
        (br#"{"topic": "a", "message": "\ud800"}"#, "malformed-json"),
        (br#"{"topic": "a"}"#, "malformed-json"),
        (br#"{"topic": "", "message": "b"}"#, "bad-topic"),
        (br#"{"topic": "a.*", "message": "b"}"#, "bad-topic"),
        (br#"{"topic": "a", "message": "123456789"}"#, "too-large"),
    ] {
        let shown = String::from_utf8_lossy(body);
        assert_eq!(wrong(notification(body, None, LIMITS)), (name.to_owned(), None), "{shown}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(wrong(notification(deep.as_bytes(), None, LIMITS)).0, "malformed-json");
    assert_eq!(wrong(items(deep.as_bytes(), None, LIMITS)).0, "malformed-json");
}

#[test]
fn an_item_says_where_to_and_what() {
    let one = |body: &str, key| items(body.as_bytes(), key, LIMITS).unwrap();
    let text = order(topic("a"), PayloadKind::Text, b"b");
    assert_eq!(one(r#"{"topic": "a", "text": "b"}"#, None), Orders::One(text.clone()));
    let keyed = Order { key: some_key("k"), ttl_ms: Some(5), ..text.clone() };
    assert_eq!(
        one(r#"{"topic": "a", "text": "b", "ttl_ms": 5, "idempotency_key": "k"}"#, None),
        Orders::One(keyed.clone())
    );
    assert_eq!(one(r#"{"topic": "a", "text": "b", "ttl_ms": 5}"#, some_key("k")), Orders::One(keyed));
    let bytes = order(Target::Broadcast, PayloadKind::Binary, b"\0\xff");
    let batch = one("\r\n [{\"broadcast\": true, \"base64\": \"AP8=\"}, {\"topic\": \"a\", \"text\": \"b\"}]", None);
    assert_eq!(batch, Orders::Batch(vec![bytes.clone(), text.clone()]));
    let keyed =
        one("[{\"broadcast\": true, \"base64\": \"AP8=\"}, {\"topic\": \"a\", \"text\": \"b\"}]", some_key("k"));
    let with = |order: Order, key| Order { key: some_key(key), ..order };
    assert_eq!(keyed, Orders::Batch(vec![with(bytes, "k.0"), with(text, "k.1")]));
}

#[test]
fn what_is_wrong_with_an_item_is_told_with_its_index() {
    for (item, name) in [
        ("{}", "invalid-message"),
        (r#"{"text": "b"}"#, "invalid-message"),
        (r#"{"topic": "a"}"#, "invalid-message"),
        (r#"{"topic": "a", "broadcast": true, "text": "b"}"#, "invalid-message"),
        (r#"{"broadcast": false, "text": "b"}"#, "invalid-message"),
        (r#"{"topic": "a", "text": "b", "base64": ""}"#, "invalid-message"),
        (r#"{"topic": "a", "base64": "AP8"}"#, "invalid-message"),
        (r#"{"topic": "a", "base64": "A P8="}"#, "invalid-message"),
        (r#"{"topic": "a", "text": "b", "ttl_ms": 0}"#, "invalid-message"),
        (r#"{"topic": "a b", "text": "b"}"#, "bad-topic"),
        (r#"{"topic": "a", "text": "b", "idempotency_key": ""}"#, "bad-idempotency-key"),
        (r#"{"topic": "a", "text": "b", "idempotency_key": "a b"}"#, "bad-idempotency-key"),
        (r#"{"topic": "a", "text": "123456789"}"#, "too-large"),
    ] {
        assert_eq!(wrong(items(item.as_bytes(), None, LIMITS)), (name.to_owned(), None), "{item}");
        let batch = format!(r#"[{{"topic": "a", "text": "b"}}, {item}]"#);
        assert_eq!(wrong(items(batch.as_bytes(), None, LIMITS)), (name.to_owned(), Some(1)), "{batch}");
    }
    for item in [
        r#"{"topic": "a", "text": "b", "ttl_ms": -1}"#,
        r#"{"topic": "a", "text": "b", "ttl_ms": 1.5}"#,
        r#"{"topic": "a", "text": "b", "ttl_ms": 1e99}"#,
        r#"{"topic": "a", "text": "b", "id": "1"}"#,
        "7",
        "[]",
    ] {
        assert_eq!(wrong(items(format!("[{item}]").as_bytes(), None, LIMITS)).0, "malformed-json", "{item}");
    }
}

#[test]
fn a_batch_has_some_messages_and_not_too_many() {
    let of = |count: usize| format!("[{}]", vec![r#"{"topic": "a", "text": "b"}"#; count].join(","));
    assert!(matches!(items(of(3).as_bytes(), None, LIMITS), Ok(Orders::Batch(orders)) if orders.len() == 3));
    for (body, name) in [
        (of(0), "invalid-message"),
        (of(4), "too-large"),
        (of(5), "too-large"),
        (format!("{} x", of(2)), "malformed-json"),
        (of(5).replace(']', ""), "malformed-json"),
    ] {
        assert_eq!(wrong(items(body.as_bytes(), None, LIMITS)).0, name, "{body}");
    }
}

#[test]
fn one_key_is_one_messages() {
    let item = |topic: &str, key: &str| format!(r#"{{"topic": "{topic}", "text": "b", "idempotency_key": "{key}"}}"#);
    let twice = format!("[{},{},{}]", item("a", "1"), item("b", "1"), item("/a", "1"));
    assert_eq!(wrong(items(twice.as_bytes(), None, LIMITS)), ("bad-idempotency-key".to_owned(), Some(2)));
    let both = wrong(items(item("a", "1").as_bytes(), some_key("2"), LIMITS));
    assert_eq!(both, ("bad-idempotency-key".to_owned(), None));
}

#[test]
fn a_requests_key_stands_bare_or_quoted_and_once() {
    let of = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, value.parse().unwrap());
        }
        key(&headers)
    };
    assert_eq!(of(&[]).unwrap(), None);
    for value in ["k", "\"k\"", " k "] {
        assert_eq!(of(&[value]).unwrap(), some_key("k"), "{value}");
    }
    for values in [&[""][..], &["\"\""], &["a b"], &["a", "b"], &[&"x".repeat(201)]] {
        assert_eq!(wrong(of(values)).0, "bad-idempotency-key", "{values:?}");
    }
}

#[test]
fn a_raw_body_is_for_the_topic_of_its_path() {
    let of = |path, kind, payload: &'static [u8]| raw(path, kind, Bytes::from_static(payload), None, LIMITS);
    use PayloadKind::{Binary, Text};
    assert_eq!(of("orders/17", Text, b"b").unwrap(), order(topic("orders.17"), Text, b"b"));
    assert_eq!(of("gr%C3%BC%C3%9Fe", Binary, b"\xff").unwrap(), order(topic("grüße"), Binary, b"\xff"));
    for (path, kind, payload, name) in [
        ("", Text, &b"b"[..], "bad-topic"),
        ("a%20b", Text, b"b", "bad-topic"),
        ("a/%23", Text, b"b", "bad-topic"),
        ("%FF", Text, b"b", "bad-topic"),
        ("a", Text, b"\xff", "invalid-message"),
        ("a", Binary, b"123456789", "too-large"),
    ] {
        assert_eq!(wrong(of(path, kind, payload)).0, name, "{path}");
    }
}
