//! Joining late: some of the past first, then the rest as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use warren::broker::Delivery;
use warren::config::Config;

use crate::support::broker::Cluster;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::http::Answer;
use crate::support::instance::{Instance, config};
use crate::support::process::Warren;
use crate::support::raw::{Raw, handshake_at, wire};
use crate::support::resources::memory_kib;

const KIB: usize = 1024;

/// Says texts one by one, hearing each.
async fn say(speaker: &mut Client, texts: &[&str]) {
    for text in texts {
        speaker.send(*text).await;
        speaker.receives(&[text]).await;
    }
}

/// What a handshake on `/message` with this query is answered.
async fn answer(instance: &Instance, query: &str) -> Answer {
    let mut client = Raw::tcp(instance.address).await;
    client.send(handshake_at(instance.address, &format!("/message?{query}"), &[])).await;
    client.answer().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_messages_come_first_and_then_the_rest() {
    let instance = Instance::start(config()).await;
    let mut speaker = instance.connect().await;
    say(&mut speaker, &["one", "two", "three"]).await;
    let binary = Message::binary(&b"\x00\xff"[..]);
    speaker.send(binary.clone()).await;
    assert_eq!(speaker.receive().await, binary);
    say(&mut speaker, &["four", ""]).await;

    let mut all = Client::connect_with_replay(instance.address, "1000").await;
    let mut some = Client::connect_with_replay(instance.address, "4").await;
    let mut none = Client::connect_with_replay(instance.address, "0").await;
    say(&mut speaker, &["live"]).await;
    all.receives(&["one", "two", "three"]).await;
    some.receives(&["three"]).await;
    for late in [&mut all, &mut some] {
        assert_eq!(late.receive().await, binary);
        late.receives(&["four", "", "live"]).await;
    }
    none.receives(&["live"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_older_than_asked_for_comes_first() {
    let instance = Instance::start(config()).await;
    let mut speaker = instance.connect().await;
    say(&mut speaker, &["old"]).await;
    let said = Instant::now();
    eventually("two seconds pass", || async { said.elapsed() > Duration::from_secs(2) }).await;
    say(&mut speaker, &["new"]).await;
    let mut whole_hour = Client::connect_with_replay(instance.address, "3600s").await;
    let mut since_then = Client::connect_with_replay(instance.address, "2s").await;
    say(&mut speaker, &["live"]).await;
    whole_hour.receives(&["old", "new", "live"]).await;
    assert!(!since_then.texts_until("live").await.contains(&"old".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_at_once_hears_the_past_and_then_itself() {
    let instance = Instance::start(config()).await;
    let mut said: Vec<String> = Vec::new();
    for number in 0..50 {
        let text = format!("message {number}");
        let mut client = Client::connect_with_replay(instance.address, "5").await;
        client.send(text.as_str()).await;
        for past in said.iter().skip(said.len().saturating_sub(5)) {
            client.receives(&[past]).await;
        }
        client.receives(&[&text]).await;
        said.push(text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_compression_hears_the_past_as_well() {
    let instance = Instance::start(config()).await;
    let long = "compressible ".repeat(500);
    let mut speaker = instance.connect().await;
    say(&mut speaker, &["short", &long]).await;
    let mut late = Raw::tcp(instance.address).await;
    let offer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
    late.send(handshake_at(instance.address, "/message?replay=9", &offer)).await;
    assert!(late.answer().await.header("sec-websocket-extensions").is_some());
    late.receives(&["short", &long]).await;
    say(&mut speaker, &["live"]).await;
    late.receives(&["live"]).await;
}

/// Says 1, 2, 3, … as fast as it hears itself, some hundreds ahead.
struct Counting {
    said: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
    counting: JoinHandle<u64>,
}

impl Counting {
    fn start(mut client: Client) -> Counting {
        const AHEAD_MAX: u64 = 300;
        let (said, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let enough = Arc::new(AtomicBool::new(false));
        let (count_said, count_heard, told) = (said.clone(), heard.clone(), enough.clone());
        let counting = tokio::spawn(async move {
            let (mut last_said, mut last_heard) = (0, 0);
            while !told.load(Ordering::Acquire) || last_heard < last_said {
                if !told.load(Ordering::Acquire) && last_said < last_heard + AHEAD_MAX {
                    last_said += 1;
                    // Counted before, so that what is not yet counted was not said.
                    count_said.store(last_said, Ordering::Release);
                    client.send(last_said.to_string()).await;
                } else {
                    assert_eq!(client.receive_text().await, (last_heard + 1).to_string());
                    last_heard += 1;
                    count_heard.store(last_heard, Ordering::Release);
                }
            }
            last_said
        });
        Counting { said, heard, enough, counting }
    }

    /// Stops; the last number.
    async fn stop(self) -> u64 {
        self.enough.store(true, Ordering::Release);
        self.counting.await.expect("no panic")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_while_messages_flow_hears_all_from_some_message_on() {
    const JOINS: usize = 120;
    let instance = Instance::start(Config { outbox_bytes_max: 64 * KIB * KIB, ..config() }).await;
    let counting = Counting::start(instance.connect().await);
    let mut sessions = Vec::new();
    for number in 0..JOINS {
        let heard_before = counting.heard.load(Ordering::Acquire);
        let asked = [0, 1, 10, 200, 1000][number % 5];
        let replay = if number % 7 == 0 { "1s".to_owned() } else { asked.to_string() };
        let client = Client::connect_with_replay(instance.address, &replay).await;
        let said_after = counting.said.load(Ordering::Acquire);
        let earliest = if replay == "1s" { 1 } else { (heard_before + 1).saturating_sub(asked) };
        sessions.push((client, earliest, said_after + 1));
        if number % 3 == 0 {
            eventually("messages flow", || async { counting.heard.load(Ordering::Acquire) > heard_before + 20 }).await;
        }
    }
    let last = counting.stop().await;
    let mut end = instance.connect().await;
    end.send("end").await;
    let read = |(mut client, earliest, latest): (Client, u64, u64)| async move {
        let texts = client.texts_until("end").await;
        let numbers: Vec<u64> = texts.iter().map(|text| text.parse().expect("a number")).collect();
        let first = numbers.first().copied().unwrap_or(last + 1);
        assert!(numbers.iter().copied().eq(first..=last), "a hole or a double behind {first}");
        assert!((earliest..=latest).contains(&first), "from {first}, not within {earliest} to {latest}");
    };
    join_all(sessions.into_iter().map(read)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_beyond_the_outbox_cuts_nobody_off_but_what_follows_it_may() {
    const TEXTS: usize = 100;
    let text = |index: usize| format!("{index:08}").repeat(7500);
    let limits = Config { outbox_bytes_max: 128 * KIB, close_timeout_ms: 60_000, ..config() };
    let instance = Instance::start(limits).await;
    let mut speaker = instance.connect().await;
    for index in 0..TEXTS {
        say(&mut speaker, &[&text(index)]).await;
    }
    let mut late = Raw::connect_narrow_with_replay(instance.address, &TEXTS.to_string()).await;
    let mut stalled = Raw::connect_narrow_with_replay(instance.address, &TEXTS.to_string()).await;
    say(&mut speaker, &["live"]).await;
    for index in 0..TEXTS {
        late.receives(&[&text(index)]).await;
    }
    late.receives(&["live"]).await;
    for index in 0..3 {
        say(&mut speaker, &[&text(index)]).await;
        late.receives(&[&text(index)]).await;
    }
    assert_eq!(stalled.closed().await.code, Some(4001));
}

/// The past is kept once, however many are on their way to have read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_the_past_is_bounded_and_shared() {
    const STALLED: usize = 100;
    const HISTORY_KIB: usize = 8 * KIB;
    let options =
        ["--log", "off", "--history-bytes-max", "8MiB", "--history-messages-max", "1000000", "--resume-bytes-max", "0"];
    let warren = Warren::serve(&options, &[]).await;
    let mut speaker = Raw::connect(warren.address).await;
    let text = "x".repeat(1000);
    let before_kib = memory_kib(warren.process.pid());
    for _ in 0..60 {
        speaker.send(wire::text(&text).repeat(1000)).await;
        for _ in 0..1000 {
            speaker.receives(&[&text]).await;
        }
    }
    let grown_kib = memory_kib(warren.process.pid()).saturating_sub(before_kib);
    assert!(grown_kib < 2 * HISTORY_KIB + 4 * KIB, "{grown_kib} KiB for a history of {HISTORY_KIB}");
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(Raw::connect_narrow_with_replay(warren.address, "1000000").await);
    }
    speaker.send(wire::text("all there")).await;
    speaker.receives(&["all there"]).await;
    let grown_kib = memory_kib(warren.process.pid()).saturating_sub(before_kib);
    // Each copies at most a segment of 64 KiB.
    let bound_kib = 2 * HISTORY_KIB + 4 * KIB + STALLED * 64;
    assert!(grown_kib < bound_kib, "{grown_kib} KiB with {STALLED} sessions that read nothing");
    let mut replayed = 0;
    while stalled[0].frame().await.payload != b"all there" {
        replayed += 1;
    }
    assert!(replayed > HISTORY_KIB * 3 / 4, "{replayed} messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_replayed_is_refused_with_the_reason() {
    let limits = Config { history_messages_max: 50, history_age_s: 90, ..config() };
    let instance = Instance::start(limits).await;
    for (query, reason) in [
        ("replay=51", "at most replay=50 (--history-messages-max)"),
        ("replay=91s", "at most replay=90s (--history-age-s)"),
        ("replay=", "such as replay=20"),
        ("replay=-1", "such as replay=20"),
        ("replay=yesterday", "such as replay=30s"),
        ("replay=1&replay=2", "given once"),
    ] {
        let answer = answer(&instance, query).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.contains(reason) && answer.body.ends_with(".\n"), "{query}: {}", answer.body);
    }
    for query in ["replay=50", "replay=90s", "other=1", ""] {
        assert_eq!(answer(&instance, query).await.status, 101, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_past_a_replay_is_refused_and_else_nobody() {
    let none = [
        Config { history_messages_max: 0, ..config() },
        Config { history_bytes_max: 0, ..config() },
        Config { history_age_s: 0, ..config() },
    ];
    for config in none {
        let instance = Instance::start(config).await;
        let refused = answer(&instance, "replay=1").await;
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains("keeps nothing of the past"), "{}", refused.body);
        assert_eq!(answer(&instance, "").await.status, 101);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_have_no_past_in_common_refuse_a_replay() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let refused = answer(&instance, "replay=1").await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("no past in common"), "{}", refused.body);
    assert_eq!(answer(&instance, "").await.status, 101);
}

/// With a stream all instances have one past, also one that starts later, and whatever waited in a spool meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_on_a_stream_have_one_past() {
    let cluster = Cluster::shared();
    let streaming = || Config { delivery: Delivery::Stream, ..config() };
    let first = Instance::join(streaming(), &cluster).await;
    let mut speaker = first.connect().await;
    say(&mut speaker, &["one", "two", "three"]).await;
    let late = Instance::join(streaming(), &cluster).await;
    let mut witness = late.connect().await;
    say(&mut speaker, &["four"]).await;
    witness.receives(&["four"]).await;
    for instance in [&first, &late] {
        let mut some = Client::connect_with_replay(instance.address, "3").await;
        let mut young = Client::connect_with_replay(instance.address, "300s").await;
        some.receives(&["two", "three", "four"]).await;
        young.receives(&["one", "two", "three", "four"]).await;
        for session in [&mut some, &mut young] {
            session.is_open().await;
        }
    }
    speaker.send("live").await;
    let mut last = Client::connect_with_replay(late.address, "1000").await;
    assert_eq!(last.texts_until("live").await, ["one", "two", "three", "four"]);
}
