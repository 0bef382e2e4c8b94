//! Clients that wear a server out, on purpose or not: each is stopped in time, and costs the others nothing. Those that
//! merely break the protocol are in [`conformance`](crate::conformance).

use std::time::{Duration, Instant};

use serde_json::json;
use warren::config::Config;

use crate::support::bystanders::Bystanders;
use crate::support::http::head;
use crate::support::identity::{SECRET, token};
use crate::support::instance::{Instance, config};
use crate::support::json::PROTOCOL as JSON_PROTOCOL;
use crate::support::process::{Directory, Process, Warren};
use crate::support::raw::wire::{self, ClientFrame, Length};
use crate::support::raw::{Closing, Raw, handshake};
use crate::support::resources::{memory_kib, open_files, peak_memory_kib, processor_ticks};
use crate::support::{DEADLINE, eventually, sessions_become, within_deadline};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn frame(opcode: u8, payload: &[u8]) -> ClientFrame {
    ClientFrame::new(opcode, payload)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_announces_too_much_is_closed_with_1009_before_it_comes() {
    let announced = |length| frame(wire::BINARY, b"").length(Length::Bits64(length)).bytes();
    let instance = Instance::start(config()).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    for length in [65_537, 1 << 32, 1 << 62, i64::MAX as u64] {
        let mut client = Raw::connect(instance.address).await;
        client.send(announced(length)).await;
        assert_eq!(bystanders.talk_while(client.closed()).await.code, Some(1009), "{length}");
    }
    let in_parts = [frame(wire::BINARY, &[0; 40_000]).not_final(), frame(wire::CONTINUATION, &[0; 40_000]).not_final()];
    let mut client = Raw::connect(instance.address).await;
    client.send(wire::stream(&in_parts)).await;
    assert_eq!(bystanders.talk_while(client.closed()).await.code, Some(1009));
    bystanders.hear_nobody_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_odd_but_allowed_is_delivered() {
    let instance = Instance::start(config()).await;
    let mut bystanders = Bystanders::meet(instance.address).await;

    let mut slow = Raw::connect(instance.address).await;
    let byte_by_byte = async {
        for byte in wire::text("one byte at a time") {
            slow.send([byte]).await;
        }
    };
    bystanders.talk_while(byte_by_byte).await;
    let mut parts = vec![&b""[..]; 10_000];
    parts[5000] = b"nearly nothing";
    slow.send(wire::stream(&wire::fragments(wire::TEXT, &parts))).await;
    bystanders.hear("nearly nothing").await;
    slow.send(frame(wire::TEXT, b"mask of zeros").mask(Some([0; 4])).bytes()).await;
    bystanders.hear("mask of zeros").await;
    let pongs = wire::pong(b"nobody asked").repeat(1000);
    slow.send([pongs, wire::text("unasked")].concat()).await;
    bystanders.hear("unasked").await;

    let mut half_closed = Raw::connect(instance.address).await;
    half_closed.send(wire::text("last words")).await;
    half_closed.end_writing();
    bystanders.hear("last words").await;
    bystanders.talk().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_within_a_message_is_the_end_of_one_session_only() {
    let instance = Instance::start(config()).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    for cut in [1, 3, 7, 500] {
        let mut client = Raw::connect(instance.address).await;
        client.send(&wire::binary(&[1; 1000])[..cut]).await;
        bystanders.talk().await;
        client.reset();
        bystanders.talk_while(sessions_become(instance.address, 2)).await;
    }
    bystanders.hear_nobody_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_handshake_is_cut_off_in_time() {
    let timeout = Duration::from_millis(500);
    let instance = Instance::start(Config { handshake_timeout_ms: 500, ..config() }).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    let whole = handshake(instance.address);
    for said in [&b""[..], b"G", &whole[..20], &whole[..whole.len() - 1]] {
        let mut client = Raw::tcp(instance.address).await;
        let began = Instant::now();
        client.send(said).await;
        bystanders.talk_while(client.rest()).await;
        let lasted = began.elapsed();
        assert!(lasted > timeout - Duration::from_millis(50), "{} bytes: {lasted:?}", said.len());
        assert!(lasted < timeout * 6, "{} bytes: {lasted:?}", said.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_drips_is_cut_off_in_time() {
    let instance = Instance::start(Config { handshake_timeout_ms: 500, ..config() }).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    let mut client = Raw::tcp(instance.address).await;
    let began = Instant::now();
    client.send("GET /message HTTP/1.1\r\nX-Long: ").await;
    let dripping = async {
        let mut turns = tokio::time::interval(Duration::from_millis(20));
        while client.try_send("x").await.is_ok() {
            turns.tick().await;
        }
    };
    bystanders.talk_while(within_deadline("the connection is cut off", dripping)).await;
    assert!(began.elapsed() > Duration::from_millis(450), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_refused_at_once() {
    let instance = Instance::start(Config { handshake_timeout_ms: 60_000, ..config() }).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    let garbage: Vec<u8> = (0..4096_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let lines = "X-Line: x\r\n".repeat(10_000);
    let inputs = [
        ("a header of 1 MiB", format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(MIB)).into_bytes()),
        ("a path of 1 MiB", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MIB)).into_bytes()),
        ("10,000 header lines", format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n").into_bytes()),
        ("100 header lines", format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", &lines[..1100]).into_bytes()),
        ("random bytes", garbage),
        ("the start of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03".repeat(20)),
        ("the start of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a frame without a handshake", wire::text("hello")),
    ];
    for (what, input) in inputs {
        let mut client = Raw::tcp(instance.address).await;
        // The server may hang up before it has read all.
        let _ = client.try_send(&input).await;
        let answer = bystanders.talk_while(client.rest()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
    }
}

/// Pings without an end from a client that reads nothing: its pongs fill the outbox.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_without_reading_ends_as_too_slow() {
    let limits = Config { outbox_bytes_max: 128 * KIB, close_timeout_ms: 30_000, ..config() };
    let instance = Instance::start(limits).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    let mut client = Raw::connect_narrow(instance.address).await;
    let pings = wire::ping(&[7; 125]).repeat(500);
    let flood = async {
        for _ in 0..200 {
            client.send(&pings).await;
        }
        client.closed().await
    };
    let closing = bystanders.talk_while(flood).await;
    assert_eq!(closing, Closing { code: Some(4001), reason: "too slow: the outbox is full".into() });
}

/// What waits for a client that does not read costs the limit of its outbox and little more, however small the pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_slow_reader_is_bounded_in_memory() {
    const OUTBOX_KIB: usize = 16 * KIB;
    let mut warren = Warren::serve(&["--log", "off", "--outbox-bytes-max", "16MiB"], &[]).await;
    let mut bystanders = Bystanders::meet(warren.address).await;
    bystanders.talk().await;
    let before_kib = memory_kib(warren.process.pid());
    let mut client = Raw::connect_narrow(warren.address).await;
    let flood = async {
        // Large pongs fill the kernel's buffers, so that the small ones wait.
        client.send(wire::ping(&[7; 125]).repeat(6 * MIB / 127)).await;
        for _ in 0..20 {
            client.send(wire::ping(b"").repeat(100_000)).await;
        }
        // All of it was heard once this is said.
        client.send(wire::text("flooded")).await;
    };
    bystanders.talk_while(flood).await;
    bystanders.hear("flooded").await;
    let grown_kib = memory_kib(warren.process.pid()).saturating_sub(before_kib);
    assert!(warren.process.is_running());
    assert!(grown_kib < 2 * OUTBOX_KIB + 4 * KIB, "{grown_kib} KiB for an outbox of {OUTBOX_KIB}");
}

/// Messages to oneself that are kept nowhere, without requests that would be answered, from a client that reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_to_oneself_without_reading_ends_as_too_slow_within_its_memory() {
    const LETTERS: usize = 2_000;
    let directory = Directory::new("hostile");
    let key = directory.write("jwt-key", SECRET);
    let bearer = format!("Bearer {}", token(&["send"]));
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", JSON_PROTOCOL)];
    let letter = json!({"type": "send", "user": "alice", "text": "x".repeat(30_000), "keep": false});
    let letter = wire::text(&letter.to_string());
    for slow_reader in ["disconnect", "drop-oldest"] {
        let flags = ["--log", "off", "--close-timeout-ms", "60000", "--slow-reader", slow_reader];
        let warren = Warren::serve(&[&flags[..], &["--jwt-key-file", &key]].concat(), &[]).await;
        warren.ready().await;
        let mut client = Raw::connect_narrow_with(warren.address, &headers).await;
        let before_kib = memory_kib(warren.process.pid());
        for _ in 0..LETTERS {
            client.send(&letter).await;
        }
        assert_eq!(client.closed().await.code, Some(4001), "{slow_reader}");
        // 64 of them, those that are on their way there, and what was read.
        let grown_kib = peak_memory_kib(warren.process.pid()).saturating_sub(before_kib);
        assert!(grown_kib < 20 * KIB, "{slow_reader}: {grown_kib} KiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_broken_connections_leave_nothing_behind() {
    const AT_A_TIME: usize = 100;
    let warren =
        Warren::serve(&["--log", "off", "--close-timeout-ms", "500", "--handshake-timeout-ms", "5000"], &[]).await;
    let address = warren.address;
    let mut bystanders = Bystanders::meet(address).await;
    bystanders.talk().await;
    let before = settled_files(&warren).await;
    let breaking = async {
        for turn in 0..10_000 / AT_A_TIME {
            let clients = (0..AT_A_TIME).map(|index| break_off(address, turn * AT_A_TIME + index));
            futures_util::future::join_all(clients).await;
        }
    };
    bystanders.talk_while(breaking).await;
    bystanders.talk_while(sessions_become(address, 2)).await;
    eventually("all files are closed", || async { open_files(warren.process.pid()) == before }).await;
    drop(bystanders);
    sessions_become(address, 0).await;
    eventually("all sockets are closed", || async { open_files(warren.process.pid()) == before - 2 }).await;
    Raw::connect(address).await.is_open().await;
}

/// The number of open files once no connection is about to end.
async fn settled_files(warren: &Warren) -> usize {
    let (mut last, mut same) = (0, 0);
    eventually("the number of open files stays", || {
        let files = open_files(warren.process.pid());
        same = if files == last { same + 1 } else { 0 };
        last = files;
        async move { same == 20 }
    })
    .await;
    last
}

/// Opens a connection and leaves it in one of the ways that there are.
async fn break_off(address: std::net::SocketAddr, index: usize) {
    // Sixteen addresses, so that the ports of connections that were just closed do not run out.
    let mut client = Raw::tcp_from([127, 0, 0, 2 + (index / 8 % 16) as u8], address).await;
    match index % 8 {
        0 => {}
        1 => client.reset(),
        2 => client.send(&handshake(address)[..40]).await,
        3 => {
            client.send(&handshake(address)[..40]).await;
            client.reset();
        }
        4 => {
            client.send(handshake(address)).await;
            client.reset();
        }
        5 => {
            client.send(handshake(address)).await;
            assert_eq!(client.answer().await.status, 101);
            client.send(wire::close(1000, b"")).await;
            assert_eq!(client.closed().await.code, Some(1000));
        }
        6 => {
            client.send(handshake(address)).await;
            assert_eq!(client.answer().await.status, 101);
            client.reset();
        }
        _ => {
            client.send(handshake(address)).await;
            assert_eq!(client.answer().await.status, 101);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_files_is_waited_out() {
    const FILES: usize = 200;
    let mut warren = with_files(FILES, &["--handshake-timeout-ms", "60000"]).await;
    let address = warren.address;
    let mut bystanders = Bystanders::meet(address).await;
    let mut crowd = Vec::new();
    for _ in 0..FILES + 50 {
        crowd.push(Raw::tcp(address).await);
    }
    eventually("every file is in use", || async { open_files(warren.process.pid()) >= FILES }).await;
    bystanders.talk().await;

    let before = processor_ticks(warren.process.pid());
    tokio::time::sleep(Duration::from_secs(1)).await; // the span that is measured
    let used = processor_ticks(warren.process.pid()) - before;
    assert!(used < 25, "{used} ticks of 10 ms within a second of waiting");
    assert!(warren.process.is_running());
    bystanders.talk().await;

    let mut last_in_line = crowd.pop().expect("a crowd");
    drop(crowd);
    last_in_line.send(handshake(address)).await;
    assert_eq!(last_in_line.answer().await.status, 101);
    bystanders.talk_while(Raw::connect(address)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_never_reads_the_answers_is_cut_off() {
    let instance = Instance::start(Config { handshake_timeout_ms: 200, ..config() }).await;
    let mut greedy = Raw::tcp(instance.address).await;
    let request = head(instance.address, "GET /", &[]);
    // Until the server can write no more, and so reads no more.
    let asking = async { while greedy.try_send(&request).await.is_ok() {} };
    assert!(tokio::time::timeout(DEADLINE, asking).await.is_ok(), "the connection ends");
}

/// A server with a limit of open files.
async fn with_files(files: usize, flags: &[&str]) -> Warren {
    let limit = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    let shell = ["-c", &limit, env!("CARGO_BIN_EXE_warren"), "--host", "127.0.0.1", "--port", "0", "--log", "off"];
    Warren::listening(Process::start("/bin/sh", &[&shell, flags].concat(), &[])).await
}
