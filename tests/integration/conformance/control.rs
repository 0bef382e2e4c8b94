//! §5.5: control frames; pings and pongs.

use super::{each_is_closed_with, frame};
use crate::support::instance::{Instance, config};
use crate::support::raw::wire::{self, CLOSE, PING, PONG};
use crate::support::raw::{Closing, Raw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_ping_is_answered_by_a_pong_of_its_payload_in_turn() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    let payloads: Vec<Vec<u8>> = (0..=125).map(|length| vec![0xFF - length; length.into()]).collect();
    for payload in &payloads {
        client.send(wire::ping(payload)).await;
        client.receives_frame(PONG, payload).await;
    }
    client.send(payloads.iter().flat_map(|payload| wire::ping(payload)).collect::<Vec<u8>>()).await;
    for payload in &payloads {
        client.receives_frame(PONG, payload).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pong_that_nobody_asked_for_is_not_answered() {
    let instance = Instance::start(config()).await;
    let mut other = Raw::connect(instance.address).await;
    let mut client = Raw::connect(instance.address).await;
    for length in [0, 1, 125] {
        client.send([wire::pong(&vec![b'p'; length]), wire::text("next")].concat()).await;
        client.receives(&["next"]).await;
        other.receives(&["next"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_behind_a_close_frame_is_not_answered() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    client.send([wire::ping(b"before"), wire::close(1000, b""), wire::ping(b"after")].concat()).await;
    client.receives_frame(PONG, b"before").await;
    client.receives_frame(CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(client.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_or_in_fragments_control_frames_are_refused() {
    let mut inputs = Vec::new();
    for opcode in [PING, PONG, CLOSE] {
        // A close frame of this would be good if it were shorter.
        let payload = |length: usize| [&1000_u16.to_be_bytes()[..], &vec![b'x'; length - 2]].concat();
        for length in [126, 127, 65_535, 65_536] {
            inputs.push((format!("opcode {opcode} of {length} bytes"), frame(opcode, &payload(length)).bytes()));
        }
        for length in [0, 2, 125] {
            let payload = if length == 0 { Vec::new() } else { payload(length) };
            let fragment = frame(opcode, &payload).not_final().bytes();
            inputs.push((format!("opcode {opcode} of {length} bytes, not final"), fragment));
        }
    }
    each_is_closed_with(1002, inputs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_control_frames_are_taken() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    client.send([wire::pong(&[0; 125]), wire::ping(&[1; 125])].concat()).await;
    client.receives_frame(PONG, &[1; 125]).await;
    client.send(wire::close(4000, &[b'r'; 123])).await;
    assert_eq!(client.closed().await, Closing { code: Some(4000), reason: String::new() });
}
