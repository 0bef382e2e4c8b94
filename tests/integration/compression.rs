//! permessage-deflate as clients see it: sessions with and without it, side by side.

use warren::config::Config;

use crate::support::deflate::deflated;
use crate::support::instance::{Instance, config};
use crate::support::raw::wire::{self, ClientFrame};
use crate::support::raw::{COMPRESSED, Closing, Raw, handshake_with};

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What the JSON of an application looks like.
fn json(index: usize) -> String {
    let orders = (0..32).map(|n| format!(r#"{{"id":{},"kind":"order.paid","amount":{n}.50}}"#, index * 31 + n));
    format!("[{}]", orders.collect::<Vec<_>>().join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_and_without_compression_hear_the_same() {
    let instance = Instance::start(config()).await;
    let mut compressed = Raw::connect_compressed(instance.address).await;
    let mut plain = Raw::connect(instance.address).await;
    let texts: Vec<String> = (0..50).flat_map(|index| [json(index), format!("small {index}")]).collect();
    for (index, text) in texts.iter().enumerate() {
        let speaker = if index % 4 < 2 { &mut compressed } else { &mut plain };
        speaker.send(wire::text(text)).await;
        for listener in [&mut compressed, &mut plain] {
            listener.receives(&[text]).await;
        }
    }
    let saved = plain.received_bytes() - compressed.received_bytes();
    assert!(saved > plain.received_bytes() / 2, "saved {saved} of {} bytes", plain.received_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_long_messages_that_get_shorter_are_compressed() {
    let instance = Instance::start(Config { compression_bytes_min: 100, ..config() }).await;
    let mut client = Raw::connect_compressed(instance.address).await;
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5000).collect();
    let payloads = [("x".repeat(99).into_bytes(), 0), ("x".repeat(100).into_bytes(), COMPRESSED), (noise, 0)];
    for (payload, rsv) in payloads {
        client.send(wire::binary(&payload)).await;
        let (bits, frame) = client.next_with_rsv().await.expect("a frame");
        assert_eq!(bits, rsv, "{} bytes", payload.len());
        assert!(frame.payload == payload);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_compressed_is_heard_as_it_was_said() {
    let instance = Instance::start(config()).await;
    let mut speaker = Raw::connect_compressed(instance.address).await;
    let mut plain = Raw::connect(instance.address).await;
    let payload = json(7);
    let whole = ClientFrame::new(wire::TEXT, deflated(payload.as_bytes())).rsv(COMPRESSED);
    let mut in_two = whole.clone().not_final();
    let rest = in_two.payload.split_off(20);
    let rest = ClientFrame::new(wire::CONTINUATION, rest);
    for said in [whole.bytes(), [in_two.bytes(), wire::ping(b"now"), rest.bytes()].concat(), wire::text(&payload)] {
        speaker.send(said).await;
        plain.receives(&[&payload]).await;
    }
    // A keep-alive is one however it is said.
    let keep_alive = ClientFrame::new(wire::TEXT, deflated(b"keep-alive")).rsv(COMPRESSED);
    speaker.send([keep_alive.bytes(), wire::text("end")].concat()).await;
    plain.receives(&["end"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_and_damaged_data_close_their_session_and_no_other() {
    let instance = Instance::start(config()).await;
    let mut witness = Raw::connect_compressed(instance.address).await;
    let bomb = deflated(&vec![0; 10 * 1024 * 1024]);
    let cases = [
        (bomb, 1009, "message is larger than 65536 bytes"),
        (b"\x06 damaged".to_vec(), 1007, "compressed message is corrupt"),
        (deflated(b"\xFF"), 1007, "text is not valid UTF-8"),
    ];
    for (payload, code, reason) in cases {
        let mut client = Raw::connect_compressed(instance.address).await;
        client.send(ClientFrame::new(wire::TEXT, payload).rsv(COMPRESSED).bytes()).await;
        assert_eq!(client.closed().await, Closing { code: Some(code), reason: reason.to_owned() });
    }
    witness.send(wire::text("still here")).await;
    witness.receives(&["still here"]).await;
}

/// The status of a handshake with these offers, and the extensions of the answer.
async fn offer(instance: &Instance, lines: &[&str]) -> (u16, Option<String>) {
    let headers: Vec<_> = lines.iter().map(|line| ("Sec-WebSocket-Extensions", *line)).collect();
    let mut client = Raw::tcp(instance.address).await;
    client.send(handshake_with(instance.address, &headers)).await;
    let answer = client.answer().await;
    (answer.status, answer.header("sec-websocket-extensions").map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_acceptable_offer_is_answered() {
    let instance = Instance::start(config()).await;
    let accepted = (101, Some(ANSWER.to_owned()));
    assert_eq!(offer(&instance, &["permessage-deflate; client_max_window_bits"]).await, accepted);
    assert_eq!(offer(&instance, &["unknown", "permessage-deflate"]).await, accepted);
    let with_window = (101, Some(format!("{ANSWER}; server_max_window_bits=15")));
    assert_eq!(offer(&instance, &["permessage-deflate; server_max_window_bits=15"]).await, with_window);
    assert_eq!(offer(&instance, &["permessage-deflate; server_max_window_bits=9"]).await, (101, None));
    assert_eq!(offer(&instance, &[]).await, (101, None));
    assert_eq!(offer(&instance, &["permessage-deflate;"]).await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_can_be_switched_off() {
    let instance = Instance::start(Config { compression: false, ..config() }).await;
    assert_eq!(offer(&instance, &["permessage-deflate"]).await, (101, None));
    let mut client = Raw::connect(instance.address).await;
    client.send(ClientFrame::new(wire::TEXT, [0]).rsv(COMPRESSED).bytes()).await;
    assert_eq!(client.closed().await.code, Some(1002));
}
