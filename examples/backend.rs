//! A backend: one of several that share what clients send to `/app/…`. docs/backends.md explains it; copy it and put your
//! own work into [`work`].
//!
//!     AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f cargo run --example backend -- one
//!
//! Each message goes to one member of the group. It is acknowledged when the work is done: if the member dies before that,
//! RabbitMQ hands it to another. So a message may come twice, but always with the same id; those that this member has
//! handled it drops. Environment: `AMQP_URL`, `WARREN_PREFIX` (`warren`), `WARREN_GROUP` (`example`), and `WORK_MS` (0), how
//! long a piece of work takes.

use std::collections::{HashSet, VecDeque};
use std::env;
use std::error::Error;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Messages that RabbitMQ hands over ahead of our acknowledgements. Few: what one member holds, no other can work on.
const PREFETCH: u16 = 10;

/// How often a message is handed out again before it is parked.
const REDELIVERIES_MAX: i32 = 5;

/// Ids that are remembered, to drop repetitions.
const IDS_MAX: usize = 10_000;

const GREETING_INTERVAL: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

struct Backend {
    name: String,
    url: String,
    prefix: String,
    group: String,
    work: Duration,
    handled: Handled,
}

#[tokio::main]
async fn main() -> Result<()> {
    let variable = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let mut backend = Backend {
        name: env::args().nth(1).unwrap_or_else(|| std::process::id().to_string()),
        url: variable("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"),
        prefix: variable("WARREN_PREFIX", "warren"),
        group: variable("WARREN_GROUP", "example"),
        work: Duration::from_millis(variable("WORK_MS", "0").parse()?),
        handled: Handled::default(),
    };
    let mut stop = stop_signal()?;
    // RabbitMQ may be away for a while: then we begin anew, and it hands out again what we had not acknowledged.
    while let Err(error) = backend.serve(&mut stop).await {
        eprintln!("{}: {error}; trying again", backend.name);
        tokio::select! {
            () = sleep(RETRY_PAUSE) => {}
            _ = stop.changed() => break,
        }
    }
    println!("{}: stopped", backend.name);
    Ok(())
}

/// Changes when somebody wants us to end: Ctrl-C, or a supervisor's SIGTERM.
fn stop_signal() -> Result<watch::Receiver<()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (stop, stopped) = watch::channel(());
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let _ = stop.send(());
        // Kept, so that it changes once and no more.
        std::future::pending::<()>().await
    });
    Ok(stopped)
}

impl Backend {
    /// Handles one message after the other until told to stop.
    async fn serve(&mut self, stop: &mut watch::Receiver<()>) -> Result<()> {
        let connecting = Connection::connect(&self.url, ConnectionProperties::default());
        let connection = timeout(CONNECT_TIMEOUT, connecting).await??;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = self.declare(&channel).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?;
        println!("{}: ready, takes from {queue}", self.name);
        let mut greeting = interval(GREETING_INTERVAL);
        loop {
            tokio::select! {
                biased;
                // What is in work is done by now.
                _ = stop.changed() => return Ok(connection.close(200, "stopping".into()).await?),
                _ = greeting.tick() => self.greet(&channel).await?,
                delivery = consumer.next() => {
                    self.handle(&channel, delivery.ok_or("RabbitMQ cancelled the consumer")??).await?;
                }
            }
        }
    }

    /// Declares what must stand, each time alike: what stands already with other arguments is an error. The exchanges are
    /// Warren's, and here so that backends may be started first.
    async fn declare(&self, channel: &Channel) -> Result<ShortString> {
        let name = |what: &str| ShortString::from(format!("{}.{what}", self.prefix));
        let (inbound, parked) = (name("inbound"), name("dead-letters"));
        for (exchange, kind) in [
            (inbound.clone(), ExchangeKind::Topic),
            (name("broadcast"), ExchangeKind::Fanout),
            (name("direct"), ExchangeKind::Direct),
            (parked.clone(), ExchangeKind::Direct),
        ] {
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            channel.exchange_declare(exchange, kind, durable, FieldTable::default()).await?;
        }
        let queue = name(&format!("group.{}", self.group));
        let dead = name(&format!("group.{}.dead", self.group));
        let text = |text: &str| AMQPValue::LongString(text.into());
        let quorum = [("x-queue-type", text("quorum"))];
        let parks = [
            ("x-delivery-limit", AMQPValue::LongInt(REDELIVERIES_MAX)),
            ("x-dead-letter-exchange", text(parked.as_str())),
            ("x-dead-letter-routing-key", text(queue.as_str())),
            // Nothing is lost on the way to where it is parked; RabbitMQ wants the second for the first.
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        declare_queue(channel, &dead, &quorum).await?;
        declare_queue(channel, &queue, &[&quorum[..], &parks[..]].concat()).await?;
        bind(channel, &dead, &parked, queue.as_str()).await?;
        // All destinations. Others: `orders.#` for /app/orders/…
        bind(channel, &queue, &inbound, "#").await?;
        Ok(queue)
    }

    async fn handle(&mut self, channel: &Channel, message: Delivery) -> Result<()> {
        let id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        if self.handled.contains(&id) {
            println!("{}: dropped {id}, a repetition", self.name);
            return Ok(message.ack(BasicAckOptions::default()).await.map(drop)?);
        }
        println!("{}: works on {id}", self.name);
        match self.work(&message).await {
            Ok(answer) => {
                self.publish(channel, "broadcast", "answers", &answer, BasicProperties::default()).await?;
                self.answer(channel, &message, &id, &answer).await?;
                println!("{}: handled {id} to {}: {answer}", self.name, message.routing_key);
                self.handled.insert(id);
                message.ack(BasicAckOptions::default()).await?;
            }
            Err(error) => {
                // Back to the queue, for whoever may do better; too often, and RabbitMQ parks it.
                println!("{}: failed {id}: {error}", self.name);
                message.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
            }
        }
        Ok(())
    }

    /// The work itself. Put yours here; it must bear to be done twice.
    async fn work(&self, message: &Delivery) -> Result<String> {
        let text = std::str::from_utf8(&message.data)?;
        sleep(self.work).await;
        Ok(format!("{} did {text}", self.name))
    }

    /// Tells the session that asked, and nobody else.
    async fn answer(&self, channel: &Channel, message: &Delivery, id: &str, answer: &str) -> Result<()> {
        let headers = message.properties.headers().clone().unwrap_or_default();
        let Some(session) = headers.inner().get("x-warren-session") else { return Ok(()) };
        let Some(AMQPValue::LongString(instance)) = headers.inner().get("x-warren-instance") else { return Ok(()) };
        let mut named = FieldTable::default();
        named.insert("x-warren-session".into(), session.clone());
        // By this id the client knows which of its messages is answered.
        let properties = BasicProperties::default().with_headers(named).with_message_id(format!("re-{id}").into());
        self.publish(channel, "direct", &instance.to_string(), answer, properties).await
    }

    /// Every few seconds, for whoever subscribes to `/topic/to-frontend`.
    async fn greet(&self, channel: &Channel) -> Result<()> {
        let text = format!("{} is here and has handled {} messages", self.name, self.handled.count);
        self.publish(channel, "broadcast", "topic.to-frontend", &text, BasicProperties::default()).await
    }

    /// Publishes, and waits until RabbitMQ has it.
    async fn publish(
        &self,
        channel: &Channel,
        exchange: &str,
        key: &str,
        text: &str,
        properties: BasicProperties,
    ) -> Result<()> {
        let exchange = format!("{}.{exchange}", self.prefix);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = properties.with_content_type("text/plain; charset=utf-8".into());
        let confirm = channel.basic_publish(exchange.as_str().into(), key.into(), options, text.as_bytes(), properties);
        match confirm.await?.await? {
            Confirmation::Ack(None) => Ok(()),
            // The instance is gone, and the session with it; or there is no instance at all.
            Confirmation::Ack(Some(_)) => {
                eprintln!("{}: nobody hears {exchange} {key}", self.name);
                Ok(())
            }
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(format!("{exchange} was refused").into()),
        }
    }
}

async fn declare_queue(channel: &Channel, name: &ShortString, arguments: &[(&str, AMQPValue)]) -> Result<()> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name.clone(), durable, table).await?;
    Ok(())
}

async fn bind(channel: &Channel, queue: &ShortString, exchange: &ShortString, key: &str) -> Result<()> {
    let options = QueueBindOptions::default();
    Ok(channel.queue_bind(queue.clone(), exchange.clone(), key.into(), options, FieldTable::default()).await?)
}

/// The ids of what was handled here, as many as are remembered; the oldest are forgotten.
#[derive(Default)]
struct Handled {
    ids: HashSet<String>,
    oldest_first: VecDeque<String>,
    count: u64,
}

impl Handled {
    fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// A message without an id is never taken for another.
    fn insert(&mut self, id: String) {
        self.count += 1;
        if id.is_empty() || !self.ids.insert(id.clone()) {
            return;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > IDS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}
