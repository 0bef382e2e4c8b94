//! What one session may expect: keep-alives, limits, the closing handshake, slow readers, the end of the instance.

use std::time::{Duration, Instant};

use warren::config::Config;

use crate::support::client::get_json;
use crate::support::http::head;
use crate::support::instance::{Instance, config};
use crate::support::raw::wire::{self, ClientFrame};
use crate::support::raw::{Closing, Raw, handshake};
use crate::support::{eventually, sessions_become, within_deadline};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alives_are_neither_published_nor_answered() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    let mut other = Raw::connect(instance.address).await;
    client.send([wire::text("ping"), wire::text("keep-alive"), wire::text("news")].concat()).await;
    client.receives(&["news"]).await;
    other.receives(&["news"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_answer_to_its_handshake_misses_nothing_that_is_said_then() {
    let instance = Instance::start(config()).await;
    let mut speaker = instance.connect().await;
    for round in 0..300 {
        let mut newcomer = instance.connect().await;
        let text = round.to_string();
        speaker.send(text.as_str()).await;
        newcomer.receives_after_others(&text).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_a_client_vanished_is_heard() {
    let instance = Instance::start(config()).await;
    let mut other = instance.connect().await;
    let mut client = Raw::connect(instance.address).await;
    let texts: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    client.send(texts.iter().flat_map(|text| wire::text(text)).collect::<Vec<u8>>()).await;
    // The echo of the first says that all of them, one small write, have arrived.
    client.receives(&["0"]).await;
    drop(client);
    for text in &texts {
        other.receives(&[text]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alives_are_answered_where_that_is_asked_for() {
    let instance = Instance::start(Config { answer_keep_alive: true, ..config() }).await;
    let mut client = Raw::connect(instance.address).await;
    let mut other = Raw::connect(instance.address).await;
    for keep_alive in ["ping", "keep-alive"] {
        client.send(wire::text(keep_alive)).await;
        client.receives(&["pong"]).await;
    }
    client.send(wire::text("news")).await;
    other.receives(&["news"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_very_texts_are_keep_alives() {
    let instance = Instance::start(Config { answer_keep_alive: true, ..config() }).await;
    let mut client = Raw::connect(instance.address).await;
    let texts = ["Ping", "ping ", "", "keep-alive\n", "pong"];
    for text in texts {
        client.send(wire::text(text)).await;
    }
    client.receives(&texts).await;
    client.send(wire::binary(b"ping")).await;
    client.receives_frame(wire::BINARY, b"ping").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keep_alive_is_heard_though_no_ping_is_answered() {
    let idle = Duration::from_millis(1200);
    let instance = Instance::start(Config { ping_interval_ms: 500, idle_timeout_ms: 1200, ..config() }).await;
    let mut client = Raw::connect(instance.address).await;
    let mut turns = tokio::time::interval(idle / 6);
    for _ in 0..12 {
        turns.tick().await;
        client.send(wire::text("keep-alive")).await;
    }
    let last = Instant::now();
    assert_eq!(client.closed().await, Closing { code: Some(4002), reason: "idle: no pong".into() });
    assert!(last.elapsed() > idle - Duration::from_millis(100), "closed after {:?}", last.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_answered_with_their_payload() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    let payloads: [&[u8]; 4] = [b"", b"a", &[0xFF; 125], b"ping"];
    for payload in payloads {
        client.send(wire::ping(payload)).await;
    }
    for payload in payloads {
        client.receives_frame(wire::PONG, payload).await;
    }
    let within_a_message = wire::fragments(wire::TEXT, &[b"he", b"llo"]);
    let frames = [within_a_message[0].bytes(), wire::ping(b"now"), within_a_message[1].bytes()];
    client.send(frames.concat()).await;
    client.receives_frame(wire::PONG, b"now").await;
    client.receives(&["hello"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_pings_stays_and_who_does_not_is_closed() {
    let limits = Config { ping_interval_ms: 200, idle_timeout_ms: 2000, close_timeout_ms: 300, ..config() };
    let instance = Instance::start(limits).await;
    let mut silent = Raw::connect(instance.address).await;
    let mut alive = Raw::connect(instance.address).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3000) {
        let ping = alive.frame().await;
        assert_eq!(ping.opcode, wire::PING);
        alive.send(wire::pong(&ping.payload)).await;
    }
    assert_eq!(silent.frame().await.opcode, wire::PING);
    assert_eq!(silent.closed().await.code, Some(4002));
    sessions_become(instance.address, 1).await;
    let ends_of_a_socket = async { while silent.try_send(wire::text("anyone?")).await.is_ok() {} };
    within_deadline("the socket of a closed session fails", ends_of_a_socket).await;
    alive.send(wire::text("still here")).await;
    while alive.frame().await.payload != b"still here" {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_may_have_as_many_bytes_as_the_limit_and_not_one_more() {
    let instance = Instance::start(Config { message_bytes_max: 1000, ..config() }).await;
    let mut other = Raw::connect(instance.address).await;
    let whole = |length| wire::binary(&vec![7; length]);
    let in_two = |length| wire::stream(&wire::fragments(wire::BINARY, &[&vec![7; 600], &vec![7; length - 600]]));
    let encodings: [&dyn Fn(usize) -> Vec<u8>; 2] = [&whole, &in_two];
    for encoded in encodings {
        let mut client = Raw::connect(instance.address).await;
        client.send(encoded(1000)).await;
        client.receives_frame(wire::BINARY, &[7; 1000]).await;
        other.receives_frame(wire::BINARY, &[7; 1000]).await;
        client.send(encoded(1001)).await;
        let too_large = Closing { code: Some(1009), reason: "message is larger than 1000 bytes".into() };
        assert_eq!(client.closed().await, too_large);
    }
    other.is_open().await;
}

/// More than the kernel's buffers hold: the server must go on reading, or the client never gets to the code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_all_of_an_oversized_message_before_it_reads_is_told_why() {
    let instance = Instance::start(config()).await;
    for bytes in [MIB, 64 * MIB] {
        let mut client = Raw::connect(instance.address).await;
        client.send(wire::binary(&vec![1; bytes])).await;
        assert_eq!(client.closed().await.code, Some(1009));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_is_answered_with_its_code_and_the_end() {
    let instance = Instance::start(config()).await;
    for code in [1000, 1001, 1003, 1011, 1014, 3000, 4999] {
        let mut client = Raw::connect(instance.address).await;
        client.send(wire::close(code, "adieu, à bientôt".as_bytes())).await;
        assert_eq!(client.closed().await, Closing { code: Some(code), reason: String::new() });
    }
    let mut client = Raw::connect(instance.address).await;
    client.send(wire::close_without_code()).await;
    client.receives_frame(wire::CLOSE, b"").await;
    assert_eq!(client.next().await, None);
    drop(client);
    sessions_become(instance.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_close_frame_is_not_looked_at() {
    let instance = Instance::start(config()).await;
    let mut other = Raw::connect(instance.address).await;
    let mut client = Raw::connect(instance.address).await;
    let frames = [wire::text("before"), wire::close(1000, b""), wire::text("after"), vec![0xFF; 100]];
    client.send(frames.concat()).await;
    assert_eq!(client.closed().await.code, Some(1000));
    client.send(wire::text("long after")).await;
    other.send(wire::text("end")).await;
    other.receives(&["before", "end"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_close_its_side_is_cut_off() {
    let close_timeout = Duration::from_millis(600);
    let instance = Instance::start(Config { close_timeout_ms: 600, ..config() }).await;
    let mut client = Raw::connect(instance.address).await;
    client.send(wire::close(1000, b"")).await;
    let closing = Instant::now();
    assert_eq!(client.closed().await.code, Some(1000));
    sessions_become(instance.address, 0).await;
    let lasted = closing.elapsed();
    assert!(lasted > close_timeout - Duration::from_millis(50), "cut off after {lasted:?}");
    assert!(lasted < close_timeout * 5, "cut off after {lasted:?}");
}

/// The text number `index` of many that nobody takes for another.
fn long_text(index: usize) -> String {
    format!("{index:08}").repeat(7500)
}

/// Says so many long texts, with all of `witnesses` and itself hearing each before the next.
async fn say_long_texts(speaker: &mut Raw, witnesses: &mut [Raw], count: usize) {
    for index in 0..count {
        let text = long_text(index);
        speaker.send(wire::text(&text)).await;
        speaker.receives(&[&text]).await;
        for witness in witnesses.iter_mut() {
            witness.receives(&[&text]).await;
        }
    }
}

/// 18 MB, of which the kernel keeps at most some 4 (`net.ipv4.tcp_wmem`).
const LONG_TEXTS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_closed_and_costs_the_others_nothing() {
    let limits = Config { outbox_bytes_max: 256 * 1024, close_timeout_ms: 60_000, ..config() };
    let instance = Instance::start(limits).await;
    let mut slow = Raw::connect_narrow(instance.address).await;
    let mut speaker = Raw::connect(instance.address).await;
    let mut witnesses = [Raw::connect(instance.address).await];
    say_long_texts(&mut speaker, &mut witnesses, LONG_TEXTS).await;

    let mut received = 0;
    let closing = loop {
        let frame = slow.frame().await;
        if let Some(closing) = Closing::of(&frame) {
            break closing;
        }
        assert!(frame.payload == long_text(received).as_bytes(), "number {received} in its turn");
        received += 1;
    };
    assert_eq!(closing, Closing { code: Some(4001), reason: "too slow: the outbox is full".into() });
    assert_eq!(slow.next().await, None);
    assert!(received < LONG_TEXTS, "nothing was held back");
    drop(slow);
    sessions_become(instance.address, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_late_gets_everything_in_order_as_long_as_the_outbox_holds_it() {
    let instance = Instance::start(Config { outbox_bytes_max: 64 * MIB, ..config() }).await;
    let mut slow = Raw::connect_narrow(instance.address).await;
    let mut speaker = Raw::connect(instance.address).await;
    say_long_texts(&mut speaker, &mut [], LONG_TEXTS).await;
    for index in 0..LONG_TEXTS {
        slow.receives(&[&long_text(index)]).await;
    }
    speaker.send(wire::text("all read")).await;
    slow.receives(&["all read"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_instance_turns_clients_away_until_one_leaves() {
    let instance = Instance::start(Config { sessions_max: 2, ..config() }).await;
    let _stays = Raw::connect(instance.address).await;
    let mut leaver = Raw::connect(instance.address).await;
    let leave_by: [&dyn Fn(Raw); 3] = [&|client| drop(client), &|client| client.end_writing(), &Raw::reset];
    for leave in leave_by {
        let mut third = Raw::tcp(instance.address).await;
        third.send(handshake(instance.address)).await;
        let answer = third.answer().await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.body);
        leave(leaver);
        sessions_become(instance.address, 1).await;
        leaver = Raw::connect(instance.address).await;
    }
    leaver.send(wire::close(1000, b"")).await;
    leaver.closed().await;
    drop(leaver);
    sessions_become(instance.address, 1).await;
    Raw::connect(instance.address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_instance_closes_its_sessions_and_returns() {
    let instance = Instance::start(Config { drain_timeout_ms: 15_000, ..config() }).await;
    let address = instance.address;
    let mut waiting_for_an_answer = Raw::tcp(address).await;
    let mut client = Raw::connect(address).await;
    let mut reluctant = Raw::connect(address).await;
    let clients = async {
        assert_eq!(client.closed().await.code, Some(1001));
        client.send(wire::close(1001, b"")).await;
        drop(client);
        assert_eq!(reluctant.closed().await.code, Some(1001));

        eventually("nobody new gets in", || async { Raw::try_tcp(address).await.is_err() }).await;
        waiting_for_an_answer.send(head(address, "GET /readyz", &[])).await;
        let answer = waiting_for_an_answer.answer().await;
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains(r#""status":"draining""#), "{}", answer.body);
        waiting_for_an_answer.send(handshake(address)).await;
        assert_eq!(waiting_for_an_answer.answer().await.status, 503);
        drop(reluctant);
    };
    let stopping = Instant::now();
    let (outcome, ()) = tokio::join!(instance.stop(), clients);
    outcome.expect("stopped in good order");
    assert!(stopping.elapsed() < Duration::from_secs(10), "it waited for nobody: {:?}", stopping.elapsed());
    assert_eq!(get_json(address, "/healthz").await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_sent_before_the_instance_stops() {
    let instance = Instance::start(Config { outbox_bytes_max: 64 * MIB, close_timeout_ms: 1_500, ..config() }).await;
    let mut slow = Raw::connect_narrow(instance.address).await;
    let mut speaker = Raw::connect(instance.address).await;
    // Two listeners came after `slow`: one of them is served by the same worker, behind it.
    let mut witnesses = [Raw::connect(instance.address).await];
    say_long_texts(&mut speaker, &mut witnesses, LONG_TEXTS).await;
    drop((speaker, witnesses));
    // Reading takes longer than the close timeout, which is for who does not read.
    let mut turns = tokio::time::interval(Duration::from_millis(3_000) / LONG_TEXTS as u32);
    let late_reader = async {
        for index in 0..LONG_TEXTS {
            turns.tick().await;
            slow.receives(&[&long_text(index)]).await;
        }
        assert_eq!(slow.closed().await.code, Some(1001));
        drop(slow);
    };
    let (outcome, ()) = tokio::join!(instance.stop(), late_reader);
    outcome.expect("stopped in good order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_no_stop_up() {
    let timeouts = [
        Config { drain_timeout_ms: 500, close_timeout_ms: 60_000, ..config() },
        Config { drain_timeout_ms: 60_000, close_timeout_ms: 500, ..config() },
    ];
    for config in timeouts {
        let instance = Instance::start(Config { outbox_bytes_max: 64 * MIB, ..config }).await;
        let _slow = Raw::connect_narrow(instance.address).await;
        let mut speaker = Raw::connect(instance.address).await;
        say_long_texts(&mut speaker, &mut [], LONG_TEXTS).await;
        drop(speaker);
        let stopping = Instant::now();
        instance.stop().await.expect("stopped in good order");
        let lasted = stopping.elapsed();
        assert!(lasted > Duration::from_millis(450), "it was given no time: {lasted:?}");
        assert!(lasted < Duration::from_secs(5), "{lasted:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_half_closes_is_heard_to_the_end() {
    let instance = Instance::start(config()).await;
    let mut other = Raw::connect(instance.address).await;
    let mut client = Raw::connect(instance.address).await;
    let long = vec![b'x'; 60_000];
    client
        .send([wire::text("one"), ClientFrame::new(wire::TEXT, long.clone()).bytes(), wire::text("two")].concat())
        .await;
    client.end_writing();
    other.receives(&["one"]).await;
    other.receives_frame(wire::TEXT, &long).await;
    other.receives(&["two"]).await;
    sessions_become(instance.address, 1).await;
}
