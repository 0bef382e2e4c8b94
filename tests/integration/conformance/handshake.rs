//! §4.2 and §4.4: the opening handshake.

use tungstenite::handshake::derive_accept_key;

use crate::support::http::{Answer, head, request};
use crate::support::instance::{Instance, config};
use crate::support::raw::{KEY, Raw, handshake_with, wire};
use crate::support::sessions_become;

/// The answer to these lines and no others.
async fn answer(instance: &Instance, lines: &[&str]) -> Answer {
    let mut client = Raw::tcp(instance.address).await;
    client.send(lines.join("\r\n") + "\r\n\r\n").await;
    client.answer().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_must_be_named_once() {
    let instance = Instance::start(config()).await;
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let rest = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", key.as_str()];
    let host = "Host: warren.example";
    let cases: [(&[&str], u16); 3] = [(&[], 400), (&[host, host], 400), (&[host], 101)];
    for (hosts, status) in cases {
        let lines = [&["GET /message HTTP/1.1"], hosts, &rest].concat();
        assert_eq!(answer(&instance, &lines).await.status, status, "{hosts:?}");
    }
    sessions_become(instance.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_must_be_named_once() {
    let instance = Instance::start(config()).await;
    for versions in [&[][..], &["13", "13"], &["13", "8"], &["8", "13"], &["13, 13"], &["0"], &["7"], &["12"], &["255"]]
    {
        let mut headers = vec![("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", KEY)];
        headers.extend(versions.iter().map(|version| ("Sec-WebSocket-Version", *version)));
        let answer = request(instance.address, "GET /message", &headers).await;
        assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, Some("13")), "{versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_spelled_in_another_way_means_the_same() {
    let instance = Instance::start(config()).await;
    let lines = |upgrade, connection| {
        let key = format!("sec-websocket-key:{KEY}");
        ["GET /message HTTP/1.1", "hOST: x", upgrade, connection, "SEC-WEBSOCKET-VERSION:\t13 ", &key].join("\r\n")
    };
    for upgrade in
        ["UPGRADE: WEBSOCKET", "upgrade:websocket", "Upgrade: h2c , WebSocket", "Upgrade: h2c\r\nUpgrade: websocket"]
    {
        for connection in ["CONNECTION: UPGRADE", "connection:upgrade", "Connection: keep-alive ,\tuPGRADE, x"] {
            let answer = answer(&instance, &[&lines(upgrade, connection)]).await;
            assert_eq!(answer.status, 101, "{upgrade:?} {connection:?}");
        }
    }
    let with_a_whole_address = format!("GET http://{}/message?room=1", instance.address);
    let headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    assert_eq!(request(instance.address, &with_a_whole_address, &headers).await.status, 101);
    sessions_become(instance.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_is_answered_by_its_own_value() {
    let instance = Instance::start(config()).await;
    for key in
        ["AAAAAAAAAAAAAAAAAAAAAA==", "/////////////////////w==", "++++++++++++++++++++++==", "x3JJHMbDL1EzLkh9GBhXDw=="]
    {
        let headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
        ];
        let answer = request(instance.address, "GET /message", &headers).await;
        let expected = derive_accept_key(key.as_bytes());
        assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some(expected.as_str())), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_subprotocol_is_agreed_to() {
    let instance = Instance::start(config()).await;
    let offers: [&[(&str, &str)]; 4] = [
        &[("Sec-WebSocket-Protocol", "chat")],
        &[("Sec-WebSocket-Protocol", "v12.stomp, mqtt,  chat")],
        &[("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "superchat")],
        &[("Sec-WebSocket-Protocol", "")],
    ];
    for offer in offers {
        let mut client = Raw::tcp(instance.address).await;
        client.send(handshake_with(instance.address, offer)).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None), "{offer:?}");
        client.send(wire::text("plain")).await;
        client.receives(&["plain"]).await;
    }
}

/// What follows a handshake that was refused is HTTP still, no frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_refused_may_be_tried_again() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::tcp(instance.address).await;
    client.send(head(instance.address, "GET /message", &[("Upgrade", "websocket")])).await;
    assert_eq!(client.answer().await.status, 426);
    client.send(handshake_with(instance.address, &[])).await;
    assert_eq!(client.answer().await.status, 101);
    client.is_open().await;
}
