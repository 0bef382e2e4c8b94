//! What nobody on an instance wants does not come to it, by RabbitMQ's own count of what went from which exchange into which
//! queue. So beacons, which every instance hears each second, are told apart from messages.

use std::path::Path;

use warren::broker::Delivery;
use warren::config::Config;
use warren::instance::InstanceName;
use warren::place::TOPIC_PARTITIONS;
use warren::topic::Topic;

use crate::support::broker::{Alien, Cluster, PrivateNode};
use crate::support::eventually;
use crate::support::instance::{Instance, config};
use crate::support::json::JsonClient;

const MESSAGES: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_without_subscribers_is_handed_nothing() {
    let (counts, cluster) = Counts::start("interest").await;
    let (one, two) = (Instance::join(config(), &cluster).await, Instance::join(config(), &cluster).await);
    let queues = [counts.queue(&one.name).await, counts.queue(&two.name).await];
    let mut listener = one.converse().await;
    listener.subscribe(&["orders.17"]).await;
    // From either instance, also from the one that does not want them.
    let mut speakers = [one.converse().await, two.converse().await];
    let say_all = async |speakers: &mut [JsonClient]| {
        for number in 0..MESSAGES {
            speakers[number % 2].publish("orders.17", &number.to_string()).await;
        }
    };
    say_all(&mut speakers).await;
    for _ in 0..MESSAGES {
        listener.message().await;
    }
    let [wanting, indifferent] = [counts.of(&queues[0]).await, counts.of(&queues[1]).await];
    assert_eq!(wanting.from(&cluster.topics()), MESSAGES);
    assert_eq!(indifferent.from(&cluster.topics()), 0);
    // Nor by another way: beacons, and what instances tell each other of their users, are all that ever went in, and all
    // that came out.
    let own = [cluster.beacon(), cluster.peers(), cluster.direct()];
    let of_instances = |counted: &Handed| own.iter().map(|exchange| counted.from(exchange)).sum::<usize>();
    let told = of_instances(&indifferent);
    assert!(told > 0 && told == indifferent.all(), "{indifferent:?}");
    let delivered = counts.delivered(&queues[1]).await;
    assert!(delivered <= of_instances(&counts.of(&queues[1]).await), "{delivered}");

    // Somebody there who wants everything is handed everything.
    let mut wildcard = two.converse().await;
    wildcard.subscribe(&["#"]).await;
    say_all(&mut speakers).await;
    for _ in 0..MESSAGES {
        wildcard.message().await;
    }
    for (queue, messages) in queues.iter().zip([2 * MESSAGES, MESSAGES]) {
        assert_eq!(counts.of(queue).await.from(&cluster.topics()), messages);
    }
    assert!(counts.delivered(&queues[1]).await >= delivered + MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plain_entrance_costs_every_instance() {
    let (counts, cluster) = Counts::start("interest-plain").await;
    let (one, two) = (Instance::join(config(), &cluster).await, Instance::join(config(), &cluster).await);
    let mut listener = one.subscribe("orders.17").await;
    let alien = Alien::connect(&cluster.url).await;
    for number in 0..MESSAGES {
        alien.publish(&cluster.broadcast(), "orders.17", number.to_string().as_bytes(), Default::default()).await;
        listener.receives(&[&number.to_string()]).await;
    }
    for instance in [&one, &two] {
        let queue = counts.queue(&instance.name).await;
        assert_eq!(counts.of(&queue).await.from(&cluster.broadcast()), MESSAGES);
    }
}

/// With streams an instance reads those partitions in which somebody there is interested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_without_subscribers_reads_no_stream_of_topics() {
    let (counts, cluster) = Counts::start("interest-stream").await;
    let streaming = Config { delivery: Delivery::Stream, topic_linger_ms: 0, ..config() };
    let (one, two) = (Instance::join(streaming.clone(), &cluster).await, Instance::join(streaming, &cluster).await);
    assert_eq!(counts.readers(&cluster).await, [0; TOPIC_PARTITIONS as usize]);
    let topic = Topic::parse("orders.17").expect("a topic");
    let partition = topic.key().index() % usize::from(TOPIC_PARTITIONS);
    let mut listener = one.converse().await;
    listener.subscribe(&["orders.17"]).await;
    let mut speaker = two.converse().await;
    for number in 0..MESSAGES {
        speaker.publish("orders.17", &number.to_string()).await;
    }
    for _ in 0..MESSAGES {
        listener.message().await;
    }
    let mut readers = [0; TOPIC_PARTITIONS as usize];
    readers[partition] = 1;
    assert_eq!(counts.readers(&cluster).await, readers);
    let delivered = counts.delivered(&format!("{}.{partition}", cluster.topics())).await;
    assert!((MESSAGES..2 * MESSAGES).contains(&delivered), "once, and beacons: {delivered}");

    let before = counts.consumers().await;
    let mut wildcard = two.converse().await;
    wildcard.subscribe(&["#"]).await;
    assert_eq!(counts.readers(&cluster).await, readers.map(|readers| readers + 1));
    assert_eq!(counts.consumers().await, before + usize::from(TOPIC_PARTITIONS));
    drop(wildcard);
    eventually("nobody reads what nobody wants", async || counts.consumers().await == before).await;
}

/// The counters of a broker that keeps them.
struct Counts(PrivateNode);

impl Counts {
    async fn start(name: &str) -> (Counts, Cluster) {
        let settings = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.conf", std::process::id()));
        // Without it RabbitMQ counts only with its management plugin.
        std::fs::write(&settings, "collect_statistics = fine\n").expect("a file");
        let node = PrivateNode::start_with(name, Some(settings.clone())).await;
        let _ = std::fs::remove_file(settings);
        let cluster = Cluster::at(node.url.clone());
        (Counts(node), cluster)
    }

    /// What was put into a queue.
    async fn of(&self, queue: &str) -> Handed {
        let row = "element(4, Q), 9, element(4, X), 9, integer_to_list(N)";
        let rows = self.rows(row, "{{_, {Q, X}}, N, _} <- ets:tab2list(channel_queue_exchange_metrics)").await;
        let own = rows.into_iter().filter(|row| row[0] == queue);
        Handed(own.map(|row| (row[1].clone(), row[2].parse().expect("a count"))).collect())
    }

    /// What was delivered from it, to be acknowledged.
    async fn delivered(&self, queue: &str) -> usize {
        let row = "element(4, Q), 9, integer_to_list(N)";
        let rows = self.rows(row, "{{_, Q}, _, _, N, _, _, _, _, _} <- ets:tab2list(channel_queue_metrics)").await;
        let own = rows.into_iter().filter(|row| row[0] == queue);
        own.map(|row| row[1].parse::<usize>().expect("a count")).sum()
    }

    /// Whoever consumes anything.
    async fn consumers(&self) -> usize {
        let channels = self.0.list(&["list_channels", "consumer_count"]).await;
        channels.iter().map(|row| row[0].parse::<usize>().expect("a count")).sum()
    }

    /// Who has begun to read each partition of the topics. (Of streams RabbitMQ 3.10.8 does not forget it here.)
    async fn readers(&self, cluster: &Cluster) -> [usize; TOPIC_PARTITIONS as usize] {
        // `list_consumers` leaves out those of streams.
        let of_each = "Row <- ets:tab2list(consumer_created), {Q, _, _} <- [element(1, Row)]";
        let consumers = self.rows("element(4, Q), 9", of_each).await;
        std::array::from_fn(|partition| {
            let stream = format!("{}.{partition}", cluster.topics());
            consumers.iter().filter(|row| row[0] == stream).count()
        })
    }

    /// The queue of an instance: that which its exchange is bound to.
    async fn queue(&self, instance: &InstanceName) -> String {
        let bindings = self.0.list(&["list_bindings", "source_name", "destination_name", "destination_kind"]).await;
        let own = bindings.into_iter().find(|row| row[0] == instance.as_str() && row[2] == "queue");
        own.expect("the instance has a queue")[1].clone()
    }

    /// Rows of columns that are separated by tabs (9), from RabbitMQ's tables.
    async fn rows(&self, row: &str, source: &str) -> Vec<Vec<String>> {
        let listing =
            self.0.ctl(&["--quiet", "eval", &format!("io:format(\"~s\", [[[{row}, 10] || {source}]]).")]).await;
        // The last line is the answer of the output itself.
        let rows = listing.lines().filter(|line| line.contains('\t'));
        rows.map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }
}

/// Messages that went into a queue, by the exchange that they were published to.
#[derive(Debug)]
struct Handed(Vec<(String, usize)>);

impl Handed {
    fn from(&self, exchange: &str) -> usize {
        self.0.iter().filter(|(own, _)| own == exchange).map(|(_, count)| count).sum()
    }

    fn all(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }
}
