//! `--delivery stream`: what was accepted reaches every instance, also those that were cut off meanwhile.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{QueueBindOptions, QueueDeleteOptions};
use serde_json::Value;
use warren::broker::Delivery;
use warren::config::Config;

use crate::support::broker::{Alien, Cluster, PrivateNode};
use crate::support::client::Client;
use crate::support::instance::{Instance, config};
use crate::support::load::{Recorder, Talker};
use crate::support::proxy::Proxy;
use crate::support::unreadable::publish_unreadable;
use crate::support::within_deadline;

fn streaming() -> Config {
    Config { delivery: Delivery::Stream, ..config() }
}

async fn two_instances(cluster: &Cluster) -> [Instance; 2] {
    [Instance::join(streaming(), cluster).await, Instance::join(streaming(), cluster).await]
}

async fn everyone_hears(sessions: &mut [Client], when: &str) {
    let texts: Vec<String> = (0..sessions.len()).map(|number| format!("{when} {number}")).collect();
    for (speaker, text) in texts.iter().enumerate() {
        sessions[speaker].send(text.as_str()).await;
        for listener in &mut *sessions {
            listener.receives(&[text]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_carry_to_each_other_and_to_those_with_queues() {
    let cluster = Cluster::shared();
    let [first, second] = two_instances(&cluster).await;
    let third = Instance::join(config(), &cluster).await;
    let mut sessions = join_all([&first, &second, &third].map(Instance::connect)).await;
    everyone_hears(&mut sessions, "mixed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_addressed_to_one_instance_reaches_it() {
    let cluster = Cluster::shared();
    let [first, second] = two_instances(&cluster).await;
    let mut sessions = join_all([&first, &second].map(Instance::connect)).await;
    let alien = Alien::connect(&cluster.url).await;
    alien.publish(&cluster.direct(), first.name.as_str(), b"for you", Default::default()).await;
    sessions[0].receives(&["for you"]).await;
    everyone_hears(&mut sessions, "for all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_was_cut_off_hears_what_it_missed() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let cut = Instance::start(cluster.configure_through(&[&wire.url], streaming())).await;
    cut.ready().await;
    let whole = Instance::join(streaming(), &cluster).await;
    let (mut at_cut, mut at_whole) = (cut.connect().await, whole.connect().await);
    let mut sessions = [cut.connect().await, whole.connect().await];
    everyone_hears(&mut sessions, "before").await;
    at_cut.receives(&["before 0", "before 1"]).await;
    at_whole.receives(&["before 0", "before 1"]).await;

    wire.refuse();
    cut.unready().await;
    sessions[0].send("kept here").await;
    for number in 1..=500 {
        sessions[1].send(format!("missed {number}")).await;
    }
    for number in 1..=500 {
        at_whole.receives(&[&format!("missed {number}")]).await;
    }
    wire.forward();
    cut.ready().await;
    let mut heard = at_cut.texts_until("missed 500").await;
    heard.retain(|text| text != "kept here");
    let missed: Vec<String> = (1..500).map(|number| format!("missed {number}")).collect();
    assert_eq!(heard, missed, "everything, in order, once");
}

/// Both links cut under load, for a moment and then until it has noticed, and the broker killed: nothing is lost,
/// doubled or reordered anywhere, and nobody is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_cuts_and_a_killed_broker() {
    let node = PrivateNode::start("stream").await;
    let cluster = Cluster::at(node.url.clone());
    let wire = Proxy::to(&cluster.url).await;
    let cut = Instance::start(cluster.configure_through(&[&wire.url], streaming())).await;
    cut.ready().await;
    let whole = Instance::join(streaming(), &cluster).await;
    let recorders = [Recorder::start(cut.connect().await), Recorder::start(whole.connect().await)];
    let mut talkers = Vec::new();
    for number in 0..3 {
        talkers.push(Talker::waiting(cut.connect().await, &format!("cut-{number}")));
        talkers.push(Talker::waiting(whole.connect().await, &format!("whole-{number}")));
    }
    recorders[0].hears_more().await;
    wire.cut();
    recorders[0].hears_more().await;
    wire.refuse();
    cut.unready().await;
    recorders[1].hears_more().await;
    wire.forward();
    recorders[0].hears_more().await;
    // RabbitMQ writes down that it has streams only some time after its first one was made.
    recorders[1].has_heard(6_000).await;
    node.kill().await;
    whole.unready().await;
    node.restart().await;
    for (instance, recorder) in [&cut, &whole].into_iter().zip(&recorders) {
        instance.ready().await;
        recorder.hears_more().await;
    }

    let said = join_all(talkers.into_iter().map(Talker::leave)).await;
    cut.connect().await.send("the end").await;
    for recorder in &recorders {
        recorder.hears("the end").await;
        assert!(recorder.is_connected());
    }
    for (name, said) in said {
        assert_eq!(said.refused, None, "{name}: nobody is closed");
        for recorder in &recorders {
            recorder.has_all_of(&name, said.last);
        }
    }
}

/// Somebody deletes the stream: another one is made, and what is said from then on is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_is_made_again() {
    let cluster = Cluster::shared();
    let instances = two_instances(&cluster).await;
    let mut sessions = join_all(instances.iter().map(Instance::connect)).await;
    for round in 0..5 {
        everyone_hears(&mut sessions, &format!("before {round}")).await;
    }
    let alien = Alien::connect(&cluster.url).await;
    let stream = cluster.stream();
    alien.channel.queue_delete(stream.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
    for instance in &instances {
        let is_back = |status, body: &Value| status == 200 && body["broker"]["attachments"].as_u64() >= Some(2);
        instance.answers("it is attached again", is_back).await;
    }
    tokio::time::timeout(Duration::from_secs(30), everyone_hears(&mut sessions, "after")).await.expect("heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_instance_can_read_is_passed_over() {
    let node = PrivateNode::start("unreadable").await;
    let cluster = Cluster::at(node.url.clone());
    let instances = two_instances(&cluster).await;
    let mut sessions = join_all(instances.iter().map(Instance::connect)).await;
    everyone_hears(&mut sessions, "before").await;
    // Two in a row, and what is said behind them.
    for _ in 0..2 {
        publish_unreadable(&cluster.url, &cluster.broadcast()).await;
    }
    everyone_hears(&mut sessions, "after").await;
    // One that is the last of the stream when an instance starts.
    publish_unreadable(&cluster.url, &cluster.broadcast()).await;
    let late = Instance::join(streaming(), &cluster).await;
    sessions.push(late.connect().await);
    everyone_hears(&mut sessions, "with another").await;
}

/// Messages that never got into the stream, as after an outage of a node without replicas: what comes behind them waits
/// for them only until their publisher says that they were confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_gap_everything_is_heard_in_order() {
    let cluster = Cluster::shared();
    let [first, second] = two_instances(&cluster).await;
    let (mut speaker, mut listener) = (first.connect().await, second.connect().await);
    speaker.send("0").await;
    listener.receives(&["0"]).await;
    let alien = Alien::connect(&cluster.url).await;
    // Somebody else listens, so that nothing comes back as unroutable.
    let mut elsewhere = alien.listen(&cluster.broadcast()).await;
    let (broadcast, stream) = (cluster.broadcast(), cluster.stream());
    let unbound =
        alien.channel.queue_unbind(stream.as_str().into(), broadcast.as_str().into(), "".into(), Default::default());
    unbound.await.expect("unbound");
    for number in 1..=50 {
        speaker.send(number.to_string()).await;
        within_deadline("the message is published", elsewhere.next()).await.expect("a consumer").expect("a delivery");
    }
    let bind = QueueBindOptions::default();
    let bound = alien.channel.queue_bind(
        stream.as_str().into(),
        broadcast.as_str().into(),
        "".into(),
        bind,
        Default::default(),
    );
    bound.await.expect("bound");
    for number in 51..=100 {
        speaker.send(number.to_string()).await;
    }
    speaker.send("last").await;
    let heard: Vec<usize> =
        listener.texts_until("last").await.iter().map(|text| text.parse().expect("a number")).collect();
    assert!(heard.is_sorted(), "{heard:?}");
    let missing = 100 - heard.len();
    assert!(missing > 0, "nothing was missing");
    second.metrics().show("warren_broker_missing_messages_total", missing as f64).await;
}
