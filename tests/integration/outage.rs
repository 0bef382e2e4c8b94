//! The broker goes away, stops reading or falls silent. Sessions stay; only a message that was not accepted costs its
//! sender the session; afterwards everything flows again, once and in order.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use warren::config::Config;

use crate::support::broker::{Cluster, PrivateNode};
use crate::support::client::{Client, exchange, get_json};
use crate::support::eventually;
use crate::support::instance::{Instance, config};
use crate::support::load::{Recorder, Talker};
use crate::support::process::Warren;
use crate::support::proxy::Proxy;
use crate::support::resources::threads;

/// Close code of a session whose message was not accepted.
const TRY_AGAIN_LATER: u16 = 1013;

// --- the broker itself --------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_live_through_a_restart_of_the_broker() {
    let node = PrivateNode::start("stopped").await;
    sessions_live_through(&node, node.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_live_through_a_crash_of_the_broker() {
    let node = PrivateNode::start("killed").await;
    sessions_live_through(&node, node.kill()).await;
}

async fn sessions_live_through(node: &PrivateNode, outage: impl Future<Output = ()>) {
    let cluster = Cluster::at(node.url.clone());
    let instances = [Instance::join(config(), &cluster).await, Instance::join(config(), &cluster).await];
    let mut silent = join_all(instances.iter().map(Instance::connect)).await;
    carries_both_ways(&mut silent, "before").await;

    outage.await;
    for instance in &instances {
        instance.unready().await;
    }
    silent[0].send("meanwhile").await;

    node.restart().await;
    for instance in &instances {
        instance.ready().await;
    }
    for listener in &mut silent {
        // Before it, perhaps, what was confirmed just before the outage and is sent again.
        listener.receives(&["meanwhile"]).await;
    }
    carries_both_ways(&mut silent, "after").await;
    stands_once(node, &instances).await;
}

/// Each session says something, and every session hears all of it once.
async fn carries_both_ways(sessions: &mut [Client], when: &str) {
    let texts: Vec<String> = (0..sessions.len()).map(|number| format!("{when} {number}")).collect();
    for (speaker, text) in texts.iter().enumerate() {
        sessions[speaker].send(text.as_str()).await;
        for listener in &mut *sessions {
            listener.receives(&[text]).await;
        }
    }
}

/// Of each instance there are one queue and four bindings: to the queue, of the broadcast, the beacons and its key.
async fn stands_once(node: &PrivateNode, instances: &[Instance]) {
    eventually("nothing is doubled", || async {
        let bindings = node.list(&["list_bindings", "source_name", "destination_name"]).await;
        let of_own: Vec<_> = bindings.iter().filter(|row| !row[0].is_empty()).collect();
        let touches = |name: &str| of_own.iter().filter(|row| row.iter().any(|cell| cell == name)).count();
        // One queue and its binding stand for the cluster: the entrance for what programs say to users.
        node.list(&["list_queues", "name"]).await.len() == instances.len() + 1
            && of_own.len() == 5 * instances.len() + 1
            && instances.iter().all(|instance| touches(instance.name.as_str()) == 5)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_had_confirmed_and_took_along_is_sent_again_and_heard_once() {
    let LostQueue { at_speaker, at_deaf, .. } = &mut LostQueue::come_and_gone("resend", config()).await;
    at_speaker.send("after").await;
    at_deaf.receives(&["lost 1", "lost 2", "lost 3", "after"]).await;
    at_speaker.receives(&["after"]).await;
    at_speaker.send("the end").await;
    for session in [at_speaker, at_deaf] {
        session.receives(&["the end"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_took_along_and_nobody_keeps_is_told_as_missing() {
    let keeps_nothing = Config { resend_ms: 0, ..config() };
    let LostQueue { at_speaker, at_deaf, deaf, .. } = &mut LostQueue::come_and_gone("resend-0", keeps_nothing).await;
    at_speaker.send("after").await;
    for session in [at_speaker, at_deaf] {
        session.receives(&["after"]).await;
    }
    deaf.metrics().show("warren_broker_missing_messages_total", 3.0).await;
}

/// Two instances with a session each, of which one has said `lost 1` to `lost 3`, and their broker: it was killed when it
/// had confirmed these and the deaf instance had not got them, and is back.
struct LostQueue {
    at_speaker: Client,
    at_deaf: Client,
    deaf: Instance,
    _rest: (Instance, Proxy, Cluster, PrivateNode),
}

impl LostQueue {
    async fn come_and_gone(name: &str, config: Config) -> LostQueue {
        let node = PrivateNode::start(name).await;
        let cluster = Cluster::at(node.url.clone());
        let wire = Proxy::to(&cluster.url).await;
        let speaker = Instance::join(config.clone(), &cluster).await;
        // It must not take its wire for dead.
        let patient = Config { publish_timeout_ms: 600_000, broker_heartbeat_s: 600, ..config };
        let deaf = Instance::start(cluster.configure_through(&[&wire.url], patient)).await;
        deaf.ready().await;
        let mut sessions = [speaker.connect().await, deaf.connect().await];
        carries_both_ways(&mut sessions, "before").await;
        let [mut at_speaker, at_deaf] = sessions;

        // Its beacons go on, so the speaker knows that it is there.
        wire.deafen();
        for text in ["lost 1", "lost 2", "lost 3"] {
            at_speaker.send(text).await;
            at_speaker.receives(&[text]).await;
        }
        speaker.metrics().show("warren_broker_confirmed_total", 4.0).await;
        node.kill().await;
        // What the wire still holds goes, too.
        wire.cut();
        deaf.answers("both directions are down", |_, body| is_down_both_ways(body)).await;
        wire.forward();
        node.restart().await;
        for instance in [&speaker, &deaf] {
            instance.ready().await;
        }
        LostQueue { at_speaker, at_deaf, deaf, _rest: (speaker, wire, cluster, node) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_memory_alarm_messages_wait_and_nobody_is_closed() {
    let node = PrivateNode::start("alarm").await;
    let cluster = Cluster::at(node.url.clone());
    let impatient = Config { publish_timeout_ms: 500, ..config() };
    let first = Instance::join(impatient.clone(), &cluster).await;
    let second = Instance::join(impatient, &cluster).await;
    let mut silent = [first.connect().await, second.connect().await];
    carries_both_ways(&mut silent, "before").await;

    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]).await;
    silent[0].send("first").await;
    let is_blocked = |status, body: &Value| status == 503 && body["broker"]["publishing"]["state"] == "blocked";
    first.answers("it tells that it is blocked", is_blocked).await;
    silent[0].send("second").await;
    let (_, body) = get_json(first.address, "/readyz").await;
    assert_eq!(body["broker"]["consuming"]["state"], "up", "listening goes on");

    node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    first.ready().await;
    second.ready().await;
    for session in &mut silent {
        session.receives(&["first", "second"]).await;
    }
    carries_both_ways(&mut silent, "and on").await;
}

// --- the spool ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_the_spool_is_full_who_sends_is_closed_and_what_was_taken_is_not_lost() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let small = Config { spool_messages_max: 5, spool_wait_ms: 300, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], small)).await;
    instance.ready().await;
    let mut silent = instance.connect().await;
    wire.refuse();
    instance.unready().await;

    let mut sender = instance.connect().await;
    for number in 1..=7 {
        sender.send(format!("message {number}")).await;
    }
    sender.is_closed_with(TRY_AGAIN_LATER).await;
    wire.forward();
    silent.receives(&["message 1", "message 2", "message 3", "message 4", "message 5"]).await;
    instance.ready().await;
    instance.connect().await.send("and on").await;
    silent.receives(&["and on"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_whose_oldest_message_waits_for_too_long_takes_no_more() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let short = Config { spool_age_max_ms: 1000, spool_wait_ms: 200, publish_timeout_ms: 400, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], short)).await;
    instance.ready().await;
    let mut silent = instance.connect().await;
    wire.refuse();
    instance.unready().await;
    let mut sender = instance.connect().await;
    sender.send("old").await;
    eventually("its next message is one too many", || async {
        let mut other = instance.connect().await;
        other.send("late").await;
        tokio::time::timeout(Duration::from_millis(400), other.closed()).await.is_ok()
    })
    .await;
    wire.forward();
    assert_eq!(silent.receive_text().await, "old");
    sender.is_open().await;
}

// --- the wire -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_waits_for_a_broker_that_is_not_there_yet() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    wire.refuse();
    let instance = Instance::start(cluster.configure_through(&[&wire.url], config())).await;
    instance
        .answers("it tells that the broker is down", |status, body| {
            let broker = &body["broker"];
            let is_down = |side: &str| broker[side]["state"] == "down" && broker[side]["permanent"] == false;
            status == 503 && is_down("publishing") && is_down("consuming")
        })
        .await;
    assert_eq!(get_json(instance.address, "/healthz").await.0, 200);
    // A session would be deaf.
    let upgrade = format!(
        "GET /message HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        instance.address
    );
    let answer =
        exchange(instance.address, upgrade.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await;
    let answer = answer.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.to_lowercase().contains("retry-after: "), "{answer}");

    wire.forward();
    instance.ready().await;
    let mut silent = instance.connect().await;
    instance.connect().await.send("at last").await;
    silent.receives(&["at last"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_uri_that_accepts_and_says_nothing_is_passed_over() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    wire.stall();
    let instance = Instance::start(cluster.configure_through(&[&wire.url, &cluster.url], config())).await;
    instance.ready().await;
}

fn is_down_both_ways(readiness: &Value) -> bool {
    ["publishing", "consuming"].iter().all(|side| readiness["broker"][side]["state"] == "down")
}

/// One instance's wire is cut under load, twice: once for a moment and once until it has noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_wire_loses_nothing_that_was_accepted_and_doubles_nothing() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let cut = Instance::start(cluster.configure_through(&[&wire.url], config())).await;
    cut.ready().await;
    let whole = Instance::join(config(), &cluster).await;
    let (at_cut, at_whole) = (Recorder::start(cut.connect().await), Recorder::start(whole.connect().await));
    let mut patient = cut.connect().await;

    let mut talkers = Vec::new();
    for round in 0..2 {
        for number in 0..3 {
            talkers.push(Talker::waiting(cut.connect().await, &format!("cut-{round}-{number}")));
            talkers.push(Talker::waiting(whole.connect().await, &format!("whole-{round}-{number}")));
        }
        patient.send(format!("patient {}", round + 1)).await;
        at_cut.hears(&format!("patient {}", round + 1)).await;
        at_cut.hears_more().await;
        if round == 0 {
            let before = wire.accepted();
            wire.cut();
            // Until then it may still call itself ready.
            eventually("both directions connect anew", async || wire.accepted() >= before + 2).await;
        } else {
            wire.refuse();
            cut.answers("both directions are down", |_, body| is_down_both_ways(body)).await;
            at_whole.hears_more().await;
            wire.forward();
        }
        cut.ready().await;
        at_cut.hears_more().await;
        patient.texts_until(&format!("patient {}", round + 1)).await;
    }
    patient.send("patient 3").await;
    at_cut.hears("patient 3").await;

    // Who left has had everything published that was said.
    let said = join_all(talkers.into_iter().map(Talker::leave)).await;
    let mut last_words = [cut.connect().await, whole.connect().await];
    for (session, text) in last_words.iter_mut().zip(["the end of cut", "the end of whole"]) {
        session.send(text).await;
        at_cut.hears(text).await;
        at_whole.hears(text).await;
    }

    assert_eq!(at_whole.numbers_of("patient"), [1, 2, 3]);
    for (name, said) in said {
        let (there, here) = (at_whole.numbers_of(&name), at_cut.numbers_of(&name));
        assert_eq!(said.refused, None, "{name}: nobody is closed");
        assert_eq!(there, (1..=said.last).collect::<Vec<_>>(), "{name}: everything, once and in order");
        assert!(here.is_sorted_by(|one, next| one < next), "{name}: in order and once: {here:?}");
        // What its own clients say waits until the cut instance hears again; of others it misses what came meanwhile.
        if name.starts_with("cut") {
            assert_eq!(here, there, "{name}");
        }
    }
    assert!(at_cut.is_connected() && at_whole.is_connected(), "silent sessions stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wire_that_falls_silent_is_noticed_by_its_heartbeat() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let watchful = Config { broker_heartbeat_s: 1, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], watchful)).await;
    instance.ready().await;
    let mut silent = instance.connect().await;
    wire.stall();
    let unheard = instance.answers("both directions are down", |status, body| status == 503 && is_down_both_ways(body));
    // RabbitMQ itself proposes 10 s.
    tokio::time::timeout(Duration::from_secs(8), unheard).await.expect("noticed by the heartbeat of one second");
    wire.cut();
    wire.forward();
    instance.ready().await;
    silent.send("again").await;
    silent.receives(&["again"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_on_a_silent_wire_is_published_again_and_heard_once() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let impatient = Config { publish_timeout_ms: 500, broker_heartbeat_s: 60, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], impatient)).await;
    instance.ready().await;
    let mut silent = instance.connect().await;
    wire.stall();
    let mut sender = instance.connect().await;
    sender.send("in flight").await;
    instance
        .answers("publishing is down", |status, body| status == 503 && body["broker"]["publishing"]["state"] == "down")
        .await;

    // What was held back arrives, and is published anew as well.
    wire.forward();
    instance.ready().await;
    sender.send("again").await;
    silent.receives(&["in flight", "again"]).await;
    sender.send("and on").await;
    silent.receives(&["and on"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_bye_is_not_answered_before_the_message_is_confirmed() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let impatient = Config { publish_timeout_ms: 500, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], impatient)).await;
    instance.ready().await;
    let mut silent = instance.connect().await;
    let mut sender = instance.connect().await;
    wire.refuse();
    instance.unready().await;
    sender.send("in flight").await;
    sender.send(Message::Close(None)).await;
    let early = tokio::time::timeout(Duration::from_millis(500), sender.closed()).await;
    assert!(early.is_err(), "the broker does not have it yet: {early:?}");
    wire.forward();
    silent.receives(&["in flight"]).await;
    assert_eq!(sender.closed().await, None, "answered without a code, as asked");
}

/// lapin's thread would wait for ever for a broker that accepts and says nothing: one thread and one file per try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_says_nothing_costs_no_more_with_each_try() {
    let wire = Proxy::to(&Cluster::shared().url).await;
    wire.stall();
    let url = format!("{}?connection_timeout=100", wire.url);
    let warren = Warren::serve(&["--log", "off"], &[("WARREN_BROKER", &url)]).await;
    eventually("several tries", || async { wire.accepted() >= 4 }).await;
    let threads = threads(warren.process.pid());
    eventually("many tries", || async { wire.accepted() >= 14 }).await;
    eventually("no more threads", || async { self::threads(warren.process.pid()) <= threads + 2 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_whose_message_was_not_confirmed() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let impatient = Config { drain_timeout_ms: 1000, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], impatient)).await;
    instance.ready().await;
    let (mut silent, mut sender) = (instance.connect().await, instance.connect().await);
    wire.stall();
    sender.send("in flight").await;
    // The pong says that the message before the ping was read.
    sender.is_open().await;
    let ends = async {
        sender.is_closed_with(TRY_AGAIN_LATER).await;
        silent.is_closed_with(1001).await;
    };
    let (outcome, ()) = tokio::join!(instance.stop(), ends);
    outcome.expect("stopped in good order");
}
