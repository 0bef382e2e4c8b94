//! The way from the broker: attach, take what comes, hand it on in batches, acknowledge; attach anew when it breaks.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::{Stream, StreamExt};
use lapin::Event;
use lapin::options::BasicQosOptions;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::beacon::Tickets;
use super::bindings::Bindings;
use super::connection::{Endpoints, discard};
use super::intake::{Intake, Way};
use super::link::{Side, Trouble, interval};
use super::mailboxes::RabbitMailboxes;
use super::partitions::{Next, Partitions};
use super::source::{Batch, PREFETCH, Source};
use super::topology::{self, Failure, NameTaken, Names, Standing};
use crate::broker::{Delivery, Link, LinkState};
use crate::place::Partition;

/// Acks are sent at least this often.
const ACK_INTERVAL: Duration = Duration::from_secs(1);

/// Somebody may delete an exchange or a binding beneath us, and nothing tells: so they are made again this often
/// (some calls that change nothing where all is well), and at once when a message of ours comes back unroutable.
const RESTORE_INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked whether a stream has fallen silent.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a new instance waits for its name to become free: the broker may not have noticed yet that the run
/// before it is gone.
const NAME_PATIENCE: Duration = Duration::from_secs(3);

pub struct Consumer {
    pub endpoints: Endpoints,
    pub names: Names,
    pub queue_bytes_max: u64,
    pub intake: Intake,
    pub mailboxes: RabbitMailboxes,
    pub side: Side,
    pub link: watch::Receiver<Link>,
    pub tickets: Tickets,
    pub supply: Supply,
    /// A message of ours found nobody bound to receive it, not even us.
    pub unroutable: Arc<Notify>,
}

/// Where the broadcast and the topics come from.
pub enum Supply {
    /// Through the instance's queue, topics as far as they are bound.
    Queue(Bindings),
    /// From streams.
    Streams(Partitions),
}

/// What an attached consumer takes from, beside streams.
struct Attached<'a> {
    connection: &'a Object,
    standing: Standing<'a>,
    queue: Source,
}

impl Consumer {
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
            self.supply.lost(failure.as_ref());
            let pause = match &failure {
                None => Duration::ZERO,
                Some(Failure::NameTaken(taken)) => {
                    let since: &mut Instant = taken_since.get_or_insert_with(Instant::now);
                    if self.link.borrow().attachments == 0 && since.elapsed() > NAME_PATIENCE {
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
            Ok(mut attached) => {
                self.mailboxes.look_again();
                // Not sooner: a refusal that attaching copes with (a left-over exchange) is an event as well.
                let mut events = std::pin::pin!(connection.events_listener());
                if matches!(self.supply, Supply::Queue(_)) {
                    if self.link.borrow().attachments > 0 {
                        // What was sent while the queue was away is told by its numbers, if at all.
                        self.intake.interrupted();
                    }
                    self.intake.attached();
                    self.side.up();
                    // The others may wait for it.
                    self.tickets.ask();
                }
                match self.consume(&mut attached, &mut events).await {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                }
            }
            Err(failure) => {
                // Another node may serve us where this one lets us in and then fails, for one because it bears no
                // replica of the stream.
                self.endpoints.skip();
                failure
            }
        }
    }

    async fn attach<'a>(&mut self, connection: &'a Object) -> Result<Attached<'a>, Failure> {
        let delivery = self.supply.delivery();
        let standing = topology::declare(connection, &self.names, self.queue_bytes_max, delivery).await?;
        let channel = standing.channel.clone();
        if let Supply::Queue(bindings) = &mut self.supply {
            bindings.restore(&channel, &self.names).await?;
            self.intake.follow(&HashSet::new(), 0, |key| bindings.is_bound(key));
        }
        // Per consumer, not `global`, which RabbitMQ 4 has dropped.
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = Source::queue(channel, standing.queue.clone()).await?;
        if let Supply::Streams(partitions) = &mut self.supply {
            partitions.follow(connection, &self.names).await?;
        }
        Ok(Attached { connection, standing, queue })
    }

    async fn consume(
        &mut self,
        attached: &mut Attached<'_>,
        events: &mut (impl Stream<Item = Event> + Unpin),
    ) -> Result<Infallible, Failure> {
        let Attached { connection, standing, queue } = attached;
        let (standing, names, unroutable) = (&*standing, self.names.clone(), self.unroutable.clone());
        let mut ack_due = interval(ACK_INTERVAL);
        // Beside the deliveries: it takes some round trips to the broker.
        let mut restoring = std::pin::pin!(keep_standing(standing, &names, &unroutable));
        let mut look_due = interval(LOOK_INTERVAL);
        let mut confirm_due = interval(RESTORE_INTERVAL);
        loop {
            tokio::select! {
                batch = queue.next() => {
                    let taken = self.intake.hand_on(batch?, Way::Queue).await?;
                    queue.taken(taken.last_tag).await?;
                }
                next = self.supply.next() => match next? {
                    Next::Batch(partition, batch) => self.read_on(partition, batch).await?,
                    Next::Interest => self.follow(connection, standing).await?,
                },
                _ = ack_due.tick() => {
                    queue.acknowledge().await?;
                    if let Supply::Streams(partitions) = &mut self.supply {
                        partitions.acknowledge().await?;
                    }
                }
                result = &mut restoring => return result,
                _ = confirm_due.tick() => if let Supply::Queue(bindings) = &mut self.supply {
                    bindings.confirm(&standing.channel, &names).await?;
                },
                _ = look_due.tick() => {
                    self.follow(connection, standing).await?;
                    self.check_silence()?;
                    self.intake.patrol().await?;
                }
                event = events.next() => match event {
                    Some(Event::Error(error)) => return Err(error.into()),
                    Some(_) => {}
                    None => return Err(Trouble::passing("the connection ended").into()),
                },
            }
        }
    }

    /// Has topics come, or come no more, as the interest in them comes and goes.
    async fn follow(&mut self, connection: &Object, standing: &Standing<'_>) -> Result<(), Failure> {
        match &mut self.supply {
            Supply::Queue(bindings) => {
                let new = bindings.follow(&standing.channel, &self.names).await?;
                let ticket = if new.is_empty() { 0 } else { self.tickets.ask() };
                self.intake.follow(&new, ticket, |key| bindings.is_bound(key));
            }
            Supply::Streams(partitions) => {
                let ended = partitions.follow(connection, &self.names).await?;
                ended.into_iter().for_each(|partition| self.intake.ended(partition));
            }
        }
        Ok(())
    }

    /// Takes what a stream has brought; by a beacon of our own that comes back we know that we have read up to now.
    async fn read_on(&mut self, partition: Partition, batch: Batch) -> Result<(), Failure> {
        let Supply::Streams(partitions) = &mut self.supply else { return Ok(()) };
        let read = partitions.read(partition, batch)?;
        if read.interrupted {
            log::warn!("the stream does not go on where it was read last: messages may be missing");
            self.intake.interrupted();
        }
        let taken = self.intake.read_on(read.entries, partition, read.begins).await?;
        partitions.taken(partition, read.last_tag).await?;
        if taken.ticket.is_some_and(|ticket| partitions.arrived(partition, ticket)) {
            self.intake.reads(partition);
            if partition == Partition::BROADCAST {
                self.intake.attached();
                self.side.up();
            }
        }
        Ok(())
    }

    fn check_silence(&mut self) -> Result<(), Trouble> {
        let can_publish = self.link.borrow().publishing == LinkState::Up;
        match &mut self.supply {
            Supply::Streams(partitions) => {
                if partitions.are_silent(can_publish) {
                    return Err(Trouble::passing("nothing comes from the stream"));
                }
                Ok(())
            }
            Supply::Queue(_) => Ok(()),
        }
    }
}

impl Supply {
    fn delivery(&self) -> Delivery {
        match self {
            Supply::Queue(_) => Delivery::Queue,
            Supply::Streams(_) => Delivery::Stream,
        }
    }

    async fn next(&mut self) -> Result<Next, Trouble> {
        match self {
            Supply::Queue(bindings) => {
                bindings.changed().await;
                Ok(Next::Interest)
            }
            Supply::Streams(partitions) => partitions.next().await,
        }
    }

    fn lost(&mut self, failure: Option<&Failure>) {
        match (self, failure) {
            (Supply::Queue(bindings), _) => bindings.lost(),
            (Supply::Streams(partitions), Some(Failure::Trouble(trouble))) => partitions.lost(Some(trouble)),
            (Supply::Streams(partitions), _) => partitions.lost(None),
        }
    }
}

/// Makes again what somebody may have deleted, from time to time and when something shows that it is gone; ends only by a
/// failure.
async fn keep_standing(standing: &Standing<'_>, names: &Names, unroutable: &Notify) -> Result<Infallible, Failure> {
    let mut due = interval(RESTORE_INTERVAL);
    // It stands now.
    due.reset();
    for round in 0.. {
        tokio::select! {
            _ = due.tick() => {}
            () = unroutable.notified() => {}
        }
        standing.restore(names, round).await?;
    }
    unreachable!("there are more rounds than seconds")
}
