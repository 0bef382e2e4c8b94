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
use super::source::{Batch, Source};
use super::stream::{Reader, Verdict};
use super::topology::{self, Failure, NameTaken, Names, Standing};
use crate::broker::{Delivery, Link, LinkState};

/// Messages that the broker sends ahead of our acks. Measured: no faster above. So many of the largest messages that the
/// broker takes (`max_message_size`: 16 MiB in `rabbitmq/rabbitmq.conf`) lapin may hold at worst.
const PREFETCH: u16 = 300;

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
    pub side: Side,
    pub link: watch::Receiver<Link>,
    pub tickets: Tickets,
    pub bindings: Bindings,
    /// A message of ours found nobody bound to receive it, not even us.
    pub unroutable: Arc<Notify>,
    /// Where this instance is in the stream, if that is where the broadcast comes from.
    pub reader: Option<Reader>,
}

/// What an attached consumer takes from.
struct Sources<'a> {
    standing: Standing<'a>,
    queue: Source,
    stream: Option<Source>,
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
            self.bindings.lost();
            if let (Some(Failure::Trouble(trouble)), Some(reader)) = (&failure, &mut self.reader)
                && trouble.is_unreadable()
                && reader.could_not_read()
            {
                log::warn!("a message in the stream cannot be read, and is passed over: {trouble}");
            }
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
            Ok(mut sources) => {
                // Not sooner: a refusal that attaching copes with (a left-over exchange) is an event as well.
                let mut events = std::pin::pin!(connection.events_listener());
                if sources.stream.is_none() {
                    if self.link.borrow().attachments > 0 {
                        // What was sent while the queue was away is told by its numbers, if at all.
                        self.intake.interrupted();
                    }
                    self.intake.attached();
                    self.side.up();
                    // The others may wait for it.
                    self.tickets.ask();
                }
                match self.consume(&mut sources, &mut events).await {
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

    async fn attach<'a>(&mut self, connection: &'a Object) -> Result<Sources<'a>, Failure> {
        let delivery = if self.reader.is_some() { Delivery::Stream } else { Delivery::Queue };
        let standing = topology::declare(connection, &self.names, self.queue_bytes_max, delivery).await?;
        let channel = standing.channel.clone();
        self.bindings.restore(&channel, &self.names).await?;
        self.intake.follow(&HashSet::new(), 0, |key| self.bindings.is_bound(key));
        // Per consumer, not `global`, which RabbitMQ 4 has dropped.
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = Source::queue(channel, standing.queue.clone()).await?;
        let stream = match &mut self.reader {
            Some(reader) => {
                let channel = connection.create_channel().await?;
                channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
                let from = reader.attach(self.tickets.ask());
                Some(Source::stream(channel, self.names.stream.clone(), from).await.map_err(no_replica)?)
            }
            None => None,
        };
        Ok(Sources { standing, queue, stream })
    }

    async fn consume(
        &mut self,
        sources: &mut Sources<'_>,
        events: &mut (impl Stream<Item = Event> + Unpin),
    ) -> Result<Infallible, Failure> {
        let Sources { standing, queue, stream } = sources;
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
                batch = Source::next_of(stream) => self.read_on(batch?, stream).await?,
                _ = ack_due.tick() => {
                    queue.acknowledge().await?;
                    if let Some(stream) = stream {
                        stream.acknowledge().await?;
                    }
                }
                result = &mut restoring => return result,
                _ = confirm_due.tick() => self.bindings.confirm(&standing.channel, &names).await?,
                () = self.bindings.changed() => self.follow(standing).await?,
                _ = look_due.tick() => {
                    self.follow(standing).await?;
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

    /// Binds and unbinds topics as the interest in them comes and goes.
    async fn follow(&mut self, standing: &Standing<'_>) -> Result<(), Failure> {
        let new = self.bindings.follow(&standing.channel, &self.names).await?;
        let ticket = if new.is_empty() { 0 } else { self.tickets.ask() };
        self.intake.follow(&new, ticket, |key| self.bindings.is_bound(key));
        Ok(())
    }

    /// Takes what the stream has brought; by a beacon of our own that comes back we know that we are attached.
    async fn read_on(&mut self, mut batch: Batch, stream: &mut Option<Source>) -> Result<(), Failure> {
        let (Some(reader), Some(stream)) = (&mut self.reader, stream) else { return Ok(()) };
        let (mut last_tag, mut interrupted, mut elsewhere) = (0, false, false);
        batch.retain(|delivery| {
            let Ok(delivery) = delivery else { return true };
            last_tag = delivery.delivery_tag;
            let verdict = reader.read(delivery);
            elsewhere |= verdict == Verdict::Elsewhere;
            interrupted |= verdict == Verdict::NewAfterPossibleGap;
            matches!(verdict, Verdict::New | Verdict::NewAfterPossibleGap) && !elsewhere
        });
        if elsewhere {
            return Err(Trouble::passing("the stream is asked for what comes behind, or anew").into());
        }
        if interrupted {
            log::warn!("the stream does not go on where it was read last: messages may be missing");
            self.intake.interrupted();
        }
        let taken = self.intake.hand_on(batch, Way::Stream).await?;
        stream.taken(last_tag).await?;
        if taken.ticket.is_some_and(|ticket| reader.arrived(ticket)) {
            self.intake.attached();
            self.side.up();
        }
        Ok(())
    }

    fn check_silence(&mut self) -> Result<(), Trouble> {
        let can_publish = self.link.borrow().publishing == LinkState::Up;
        match self.reader.as_mut().map(|reader| reader.is_silent(can_publish)) {
            Some(true) => Err(Trouble::passing("nothing comes from the stream")),
            Some(false) | None => Ok(()),
        }
    }
}

/// Makes again what somebody may have deleted, from time to time and when something shows that it is gone; ends only by a
/// failure.
async fn keep_standing(standing: &Standing<'_>, names: &Names, unroutable: &Notify) -> Result<Infallible, Failure> {
    let mut due = interval(RESTORE_INTERVAL);
    // It stands now.
    due.reset();
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = unroutable.notified() => {}
        }
        standing.restore(names).await?;
    }
}

/// RabbitMQ answers 406 on a node that bears no replica of the stream, which another node mends.
fn no_replica(error: lapin::Error) -> Failure {
    if topology::is_code(&error, 406) {
        return Trouble::passing(format!("this node does not serve the stream: {error}")).into();
    }
    error.into()
}
