//! A RabbitMQ cluster of three nodes, one of which is killed: instances that know all of them go on by another, and no
//! session is closed for it. With queues, what another instance's queue held is lost with the node that it was on; with a
//! stream nothing is.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use warren::broker::Delivery;
use warren::config::Config;

use crate::support::broker::{Alien, Cluster, PrivateNode, ThreeNodes};
use crate::support::eventually;
use crate::support::identity::{token_of, with_tokens};
use crate::support::instance::{Instance, config};
use crate::support::json::JsonClient;
use crate::support::load::{Recorder, Talker};
use crate::support::post::{JSON, post};
use crate::support::process::Directory;

/// Connections of an instance without users, by the ends of their names. The entrance for programs is not among them: its
/// queue is on one of the nodes, and away with that.
const LINKS: [&str; 3] = ["publishing", "consuming", "errands"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_go_on_by_another_node_when_theirs_is_killed() {
    let cluster = ThreeNodes::start("three-nodes").await;
    for witness in 0..3 {
        assert_eq!(cluster.running(witness).await.len(), 3, "as node {witness} sees it");
    }
    let names = Cluster::at(cluster.nodes[2].url.clone());
    let instances = [
        Instance::start(names.configure_through(&cluster.urls_from(0), config())).await,
        Instance::start(names.configure_through(&cluster.urls_from(1), config())).await,
    ];
    let mut silent = Vec::new();
    for instance in &instances {
        instance.ready().await;
        silent.push(Recorder::start(instance.connect().await));
    }
    talks_across(&instances, &silent, "before").await;

    // Each loses its node once, under load; the first then goes on by the node that the other is on.
    for lost in [0, 1] {
        let talkers = join_all(instances.iter().enumerate().map(async |(number, instance)| {
            Talker::start(instance.connect().await, &format!("talker {lost} {number}"))
        }))
        .await;
        join_all(silent.iter().map(Recorder::hears_more)).await;
        cluster.nodes[lost].kill().await;
        has_links(&cluster.nodes[lost + 1], &LINKS, instances.len()).await;
        talks_across(&instances, &silent, &format!("after the loss of node {lost}")).await;
        let said = join_all(talkers.into_iter().map(Talker::leave)).await;
        cluster.nodes[lost].restart().await;
        for (name, _) in said {
            for recorder in &silent {
                let heard = recorder.numbers_of(&name);
                assert!(!heard.is_empty(), "{name}");
                assert!(heard.is_sorted_by(|one, next| one < next), "{name}: in order and once: {heard:?}");
            }
        }
    }
    assert!(silent.iter().all(Recorder::is_connected), "silent sessions stay");
    eventually("all nodes are back", async || cluster.running(2).await.len() == 3).await;
    eventually("programs are let in again", async || {
        let queue = format!("{}.users", names.prefix);
        let rows = cluster.nodes[2].list(&["list_queues", "name", "consumers"]).await;
        rows.iter().any(|row| row[0] == queue && row[1] == instances.len().to_string())
    })
    .await;
    for instance in instances {
        instance.stop().await.expect("stopped in good order");
    }
}

/// So many instances have these links to this node.
async fn has_links(node: &PrivateNode, links: &[&str], instances: usize) {
    let (_, address) = node.url.rsplit_once(':').expect("a port");
    let port = address.split('/').next().expect("a port");
    eventually(&format!("{links:?} to the node on port {port}"), || async {
        let rows = node.list(&["list_connections", "port", "client_properties"]).await;
        links.iter().all(|link| count_links(&rows, Some(port), link) == instances)
    })
    .await;
}

fn count_links(rows: &[Vec<String>], port: Option<&str>, link: &str) -> usize {
    let is_meant =
        |row: &&Vec<String>| port.is_none_or(|port| row[0] == port) && row[1].contains(&format!(" {link}\""));
    rows.iter().filter(is_meant).count()
}

/// A session of each instance says something that the silent ones of all hear. Who speaks before an instance is attached
/// again is refused, and tries again.
async fn talks_across(instances: &[Instance], silent: &[Recorder], when: &str) {
    for (number, instance) in instances.iter().enumerate() {
        let mut tries = 0;
        eventually(&format!("instance {number} is heard {when}"), || {
            tries += 1;
            let text = format!("{when}, {number}: {tries}");
            async move {
                instance.ready().await;
                let mut speaker = instance.connect().await;
                speaker.send(text.as_str()).await;
                let heard = join_all(silent.iter().map(|recorder| recorder.hears(&text)));
                tokio::time::timeout(Duration::from_secs(2), heard).await.is_ok()
            }
        })
        .await;
    }
}

/// What the cluster of a test must be good for: a stream with a replica on each node, of which nothing that was confirmed is
/// lost with the node that leads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_has_confirmed_outlives_the_node_that_leads_it() {
    const MESSAGES: u64 = 500;
    let cluster = ThreeNodes::start("three-replicas").await;
    let (publisher, survivor) = (Alien::connect(&cluster.nodes[0].url).await, &cluster.nodes[1]);
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    publisher.channel.queue_declare("log".into(), durable, arguments).await.expect("a stream");
    has_replicas(survivor, "log", 3).await;
    for number in 0..MESSAGES {
        publisher.publish("", "log", &number.to_be_bytes(), BasicProperties::default()).await;
    }

    cluster.nodes[0].kill().await;
    let all: Vec<Vec<u8>> = (0..MESSAGES).map(|number| number.to_be_bytes().to_vec()).collect();
    // While another node takes the lead, RabbitMQ may refuse to read, or end the connection.
    eventually("all that was confirmed is read", || async {
        let reading = tokio::time::timeout(Duration::from_secs(5), read_log(&survivor.url, all.len()));
        matches!(reading.await, Ok(Ok(log)) if log == all)
    })
    .await;
}

/// The first messages of the stream, so many.
async fn read_log(url: &str, count: usize) -> Result<Vec<Vec<u8>>, lapin::Error> {
    let reader = Alien::connect(url).await;
    reader.channel.basic_qos(100, BasicQosOptions::default()).await?; // which streams ask for
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let options = BasicConsumeOptions::default();
    let mut deliveries = reader.channel.basic_consume("log".into(), "reader".into(), options, arguments).await?;
    let mut log = Vec::new();
    while log.len() < count
        && let Some(delivery) = deliveries.next().await
    {
        let delivery = delivery?;
        delivery.ack(BasicAckOptions::default()).await?;
        log.push(delivery.data);
    }
    Ok(log)
}

/// Under load each node is killed in its turn, the one that leads the stream among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_stream_nothing_is_lost_with_any_node() {
    let cluster = ThreeNodes::start("three-streams").await;
    let names = Cluster::at(cluster.nodes[2].url.clone());
    let streaming = || Config { delivery: Delivery::Stream, ..config() };
    let instances = [
        Instance::start(names.configure_through(&cluster.urls_from(0), streaming())).await,
        Instance::start(names.configure_through(&cluster.urls_from(1), streaming())).await,
    ];
    let mut silent = Vec::new();
    let mut talkers = Vec::new();
    for instance in &instances {
        instance.ready().await;
        silent.push(Recorder::start(instance.connect().await));
    }
    for (number, instance) in instances.iter().enumerate() {
        talkers.push(Talker::waiting(instance.connect().await, &format!("talker {number}")));
    }
    has_replicas(&cluster.nodes[2], &names.stream(), 3).await;
    for lost in 0..3 {
        join_all(silent.iter().map(Recorder::hears_more)).await;
        cluster.nodes[lost].kill().await;
        join_all(instances.iter().map(Instance::ready)).await;
        join_all(silent.iter().map(Recorder::hears_more)).await;
        cluster.nodes[lost].restart().await;
        has_replicas(&cluster.nodes[(lost + 1) % 3], &names.stream(), 3).await;
    }

    let said = join_all(talkers.into_iter().map(Talker::leave)).await;
    instances[0].ready().await;
    instances[0].connect().await.send("the end").await;
    for recorder in &silent {
        recorder.hears("the end").await;
        assert!(recorder.is_connected());
    }
    for (name, said) in said {
        assert_eq!(said.refused, None, "{name}: nobody is closed");
        for recorder in &silent {
            recorder.has_all_of(&name, said.last);
        }
    }
}

/// The nearest node has no replica of the stream, so that RabbitMQ lets nobody read it there: the next node is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_node_bears_no_replica_reads_the_stream_from_another() {
    let cluster = ThreeNodes::start("two-replicas").await;
    let names = Cluster::at(cluster.nodes[0].url.clone());
    let streaming = || Config { delivery: Delivery::Stream, ..config() };
    let first = Instance::start(names.configure_through(&cluster.urls_from(0), streaming())).await;
    first.ready().await;
    let stream = names.stream();
    has_replicas(&cluster.nodes[0], &stream, 3).await;
    let bare = cluster.nodes[2].ctl(&["eval", "node()."]).await;
    let delete = format!("rabbit_stream_queue:delete_replica(<<\"/\">>, <<\"{stream}\">>, {}).", bare.trim());
    cluster.nodes[0].ctl(&["eval", &delete]).await;
    has_replicas(&cluster.nodes[0], &stream, 2).await;

    let second = Instance::start(names.configure_through(&cluster.urls_from(2), streaming())).await;
    second.ready().await;
    let mut sessions = [first.connect().await, second.connect().await];
    for (speaker, text) in ["from the first", "from the second"].into_iter().enumerate() {
        sessions[speaker].send(text).await;
        for session in &mut sessions {
            session.receives(&[text]).await;
        }
    }
}

async fn has_replicas(node: &PrivateNode, stream: &str, count: usize) {
    eventually(&format!("{count} replicas of {stream}"), || async {
        let rows = node.list(&["list_queues", "name", "online"]).await;
        rows.iter().any(|row| row[0] == stream && row[1].matches("@localhost").count() == count)
    })
    .await;
}

/// Of a node that hangs only those users notice something whose mailboxes are on it; they have what they missed when it is
/// back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_on_a_node_that_hangs_keeps_nobody_else_waiting() {
    let cluster = ThreeNodes::start("hanging-node").await;
    let names = Cluster::at(cluster.nodes[2].url.clone());
    let directory = Directory::new("hanging-node");
    let of_tokens = || with_tokens(&directory);
    let writer = ("Authorization", format!("Bearer {}", token_of("writer", &json!({"roles": ["send"]}))));
    let write = async |instance: &Instance, user: &str, text: &str| {
        let body = json!({"text": text}).to_string();
        let headers = [JSON, (writer.0, writer.1.as_str())];
        post(instance.address, &format!("/api/users/{user}/messages"), &headers, body).await.status
    };
    // A mailbox is on the node of the instance that made it, and the entrance for programs on that of the first.
    for (node, user) in [(1, "bob"), (1, "carol"), (0, "alice"), (0, "dave")] {
        let instance = Instance::start(names.configure_through(&[&cluster.nodes[node].url], of_tokens())).await;
        instance.ready().await;
        assert_eq!(write(&instance, user, "missed").await, 200);
        instance.stop().await.expect("stopped in good order");
    }
    let instance = Instance::start(names.configure_through(&[&cluster.nodes[1].url], of_tokens())).await;
    instance.ready().await;
    let enter = async |user: &str| JsonClient::connect_with(instance.address, &[&token_of(user, &json!({}))]).await;
    // What the instance there had is gone from the node, or the broadcast waits for that, too.
    let node = cluster.nodes[0].ctl(&["eval", "node()."]).await.replace('\'', "");
    eventually("mailboxes alone are there", async || {
        let queues = cluster.nodes[1].list(&["list_queues", "name", "pid"]).await;
        queues.iter().filter(|queue| queue[1].contains(&node)).all(|queue| queue[0].contains(".mailbox."))
    })
    .await;

    cluster.nodes[0].pause().await;
    let (mut alice, mut dave) = (enter("alice").await, enter("dave").await);
    let (mut bob, mut carol) = (enter("bob").await, enter("carol").await);
    for client in [&mut bob, &mut carol] {
        assert_eq!(client.message().await["text"], "missed");
    }
    // Who writes to the one is told, and to the other gets through.
    let refused = write(&instance, "alice", "not kept").await;
    assert!(refused == 503 || refused == 504, "{refused}");
    assert_eq!(write(&instance, "bob", "live").await, 200);
    assert_eq!(bob.message().await["text"], "live");
    // What programs say waits, and keeps its order.
    let program = Alien::connect(&cluster.nodes[1].url).await;
    for number in 0..10 {
        let users = format!("{}.users", names.prefix);
        program.publish(&users, "dave", format!("{number}").as_bytes(), BasicProperties::default()).await;
    }
    // For as long as it takes to try twice.
    let began = Instant::now();
    eventually("that long", async || began.elapsed() > Duration::from_secs(20)).await;
    cluster.nodes[0].resume().await;
    assert_eq!(alice.message().await["text"], "missed");
    assert_eq!(dave.message().await["text"], "missed");
    for number in 0..10 {
        assert_eq!(dave.message().await["text"], number.to_string());
    }
}
