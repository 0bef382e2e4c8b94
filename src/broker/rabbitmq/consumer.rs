//! The way from the broker: attach, take what comes, hand it on in batches, acknowledge; attach anew when it breaks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::{Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Event};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Settings;
use super::connection::{Endpoints, discard};
use super::envelope;
use super::link::{Side, Trouble};
use super::sequence::{Place, Tracker};
use super::topology::{self, Failure, NameTaken, Names, Standing};
use crate::message::Message;

/// Messages that the broker sends ahead of our acks. Measured: no faster above. So many of the largest messages that the
/// broker takes (`max_message_size`: 16 MiB in `rabbitmq/rabbitmq.conf`) lapin may hold at worst.
const PREFETCH: u16 = 300;

/// Messages handed on, and then acknowledged, at once; the hub joins what waits. With those that wait for the hub a slow
/// instance holds about 500 messages of at most `--message-bytes-max`.
const BATCH_MESSAGES_MAX: usize = 32;

/// Acks are sent for this many at once, or once a second; so they cost about 8 % against no acks at all.
const ACK_EVERY: u64 = 100;
const ACK_INTERVAL: Duration = Duration::from_secs(1);

/// Somebody may delete an exchange or a binding beneath us, and nothing tells: so they are made again this often
/// (four calls that change nothing where all is well), and at once when a message of ours comes back unroutable.
const RESTORE_INTERVAL: Duration = Duration::from_secs(5);

/// How long a new instance waits for its name to become free: the broker may not have noticed yet that the run
/// before it is gone.
const NAME_PATIENCE: Duration = Duration::from_secs(3);

pub struct Consumer {
    endpoints: Endpoints,
    names: Names,
    queue_bytes_max: u64,
    message_bytes_max: usize,
    deliveries: mpsc::Sender<Vec<Message>>,
    side: Side,
    tracker: Tracker,
    missing: Tally,
    oversized: Tally,
    attached_once: bool,
    /// A message of ours found nobody bound to receive it, not even us.
    unroutable: Arc<Notify>,
}

impl Consumer {
    pub fn new(
        endpoints: Endpoints,
        names: Names,
        settings: &Settings,
        deliveries: mpsc::Sender<Vec<Message>>,
        side: Side,
        unroutable: Arc<Notify>,
    ) -> Consumer {
        Consumer {
            endpoints,
            names,
            queue_bytes_max: settings.queue_bytes_max,
            message_bytes_max: settings.message_bytes_max,
            deliveries,
            side,
            tracker: Tracker::default(),
            missing: Tally::new("messages of other instances are missing"),
            oversized: Tally::new("dropped messages of more than --message-bytes-max"),
            attached_once: false,
            unroutable,
        }
    }

    /// Consumes until `stop`'s other end is dropped, or until the broker lets this instance never in.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>, refuse: oneshot::Sender<NameTaken>) {
        let mut taken_since = None;
        loop {
            let connected = tokio::select! {
                connected = self.endpoints.connect() => connected,
                _ = &mut stop => return,
            };
            let (connection, failure) = match connected {
                Ok(connection) => {
                    let failure = tokio::select! {
                        failure = self.serve(&connection) => Some(failure),
                        _ = &mut stop => None,
                    };
                    (Some(connection), failure)
                }
                Err(trouble) => (None, Some(Failure::Trouble(trouble))),
            };
            let pause = match &failure {
                None => Duration::ZERO,
                Some(Failure::NameTaken(taken)) => {
                    let since: &mut Instant = taken_since.get_or_insert_with(Instant::now);
                    if !self.attached_once && since.elapsed() > NAME_PATIENCE {
                        let _ = refuse.send(taken.clone());
                        return;
                    }
                    self.side.down(&Trouble::permanent(taken.to_string()))
                }
                Some(Failure::Trouble(trouble)) => self.side.down(trouble),
            };
            // After it was told: a silent broker draws the good-bye out.
            if let Some(connection) = connection {
                discard(connection).await;
            }
            if failure.is_none() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut stop => return,
            }
        }
    }

    /// Attaches and consumes; ends only by a failure.
    async fn serve(&mut self, connection: &Object) -> Failure {
        match self.attach(connection).await {
            Ok((standing, deliveries)) => {
                // Not sooner: a refusal that attaching copes with (a left-over exchange) is an event as well.
                let mut events = std::pin::pin!(connection.events_listener());
                self.attached_once = true;
                self.side.up();
                match self.consume(&standing, deliveries, &mut events).await {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                }
            }
            Err(failure) => {
                // Another node may serve us where this one lets us in and then fails.
                self.endpoints.skip();
                failure
            }
        }
    }

    async fn attach<'a>(&self, connection: &'a Object) -> Result<(Standing<'a>, lapin::Consumer), Failure> {
        let standing = topology::declare(connection, &self.names, self.queue_bytes_max).await?;
        let channel = &standing.channel;
        // Per consumer, not `global`, which RabbitMQ 4 has dropped.
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        // With acks: `no_ack` would ignore the prefetch and pile everything up in this process.
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let queue = standing.queue.clone();
        let deliveries = channel.basic_consume(queue, "warren".into(), options, FieldTable::default()).await?;
        Ok((standing, deliveries))
    }

    async fn consume(
        &mut self,
        standing: &Standing<'_>,
        deliveries: lapin::Consumer,
        events: &mut (impl Stream<Item = Event> + Unpin),
    ) -> Result<Infallible, Failure> {
        let mut batches = deliveries.ready_chunks(BATCH_MESSAGES_MAX);
        let mut acks = Acks::new(&standing.channel);
        let mut ack_due = interval(ACK_INTERVAL);
        let mut restore_due = interval(RESTORE_INTERVAL);
        let unroutable = self.unroutable.clone();
        loop {
            tokio::select! {
                batch = batches.next() => {
                    let batch = batch.ok_or_else(|| Trouble::passing("the broker cancelled the consumer"))?;
                    let last_tag = self.hand_on(batch).await?;
                    acks.taken(last_tag).await?;
                }
                _ = ack_due.tick() => acks.send().await?,
                _ = restore_due.tick() => standing.restore(&self.names).await?,
                () = unroutable.notified() => standing.restore(&self.names).await?,
                event = events.next() => match event {
                    Some(Event::Error(error)) => return Err(error.into()),
                    Some(_) => {}
                    None => return Err(Trouble::passing("the connection ended").into()),
                },
            }
        }
    }

    /// Hands a batch on, waiting for room; the answer is the last delivery's tag.
    async fn hand_on(&mut self, batch: Vec<Result<Delivery, lapin::Error>>) -> Result<u64, Trouble> {
        let mut messages = Vec::with_capacity(batch.len());
        let mut last_tag = 0;
        let mut trouble = None;
        for delivery in batch {
            match delivery {
                Ok(delivery) => {
                    last_tag = delivery.delivery_tag;
                    messages.extend(self.accept(delivery));
                }
                Err(error) => trouble = Some(Trouble::from(error)),
            }
        }
        if !messages.is_empty() && self.deliveries.send(messages).await.is_err() {
            return Err(Trouble::passing("the instance is stopping"));
        }
        trouble.map_or(Ok(last_tag), Err)
    }

    /// The delivery's message, unless it is a double or beyond the limit.
    fn accept(&mut self, delivery: Delivery) -> Option<Message> {
        let (message, origin) = envelope::open(delivery, &self.names);
        if let Some(origin) = origin {
            match self.tracker.place(origin.incarnation.as_str(), &message.target, origin.number) {
                Place::Expected | Place::Implausible => {}
                Place::AfterGap(missing) => self.missing.count(missing),
                Place::Double => return None,
            }
        }
        if message.payload.len() > self.message_bytes_max {
            self.oversized.count(1);
            return None;
        }
        Some(message)
    }
}

/// Ticks that are late are not made up for.
fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Something that should not happen, counted, and logged at most once a second: others decide how often it does.
struct Tally {
    what: &'static str,
    total: u64,
    told: Option<Instant>,
}

impl Tally {
    fn new(what: &'static str) -> Tally {
        Tally { what, total: 0, told: None }
    }

    fn count(&mut self, more: u64) {
        self.total += more;
        if self.told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1)) {
            self.told = Some(Instant::now());
            log::warn!("{} (so far {})", self.what, self.total);
        }
    }
}

/// Acknowledging in portions.
struct Acks<'a> {
    channel: &'a Channel,
    last_tag: u64,
    acked_tag: u64,
}

impl<'a> Acks<'a> {
    fn new(channel: &'a Channel) -> Acks<'a> {
        Acks { channel, last_tag: 0, acked_tag: 0 }
    }

    async fn taken(&mut self, last_tag: u64) -> Result<(), lapin::Error> {
        self.last_tag = last_tag.max(self.last_tag);
        if self.last_tag - self.acked_tag >= ACK_EVERY { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> Result<(), lapin::Error> {
        if self.last_tag > self.acked_tag {
            self.channel.basic_ack(self.last_tag, BasicAckOptions { multiple: true }).await?;
            self.acked_tag = self.last_tag;
        }
        Ok(())
    }
}
