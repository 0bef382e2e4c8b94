//! What clients of `warren.v1.json` send, at volume: see [`crate::fuzzing`].

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use super::{REQUEST_ID_BYTES_MAX, Refusal, Request, RequestId, TOPICS_PER_REQUEST_MAX};
use crate::fuzzing::fuzz;

const GOOD: [&str; 8] = [
    r#"{"type":"authenticate","id":"6","token":"a.b.c"}"#,
    r#"{"type":"subscribe","id":"1","topics":["orders.*","/news"],"broadcast":true}"#,
    r##"{"type":"unsubscribe","id":"2","topics":["#"]}"##,
    r#"{"type":"publish","id":"3","topic":"orders.eu","text":"Gr\u00fc\u00dfe \ud83e\udd80"}"#,
    r#"{"type":"publish","broadcast":true,"base64":"AP8="}"#,
    r#"{"type":"send","id":"5","destination":"/app/orders/new","text":"one"}"#,
    r#"{"type":"ping","id":"4"}"#,
    r#"{"type":"ping"}"#,
];

const PIECES: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "1e9",
    "\\",
    "\\u0000",
    "\\ud800",
    "\"type\"",
    "\"id\"",
    "\"topics\"",
    "\"topic\"",
    "\"text\"",
    "\"base64\"",
    "a..b",
    "*",
    "🦀",
];

/// Whatever comes, it is a request within the limits or refused in a few words; never both, and never another's id.
#[test]
fn fuzz_json_requests() {
    fuzz("requests in JSON", text(), |text| match Request::parse(&text) {
        Ok(request) => {
            let value: Value = serde_json::from_slice(&text).expect("a request is JSON");
            assert_eq!(request.id().map(RequestId::as_str), value["id"].as_str());
            assert!(request.id().is_none_or(|id| id.as_str().len() <= REQUEST_ID_BYTES_MAX));
            let (Request::Subscribe { selection, .. } | Request::Unsubscribe { selection, .. }) = request else {
                return;
            };
            let count = selection.patterns.len();
            assert!(count <= TOPICS_PER_REQUEST_MAX && (count > 0 || selection.broadcast));
        }
        Err(Refusal { id, explanation, .. }) => {
            assert!(!explanation.is_empty() && explanation.chars().count() <= 200);
            let value: Option<Value> = serde_json::from_slice(&text).ok();
            let said = value.as_ref().and_then(|value| value["id"].as_str());
            assert!(id.is_none() || said == id.as_ref().map(RequestId::as_str) || said.is_none());
        }
    });
}

/// Good requests in which something was put, cut out or doubled; pieces without sense; noise.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), 0..6_usize, select(PIECES.to_vec()));
    let changed = (select(GOOD.to_vec()), vec(change, 0..4)).prop_map(|(text, changes)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, cut, piece) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, piece.bytes());
        }
        bytes
    });
    let pieces = vec(select(PIECES.to_vec()), 0..20).prop_map(|pieces| pieces.concat().into_bytes());
    let noise = vec(any::<u8>(), 0..60);
    prop_oneof![8 => changed, 2 => pieces, 1 => noise]
}
