//! What only RabbitMQ has: other AMQP programs, what stands in the broker, and what it refuses.

use std::process;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::message::Delivery;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions, ExchangeUnbindOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use tokio_tungstenite::tungstenite::Message;
use url::Url;
use warren::config::Config;
use warren::instance::InstanceName;

use crate::support::broker::{Alien, Cluster, PrivateNode};
use crate::support::client::get_json;
use crate::support::instance::{Instance, config};
use crate::support::load::Recorder;
use crate::support::process::{Directory, Signal, Warren};
use crate::support::{eventually, within_deadline};

fn bare() -> BasicProperties {
    BasicProperties::default()
}

/// An instance's name that no other test has.
fn name() -> InstanceName {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("named-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    InstanceName::parse(&name).expect("a valid name")
}

async fn two_instances(cluster: &Cluster) -> [Instance; 2] {
    [Instance::join(config(), cluster).await, Instance::join(config(), cluster).await]
}

// --- other programs -----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_program_can_broadcast_to_all_instances() {
    let cluster = Cluster::shared();
    let instances = two_instances(&cluster).await;
    let mut sessions = join_all(instances.iter().map(Instance::connect)).await;
    let alien = Alien::connect(&cluster.url).await;
    alien.publish(&cluster.broadcast(), "", "grüße".as_bytes(), bare()).await;
    alien.publish(&cluster.broadcast(), "", b"", bare()).await;
    alien.publish(&cluster.broadcast(), "", b"not \xff UTF-8", bare()).await;
    alien.publish(&cluster.broadcast(), "", b"after", bare()).await;
    for session in &mut sessions {
        session.receives(&["grüße", ""]).await;
        assert_eq!(session.receive().await, Message::binary(&b"not \xff UTF-8"[..]));
        session.receives(&["after"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_program_can_listen() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let alien = Alien::connect(&cluster.url).await;
    let mut heard = alien.listen(&cluster.broadcast()).await;
    let mut session = instance.connect().await;
    session.send("grüße").await;
    session.send(Message::binary(&b"\x00\xff"[..])).await;
    session.send("").await;

    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let mut ids = Vec::new();
    for (number, (body, content_type)) in [
        ("grüße".as_bytes(), "text/plain; charset=utf-8"),
        (b"\x00\xff", "application/octet-stream"),
        (b"", "text/plain; charset=utf-8"),
    ]
    .into_iter()
    .enumerate()
    {
        let Delivery { data, properties, routing_key, .. } =
            within_deadline("a delivery", heard.next()).await.expect("a consumer").expect("a delivery");
        assert_eq!(data, body);
        assert_eq!(routing_key.as_str(), "");
        assert_eq!(properties.content_type().as_ref().map(|text| text.as_str()), Some(content_type));
        let incarnation = properties.app_id().as_ref().expect("an incarnation").as_str();
        assert!(incarnation.starts_with(&format!("{}@", instance.name)), "{incarnation}");
        assert!(properties.timestamp().is_some_and(|then_s| now_s.abs_diff(then_s) < 60), "{properties:?}");
        let headers = properties.headers().as_ref().expect("headers");
        let expected = AMQPValue::LongLongInt(number as i64 + 1);
        assert_eq!(headers.inner().get("x-warren-sequence"), Some(&expected));
        ids.push(properties.message_id().as_ref().expect("an id").as_str().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "an id of its own for each message: {ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_a_routing_key_is_no_broadcast() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let mut session = instance.connect().await;
    let alien = Alien::connect(&cluster.url).await;
    alien.publish(&cluster.broadcast(), "orders", b"a topic's", bare()).await;
    alien.publish(&cluster.broadcast(), instance.name.as_str(), b"also a topic's", bare()).await;
    alien.publish(&cluster.broadcast(), "", b"everyone's", bare()).await;
    session.receives(&["everyone's"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_alone_can_be_addressed() {
    let cluster = Cluster::shared();
    let [first, second] = two_instances(&cluster).await;
    let (mut here, mut there) = (first.connect().await, second.connect().await);
    let alien = Alien::connect(&cluster.url).await;
    alien.publish(first.name.as_str(), "", b"to its exchange", bare()).await;
    alien.publish(&cluster.direct(), first.name.as_str(), b"by its key", bare()).await;
    alien.publish(&cluster.direct(), second.name.as_str(), b"to the other", bare()).await;
    alien.publish(&cluster.direct(), "nobody", b"to nobody", bare()).await;
    alien.publish(&cluster.broadcast(), "", b"to all", bare()).await;
    here.receives(&["to its exchange", "by its key", "to all"]).await;
    there.receives(&["to the other", "to all"]).await;
}

/// On a node of its own, since the recommended configuration lets the broker itself refuse 20 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_foreign_message_hurts_nobody() {
    let directory = Directory::new("huge");
    let conf = directory.write("huge.conf", "max_message_size = 67108864\n");
    let node = PrivateNode::start_with("huge", Some(conf.into())).await;
    let cluster = Cluster::at(node.url.clone());
    let instances = two_instances(&cluster).await;
    let mut sessions = join_all(instances.iter().map(Instance::connect)).await;
    let alien = Alien::connect(&cluster.url).await;
    let largest = "x".repeat(config().message_bytes_max);
    for body in [&vec![b'x'; 20 << 20], &vec![b'x'; config().message_bytes_max + 1], largest.as_bytes(), b"after"] {
        alien.publish(&cluster.broadcast(), "", body, bare()).await;
    }
    for session in &mut sessions {
        session.receives(&[&largest, "after"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_was_heard_is_not_delivered_again() {
    let cluster = Cluster::shared();
    let instances = two_instances(&cluster).await;
    let mut sessions = join_all(instances.iter().map(Instance::connect)).await;
    let alien = Alien::connect(&cluster.url).await;
    for (publisher, number, body) in [
        ("fake-a", 7, "a7"),
        ("fake-a", 7, "a7 doubled"),
        ("fake-b", 7, "b7"),
        ("fake-a", 8, "a8"),
        ("fake-a", 7, "a7 late"),
        ("fake-a", 11, "a11 after a gap"),
        ("fake-a", 11, "a11 doubled"),
        ("fake-b", 8, "b8"),
    ] {
        let mut headers = FieldTable::default();
        headers.insert("x-warren-sequence".into(), AMQPValue::LongLongInt(number));
        let properties = bare().with_app_id(publisher.into()).with_headers(headers);
        alien.publish(&cluster.broadcast(), "", body.as_bytes(), properties).await;
    }
    for session in &mut sessions {
        session.receives(&["a7", "b7", "a8", "a11 after a gap", "b8"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invented_number_silences_nobody() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let alien = Alien::connect(&cluster.url).await;
    let mut heard = alien.listen(&cluster.broadcast()).await;
    let mut session = instance.connect().await;
    session.send("first").await;
    session.receives(&["first"]).await;
    let Delivery { properties, .. } =
        within_deadline("a delivery", heard.next()).await.expect("a consumer").expect("a delivery");
    let mut headers = FieldTable::default();
    headers.insert("x-warren-sequence".into(), AMQPValue::LongLongInt(i64::MAX));
    alien.publish(&cluster.broadcast(), "", b"invented", properties.with_headers(headers)).await;
    session.receives(&["invented"]).await;
    session.send("second").await;
    session.receives(&["second"]).await;
}

// --- what somebody deletes ----------------------------------------------------------------------------------------

/// Deletes something of the first of two instances, and talks until everyone hears everyone again.
async fn heals(delete: impl AsyncFnOnce(&Alien, &Cluster, &Instance)) {
    let cluster = Cluster::shared();
    let instances = two_instances(&cluster).await;
    let listeners = join_all(instances.iter().map(async |instance| Recorder::start(instance.connect().await))).await;
    delete(&Alien::connect(&cluster.url).await, &cluster, &instances[0]).await;
    for (speaker, name) in instances.iter().zip(["first", "second"]) {
        let said = AtomicU64::new(0);
        let all_hear_one = || async {
            // A client of its own for each word, since a refusal ends the session.
            let number = said.fetch_add(1, Ordering::Relaxed) + 1;
            speaker.connect().await.send(format!("{name} {number}")).await;
            let [here, there] = [&listeners[0], &listeners[1]].map(|listener| listener.numbers_of(name));
            here.iter().any(|number| there.contains(number))
        };
        eventually(&format!("everyone hears the {name}"), all_hear_one).await;
        speaker.ready().await;
    }
    assert!(listeners.iter().all(Recorder::is_connected), "silent sessions stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_broadcast_exchange_is_made_again() {
    heals(async |alien, cluster, _| {
        let deleted =
            alien.channel.exchange_delete(cluster.broadcast().as_str().into(), ExchangeDeleteOptions::default());
        deleted.await.expect("deleted");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_exchange_of_an_instance_is_made_again() {
    heals(async |alien, _, instance| {
        let deleted = alien.channel.exchange_delete(instance.name.as_str().into(), ExchangeDeleteOptions::default());
        deleted.await.expect("deleted");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_binding_is_made_again() {
    heals(async |alien, cluster, instance| {
        let (own, all) = (instance.name.as_str().into(), cluster.broadcast().as_str().into());
        let options = ExchangeUnbindOptions::default();
        alien.channel.exchange_unbind(own, all, "".into(), options, FieldTable::default()).await.expect("unbound");
    })
    .await;
}

// --- names --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_live_instance_of_the_same_name_is_refused() {
    let cluster = Cluster::shared();
    let named = Config { instance: Some(name()), ..config() };
    let first = Instance::join(named.clone(), &cluster).await;
    let mut session = first.connect().await;
    let second = Instance::start(cluster.configure(named)).await;
    let error = second.ended().await.expect_err("the name is taken");
    assert!(format!("{error:#}").contains(first.name.as_str()), "{error:#}");
    session.send("still here").await;
    session.receives(&["still here"]).await;
    first.ready().await;
}

/// Between an instance's declaring and binding, another may take its exchange for a left-over one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_of_one_name_that_start_at_once_only_one_is_let_in() {
    let cluster = Cluster::shared();
    for _ in 0..15 {
        let named = cluster.configure(Config { instance: Some(name()), ..config() });
        let rivals = join_all((0..4).map(|_| Instance::start(named.clone()))).await;
        let states = || async {
            let answers = join_all(rivals.iter().map(|rival| get_json(rival.address, "/readyz"))).await;
            let ready = answers.iter().filter(|(status, _)| *status == 200).count();
            let refused = answers.iter().filter(|(_, body)| body["broker"]["consuming"]["permanent"] == true).count();
            (ready, refused)
        };
        eventually("one is ready, the others are refused", || async { states().await == (1, rivals.len() - 1) }).await;
        for rival in rivals {
            // The refused ones end with an error.
            let _ = rival.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_free_again_once_its_instance_is_gone() {
    let cluster = Cluster::shared();
    let named = Config { instance: Some(name()), ..config() };
    let first = Instance::join(named.clone(), &cluster).await;
    let second = Instance::start(cluster.configure(named)).await;
    second.answers("the second is told of the first", |_, body| body["broker"]["consuming"]["permanent"] == true).await;
    first.stop().await.expect("a clean stop");
    second.ready().await;
    let mut session = second.connect().await;
    session.send("its turn").await;
    session.receives(&["its turn"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_instance_left_behind_blocks_no_start() {
    let cluster = Cluster::shared();
    let name = name();
    let alien = Alien::connect(&cluster.url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString("another run".into()));
    let auto_delete = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    let leftover = alien.channel.exchange_declare(name.as_str().into(), ExchangeKind::Fanout, auto_delete, arguments);
    leftover.await.expect("declared");
    let instance = Instance::start(cluster.configure(Config { instance: Some(name), ..config() })).await;
    instance
        .answers("it attaches at the first try", |status, body| {
            assert_ne!(body["broker"]["consuming"]["state"], "down", "{body}");
            status == 200
        })
        .await;
    let mut session = instance.connect().await;
    session.send("hello").await;
    session.receives(&["hello"]).await;
}

// --- what no retry mends ------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_permanent_and_never_shown() {
    let cluster = Cluster::shared();
    let mut url = Url::parse(&cluster.url).expect("a valid URL");
    url.set_password(Some("not-the-password")).expect("a host");
    is_permanently_refused(&cluster, url.as_str(), "403").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_virtual_host_is_permanent() {
    let cluster = Cluster::shared();
    let mut url = Url::parse(&cluster.url).expect("a valid URL");
    url.set_path("/no-such-vhost");
    is_permanently_refused(&cluster, url.as_str(), "530").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_exchange_of_another_type_is_permanent_until_it_is_gone() {
    let cluster = Cluster::shared();
    let alien = Alien::connect(&cluster.url).await;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let declare = |kind| {
        alien.channel.exchange_declare(cluster.broadcast().as_str().into(), kind, durable, FieldTable::default())
    };
    declare(ExchangeKind::Topic).await.expect("declared");
    let instance = is_permanently_refused(&cluster, &cluster.url, "406").await;
    let delete = alien.channel.exchange_delete(cluster.broadcast().as_str().into(), Default::default());
    delete.await.expect("deleted");
    instance.ready().await;
}

/// Both directions are down for good with this code; neither the password nor a session's end comes of it.
async fn is_permanently_refused(cluster: &Cluster, url: &str, code: &str) -> Instance {
    let instance = Instance::start(cluster.configure_through(&[url], config())).await;
    let password = Url::parse(url).expect("a valid URL").password().expect("a password").to_owned();
    for direction in ["publishing", "consuming"] {
        instance
            .answers(&format!("{direction} is down with {code}"), |status, body| {
                let state = &body["broker"][direction];
                let reason = state["reason"].as_str().unwrap_or_default();
                status == 503 && state["state"] == "down" && state["permanent"] == true && reason.contains(code)
            })
            .await;
    }
    let (_, body) = get_json(instance.address, "/readyz").await;
    // `guest` is also the user's name, which may be shown.
    let shown = body.to_string().replace("guest:***", "");
    assert!(!shown.contains(&format!(":{password}@")), "{shown}");
    assert!(password == "guest" || !shown.contains(&password), "{shown}");
    assert_eq!(get_json(instance.address, "/healthz").await.0, 200);
    instance
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_uri_is_tried_when_one_does_not_answer() {
    let cluster = Cluster::shared();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("amqp://guest:guest@{}/%2f", listener.local_addr().expect("bound"))
    };
    let instance = Instance::start(cluster.configure_through(&[&closed, &cluster.url], config())).await;
    instance.ready().await;
    let mut session = instance.connect().await;
    session.send("hello").await;
    session.receives(&["hello"]).await;
}

// --- what stands in the broker ------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_documented_topology_stands_and_goes_with_its_instance() {
    let node = PrivateNode::start("topology").await;
    let cluster = Cluster::at(node.url.clone());
    let (broadcast, direct, beacon, topics) =
        (cluster.broadcast(), cluster.direct(), cluster.beacon(), cluster.topics());
    let (inbound, partitions) = (cluster.inbound(), format!("{}.partitions", cluster.prefix));
    let (peers, users) = (cluster.peers(), cluster.users());
    let first = Instance::join(config(), &cluster).await;
    let mut second = Warren::join(&cluster, &["--broker-queue-bytes-max", "5 MiB"]).await;
    let second_name = second.name().await;
    let names = [first.name.as_str(), &second_name];

    let durable = [
        row(&[&broadcast, "fanout", "true", "false"]),
        row(&[&beacon, "fanout", "true", "false"]),
        row(&[&direct, "direct", "true", "false"]),
        row(&[&topics, "direct", "true", "false"]),
        row(&[&partitions, "direct", "true", "false"]),
        row(&[&inbound, "topic", "true", "false"]),
        row(&[&cluster.peers(), "fanout", "true", "false"]),
        row(&[&format!("{}.groups", cluster.prefix), "direct", "true", "false"]),
        row(&[&users, "fanout", "true", "false"]),
        row(&[&format!("{users}.refused"), "fanout", "true", "false"]),
    ];
    let mut expected = durable.to_vec();
    expected.extend(names.map(|name| row(&[name, "fanout", "false", "true"])));
    expected.sort();
    assert_eq!(exchanges(&node).await, expected);

    let columns = ["name", "durable", "auto_delete", "exclusive", "type", "consumers", "arguments"];
    let mut queues = node.list(&[&["list_queues"], &columns[..]].concat()).await;
    let entrance = queues.iter().position(|queue| queue[0] == users).expect("what programs say to users");
    let entrance = queues.remove(entrance);
    assert_eq!(entrance[1..4], ["true", "false", "false"], "{entrance:?}");
    assert_eq!(entrance[5], "2", "either may take from it: {entrance:?}");
    assert_eq!(queues.len(), 2, "{queues:?}");
    for queue in &queues {
        assert!(queue[0].starts_with("amq.gen-"), "server-named: {queue:?}");
        assert_eq!(queue[1..4], ["false", "true", "true"], "{queue:?}");
        assert!(queue[4].contains("classic"), "{queue:?}");
        assert_eq!(queue[5], "1", "one consumer: {queue:?}");
        assert!(queue[6].contains("\"x-overflow\",\"drop-head\""), "{queue:?}");
    }
    for bytes in [64 << 20, 5 << 20] {
        let bound = format!("\"x-max-length-bytes\",{bytes}}}");
        assert_eq!(queues.iter().filter(|queue| queue[6].contains(&bound)).count(), 1, "{bytes}: {queues:?}");
    }

    let bindings = bindings(&node).await;
    let mut own_queues = Vec::new();
    let mut between = Vec::new();
    for binding in bindings {
        match binding[2].as_str() {
            // The last row has lost an empty last cell.
            "queue" => own_queues.push(row(&[&binding[0], binding.get(3).map_or("", String::as_str)])),
            _ => between.push(binding),
        }
    }
    let mut expected: Vec<Vec<String>> = names
        .iter()
        .flat_map(|name| {
            [
                row(&[&broadcast, name, "exchange", ""]),
                row(&[&beacon, name, "exchange", ""]),
                row(&[&peers, name, "exchange", ""]),
                row(&[&direct, name, "exchange", name]),
            ]
        })
        .collect();
    expected.sort();
    assert_eq!(between, expected);
    own_queues.sort();
    let mut sources: Vec<String> = names.map(str::to_owned).to_vec();
    sources.push(users.clone());
    sources.sort();
    let expected: Vec<Vec<String>> = sources.iter().map(|name| row(&[name, ""])).collect();
    assert_eq!(own_queues, expected);

    first.stop().await.expect("a clean stop");
    second.process.kill().await;
    let mut stays = durable.to_vec();
    stays.sort();
    eventually("nothing of either instance is left", || async {
        exchanges(&node).await == stays && self::bindings(&node).await.len() == 1
    })
    .await;
    assert_eq!(node.list(&["list_queues", "name"]).await, [row(&[&users])]);
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// Name, type, durable, auto-delete of the exchanges that are not RabbitMQ's own.
async fn exchanges(node: &PrivateNode) -> Vec<Vec<String>> {
    let all = node.list(&["list_exchanges", "name", "type", "durable", "auto_delete"]).await;
    all.into_iter().filter(|row| !row[0].is_empty() && !row[0].starts_with("amq.")).collect()
}

/// Source, destination, its kind and key of the bindings that are not each queue's to the default exchange.
async fn bindings(node: &PrivateNode) -> Vec<Vec<String>> {
    let columns = ["source_name", "destination_name", "destination_kind", "routing_key"];
    let all = node.list(&[&["list_bindings"], &columns[..]].concat()).await;
    all.into_iter().filter(|row| !row[0].is_empty()).collect()
}

// --- an instance that stands still --------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_instance_holds_nobody_up() {
    let cluster = Cluster::shared();
    let [first, second] = two_instances(&cluster).await;
    let room = ["--broker-queue-bytes-max", "1 MiB", "--outbox-bytes-max", "64 MiB"];
    let frozen = Warren::join(&cluster, &room).await;
    let (mut sender, mut listener) = (first.connect().await, second.connect().await);
    let mut stuck = frozen.connect().await;
    frozen.process.signal(Signal::STOP);
    // More than its sockets, its prefetch and its queue hold.
    let payload = "x".repeat(32 * 1024);
    for number in 0..400 {
        let text = format!("{number} {payload}");
        sender.send(text.as_str()).await;
        sender.receives(&[&text]).await;
        listener.receives(&[&text]).await;
    }
    frozen.process.signal(Signal::CONT);
    let oldest = stuck.receive_text().await;
    assert!(oldest.starts_with("0 "), "what was on its way to it arrives");
    sender.send("and on").await;
    listener.receives(&["and on"]).await;
    let caught_up = 1 + stuck.texts_until("and on").await.len();
    assert!(caught_up < 400, "its queue is bounded");
    frozen.process.kill().await;
}
