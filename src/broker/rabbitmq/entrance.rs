//! The way in for programs that write to users: what they publish to `{prefix}.users`, with the user's name as routing key.
//!
//! It waits in a durable queue, of which one instance at a time takes, in order. That instance publishes each message as its
//! own clients' are, makes the mailbox if there is none, and acknowledges it to the queue when the mailbox has it. What no
//! mailbox can take, the queue passes on to `{prefix}.users.refused`, to which its sender can bind a queue.
//!
//! (Whoever would rather be told at once publishes to the mailbox itself, with `mandatory`; `docs/amqp.md`.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
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

/// Pause before what could not be kept for a passing reason is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the entrance works with, whatever becomes of connections.
#[derive(Clone)]
pub struct Entrance {
    pub names: Names,
    pub spool: Arc<spool::Intake>,
    pub message_ids: MessageIds,
    pub message_bytes_max: usize,
    pub metrics: BrokerMetrics,
}

/// What became of a delivery.
struct Outcome {
    tag: u64,
    again: bool,
    outcome: Result<(), NotAccepted>,
}

struct Told {
    tag: u64,
    /// It came before.
    again: bool,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Settle for Told {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        // The broker gives it to somebody else if this connection is gone.
        let _ = self.outcomes.send(Outcome { tag: self.tag, again: self.again, outcome });
    }
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
        // What failed for a passing reason.
        let (mut failed, mut retry_at) = (BTreeSet::new(), None);
        loop {
            tokio::select! {
                biased;
                Some(outcome) = told.recv() => {
                    self.settle(&channel, outcome, &mut failed).await?;
                    if !failed.is_empty() {
                        retry_at.get_or_insert_with(|| Instant::now() + PAUSE);
                    }
                }
                () = until(retry_at), if retry_at.is_some() => {
                    retry_at = None;
                    // The newest first: each goes back to its place before the others.
                    while let Some(tag) = failed.pop_last() {
                        channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await?;
                    }
                }
                delivery = deliveries.next() => match delivery {
                    Some(delivery) => self.take(delivery?, &outcomes).await,
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

    /// Hands a message on; while there is no room for it, nothing more is taken.
    async fn take(&self, delivery: Delivery, outcomes: &mpsc::UnboundedSender<Outcome>) {
        let tag = delivery.delivery_tag;
        let told = Told { tag, again: delivery.redelivered, outcomes: outcomes.clone() };
        let fits = delivery.data.len() <= self.message_bytes_max;
        let user = UserName::parse(delivery.routing_key.as_str()).ok().filter(|_| fits);
        let Some(message) = user.and_then(|user| envelope::open_letter(delivery, &self.names, &user)) else {
            self.metrics.dropped(if fits { Dropped::NotATopic } else { Dropped::Oversized });
            return Told { again: true, ..told }.settled(Err(NotAccepted::MailboxFull));
        };
        let id = message.id.clone().unwrap_or_else(|| self.message_ids.next());
        self.spool.take(Message { id: Some(id), ..message }, Receipt::to(Arc::new(told))).await;
    }

    async fn settle(
        &self,
        channel: &Channel,
        Outcome { tag, again, outcome }: Outcome,
        failed: &mut BTreeSet<u64>,
    ) -> Result<(), lapin::Error> {
        match outcome {
            Ok(()) => channel.basic_ack(tag, BasicAckOptions { multiple: false }).await,
            // Twice, for a mailbox on a node that has just died refuses, too.
            Err(NotAccepted::MailboxFull) if again => {
                channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await
            }
            Err(_) => {
                failed.insert(tag);
                Ok(())
            }
        }
    }
}

async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time).await;
    }
}
