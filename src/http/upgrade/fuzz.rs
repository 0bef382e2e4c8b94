//! Opening handshakes at volume: see [`crate::fuzzing`].

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tungstenite::handshake::server::create_response;
use warp::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use warp::http::{HeaderValue, Request};

use super::*;
use crate::fuzzing::fuzz;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Whom tungstenite lets in, and with which answer, but for the deliberate differences:
///
/// 1. Tokens may stand in lists and in several lines; tungstenite looks at the first line, at all of it for `Upgrade`,
///    and takes blanks for commas in `Connection`.
/// 2. `Host` must be there, and a header that must not occur twice must not; tungstenite asks for none and takes the
///    first.
/// 3. The spare bits of a key are ignored, as browsers of old set them.
#[test]
fn fuzz_opening_handshakes() {
    let inputs = (vec(change(), 0..5), any::<bool>()).prop_map(|(changes, in_reverse)| {
        let mut lines = good();
        changes.iter().for_each(|change| change.apply(&mut lines));
        if in_reverse {
            lines.reverse();
        }
        lines
    });
    fuzz("opening handshakes", inputs, |lines| {
        let headers: HeaderMap = lines.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let _ = extension(&headers);
        let _ = subprotocol(&headers);
        let checked = check(&headers);
        match checked {
            Ok(key) => {
                let answer = answer_elsewhere(&plain(&headers, key)).expect("what we take is a handshake");
                assert_eq!(answer.len(), accept_key(key).len());
                assert!(key != KEY || answer == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            }
            Err(_) if is_doubled(&headers) || has_blank_within(&headers, CONNECTION) => {}
            Err(Refusal::BadHost) => assert!(headers.get(HOST).is_none_or(|host| host.to_str().is_err())),
            Err(refusal) => assert_eq!(answer_elsewhere(&headers), None, "{refusal:?}"),
        }
    });
}

/// What tungstenite answers, if it accepts.
fn answer_elsewhere(headers: &HeaderMap) -> Option<String> {
    let mut request = Request::builder().uri("/message").body(()).expect("a request");
    *request.headers_mut() = headers.clone();
    let answer = create_response(&request).ok()?;
    Some(answer.headers()[SEC_WEBSOCKET_ACCEPT].to_str().expect("base64").to_owned())
}

/// The same handshake without what tungstenite does not know: see the differences.
fn plain(headers: &HeaderMap, key: &str) -> HeaderMap {
    let mut headers = headers.clone();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // Of the last character before the padding only the two highest of six bits count.
    let mut key = key.as_bytes().to_vec();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = alphabet.iter().position(|letter| *letter == key[21]).expect("of the alphabet");
    key[21] = alphabet[value & 0b11_0000];
    headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_bytes(&key).expect("base64"));
    headers
}

/// Whether a header occurs twice that must not.
fn is_doubled(headers: &HeaderMap) -> bool {
    [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, HOST].iter().any(|name| headers.get_all(name).iter().count() > 1)
}

fn has_blank_within(headers: &HeaderMap, name: HeaderName) -> bool {
    let mut parts =
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    parts.any(|part| part.trim().contains(' '))
}

fn good() -> Vec<(HeaderName, HeaderValue)> {
    [
        (HOST, "warren.example"),
        (UPGRADE, "websocket"),
        (CONNECTION, "Upgrade"),
        (SEC_WEBSOCKET_VERSION, "13"),
        (SEC_WEBSOCKET_KEY, KEY),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .to_vec()
}

/// How a handshake departs from a good one.
#[derive(Debug, Clone)]
enum Change {
    Add(HeaderName, HeaderValue),
    Set(Index, HeaderValue),
    Remove(Index),
    Double(Index),
}

impl Change {
    fn apply(&self, lines: &mut Vec<(HeaderName, HeaderValue)>) {
        let count = lines.len();
        match self {
            Change::Add(name, value) => lines.push((name.clone(), value.clone())),
            _ if count == 0 => {}
            Change::Set(at, value) => lines[at.index(count)].1 = value.clone(),
            Change::Remove(at) => {
                lines.remove(at.index(count));
            }
            Change::Double(at) => lines.push(lines[at.index(count)].clone()),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let name = select(vec![
        HOST,
        UPGRADE,
        CONNECTION,
        SEC_WEBSOCKET_VERSION,
        SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_EXTENSIONS,
        SEC_WEBSOCKET_PROTOCOL,
        ORIGIN,
    ]);
    prop_oneof![
        4 => (name, value()).prop_map(|(name, value)| Change::Add(name, value)),
        4 => (any::<Index>(), value()).prop_map(|(at, value)| Change::Set(at, value)),
        2 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Double),
    ]
}

/// What stands in such headers, in parts, and bytes that no text has.
fn value() -> impl Strategy<Value = HeaderValue> {
    let piece = select(vec![
        "websocket",
        "WebSocket",
        "upgrade",
        "Upgrade",
        "keep-alive",
        "h2c",
        ",",
        ",",
        " ",
        "\t",
        "13",
        "8",
        "permessage-deflate",
        "client_max_window_bits",
        "server_max_window_bits",
        ";",
        "=",
        "\"",
        "\\",
        "15",
        "chat",
    ]);
    let list = vec(piece, 0..6).prop_map(|pieces| pieces.concat().into_bytes());
    let key = "[A-Za-z0-9+/]{22}==".prop_map(String::into_bytes);
    let near_key = "[A-Za-z0-9+/=_ -]{20,26}".prop_map(String::into_bytes);
    let noise = vec(any::<u8>(), 0..30);
    prop_oneof![6 => list, 3 => key, 1 => near_key, 1 => noise]
        .prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap_or(HeaderValue::from_static("")))
}
