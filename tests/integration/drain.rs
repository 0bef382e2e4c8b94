//! An instance that is told to stop: nobody new, then everybody a few at a time, and nothing lost that was taken.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use warren::broker::memory::MemoryExchange;
use warren::config::Config;

use crate::support::broker::Cluster;
use crate::support::client::get_json;
use crate::support::eventually;
use crate::support::instance::{Instance, config};
use crate::support::load::{Recorder, Talker};
use crate::support::metrics::Metrics;
use crate::support::process::{Signal, Warren};
use crate::support::proxy::Proxy;
use crate::support::raw::wire;
use crate::support::raw::{Raw, handshake};

/// The time after which a close reason asks to come back.
fn retry_after_ms(reason: &str) -> u32 {
    let (_, asked) = reason.split_once("retry-after-ms=").unwrap_or_else(|| panic!("no time to come back: {reason}"));
    asked.parse().unwrap_or_else(|_| panic!("it ends with the number: {reason}"))
}

/// Waits for the good-bye and answers it; the time to come back.
async fn leaves(mut client: Raw) -> u32 {
    let closing = client.closed().await;
    assert_eq!(closing.code, Some(1001), "{}", closing.reason);
    retry_after_ms(&closing.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_with_few_sessions_takes_no_notable_time() {
    let warren = Warren::serve(&[], &[]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Raw::connect(warren.address).await);
    }
    let stopping = Instant::now();
    warren.process.signal(Signal::TERM);
    futures_util::future::join_all(clients.into_iter().map(leaves)).await;
    assert_eq!(warren.process.ended().await.code, Some(0));
    // Nearly all of it is what other tests take of the processor meanwhile.
    assert!(stopping.elapsed() < Duration::from_secs(2), "{:?}", stopping.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_leave_a_few_at_a_time_and_come_back_at_different_times() {
    const SESSIONS: usize = 400;
    let instance = Instance::start(Config { retry_after_max_ms: 5_000, ..config() }).await;
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(Raw::connect(instance.address).await);
    }
    let stopping = Instant::now();
    let leaving = futures_util::future::join_all(clients.into_iter().map(async |client| {
        let asked_ms = leaves(client).await;
        (stopping.elapsed(), asked_ms)
    }));
    let (outcome, left) = tokio::join!(instance.stop(), leaving);
    outcome.expect("stopped in good order");
    let (first, last) = (left.iter().min().expect("a first").0, left.iter().max().expect("a last").0);
    // A session a millisecond; the first portion leaves at once.
    assert!(last > Duration::from_millis(SESSIONS as u64 * 9 / 10), "all within {last:?}");
    assert!(first < last / 2, "the first after {first:?}, the last after {last:?}");
    let asked: BTreeSet<u32> = left.iter().map(|(_, asked_ms)| *asked_ms).collect();
    assert!(asked.iter().all(|asked_ms| (1..=5_000).contains(asked_ms)), "{asked:?}");
    assert!(asked.len() > SESSIONS / 2, "spread: {asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_the_middle_of_a_sentence_was_heard_up_to_some_word() {
    const TALKERS: usize = 20;
    let exchange = MemoryExchange::default();
    let stays = Instance::start_on(config(), &exchange).await;
    let stops = Instance::start_on(config(), &exchange).await;
    let recorder = Recorder::start(stays.connect().await);
    let names: Vec<String> = (0..TALKERS).map(|number| format!("talker{number}")).collect();
    let mut talkers = Vec::new();
    for name in &names {
        talkers.push(Talker::start(stops.connect().await, name));
    }
    for name in &names {
        recorder.hears(&format!("{name} 20")).await;
    }
    stops.stop().await.expect("stopped in good order");
    for talker in talkers {
        let (name, said) = talker.leave().await;
        assert_eq!(said.refused, Some(1001), "{name}");
        let heard = recorder.numbers_of(&name);
        assert!(heard.iter().copied().eq(1..=heard.len() as u64), "{name}: a hole or a double: {heard:?}");
        assert!(heard.len() as u64 <= said.last, "{name}");
    }
    assert!(recorder.is_connected(), "whoever is elsewhere stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_anybody_leaves_nobody_new_is_let_in_and_readyz_says_so() {
    let patience = ["--drain-delay-ms", "600000", "--drain-timeout-ms", "1200000"];
    let mut warren = Warren::serve(&patience, &[]).await;
    let (mut ann, mut bob) = (warren.connect().await, warren.connect().await);
    warren.process.signal(Signal::TERM);
    eventually("not ready", || async { get_json(warren.address, "/readyz").await.0 == 503 }).await;
    assert_eq!(get_json(warren.address, "/readyz").await.1["status"], "draining");
    let mut late = Raw::tcp(warren.address).await;
    late.send(handshake(warren.address)).await;
    let answer = late.answer().await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.body);
    for (text, speaks) in [("still here", true), ("me too", false)] {
        if speaks { &mut ann } else { &mut bob }.send(text).await;
        ann.receives(&[text]).await;
        bob.receives(&[text]).await;
    }
    assert!(warren.process.is_running());
    warren.process.signal(Signal::TERM);
    assert_eq!(warren.process.ended().await.code, Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_delay_they_leave() {
    let delay = Duration::from_millis(400);
    let warren = Warren::serve(&["--drain-delay-ms", "400"], &[]).await;
    let client = Raw::connect(warren.address).await;
    let stopping = Instant::now();
    warren.process.signal(Signal::TERM);
    leaves(client).await;
    assert!(stopping.elapsed() >= delay, "{:?}", stopping.elapsed());
    assert_eq!(warren.process.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_confirmed_in_time_is_told_to_its_sender_and_to_the_log() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let flags = ["--prefix", &cluster.prefix, "--drain-timeout-ms", "1000", "--publish-timeout-ms", "60000"];
    let warren = Warren::serve(&flags, &[("WARREN_BROKER", &wire.url)]).await;
    warren.ready().await;
    let (mut sender, silent) = (Raw::connect(warren.address).await, Raw::connect(warren.address).await);
    wire.stall();
    sender.send([wire::text("one"), wire::text("two")].concat()).await;
    // The pong says that what came before the ping was read.
    sender.is_open().await;
    warren.process.signal(Signal::TERM);
    leaves(silent).await;
    assert_eq!(sender.closed().await.code, Some(1013));
    drop(sender);
    let ended = warren.process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = "2 messages of clients were not confirmed within --drain-timeout-ms 1000";
    assert!(ended.stderr.contains(told), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_room_when_the_broker_is_away_does_not_hold_a_stop_up() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let patience = ["--spool-wait-ms", "600000", "--drain-timeout-ms", "1000", "--metrics-listen", "127.0.0.1:0"];
    let flags = [&["--prefix", &cluster.prefix, "--spool-messages-max", "1"], &patience[..]].concat();
    let mut warren = Warren::serve(&flags, &[("WARREN_BROKER", &wire.url)]).await;
    warren.ready().await;
    let line = warren.process.reports("metrics are at http://").await;
    let (_, address) = line.split_once("http://").expect("an address");
    let address = address.trim_end_matches("/metrics").parse().expect("an address");
    let (mut sender, silent) = (Raw::connect(warren.address).await, Raw::connect(warren.address).await);
    wire.refuse();
    eventually("not ready", || async { get_json(warren.address, "/readyz").await.0 == 503 }).await;
    sender.send([wire::text("taken"), wire::text("waits")].concat()).await;
    Metrics { address }.show("warren_received_messages_total", 2.0).await;

    let stopping = Instant::now();
    warren.process.signal(Signal::TERM);
    leaves(silent).await;
    assert_eq!(sender.closed().await.code, Some(1013));
    drop(sender);
    let ended = warren.process.ended().await;
    // The drain timeout, 3 s to leave the broker, and what other tests take of the processor meanwhile.
    assert!(stopping.elapsed() < Duration::from_secs(8), "{:?}", stopping.elapsed());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = "2 messages of clients were not confirmed within --drain-timeout-ms 1000";
    assert!(ended.stderr.contains(told) && !ended.stderr.contains("were cut"), "{ended:?}");
}
