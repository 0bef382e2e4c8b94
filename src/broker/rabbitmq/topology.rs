//! What stands in RabbitMQ for the cluster and for this instance. `rabbitmq/README.md` shows it whole.
//!
//! ```text
//! warren.broadcast ─┐
//! warren.beacon ────┤
//! warren.topics ────┼──► {ip}_{port} ──► anonymous queue ──► this instance
//! warren.direct ────┘ (key {ip}_{port})
//! ```
//!
//! What clients say to backends goes to `warren.inbound`, where each group of backends has bound a queue of its own.
//!
//! With `--delivery stream` only what is meant for one instance comes this way:
//!
//! ```text
//! warren.broadcast ─┬──► warren.stream ──► every instance, each at its own place
//! warren.beacon ────┘
//! warren.topics ────┬──► warren.topics.0 … .15 ──► those that have subscribers
//! warren.partitions ┘
//! warren.direct ───────► {ip}_{port} ──► anonymous queue ──► this instance
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
use crate::broker::{Delivery, MailboxName};
use crate::instance::{Incarnation, InstanceName};
use crate::place::{Partition, TOPIC_PARTITIONS};

/// What the broadcast's stream holds at most where no policy says otherwise, and those of topics together: an hour of 1,500
/// messages a second of 200 bytes.
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
    /// Durable direct exchange: how far each publisher is in one partition of the topics.
    pub partitions: ShortString,
    /// Durable direct exchange: one instance, by its name as key.
    pub direct: ShortString,
    /// Durable topic exchange: what clients say to backends, which bind queues of their own.
    pub inbound: ShortString,
    /// Durable fanout exchange: what instances tell each other.
    pub peers: ShortString,
    /// Durable direct exchange: the mailboxes of a group's members, by its name.
    pub groups: ShortString,
    /// Durable fanout exchange and queue: what programs say to users, by their names as keys.
    pub users: ShortString,
    /// Durable fanout exchange: what of that no mailbox could take.
    pub users_refused: ShortString,
    /// What the names of mailboxes begin with.
    mailbox: String,
    /// The same of those for what waits to be asked for.
    unread: String,
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
            partitions: format!("{prefix}.partitions").into(),
            direct: format!("{prefix}.direct").into(),
            inbound: format!("{prefix}.inbound").into(),
            peers: format!("{prefix}.peers").into(),
            groups: format!("{prefix}.groups").into(),
            users: format!("{prefix}.users").into(),
            users_refused: format!("{prefix}.users.refused").into(),
            mailbox: format!("{prefix}.mailbox."),
            unread: format!("{prefix}.unread."),
            instance: incarnation.name().as_str().into(),
            instance_name: incarnation.name().clone(),
            incarnation: format!("{prefix}.incarnation.{incarnation}").into(),
        }
    }
}

impl Names {
    /// The queue in which what is said to a user is kept.
    pub fn mailbox(&self, name: &MailboxName) -> ShortString {
        let before = if name.is_asked_for { &self.unread } else { &self.mailbox };
        format!("{before}{}", name.user).into()
    }

    /// The stream of a partition.
    pub fn stream_of(&self, partition: Partition) -> ShortString {
        match partition {
            Partition::BROADCAST => self.stream.clone(),
            topics => format!("{}.{}", self.topics, partition_key(topics)).into(),
        }
    }
}

/// By which a partition of topics is known in the broker: the remainder of its keys.
pub fn partition_key(partition: Partition) -> ShortString {
    partition.index().saturating_sub(1).to_string().into()
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
/// while no instance runs; an exchange holds no messages, so this costs nothing.
pub async fn declare_cluster(channel: &Channel, names: &Names) -> Result<(), lapin::Error> {
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    for fanout in [&names.broadcast, &names.beacon, &names.peers] {
        channel.exchange_declare(fanout.clone(), ExchangeKind::Fanout, durable, FieldTable::default()).await?;
    }
    for direct in [&names.topics, &names.partitions, &names.direct, &names.groups] {
        channel.exchange_declare(direct.clone(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
    }
    channel.exchange_declare(names.inbound.clone(), ExchangeKind::Topic, durable, FieldTable::default()).await
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
    if delivery == Delivery::Stream {
        bind_streams(&standing.channel, names, Partition::topics()).await?;
    }
    Ok(standing)
}

impl Standing<'_> {
    /// Makes again what somebody may have deleted. Of the partitions of topics the one with the number `round`, counted
    /// round and round: all their bindings at once would be work for the broker each time.
    pub async fn restore(&self, names: &Names, round: usize) -> Result<(), Failure> {
        confirm_own_exchange(self.connection, names).await?;
        self.bind_queue(names).await?;
        self.bind_exchange(names).await?;
        if self.delivery == Delivery::Stream {
            let partitions = Partition::topics().skip(round % usize::from(TOPIC_PARTITIONS)).take(1);
            bind_streams(&self.channel, names, partitions).await?;
        }
        Ok(())
    }

    async fn bind_queue(&self, names: &Names) -> Result<(), lapin::Error> {
        let (queue, options) = (self.queue.clone(), QueueBindOptions::default());
        self.channel.queue_bind(queue, names.instance.clone(), "".into(), options, FieldTable::default()).await
    }

    /// Binds the instance's exchange from the cluster's.
    async fn bind_exchange(&self, names: &Names) -> Result<(), lapin::Error> {
        declare_cluster(&self.channel, names).await?;
        let sources = match self.delivery {
            Delivery::Queue => &[&names.broadcast, &names.beacon, &names.peers, &names.direct][..],
            Delivery::Stream => &[&names.peers, &names.direct],
        };
        for source in sources {
            let key = if **source == names.direct { names.instance.clone() } else { "".into() };
            let (own, options) = (names.instance.clone(), ExchangeBindOptions::default());
            self.channel.exchange_bind(own, (*source).clone(), key, options, FieldTable::default()).await?;
        }
        Ok(())
    }
}

/// Declares the stream of the broadcast and those of `partitions`, and binds them. They outlive every instance: what they hold is bounded by
/// [`STREAM_BYTES_MAX`] each, or by a policy, since arguments could not be changed later (`rabbitmq/README.md` has the one
/// to set). For streams the policy replaces the argument, be it lower or higher (tried with 3.10.8).
async fn bind_streams(
    channel: &Channel,
    names: &Names,
    partitions: impl Iterator<Item = Partition>,
) -> Result<(), lapin::Error> {
    declare_stream(channel, names, Partition::BROADCAST, STREAM_BYTES_MAX).await?;
    for source in [&names.broadcast, &names.beacon] {
        bind(channel, &names.stream, source, "".into(), false).await?;
    }
    for partition in partitions {
        let stream = names.stream_of(partition);
        declare_stream(channel, names, partition, STREAM_BYTES_MAX / i64::from(TOPIC_PARTITIONS)).await?;
        // Most of the time they all stand: not one answer is waited for but the last.
        for key in partition.keys() {
            bind(channel, &stream, &names.topics, key.to_string().into(), true).await?;
        }
        bind(channel, &stream, &names.partitions, partition_key(partition), false).await?;
    }
    Ok(())
}

async fn declare_stream(
    channel: &Channel,
    names: &Names,
    partition: Partition,
    bytes_max: i64,
) -> Result<(), lapin::Error> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes_max));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(SEGMENT_BYTES));
    channel.queue_declare(names.stream_of(partition), options, arguments).await?;
    Ok(())
}

async fn bind(
    channel: &Channel,
    queue: &ShortString,
    exchange: &ShortString,
    key: ShortString,
    nowait: bool,
) -> Result<(), lapin::Error> {
    let options = QueueBindOptions { nowait };
    channel.queue_bind(queue.clone(), exchange.clone(), key, options, FieldTable::default()).await
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
