//! Topics: who subscribes hears, nobody else does, and what nobody here wants does not come here.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use warren::broker::Delivery;
use warren::config::Config;
use warren::topic::Topic;

use crate::contract::contract;
use crate::support::broker::{Alien, Cluster, PrivateNode};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::http::request;
use crate::support::instance::{Carrier, Instance, config};
use crate::support::raw::{Raw, handshake_at};

contract! {
    one_instance_carries_topics
    two_instances_carry_topics
    five_instances_carry_topics
    wildcards_hear_what_they_match_once
    who_has_the_answer_to_its_handshake_misses_nothing_of_its_topic
    the_order_of_a_sender_holds_for_a_topic
    a_topic_that_nobody_wants_is_nobodys_loss
}

async fn one_instance_carries_topics(carrier: Carrier) {
    topics_reach_who_wants_them(carrier, 1).await;
}

async fn two_instances_carry_topics(carrier: Carrier) {
    topics_reach_who_wants_them(carrier, 2).await;
}

async fn five_instances_carry_topics(carrier: Carrier) {
    topics_reach_who_wants_them(carrier, 5).await;
}

/// On each instance one session for each of two topics and one for the broadcast; each in turn says its own name.
async fn topics_reach_who_wants_them(carrier: Carrier, count: usize) {
    let instances = carrier.instances(count).await;
    let (mut groups, mut names) = (Vec::new(), Vec::new());
    for path in ["/message/orders.eu", "/message?topic=/orders/us", "/message"] {
        let sessions = connect_to_each(&instances, path).await;
        names.push((0..count).map(|number| format!("{path} {number}")).collect::<Vec<_>>());
        groups.push(sessions);
    }
    for (group, names) in groups.iter_mut().zip(&names) {
        for (speaker, name) in names.iter().enumerate() {
            group[speaker].send(name.as_str()).await;
            for session in group.iter_mut() {
                session.receives(&[name]).await;
            }
        }
    }
    // Whatever else might have come would come before this.
    for group in &mut groups {
        group[0].send("last").await;
        for session in group {
            session.receives(&["last"]).await;
        }
    }
}

async fn wildcards_hear_what_they_match_once(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut speakers = Vec::new();
    for topic in ["a", "a.b", "a.c", "a.b.c", "b"] {
        speakers.push((topic, instances[0].subscribe(topic).await));
    }
    let mut listeners = Vec::new();
    for (pattern, expected) in [
        ("a.*", &["a.b", "a.c"][..]),
        ("a.%23", &["a", "a.b", "a.c", "a.b.c"]),
        ("*", &["a", "b"]),
        ("%23", &["a", "a.b", "a.c", "a.b.c", "b"]),
        ("%23/c", &["a.c", "a.b.c"]),
    ] {
        for instance in &instances {
            listeners.push((instance.subscribe(pattern).await, expected));
        }
    }
    for (topic, speaker) in &mut speakers {
        speaker.send(*topic).await;
        speaker.receives(&[topic]).await;
    }
    for (listener, expected) in &mut listeners {
        let mut heard = Vec::new();
        for _ in *expected {
            heard.push(listener.receive_text().await);
        }
        heard.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(heard, expected);
        listener.is_open().await;
    }
}

async fn who_has_the_answer_to_its_handshake_misses_nothing_of_its_topic(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    for number in 0..20 {
        let topic = format!("orders.{number}");
        let mut speaker = instances[0].subscribe(&topic).await;
        let mut listener = instances[1].subscribe(&topic).await;
        speaker.send(topic.as_str()).await;
        listener.receives(&[&topic]).await;
    }
}

async fn the_order_of_a_sender_holds_for_a_topic(carrier: Carrier) {
    const MESSAGES: usize = 500;
    let instances = carrier.instances(2).await;
    let mut listeners = connect_to_each(&instances, "/message/news").await;
    let mut sender = instances[0].subscribe("news").await;
    for number in 0..MESSAGES {
        sender.send(number.to_string()).await;
    }
    for listener in &mut listeners {
        for number in 0..MESSAGES {
            assert_eq!(listener.receive_text().await, number.to_string());
        }
    }
}

async fn a_topic_that_nobody_wants_is_nobodys_loss(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut alone = instances[0].subscribe("soliloquy").await;
    for text in ["1", "2", "3"] {
        alone.send(text).await;
    }
    alone.receives(&["1", "2", "3"]).await;
    let missing = instances[1].metrics().value("warren_broker_missing_messages_total").await;
    assert_eq!(missing, 0.0);
}

// --- plain sessions -------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_to_a_pattern_has_nowhere_to_send() {
    let instance = Instance::start(config()).await;
    let mut listener = instance.subscribe("orders.*").await;
    listener.send("hello?").await;
    listener.is_closed_with(1008).await;
    // Keep-alives are no messages.
    let mut listener = instance.subscribe("orders.*").await;
    listener.send("ping").await;
    listener.is_open().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_names_no_topic_is_refused_and_told_why() {
    let instance = Instance::start(config()).await;
    for (path, reason) in [
        ("/message/a..b", "word between two separators"),
        ("/message/a%20b", "character"),
        ("/message?topic=", "must have a name"),
        ("/message/a?topic=b", "one topic"),
        ("/message?topic=a&topic=b", "one topic"),
        ("/message/a*", "wildcard must be a word by itself"),
        ("/message/%FF", "UTF-8"),
        ("/message/a?replay=1", "without a topic"),
    ] {
        let mut client = Raw::tcp(instance.address).await;
        client.send(handshake_at(instance.address, path, &[])).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.contains(reason), "{path}: {}", answer.body);
    }
    assert_eq!(request(instance.address, "GET /message/a", &[]).await.status, 426);
}

// --- RabbitMQ -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_amqp_program_reaches_a_topic_by_either_entrance() {
    for delivery in [Delivery::Queue, Delivery::Stream] {
        let cluster = Cluster::shared();
        let instance = Instance::join(Config { delivery, ..config() }, &cluster).await;
        let alien = Alien::connect(&cluster.url).await;
        let mut listener = instance.subscribe("orders.17").await;
        let mut everyone = instance.connect().await;
        alien.publish(&cluster.broadcast(), "orders.17", b"plain", BasicProperties::default()).await;
        listener.receives(&["plain"]).await;
        let key = Topic::parse("orders.17").expect("a topic").key().to_string();
        alien.publish(&cluster.topics(), &key, b"filtered", named("orders.17")).await;
        listener.receives(&["filtered"]).await;
        // What names no topic reaches nobody, and is counted.
        alien.publish(&cluster.broadcast(), "orders..17", b"wrong", BasicProperties::default()).await;
        alien.publish(&cluster.topics(), &key, b"wrong", BasicProperties::default()).await;
        alien.publish(&cluster.topics(), &key, b"wrong", named("orders.18")).await;
        let dropped = "warren_broker_dropped_total{reason=\"not_a_topic\"}";
        instance.metrics().show(dropped, 3.0).await;
        alien.publish(&cluster.topics(), &key, b"last", named("orders.17")).await;
        listener.receives(&["last"]).await;
        alien.publish(&cluster.broadcast(), "", b"all", BasicProperties::default()).await;
        everyone.receives(&["all"]).await;
    }
}

fn named(topic: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("x-warren-topic".into(), AMQPValue::LongString(topic.into()));
    BasicProperties::default().with_headers(headers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_bound_from_the_first_subscription_until_some_time_after_the_last() {
    let node = PrivateNode::start("topics-bindings").await;
    let cluster = Cluster::at(node.url.clone());
    let instance = Instance::join(Config { topic_linger_ms: 200, ..config() }, &cluster).await;
    let bound = async || {
        let rows = node.list(&["list_bindings", "source_name", "routing_key"]).await;
        rows.into_iter().filter(|row| row[0] == cluster.topics()).map(|row| row[1].clone()).collect::<Vec<_>>()
    };
    assert!(bound().await.is_empty());
    let key = |name: &str| Topic::parse(name).expect("a topic").key().to_string();
    let first = instance.subscribe("a").await;
    let second = instance.subscribe("a").await;
    assert_eq!(bound().await, [key("a")]);
    drop(first);
    let wildcard = instance.subscribe("x.*").await;
    assert_eq!(bound().await.len(), 1024);
    drop(wildcard);
    eventually("the other keys are unbound", async || bound().await == [key("a")]).await;
    drop(second);
    eventually("nothing is bound", async || bound().await.is_empty()).await;
    // What is said meanwhile is nobody's loss here.
    let other = Instance::join(config(), &cluster).await;
    let mut elsewhere = other.subscribe("a").await;
    for text in ["unheard", "unheard, too"] {
        elsewhere.send(text).await;
        elsewhere.receives(&[text]).await;
    }
    let mut witness = other.connect().await;
    witness.send("after a beacon").await;
    witness.receives(&["after a beacon"]).await;
    let mut third = instance.subscribe("a").await;
    third.send("again").await;
    third.receives(&["again"]).await;
    assert_eq!(instance.metrics().value("warren_broker_missing_messages_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_outlive_the_broker() {
    let node = PrivateNode::start("topics-outage").await;
    let cluster = Cluster::at(node.url.clone());
    let (one, two) = (Instance::join(config(), &cluster).await, Instance::join(config(), &cluster).await);
    let mut speaker = one.subscribe("news").await;
    let mut listeners = [two.subscribe("news").await, two.subscribe("%23").await];
    node.kill().await;
    one.unready().await;
    two.unready().await;
    speaker.send("said meanwhile").await;
    node.restart().await;
    for listener in &mut listeners {
        listener.receives(&["said meanwhile"]).await;
    }
    speaker.receives(&["said meanwhile"]).await;
    assert_eq!(two.metrics().value("warren_broker_missing_messages_total").await, 0.0);
}

async fn connect_to_each(instances: &[Instance], path: &str) -> Vec<Client> {
    let mut sessions = Vec::new();
    for instance in instances {
        sessions.push(Client::connect_at(instance.address, path).await);
    }
    sessions
}
