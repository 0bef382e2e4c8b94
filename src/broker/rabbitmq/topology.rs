//! What stands in RabbitMQ for the cluster and for this instance. `rabbitmq/README.md` shows it whole.
//!
//! ```text
//! warren.broadcast ─┐
//! warren.beacon ────┤
//! warren.topics ────┼──► {ip}_{port} ──► anonymous queue ──► this instance
//! warren.direct ────┘ (key {ip}_{port})
//! ```
//!
//! With `--delivery stream` the broadcast comes another way, and beacons come both ways:
//!
//! ```text
//! warren.broadcast ─┬──► warren.stream ──► every instance, each at its own place
//! warren.beacon ────┘
//! ```
//!
//! Bound one way only: a second binding back from the instance's exchange would keep a dead instance's exchange alive
//! for ever. So, when the queue goes with its connection, the broker removes the exchange and its bindings by itself.

use deadpool_lapin::Object;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};

use super::link::Trouble;
use crate::broker::Delivery;
use crate::instance::{Incarnation, InstanceName};

/// What the stream holds at most where no policy says otherwise: an hour of 1,500 messages a second of 200 bytes.
const STREAM_BYTES_MAX: i64 = 1 << 30;

/// RabbitMQ drops whole segments only; its own size of 500 MB would keep half of everything, or nothing.
const SEGMENT_BYTES: i64 = 16 << 20;

/// Another live instance bears this one's name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("another live instance already bears the name {0}; give this one its own with --instance")]
pub struct NameTaken(pub InstanceName);

/// Names of what stands in the broker.
#[derive(Clone, Debug)]
pub struct Names {
    /// Durable fanout exchange: everyone.
    pub broadcast: ShortString,
    /// Durable fanout exchange: how far each publisher is.
    pub beacon: ShortString,
    /// Durable stream with all that went through the two above.
    pub stream: ShortString,
    /// Durable direct exchange: topics, by their keys.
    pub topics: ShortString,
    /// Durable direct exchange: one instance, by its name as key.
    pub direct: ShortString,
    /// The instance's own fanout exchange.
    pub instance: ShortString,
    pub instance_name: InstanceName,
    /// See [`own_exchange`].
    incarnation: LongString,
}

impl Names {
    pub fn new(prefix: &str, incarnation: &Incarnation) -> Names {
        Names {
            broadcast: format!("{prefix}.broadcast").into(),
            beacon: format!("{prefix}.beacon").into(),
            stream: format!("{prefix}.stream").into(),
            topics: format!("{prefix}.topics").into(),
            direct: format!("{prefix}.direct").into(),
            instance: incarnation.name().as_str().into(),
            instance_name: incarnation.name().clone(),
            incarnation: format!("{prefix}.incarnation.{incarnation}").into(),
        }
    }
}

/// Why the topology does not stand.
#[derive(Debug)]
pub enum Failure {
    NameTaken(NameTaken),
    Trouble(Trouble),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Trouble(trouble)
    }
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Failure {
        Failure::Trouble(error.into())
    }
}

/// Declares the cluster's exchanges. Durable: they are the cluster's address for programs outside, and stand
/// while no instance runs; a fanout or direct exchange holds no messages, so this costs nothing.
pub async fn declare_cluster(channel: &Channel, names: &Names) -> Result<(), lapin::Error> {
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    for fanout in [&names.broadcast, &names.beacon] {
        channel.exchange_declare(fanout.clone(), ExchangeKind::Fanout, durable, FieldTable::default()).await?;
    }
    for direct in [&names.topics, &names.direct] {
        channel.exchange_declare(direct.clone(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
    }
    Ok(())
}

/// What stands for this instance, and the channel on which it was declared.
pub struct Standing<'a> {
    connection: &'a Object,
    pub channel: Channel,
    /// The queue's name, given by the server.
    pub queue: ShortString,
    delivery: Delivery,
}

/// Declares and binds all that the instance consumes from.
pub async fn declare<'a>(
    connection: &'a Object,
    names: &Names,
    queue_bytes_max: u64,
    delivery: Delivery,
) -> Result<Standing<'a>, Failure> {
    let channel = own_exchange(connection, names).await?;
    let queue = own_queue(&channel, queue_bytes_max).await?;
    let standing = Standing { connection, channel, queue, delivery };
    // The queue first: until it is bound nothing would remove the exchange if this instance died.
    standing.bind_queue(names).await?;
    confirm_own_exchange(connection, names).await?;
    standing.bind_exchange(names).await?;
    Ok(standing)
}

impl Standing<'_> {
    /// Makes again what somebody may have deleted.
    pub async fn restore(&self, names: &Names) -> Result<(), Failure> {
        confirm_own_exchange(self.connection, names).await?;
        self.bind_queue(names).await?;
        Ok(self.bind_exchange(names).await?)
    }

    async fn bind_queue(&self, names: &Names) -> Result<(), lapin::Error> {
        let (queue, options) = (self.queue.clone(), QueueBindOptions::default());
        self.channel.queue_bind(queue, names.instance.clone(), "".into(), options, FieldTable::default()).await
    }

    /// Binds the instance's exchange from the cluster's.
    async fn bind_exchange(&self, names: &Names) -> Result<(), lapin::Error> {
        declare_cluster(&self.channel, names).await?;
        let sources = match self.delivery {
            Delivery::Queue => &[&names.broadcast, &names.beacon, &names.direct][..],
            Delivery::Stream => {
                bind_stream(&self.channel, names).await?;
                // Topics come through the queue, and so must what tells how far they are.
                &[&names.beacon, &names.direct]
            }
        };
        for source in sources {
            let key = if **source == names.direct { names.instance.clone() } else { "".into() };
            let (own, options) = (names.instance.clone(), ExchangeBindOptions::default());
            self.channel.exchange_bind(own, (*source).clone(), key, options, FieldTable::default()).await?;
        }
        Ok(())
    }
}

/// Declares the stream that instances read, and binds it. It outlives every instance: what it holds is bounded by
/// [`STREAM_BYTES_MAX`], or by a policy, since arguments could not be changed later (`rabbitmq/README.md` has the one to
/// set). For streams the policy replaces the argument, be it lower or higher (tried with 3.10.8).
async fn bind_stream(channel: &Channel, names: &Names) -> Result<(), lapin::Error> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(STREAM_BYTES_MAX));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(SEGMENT_BYTES));
    channel.queue_declare(names.stream.clone(), options, arguments).await?;
    for source in [&names.broadcast, &names.beacon] {
        let (stream, options) = (names.stream.clone(), QueueBindOptions::default());
        channel.queue_bind(stream, source.clone(), "".into(), options, FieldTable::default()).await?;
    }
    Ok(())
}

/// Declares the instance's exchange, auto-delete (it goes with its last queue) and not durable (it means nothing
/// after a restart of the broker).
///
/// Its `alternate-exchange` names this incarnation. No such exchange exists, and none is needed since a queue is
/// always bound; but it is the one argument that RabbitMQ compares when an exchange is declared again. So it settles,
/// in the broker, who bears the name: any other incarnation is answered 406. It settles it among those that are bound;
/// [`confirm_own_exchange`] sees to the moment before.
async fn own_exchange(connection: &Object, names: &Names) -> Result<Channel, Failure> {
    match try_own_exchange(connection, names).await {
        Err(error) if is_code(&error, 406) => {}
        result => return Ok(result?),
    }
    // Left over from an instance that died between declaring and binding? Then nothing is bound to it.
    let channel = connection.create_channel().await?;
    let unused = ExchangeDeleteOptions { if_unused: true, ..Default::default() };
    match channel.exchange_delete(names.instance.clone(), unused).await {
        Ok(()) => Ok(try_own_exchange(connection, names).await?),
        Err(error) if is_code(&error, 406) => Err(Failure::NameTaken(NameTaken(names.instance_name.clone()))),
        Err(error) => Err(error.into()),
    }
}

/// Between our declaring and our binding, a rival may have removed the exchange as left over and declared its own, so
/// that our queue is bound to the rival's. Once a queue is bound nobody can remove it, so a second look is final.
async fn confirm_own_exchange(connection: &Object, names: &Names) -> Result<(), Failure> {
    match try_own_exchange(connection, names).await {
        Ok(channel) => Ok(channel.close(200, "confirmed".into()).await?),
        Err(error) if is_code(&error, 406) => Err(Failure::NameTaken(NameTaken(names.instance_name.clone()))),
        Err(error) => Err(error.into()),
    }
}

/// On a channel of its own, since a refusal closes it.
async fn try_own_exchange(connection: &Object, names: &Names) -> Result<Channel, lapin::Error> {
    let channel = connection.create_channel().await?;
    let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString(names.incarnation.clone()));
    channel.exchange_declare(names.instance.clone(), ExchangeKind::Fanout, options, arguments).await?;
    Ok(channel)
}

/// The instance's queue: server-named, so that no two collide; exclusive, so that it goes with the connection (and is
/// still allowed in RabbitMQ 4, unlike a transient queue that others may use); bounded in bytes, because a queue that
/// nobody drains would raise the broker's memory alarm and block every publisher. When full it drops its oldest
/// (`drop-head`): refusing new ones (`reject-publish`) would make one slow instance refuse everyone's messages.
async fn own_queue(channel: &Channel, bytes_max: u64) -> Result<ShortString, lapin::Error> {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(i64::try_from(bytes_max).unwrap_or(i64::MAX)));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    Ok(channel.queue_declare("".into(), options, arguments).await?.name().clone())
}

pub fn is_code(error: &lapin::Error, code: u16) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if amqp.get_id() == code)
}
