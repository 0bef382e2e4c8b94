//! Publishing over HTTP: who listens hears it, on every instance, once; and the answer is the truth.

use std::collections::HashSet;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use warren::broker::Delivery;
use warren::config::Config;

use crate::contract::contract;
use crate::support::broker::{Alien, Cluster, PrivateNode};
use crate::support::instance::{Carrier, Instance, config};
use crate::support::post::{JSON, json as body_of, notify, post, post_json, post_on, problem, published, request};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::{eventually, within_deadline};

const REPEATED: &str = "warren_broker_dropped_total{reason=\"repeated\"}";
const EXPIRED: &str = "warren_broker_dropped_total{reason=\"expired\"}";

contract! {
    a_request_on_one_instance_reaches_the_sessions_of_another
    a_repetition_through_another_instance_counts_once
    a_batch_arrives_whole_and_in_order
    requests_one_after_the_other_keep_their_order
}

async fn a_request_on_one_instance_reaches_the_sessions_of_another(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let (here, there) = (&instances[0], &instances[1]);
    let mut on_topic = [here.subscribe("orders.17").await, there.subscribe("orders.17").await];
    let mut on_pattern = there.subscribe("orders.%23").await;
    let mut everyone = [here.connect().await, there.connect().await];

    let first = notify(here.address, "/orders/17", "shipped").await;
    let second =
        published(&post_json(here.address, "/api/publish", &json!({"topic": "orders.17", "base64": "AP8="})).await);
    let plain = [("Content-Type", "text/plain; charset=utf-8")];
    let third = published(&post(here.address, "/api/topics/orders/17", &plain, "gr\u{fc}\u{df}e").await);
    let bytes = [("Content-Type", "application/octet-stream")];
    published(&post(here.address, "/api/topics/orders.17", &bytes, b"").await);
    for listener in on_topic.iter_mut().chain([&mut on_pattern]) {
        listener.receives(&["shipped"]).await;
        assert_eq!(listener.receive().await, Message::binary(&b"\0\xff"[..]));
        listener.receives(&["grüße"]).await;
        assert_eq!(listener.receive().await, Message::binary(&b""[..]));
    }
    assert!(first != second && second != third, "each has its own id");

    published(&post_json(here.address, "/api/publish", &json!({"broadcast": true, "text": "all"})).await);
    for listener in &mut everyone {
        // The topic's messages were not for them.
        listener.receives(&["all"]).await;
    }
}

async fn a_repetition_through_another_instance_counts_once(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut listeners = [instances[0].subscribe("news").await, instances[1].subscribe("news").await];
    let mut everyone = instances[1].connect().await;
    let mut ids = Vec::new();
    for instance in [0, 1, 0] {
        let keyed = json!({"topic": "news", "text": "once", "idempotency_key": "k-1"});
        ids.push(published(&post_json(instances[instance].address, "/api/publish", &keyed).await));
        let header = [JSON, ("Idempotency-Key", "\"k-1\"")];
        let body = json!({"topic": "news", "message": "once"}).to_string();
        ids.push(published(&post(instances[instance].address, "/api/notification", &header, body).await));
        // The same key is another one for the broadcast.
        let broadcast = json!({"broadcast": true, "text": "all", "idempotency_key": "k-1"});
        published(&post_json(instances[instance].address, "/api/publish", &broadcast).await);
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    notify(instances[0].address, "news", "last").await;
    published(&post_json(instances[0].address, "/api/publish", &json!({"broadcast": true, "text": "end"})).await);
    for listener in &mut listeners {
        listener.receives(&["once", "last"]).await;
    }
    everyone.receives(&["all", "end"]).await;
    for instance in &instances {
        instance.metrics().show(REPEATED, 5.0 + 2.0).await;
    }
}

async fn a_batch_arrives_whole_and_in_order(carrier: Carrier) {
    const MESSAGES: usize = 1000;
    let instances = carrier.instances(2).await;
    let mut listener = instances[1].subscribe("news").await;
    let item = |number: usize| json!({"topic": "news", "text": number.to_string()});
    let batch: Vec<_> = (0..MESSAGES).map(item).collect();
    let answer = post_json(instances[0].address, "/api/publish", &batch.into()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let results = body_of(&answer)["results"].as_array().expect("results").clone();
    assert_eq!(results.len(), MESSAGES);
    assert!(results.iter().all(|result| result["outcome"] == "published" && result["id"].is_string()), "{results:?}");
    for number in 0..MESSAGES {
        assert_eq!(listener.receive_text().await, number.to_string());
    }
    // One that is wrong keeps back all.
    let wrong = json!([item(0), {"topic": "a..b", "text": "x"}]);
    let answer = post_json(instances[0].address, "/api/publish", &wrong).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (400, "bad-topic"));
    assert_eq!(body_of(&answer)["index"], 1);
    notify(instances[0].address, "news", "last").await;
    listener.receives(&["last"]).await;
}

async fn requests_one_after_the_other_keep_their_order(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut listener = instances[1].subscribe("news").await;
    let mut connection = Raw::tcp(instances[0].address).await;
    for number in 0..50 {
        let body = json!({"topic": "news", "message": number.to_string()}).to_string();
        let answer = post_on(&mut connection, instances[0].address, "/api/notification", &[JSON], body).await;
        published(&answer);
    }
    for number in 0..50 {
        assert_eq!(listener.receive_text().await, number.to_string());
    }
}

// --- RabbitMQ -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_amqp_program_has_keys_and_a_time_to_live() {
    for delivery in [Delivery::Queue, Delivery::Stream] {
        let cluster = Cluster::shared();
        let instance = Instance::join(Config { delivery, ..config() }, &cluster).await;
        let alien = Alien::connect(&cluster.url).await;
        let mut listener = instance.subscribe("news").await;
        let with = |name: &str, value| {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), value);
            BasicProperties::default().with_headers(headers)
        };
        let keyed = || with("x-warren-idempotency-key", AMQPValue::LongString("k".into()));
        let late = with("x-warren-ttl-ms", AMQPValue::LongLongInt(1000)).with_timestamp(1_700_000_000);
        for (body, properties) in [("once", keyed()), ("once", keyed()), ("late", late)] {
            alien.publish(&cluster.broadcast(), "news", body.as_bytes(), properties).await;
        }
        // The publisher over HTTP is one more.
        let header = [("Content-Type", "text/plain"), ("Idempotency-Key", "k")];
        published(&post(instance.address, "/api/topics/news", &header, "once").await);
        notify(instance.address, "news", "last").await;
        listener.receives(&["once", "last"]).await;
        instance.metrics().show(REPEATED, 2.0).await;
        instance.metrics().show(EXPIRED, 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_crash_of_the_broker_with_queues_the_answers_are_true() {
    let node = PrivateNode::start("publishing-queue").await;
    the_answers_are_true_through(&node, node.kill(), Delivery::Queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_restart_of_the_broker_with_a_stream_the_answers_are_true() {
    let node = PrivateNode::start("publishing-stream").await;
    // Not killed: RabbitMQ (3.10.8) does not find a stream again that it has made only a moment before.
    the_answers_are_true_through(&node, node.stop(), Delivery::Stream).await;
}

/// Each instance has told the others that it is there: only who is known is waited for after an outage.
async fn know_each_other(cluster: &Cluster, instances: &[Instance]) {
    let alien = Alien::connect(&cluster.url).await;
    let mut beacons = alien.listen(&cluster.beacon()).await;
    let mut unheard: HashSet<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    while !unheard.is_empty() {
        let beacon = within_deadline("a beacon", beacons.next()).await.expect("beacons").expect("a delivery");
        let incarnation = beacon.properties.app_id().as_ref().expect("an incarnation").as_str().to_owned();
        unheard.retain(|name| !incarnation.starts_with(&format!("{name}@")));
    }
}

/// What is answered 504 while the broker is dead arrives, once although it is repeated elsewhere, unless it is too late;
/// what is answered 503 does not arrive.
async fn the_answers_are_true_through(node: &PrivateNode, outage: impl Future<Output = ()>, delivery: Delivery) {
    let cluster = Cluster::at(node.url.clone());
    let config = Config { delivery, spool_messages_max: 3, spool_wait_ms: 200, publish_answer_ms: 200, ..config() };
    let instances = [Instance::join(config.clone(), &cluster).await, Instance::join(config, &cluster).await];
    know_each_other(&cluster, &instances).await;
    let mut listeners = [instances[0].connect().await, instances[1].connect().await];
    let message = |text: &str| json!({"broadcast": true, "text": text});
    let publish = async |instance: &Instance, text| {
        published(&post_json(instance.address, "/api/publish", &message(text)).await);
    };
    publish(&instances[0], "before").await;
    outage.await;
    for instance in &instances {
        instance.unready().await;
    }

    let keyed = json!({"broadcast": true, "text": "once", "idempotency_key": "k"});
    for instance in &instances {
        let answer = post_json(instance.address, "/api/publish", &keyed).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (504, "outcome-unknown"));
    }
    // Of three that are to come, one finds room besides; it is too late when the broker is back.
    let item = |text: &str| json!({"broadcast": true, "text": text, "ttl_ms": 1});
    let batch = json!([item("late"), item("late"), item("no room"), item("no room")]);
    let answer = post_json(instances[0].address, "/api/publish", &batch).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (504, "outcome-unknown"));
    let outcomes: Vec<_> = body_of(&answer)["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["outcome"].as_str().expect("an outcome").to_owned())
        .collect();
    assert_eq!(outcomes, ["unknown", "unknown", "not_spooled", "not_spooled"]);
    for body in [message("no room"), json!([message("no room")])] {
        let answer = post_json(instances[0].address, "/api/publish", &body).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (503, "not-spooled"));
    }

    node.restart().await;
    for instance in &instances {
        instance.ready().await;
        // They wait for each other before they publish what has waited.
        instance.metrics().show("warren_broker_spool_messages", 0.0).await;
    }
    publish(&instances[0], "after").await;
    for listener in &mut listeners {
        listener.receives(&["before", "once", "after"]).await;
    }
    for instance in &instances {
        instance.metrics().show(REPEATED, 1.0).await;
        instance.metrics().show(EXPIRED, 2.0).await;
    }
    published(&post_json(instances[1].address, "/api/publish", &keyed).await);
    publish(&instances[1], "last").await;
    for listener in &mut listeners {
        listener.receives(&["last"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_before_there_is_room_withdraws_its_message() {
    let cluster = Cluster::shared();
    let proxy = Proxy::to(&cluster.url).await;
    let config = Config {
        spool_messages_max: 1,
        spool_wait_ms: 60_000,
        publish_answer_ms: 1000,
        publish_requests_max: 1,
        ..cluster.configure_through(&[&proxy.url], config())
    };
    let instance = Instance::start(config).await;
    instance.ready().await;
    let mut listener = instance.subscribe("news").await;
    proxy.stall();
    let body = |message: &str| json!({"topic": "news", "message": message}).to_string();
    let taken = post(instance.address, "/api/notification", &[JSON], body("taken")).await;
    assert_eq!(taken.status, 504);
    let mut impatient = Raw::tcp(instance.address).await;
    impatient.send(request(instance.address, "/api/notification", &[JSON], body("withdrawn"))).await;
    // What a request without a type is answered tells whether another one is under way.
    let is_busy = async || post(instance.address, "/api/publish", &[], "").await.status == 503;
    eventually("the request is under way", &is_busy).await;
    impatient.reset();
    eventually("the request is over", async || !is_busy().await).await;
    proxy.forward();
    let last = post(instance.address, "/api/notification", &[JSON], body("last")).await;
    assert!([200, 504].contains(&last.status), "taken: {}", last.body);
    listener.receives(&["taken", "last"]).await;
}

/// A connection may stand for six times the handshake timeout; what it has asked for by then it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_time_is_over_ends_with_its_answer() {
    let cluster = Cluster::shared();
    let proxy = Proxy::to(&cluster.url).await;
    let config = Config {
        handshake_timeout_ms: 100,
        publish_answer_ms: 2000,
        ..cluster.configure_through(&[&proxy.url], config())
    };
    let instance = Instance::start(config).await;
    instance.ready().await;
    proxy.stall();
    let mut connection = Raw::tcp(instance.address).await;
    let body = json!({"topic": "news", "message": "in doubt"}).to_string();
    let answer = post_on(&mut connection, instance.address, "/api/notification", &[JSON], body).await;
    assert_eq!((answer.status, answer.header("connection")), (504, Some("close")));
    assert!(connection.rest().await.is_empty(), "nothing follows");
    instance.metrics().show("warren_connections_cut_total{reason=\"too_long\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_when_the_instance_stops_is_answered() {
    let cluster = Cluster::shared();
    let proxy = Proxy::to(&cluster.url).await;
    let config = Config { drain_timeout_ms: 500, ..cluster.configure_through(&[&proxy.url], config()) };
    let instance = Instance::start(config).await;
    instance.ready().await;
    notify(instance.address, "news", "before").await;
    proxy.stall();
    let mut connection = Raw::tcp(instance.address).await;
    let body = json!({"topic": "news", "message": "in doubt"}).to_string();
    connection.send(request(instance.address, "/api/notification", &[JSON], body)).await;
    // Until it is in the spool.
    instance.metrics().show("warren_broker_spool_messages", 1.0).await;
    let (answer, stopped) = tokio::join!(connection.answer(), instance.stop());
    stopped.expect("a good stop");
    assert_eq!((answer.status, problem(&answer).as_str()), (504, "outcome-unknown"));
}
