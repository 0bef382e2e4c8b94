//! The bare lapin pair: what RabbitMQ and its client library take by themselves.
//!
//! One publisher with confirms and one consumer, on a connection each, over the same path as Warren's (a fanout
//! exchange, one exchange-to-exchange binding, an exclusive queue), acknowledged as Warren does, many at once; and nothing
//! else: no headers, no sockets behind it. lapin is spoken here rather than through `broker::rabbitmq`, because that is what is measured.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hdrhistogram::Histogram;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind, PublisherConfirm};

use crate::bench::load::latency_histogram;
use crate::config::BrokerUri;
use crate::place::TOPIC_PARTITIONS;

/// Messages on their way to the consumer at most: enough that it never waits.
const UNDERWAY_MAX: u64 = 4096;

/// Messages that the broker sends ahead of the acknowledgements.
const PREFETCH: u16 = 300;

/// Messages that are acknowledged at a time.
const ACKNOWLEDGED: u64 = 100;

/// Time for messages to arrive after the last was published.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);

struct Pair {
    publisher: Channel,
    messages: Messages,
    exchange: String,
    /// Closed with their last handle, and the queue and exchanges with them.
    _connections: [Connection; 2],
}

/// What comes, acknowledged as it is taken.
struct Messages {
    consumer: Consumer,
    taken: u64,
}

impl Messages {
    /// `None` when the queue is gone.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let delivery = self.consumer.next().await?.ok()?;
        self.taken += 1;
        if self.taken.is_multiple_of(ACKNOWLEDGED) {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await.ok()?;
        }
        Some(delivery.data)
    }
}

/// Latencies at a fixed rate, from the time each message was due.
pub fn latency(broker: &BrokerUri, rate: f64, size: usize, duration: Duration) -> anyhow::Result<Histogram<u64>> {
    runtime()?.block_on(async {
        let mut pair = open(broker).await?;
        let epoch = Instant::now();
        let count = (rate * duration.as_secs_f64()) as u64;
        let consuming = tokio::spawn(async move {
            let mut latencies = latency_histogram();
            while latencies.len() < count {
                let Some(body) = pair.messages.next().await else { break };
                let due = body.first_chunk().map_or(0, |due| u64::from_le_bytes(*due));
                latencies.saturating_record(nanoseconds(epoch.elapsed()).saturating_sub(due));
            }
            latencies
        });
        let mut body = vec![b'x'; size.max(8)];
        for message in 0..count {
            let due = Duration::from_secs_f64(message as f64 / rate);
            // This thread's own: tokio's timer knows whole milliseconds, and its workers go on meanwhile.
            std::thread::sleep(due.saturating_sub(epoch.elapsed()));
            body[..8].copy_from_slice(&nanoseconds(due).to_le_bytes());
            publish(&pair.publisher, &pair.exchange, &body).await?.await?;
        }
        Ok(tokio::time::timeout(ARRIVAL_TIMEOUT, consuming).await??)
    })
}

/// Messages per second with so many confirms outstanding.
pub fn throughput(broker: &BrokerUri, window: usize, size: usize, duration: Duration) -> anyhow::Result<f64> {
    runtime()?.block_on(async {
        let mut pair = open(broker).await?;
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = arrived.clone();
        let consuming = tokio::spawn(async move {
            while pair.messages.next().await.is_some() {
                counter.fetch_add(1, Ordering::Release);
            }
        });
        let (body, began) = (vec![b'x'; size], Instant::now());
        let (mut published, mut confirms) = (0, VecDeque::new());
        while began.elapsed() < duration {
            while published - arrived.load(Ordering::Acquire) > UNDERWAY_MAX {
                tokio::task::yield_now().await;
            }
            confirms.push_back(publish(&pair.publisher, &pair.exchange, &body).await?);
            published += 1;
            if let Some(oldest) = (confirms.len() >= window).then(|| confirms.pop_front()).flatten() {
                oldest.await?;
            }
        }
        let deadline = Instant::now() + ARRIVAL_TIMEOUT;
        while arrived.load(Ordering::Acquire) < published {
            anyhow::ensure!(Instant::now() < deadline, "the bare pair lost messages");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        consuming.abort();
        Ok(published as f64 / began.elapsed().as_secs_f64())
    })
}

/// Removes what outlives a cluster that only this program has used: its durable exchanges, and its stream if it had one.
pub fn remove_cluster(broker: &BrokerUri, prefix: &str) -> anyhow::Result<()> {
    let removing = async {
        let connection = Connection::connect(broker.expose(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        for name in ["broadcast", "beacon", "topics", "partitions", "direct"] {
            let name = format!("{prefix}.{name}");
            channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await?;
        }
        // RabbitMQ has no objection to the deletion of what is not there.
        let partitions = (0..TOPIC_PARTITIONS).map(|partition| format!("{prefix}.topics.{partition}"));
        for stream in partitions.chain([format!("{prefix}.stream")]) {
            channel.queue_delete(stream.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        connection.close(200, "done".into()).await?;
        Ok(())
    };
    runtime()?.block_on(async { tokio::time::timeout(ARRIVAL_TIMEOUT, removing).await? })
}

async fn open(broker: &BrokerUri) -> Result<Pair, lapin::Error> {
    let connect = || Connection::connect(broker.expose(), ConnectionProperties::default());
    let connections = [connect().await?, connect().await?];
    let publisher = connections[0].create_channel().await?;
    let channel = connections[1].create_channel().await?;
    let name = format!("bench-bare-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let (exchange, own) = (format!("{name}.broadcast"), format!("{name}.own"));
    let table = FieldTable::default;
    let passing = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    for exchange in [&exchange, &own] {
        channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Fanout, passing, table()).await?;
    }
    let exclusive = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, table()).await?.name().clone();
    channel.queue_bind(queue.clone(), own.as_str().into(), "".into(), QueueBindOptions::default(), table()).await?;
    let bind = ExchangeBindOptions::default();
    channel.exchange_bind(own.as_str().into(), exchange.as_str().into(), "".into(), bind, table()).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consumer = channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), table()).await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(Pair { publisher, messages: Messages { consumer, taken: 0 }, exchange, _connections: connections })
}

/// Sends one message; what comes of it is its confirm, to be awaited.
async fn publish(channel: &Channel, exchange: &str, body: &[u8]) -> Result<PublisherConfirm, lapin::Error> {
    let options = BasicPublishOptions::default();
    // 1: not to be stored, as Warren's own.
    let properties = BasicProperties::default().with_delivery_mode(1);
    channel.basic_publish(exchange.into(), "".into(), options, body, properties).await
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
