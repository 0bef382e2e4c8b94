//! The way in for programs that write to users: what they publish to `{prefix}.users`, with the user's name as routing key.
//!
//! It waits in a durable queue, of which one instance at a time takes, in order. That instance publishes each message as its
//! own clients' are, makes the mailbox if there is none, and acknowledges it to the queue when the mailbox has it. What no
//! mailbox can take, the queue passes on to `{prefix}.users.refused`, to which its sender can bind a queue.
//!
//! (Whoever would rather be told at once publishes to the mailbox itself, with `mandatory`; `docs/amqp.md`.)

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{Endpoints, discard};
use super::envelope;
use super::link::{Complaints, Trouble};
use super::poison;
use super::spool;
use super::topology::Names;
use crate::broker::{NotAccepted, Receipt, Settle};
use crate::message::{Message, MessageIds};
use crate::metrics::{BrokerMetrics, Dropped};
use crate::user::UserName;

/// Messages that are on their way from the queue to mailboxes.
const PREFETCH: u16 = 100;

/// Pause before what could not be kept for a passing reason is tried again, or a lost connection is made anew.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest of these; it is doubled while that goes wrong: to try makes others wait, where a mailbox's node hangs.
const PAUSE_MAX: Duration = Duration::from_secs(16);

/// What the entrance works with, whatever becomes of connections.
#[derive(Clone)]
pub struct Entrance {
    pub names: Names,
    pub spool: Arc<spool::Intake>,
    pub message_ids: MessageIds,
    pub message_bytes_max: usize,
    pub metrics: BrokerMetrics,
}

/// What was taken from the queue, and is neither kept nor refused so far.
struct Taken {
    user: UserName,
    message: Message,
    /// It was refused before.
    is_again: bool,
}

/// Hears what became of a delivery.
struct Told {
    tag: u64,
    outcomes: mpsc::UnboundedSender<(u64, Result<(), NotAccepted>)>,
}

impl Settle for Told {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        // The broker gives it to somebody else if this connection is gone.
        let _ = self.outcomes.send((self.tag, outcome));
    }
}

/// What is done over one connection. Deliveries are known by their tags, which grow.
struct Service<'a> {
    entrance: &'a Entrance,
    channel: Channel,
    outcomes: mpsc::UnboundedSender<(u64, Result<(), NotAccepted>)>,
    under_way: HashMap<u64, Taken>,
    /// What failed for a passing reason and is tried again, and what came behind it for the same user. It does not go back to the
    /// queue: that gives each back at once, so that the last to go back comes first.
    held: HashMap<UserName, BTreeMap<u64, Taken>>,
    retry_at: Option<Instant>,
    pause: Duration,
}

impl Entrance {
    /// Takes what comes, whatever becomes of connections, until it is dropped.
    pub async fn run(self, mut endpoints: Endpoints) {
        let (mut unreadable, mut complaints) = (0, Complaints::of("the connection of the entrance for users"));
        loop {
            let trouble = match endpoints.connect().await {
                Ok(connection) => {
                    let trouble = self.serve(&connection).await.err();
                    discard(connection).await;
                    trouble
                }
                Err(trouble) => Some(trouble),
            };
            let Some(trouble) = trouble else { continue };
            complaints.about(&trouble);
            unreadable = if trouble.is_unreadable() { unreadable + 1 } else { 0 };
            if unreadable >= poison::SUSPICIOUS_AFTER {
                poison::remove(&mut endpoints, vec![self.names.users.clone()], PREFETCH, &self.metrics).await;
            }
            tokio::time::sleep(PAUSE.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        }
    }

    /// Takes what comes over one connection; ends only by trouble.
    async fn serve(&self, connection: &Object) -> Result<(), Trouble> {
        let channel = connection.create_channel().await?;
        self.declare(&channel).await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = self.names.users.clone();
        let mut deliveries =
            channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
        let (outcomes, mut told) = mpsc::unbounded_channel();
        let (under_way, held) = (HashMap::new(), HashMap::new());
        let mut service = Service { entrance: self, channel, outcomes, under_way, held, retry_at: None, pause: PAUSE };
        loop {
            tokio::select! {
                biased;
                Some((tag, outcome)) = told.recv() => service.settle(tag, outcome).await?,
                () = until(service.retry_at), if service.retry_at.is_some() => service.try_again().await,
                delivery = deliveries.next() => match delivery {
                    Some(delivery) => service.take(delivery?).await?,
                    None => return Err(Trouble::passing("the broker cancelled the consumer")),
                },
            }
        }
    }

    async fn declare(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        for exchange in [&self.names.users, &self.names.users_refused] {
            channel.exchange_declare(exchange.clone(), ExchangeKind::Fanout, durable, FieldTable::default()).await?;
        }
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        let refused = AMQPValue::LongString(self.names.users_refused.as_str().into());
        arguments.insert("x-dead-letter-exchange".into(), refused);
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(self.names.users.clone(), options, arguments).await?;
        let (name, options) = (self.names.users.clone(), QueueBindOptions::default());
        channel.queue_bind(name.clone(), name, "".into(), options, FieldTable::default()).await
    }
}

impl Service<'_> {
    /// Takes a message out of the queue.
    async fn take(&mut self, delivery: Delivery) -> Result<(), lapin::Error> {
        let (tag, is_again) = (delivery.delivery_tag, delivery.redelivered);
        let Entrance { names, message_ids, message_bytes_max, metrics, .. } = self.entrance;
        let fits = delivery.data.len() <= *message_bytes_max;
        let user = UserName::parse(delivery.routing_key.as_str()).ok().filter(|_| fits);
        let letter = user.and_then(|user| Some((envelope::open_letter(delivery, names, &user)?, user)));
        let Some((message, user)) = letter else {
            metrics.dropped(if fits { Dropped::NotATopic } else { Dropped::Oversized });
            return self.refuse(tag).await;
        };
        let id = message.id.clone().unwrap_or_else(|| message_ids.next());
        let taken = Taken { user, message: Message { id: Some(id), ..message }, is_again };
        match self.held.get_mut(&taken.user) {
            Some(before) => drop(before.insert(tag, taken)),
            None => self.hand_on(tag, taken).await,
        }
        Ok(())
    }

    /// While there is no room for it, nothing more is taken.
    async fn hand_on(&mut self, tag: u64, taken: Taken) {
        let told = Told { tag, outcomes: self.outcomes.clone() };
        let message = taken.message.clone();
        self.under_way.insert(tag, taken);
        self.entrance.spool.take(message, Receipt::to(Arc::new(told))).await;
    }

    async fn settle(&mut self, tag: u64, outcome: Result<(), NotAccepted>) -> Result<(), lapin::Error> {
        let Some(taken) = self.under_way.remove(&tag) else { return Ok(()) };
        match outcome {
            Ok(()) => {
                if taken.is_again {
                    self.pause = PAUSE;
                }
                self.channel.basic_ack(tag, BasicAckOptions { multiple: false }).await
            }
            // Twice, for a mailbox on a node that has just died refuses, too.
            Err(NotAccepted::MailboxFull) if taken.is_again => {
                self.pause = PAUSE;
                self.refuse(tag).await
            }
            Err(_) => {
                let of_user = self.held.entry(taken.user.clone()).or_default();
                of_user.insert(tag, Taken { is_again: true, ..taken });
                self.retry_at.get_or_insert_with(|| Instant::now() + self.pause);
                Ok(())
            }
        }
    }

    async fn try_again(&mut self) {
        self.retry_at = None;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let held: BTreeMap<u64, Taken> = std::mem::take(&mut self.held).into_values().flatten().collect();
        for (tag, taken) in held {
            self.hand_on(tag, taken).await;
        }
    }

    /// The queue passes it on to `{prefix}.users.refused`.
    async fn refuse(&self, tag: u64) -> Result<(), lapin::Error> {
        self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await
    }
}

async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time).await;
    }
}
