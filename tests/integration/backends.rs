//! Backends that share what clients send to `/app/…`: each message handled by one of a group, none lost when one dies,
//! and their answers.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};
use serde_json::json;
use warren::broker::Delivery;
use warren::config::Config;

use crate::contract::contract;
use crate::support::backend::{Backend, Language};
use crate::support::broker::{Alien, Cluster, PrivateNode, ThreeNodes};
use crate::support::client::Client;
use crate::support::instance::{Carrier, Instance, config};
use crate::support::proxy::Proxy;
use crate::support::{eventually, within_deadline};

const RECONNECTS: &str = "warren_broker_reconnects_total{direction=\"publishing\"}";

contract! {
    without_backends_the_sender_is_told_and_nobody_hears_it
}

async fn without_backends_the_sender_is_told_and_nobody_hears_it(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut others = [instances[0].converse().await, instances[1].converse().await];
    for other in &mut others {
        other.subscribe(&["#"]).await;
        other.subscribe_to_broadcast().await;
    }
    let mut client = instances[0].converse().await;
    let code = if matches!(carrier, Carrier::Memory(_)) { 107 } else { 204 };
    for _ in 0..3 {
        client.refused(json!({"type": "send", "destination": "/app/test", "text": "anybody?"}), code).await;
    }
    client.refused(json!({"type": "send", "destination": "/topic/test", "text": "anybody?"}), 106).await;
    // It costs neither the session nor anybody else anything.
    client.broadcast("all").await;
    for other in &mut others {
        other.hears(&[(None, "all")]).await;
        other.heard_nothing_else().await;
    }
}

macro_rules! in_both_languages {
    ($($case:ident)*) => {
        mod rust {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(crate::support::backend::Language::Rust).await;
            })*
        }
        mod python {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(crate::support::backend::Language::Python).await;
            })*
        }
    };
}

in_both_languages! {
    each_message_is_handled_by_one_and_answered_to_all_and_to_who_asked
    what_a_backend_had_in_work_when_it_was_killed_another_does
    a_repetition_is_dropped
    what_fails_too_often_is_parked
}

async fn each_message_is_handled_by_one_and_answered_to_all_and_to_who_asked(language: Language) {
    const MESSAGES: usize = 20;
    let cluster = Cluster::shared();
    let instances = [Instance::join(config(), &cluster).await, Instance::join(config(), &cluster).await];
    let backends = two(language, &cluster, 0).await;
    let mut elsewhere = instances[1].converse().await;
    elsewhere.subscribe(&["answers"]).await;
    let mut greeted = instances[1].subscribe("topic/to-frontend").await;
    let mut client = instances[0].converse().await;
    client.subscribe(&["answers"]).await;

    let mut sent = Vec::new();
    for number in 0..MESSAGES {
        sent.push(client.send_to("/app/orders/new", &format!("order {number}")).await);
    }
    // Who asked hears each twice: as everybody does, and by itself.
    let mut direct = HashMap::new();
    let mut to_all = HashSet::new();
    for _ in 0..2 * MESSAGES {
        let message = client.message().await;
        let text = message["text"].as_str().expect("a text").to_owned();
        if message["direct"] == true {
            assert_eq!((message.get("topic"), message.get("broadcast")), (None, None));
            direct.insert(message["id"].as_str().expect("an id").to_owned(), text);
        } else {
            assert_eq!(message["topic"], "answers");
            to_all.insert(text);
        }
    }
    for (number, id) in sent.iter().enumerate() {
        let text = &direct[&format!("re-{id}")];
        assert!(text.ends_with(&format!(" did order {number}")) && to_all.contains(text), "{text}");
    }
    for _ in 0..MESSAGES {
        let message = elsewhere.message().await;
        assert!(to_all.remove(message["text"].as_str().expect("a text")), "{message}");
    }
    elsewhere.heard_nothing_else().await;
    client.heard_nothing_else().await;

    let shares = || backends.each_ref().map(|backend| backend.ids("handled"));
    // A backend says so behind its answers.
    eventually("all is handled", || async { shares().concat().len() >= MESSAGES }).await;
    let shares = shares();
    assert_eq!(sorted(shares.concat()), sorted(sent), "each by exactly one");
    assert!(shares.iter().all(|share| !share.is_empty()), "they share the work: {shares:?}");
    for name in ["one", "two"] {
        eventually_hears(&mut greeted, &format!("{name} is here")).await;
    }
    for backend in backends {
        backend.stop().await;
    }
}

async fn what_a_backend_had_in_work_when_it_was_killed_another_does(language: Language) {
    const MESSAGES: usize = 12;
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let [doomed, survivor] = two(language, &cluster, 200).await;
    let mut client = instance.converse().await;
    let mut sent = Vec::new();
    for number in 0..MESSAGES {
        sent.push(client.send_to("/app/test", &number.to_string()).await);
    }
    let in_work = || {
        let done = doomed.ids("handled");
        doomed.ids("works on").into_iter().find(|id| !done.is_empty() && !done.contains(id))
    };
    eventually("one has done something and works on", || async { in_work().is_some() }).await;
    doomed.dies();
    eventually("all are handled", || async {
        let handled: HashSet<String> = [doomed.ids("handled"), survivor.ids("handled")].concat().into_iter().collect();
        sent.iter().all(|id| handled.contains(id))
    })
    .await;
    // What was interrupted came to the other under its own id, and was not new work that nobody had asked for.
    let interrupted: Vec<_> =
        doomed.ids("works on").into_iter().filter(|id| !doomed.ids("handled").contains(id)).collect();
    assert!(!interrupted.is_empty() && interrupted.iter().all(|id| survivor.ids("handled").contains(id)));
    assert!(survivor.ids("works on").iter().all(|id| sent.contains(id)));
    survivor.stop().await;
}

async fn a_repetition_is_dropped(language: Language) {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let backend = Backend::start(language, &cluster, "one", 0).await;
    let mut client = instance.converse().await;
    client.subscribe(&["answers"]).await;
    // As Warren would publish it again that had no confirm.
    let id = client.send_to("/app/test", "once").await;
    let again = BasicProperties::default().with_message_id(id.as_str().into());
    let alien = Alien::connect(&cluster.url).await;
    alien.publish(&cluster.inbound(), "test", b"once", again).await;
    backend.says_of("dropped", &id, 1).await;
    assert_eq!(backend.ids("handled"), [id]);
    backend.stop().await;
}

async fn what_fails_too_often_is_parked(language: Language) {
    /// The first, and as many as `REDELIVERIES_MAX` of the examples says.
    const ATTEMPTS: usize = 1 + 5;
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let backends = two(language, &cluster, 0).await;
    let mut client = instance.converse().await;
    let no_text = json!({"type": "send", "destination": "/app/test", "base64": "/w=="});
    let ack = client.granted(no_text).await;
    let id = ack["message_id"].as_str().expect("an id");

    let alien = Alien::connect(&cluster.url).await;
    let [_, parking] = cluster.group();
    let parked = within_deadline("it is parked", async {
        loop {
            let options = BasicGetOptions { no_ack: true };
            if let Some(parked) = alien.channel.basic_get(parking.as_str().into(), options).await.expect("a queue") {
                return parked;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(parked.data, b"\xff");
    assert_eq!(parked.properties.message_id().as_ref().map(ShortString::as_str), Some(id));
    let failed = backends.each_ref().map(|backend| backend.ids("failed")).concat();
    assert_eq!(failed, vec![id; ATTEMPTS]);
    // The others were not held up for ever.
    let next = client.send_to("/app/test", "next").await;
    eventually("the next is handled", || async {
        backends.each_ref().map(|backend| backend.ids("handled")).concat() == [next.as_str()]
    })
    .await;
    for backend in backends {
        backend.stop().await;
    }
}

// --- what backends are told ---------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_is_told_all_that_it_needs_to_answer() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let alien = Alien::connect(&cluster.url).await;
    let mut orders = alien.listen_to(&cluster.inbound(), "orders.#").await;
    let mut client = instance.converse().await;
    client.refused(json!({"type": "send", "destination": "/app/news", "text": "x"}), 204).await;
    let id = client.send_to("/app/orders/new", "grüße").await;
    let ack = client.granted(json!({"type": "send", "destination": "app.orders", "base64": "/w=="})).await;

    let text = within_deadline("the first", orders.next()).await.expect("a delivery").expect("a delivery");
    let properties = &text.properties;
    assert_eq!((text.routing_key.as_str(), text.data.as_slice()), ("orders.new", "grüße".as_bytes()));
    assert_eq!(properties.message_id().as_ref().map(ShortString::as_str), Some(id.as_str()));
    assert_eq!(properties.content_type().as_ref().map(ShortString::as_str), Some("text/plain; charset=utf-8"));
    assert_eq!(properties.delivery_mode(), &Some(2), "kept over a restart of RabbitMQ");
    let run = client.session().split_once('/').expect("the run, and a number").0;
    assert_eq!(properties.app_id().as_ref().map(ShortString::as_str), Some(run));
    assert!(properties.timestamp().is_some());
    assert_eq!(header(properties, "x-warren-session"), client.session());
    assert_eq!(header(properties, "x-warren-instance"), instance.name.as_str());

    let bytes = within_deadline("the second", orders.next()).await.expect("a delivery").expect("a delivery");
    assert_eq!((bytes.routing_key.as_str(), bytes.data.as_slice()), ("orders", &b"\xff"[..]));
    assert_eq!(bytes.properties.content_type().as_ref().map(ShortString::as_str), Some("application/octet-stream"));
    assert_eq!(bytes.properties.message_id().as_ref().map(ShortString::as_str), ack["message_id"].as_str());
    assert_eq!(header(&bytes.properties, "x-warren-session"), client.session(), "one session, one name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_answer_reaches_one_session_whatever_it_speaks() {
    direct_answers_reach_one_session(Delivery::Queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_answer_reaches_one_session_where_the_broadcast_comes_from_a_stream() {
    direct_answers_reach_one_session(Delivery::Stream).await;
}

async fn direct_answers_reach_one_session(delivery: Delivery) {
    let cluster = Cluster::shared();
    let config = || Config { delivery, ..config() };
    let instances = [Instance::join(config(), &cluster).await, Instance::join(config(), &cluster).await];
    let mut asker = instances[0].converse().await;
    // Sessions are numbered as they come.
    let (run, number) = asker.session().split_once('/').expect("a run and a number");
    let (run, number) = (run.to_owned(), number.parse::<u64>().expect("a number"));
    let mut plain = instances[0].connect().await;
    let plain_name = format!("{run}/{}", number + 1);
    let mut others = [instances[0].converse().await, instances[1].converse().await];
    for other in &mut others {
        other.subscribe(&["#"]).await;
        other.subscribe_to_broadcast().await;
    }
    let alien = Alien::connect(&cluster.url).await;
    let answer = async |session: &str, text: &str| {
        let properties = BasicProperties::default().with_headers(named(session));
        alien.publish(&cluster.direct(), instances[0].name.as_str(), text.as_bytes(), properties).await;
    };
    for text in ["first", "second"] {
        answer(asker.session(), text).await;
    }
    for text in ["first", "second"] {
        let told = asker.message().await;
        assert_eq!((&told["direct"], &told["text"]), (&json!(true), &json!(text)), "{told}");
        assert_eq!((told.get("topic"), told.get("broadcast")), (None, None), "{told}");
    }
    answer(&plain_name, "plainly").await;
    plain.receives(&["plainly"]).await;

    // Who is gone, or was never there, is nobody.
    let gone = asker.session().to_owned();
    drop(asker);
    crate::support::sessions_become(instances[0].address, 2).await;
    let strangers = [gone.as_str(), "", "1", &format!("{run}/999"), &gone.replace('@', "@1")];
    for name in strangers {
        answer(name, "for nobody").await;
    }
    let dropped = "warren_broker_dropped_total{reason=\"no_session\"}";
    instances[0].metrics().show(dropped, strangers.len() as f64).await;
    plain.send("the end").await;
    plain.receives(&["the end"]).await;
    for other in &mut others {
        other.hears(&[(None, "the end")]).await;
        other.heard_nothing_else().await;
    }
    // Of an instance that is gone the backend is told.
    let (options, properties) = (BasicPublishOptions { mandatory: true, ..Default::default() }, named(&gone));
    let properties = BasicProperties::default().with_headers(properties);
    let direct = cluster.direct();
    let gone = alien.channel.basic_publish(direct.as_str().into(), "10.9.9.9_1".into(), options, b"lost", properties);
    let confirmation = gone.await.expect("published").await.expect("confirmed");
    assert!(matches!(confirmation, Confirmation::Ack(Some(_))), "{confirmation:?}");
    // Without the header all sessions of the instance are meant.
    alien.publish(&cluster.direct(), instances[0].name.as_str(), b"all here", BasicProperties::default()).await;
    plain.receives(&["all here"]).await;
}

// --- when something breaks ----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_send_survives_a_crash_of_the_broker() {
    let node = PrivateNode::start("inbound").await;
    // Like the definitions that come with Warren, which must agree with what the examples declare.
    let definitions = concat!(env!("CARGO_MANIFEST_DIR"), "/rabbitmq/example-group.json");
    node.ctl(&["import_definitions", definitions]).await;
    let cluster = Cluster { url: node.url.clone(), prefix: "warren".to_owned() };
    let [group, _] = cluster.group();
    eventually("the group's queue stands", || async {
        node.list(&["list_queues", "name"]).await.iter().any(|row| row[0] == group)
    })
    .await;
    // A broker that is killed just after the first quorum queue of its life was made may lose that (3.10.8).
    node.stop().await;
    node.restart().await;
    let instance = Instance::join(config(), &cluster).await;
    let mut client = instance.converse().await;
    // Nobody takes it yet: the queue keeps it.
    let mut sent = vec![client.send_to("/app/test", "before").await];

    node.kill().await;
    instance.unready().await;
    let waiting = client.request(json!({"type": "send", "destination": "/app/test", "text": "meanwhile"})).await;
    node.restart().await;
    let ack = client.notice().await;
    assert_eq!((&ack["type"], &ack["id"]), (&json!("ack"), &json!(waiting)), "{ack}");
    sent.push(ack["message_id"].as_str().expect("an id").to_owned());

    let backends = [
        Backend::start(Language::Rust, &cluster, "one", 0).await,
        Backend::start(Language::Python, &cluster, "two", 0).await,
    ];
    sent.push(client.send_to("/app/test", "after").await);
    let handled = || sorted(backends.each_ref().map(|backend| backend.ids("handled")).concat());
    let sent = sorted(sent);
    eventually("all are handled, each by one", || async { handled() == sent }).await;

    // The backends come back by themselves, too.
    node.kill().await;
    node.restart().await;
    instance.ready().await;
    let last = client.send_to("/app/test", "last").await;
    eventually("the last is handled", || async { handled().contains(&last) }).await;
    for backend in backends {
        backend.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_repeated_after_a_lost_confirm_has_its_id() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    // It must not take its wire for dead before the test cuts it.
    let patient = Config { publish_timeout_ms: 600_000, broker_heartbeat_s: 600, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], patient)).await;
    instance.ready().await;
    let alien = Alien::connect(&cluster.url).await;
    let mut inbound = alien.listen_to(&cluster.inbound(), "#").await;
    let mut client = instance.converse().await;
    wire.deafen();
    let request = client.request(json!({"type": "send", "destination": "/app/test", "text": "twice"})).await;
    let mut ids = Vec::new();
    for is_first in [true, false] {
        let delivery = within_deadline("a delivery", inbound.next()).await.expect("a delivery").expect("a delivery");
        ids.push(delivery.properties.message_id().as_ref().expect("an id").to_string());
        if is_first {
            wire.cut();
            // Only then, or the confirm might still get through.
            instance.unready().await;
            wire.forward();
        }
    }
    let ack = client.notice().await;
    assert_eq!((&ack["id"], &ack["message_id"]), (&json!(request), &json!(ids[0])), "{ack}");
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_full_refuses_and_holds_nobody_up() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let alien = Alien::connect(&cluster.url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let queue = alien.channel.queue_declare("".into(), own, arguments).await.expect("a queue").name().clone();
    let (inbound, options) = (cluster.inbound(), QueueBindOptions::default());
    let bound = alien.channel.queue_bind(queue, inbound.as_str().into(), "#".into(), options, FieldTable::default());
    bound.await.expect("bound");

    let mut client = instance.converse().await;
    client.subscribe(&["news"]).await;
    client.send_to("/app/test", "fits").await;
    client.refused(json!({"type": "send", "destination": "/app/test", "text": "one too many"}), 205).await;
    client.publish("news", "goes on").await;
    client.hears(&[(Some("news"), "goes on")]).await;
    assert_eq!(instance.metrics().value("warren_broker_republished_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_without_its_majority_holds_nobody_up() {
    let three = ThreeNodes::start("minority").await;
    let cluster = Cluster::at(three.nodes[0].url.clone());
    let patience = Config { publish_timeout_ms: 1000, ..config() };
    let instance = Instance::join(patience, &cluster).await;
    let backend = Backend::start(Language::Rust, &cluster, "one", 0).await;
    let mut client = instance.converse().await;
    client.subscribe(&["news"]).await;
    let id = client.send_to("/app/test", "by all").await;
    backend.says_of("handled", &id, 1).await;
    assert_eq!(client.message().await["direct"], true);
    for node in &three.nodes[1..] {
        node.kill().await;
    }
    eventually("the survivor knows", || async { three.running(0).await.len() == 1 }).await;
    let unanswered = client.request(json!({"type": "send", "destination": "/app/test", "text": "by one"})).await;
    // Acknowledged though it came later, and heard.
    let published = client.request(json!({"type": "publish", "topic": "news", "text": "goes on"})).await;
    let ack = client.notice().await;
    assert_eq!((&ack["type"], &ack["id"]), (&json!("ack"), &json!(published)), "{ack}");
    client.hears(&[(Some("news"), "goes on")]).await;
    let error = client.notice().await;
    assert_eq!((&error["id"], &error["code"]), (&json!(unanswered), &json!(202)), "{error}");
    assert_eq!(instance.metrics().value(RECONNECTS).await, 0.0, "for others the link is as good as ever");
}

// --- helpers ------------------------------------------------------------------------------------------------------

async fn two(language: Language, cluster: &Cluster, work_ms: u32) -> [Backend; 2] {
    [Backend::start(language, cluster, "one", work_ms).await, Backend::start(language, cluster, "two", work_ms).await]
}

async fn eventually_hears(client: &mut Client, part: &str) {
    while !client.receive_text().await.contains(part) {}
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

fn named(session: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert("x-warren-session".into(), AMQPValue::LongString(session.into()));
    headers
}

fn header(properties: &BasicProperties, name: &str) -> String {
    match properties.headers().as_ref().and_then(|headers| headers.inner().get(name)) {
        Some(AMQPValue::LongString(value)) => value.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}
