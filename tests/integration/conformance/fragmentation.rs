//! §5.4: messages in fragments.

use super::{each_is_closed_with, frame, parts};
use crate::support::instance::{Instance, config};
use crate::support::raw::wire::{self, BINARY, CONTINUATION, PONG, TEXT};
use crate::support::raw::{Closing, Raw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_make_one_message_however_many_and_long_they_are() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    let payload: Vec<u8> = (0..1000).map(|index| b'a' + (index % 23) as u8).collect();
    for length in [1, 2, 124, 125, 126, 127, 333, 999, 1000] {
        let pieces: Vec<&[u8]> = payload.chunks(length).collect();
        for opcode in [TEXT, BINARY] {
            client.send(wire::stream(&wire::fragments(opcode, &pieces))).await;
            client.receives_frame(opcode, &payload).await;
        }
    }
    for empty_at in 0..4 {
        let mut pieces = parts(&payload, &[300, 600]);
        pieces.insert(empty_at, b"");
        client.send(wire::stream(&wire::fragments(TEXT, &pieces))).await;
        client.receives_frame(TEXT, &payload).await;
    }
    client.send(wire::stream(&wire::fragments(BINARY, &[b"", b"", b""]))).await;
    client.receives_frame(BINARY, b"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_frames_between_fragments_are_acted_on_at_once() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    for opcode in [TEXT, BINARY] {
        let fragments = wire::fragments(opcode, &[b"one ", b"two ", b"", b"three"]);
        for (index, fragment) in fragments.iter().enumerate() {
            client.send(wire::pong(b"nobody asked")).await;
            client.send([wire::ping(&[index as u8; 125]), wire::ping(b"")].concat()).await;
            client.receives_frame(PONG, &[index as u8; 125]).await;
            client.receives_frame(PONG, b"").await;
            client.send(fragment.bytes()).await;
        }
        client.receives_frame(opcode, b"one two three").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_between_fragments_ends_the_message_unsaid() {
    let instance = Instance::start(config()).await;
    let mut other = Raw::connect(instance.address).await;
    let mut client = Raw::connect(instance.address).await;
    client.send([frame(TEXT, b"unsaid").not_final().bytes(), wire::close(1000, b"")].concat()).await;
    client.send(frame(CONTINUATION, b", too").bytes()).await;
    assert_eq!(client.closed().await, Closing { code: Some(1000), reason: String::new() });
    other.send(wire::text("end")).await;
    other.receives(&["end"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_out_of_order_are_refused() {
    let start = |opcode| frame(opcode, b"a").not_final().bytes();
    let end = frame(CONTINUATION, b"z").bytes();
    let more = frame(CONTINUATION, b"m").not_final().bytes();
    let mut inputs = vec![
        ("the end of nothing".to_owned(), end.clone()),
        ("more of nothing".to_owned(), more.clone()),
        ("an empty end of nothing".to_owned(), frame(CONTINUATION, b"").bytes()),
        ("the end of nothing, behind a ping".to_owned(), [wire::ping(b""), end.clone()].concat()),
    ];
    for first in [TEXT, BINARY] {
        for second in [TEXT, BINARY] {
            let whole = frame(second, b"b").bytes();
            inputs.push((format!("{second} within {first}"), [start(first), whole.clone()].concat()));
            inputs.push((format!("begin of {second} within {first}"), [start(first), start(second)].concat()));
            let later = [start(first), more.clone(), wire::ping(b""), whole].concat();
            inputs.push((format!("{second} within {first}, later"), later));
        }
    }
    each_is_closed_with(1002, inputs).await;
}

/// The message is said; what comes behind its end is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_has_one_end() {
    let instance = Instance::start(config()).await;
    for opcode in [TEXT, BINARY] {
        let mut client = Raw::connect(instance.address).await;
        let whole = wire::stream(&wire::fragments(opcode, &[b"all", b" said"]));
        client.send([whole, frame(CONTINUATION, b"more").bytes()].concat()).await;
        assert_eq!(client.closed().await.code, Some(1002));
        let mut later = Raw::connect(instance.address).await;
        later.send(wire::text("end")).await;
        later.receives(&["end"]).await;
    }
}
