//! §5.5.1 and §7: the closing handshake, and which codes it may name.

use super::{each_is_closed_with, frame};
use crate::support::instance::{Instance, config};
use crate::support::raw::wire::{self, CLOSE};
use crate::support::raw::{Closing, Raw};
use crate::support::sessions_become;

/// Those that are defined or free for others (§7.4.2); 1012 to 1014 are in IANA's registry of close codes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_that_may_stand_in_a_close_frame_are_echoed() {
    let instance = Instance::start(config()).await;
    let defined = (1000..=1003).chain(1007..=1014);
    for code in defined.chain([3000, 3001, 3999, 4000, 4001, 4998, 4999]) {
        for reason in ["", "adieu, à bientôt 🦀"] {
            let mut client = Raw::connect(instance.address).await;
            client.send(wire::close(code, reason.as_bytes())).await;
            assert_eq!(client.closed().await, Closing { code: Some(code), reason: String::new() });
        }
    }
    sessions_become(instance.address, 0).await;
}

/// Not in use (0 to 999), without a meaning yet (1004, 1016 to 2999), never on the wire (1005, 1006, 1015), out of range.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_that_must_not_stand_in_a_close_frame_are_refused() {
    let codes = [0, 1, 100, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 9999, u16::MAX];
    let inputs = codes.into_iter().flat_map(|code| {
        [b"".as_slice(), b"reason"].map(|reason| (format!("{code} with {reason:?}"), wire::close(code, reason)))
    });
    each_is_closed_with(1002, inputs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_code_is_refused() {
    each_is_closed_with(1002, [0, 3, 0xFF].map(|byte| (format!("{byte}"), frame(CLOSE, &[byte]).bytes()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_that_is_not_utf_8_is_refused() {
    let reasons: [&[u8]; 6] =
        [b"\xFF", b"caf\xC3", b"\xC0\xAF", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"ok \xF0\x9F\xA6"];
    each_is_closed_with(1007, reasons.map(|reason| (format!("{reason:x?}"), wire::close(1000, reason)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_without_a_code_is_answered_by_one() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    client.send(wire::close_without_code()).await;
    client.receives_frame(CLOSE, b"").await;
    assert_eq!(client.next().await, None);
}

/// The answer comes though the frame arrives in pieces, and behind messages, which are said before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_is_answered_behind_what_came_before_it() {
    let instance = Instance::start(config()).await;
    let mut other = Raw::connect(instance.address).await;
    let mut client = Raw::connect(instance.address).await;
    let close = wire::close(3000, b"done");
    client.send([wire::text("one"), wire::text("two"), close[..1].to_vec()].concat()).await;
    client.receives(&["one", "two"]).await;
    for byte in &close[1..] {
        other.is_open().await;
        client.send([*byte]).await;
    }
    assert_eq!(client.closed().await, Closing { code: Some(3000), reason: String::new() });
    // A server answers one close frame, and once (§5.5.1): a second is not even read.
    client.send(wire::close(4000, b"")).await;
    assert_eq!(client.next().await, None);
    drop(client);
    sessions_become(instance.address, 1).await;
}
