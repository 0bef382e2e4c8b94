//! What is done with mailboxes over one connection: looking whether they stand, consuming them, acknowledging.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, SelectAll};
use futures_util::{Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Confirmation, Event};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::{Asked, Held, OneReading, Readings, State, Supervisor, making};
use crate::broker::rabbitmq::envelope;
use crate::broker::rabbitmq::link::{Trouble, interval, is_of_one_channel};
use crate::broker::rabbitmq::topology::Names;
use crate::broker::{LETTERS_UNACKNOWLEDGED_MAX, Letter, MailboxBounds, MailboxName, NotAccepted};
use crate::message::{Message, MessageId, now_unix_ms};
use crate::metrics::{BrokerMetrics, Dropped};

/// Looks and beginnings that are under way at a time.
const UNDER_WAY_MAX: usize = 256;

/// Things that are done at a time, each with a channel of its own.
const BESIDE_MAX: usize = 32;

/// How often it is looked whether mailboxes stand that did not: word of one may have been lost, and a node that was away brings
/// its own back without a word.
const LOOK_INTERVAL: Duration = Duration::from_secs(45);

/// How long a mailbox is left alone that could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// How long a reader waits for what the one before gives back: that was sent with its end.
pub const FIRST_WAIT: Duration = Duration::from_millis(50);

/// What was done beside.
enum Done {
    /// A reading has waited for older letters.
    Waited(u64),
    /// Whether a mailbox stands, for a reading.
    Looked(u64, bool),
    Consumes(u64, lapin::Consumer),
    /// It cannot be read.
    NotConsumed(u64, lapin::Error),
    Else,
}

/// A consumer, with the reading that it is for. Its last item is its end.
struct Mail {
    reading: u64,
    consumer: Option<lapin::Consumer>,
}

impl Stream for Mail {
    type Item = (u64, Option<Result<Delivery, lapin::Error>>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reading = self.reading;
        let Some(consumer) = &mut self.consumer else { return Poll::Ready(None) };
        let next = ready!(Pin::new(consumer).poll_next(cx));
        if next.is_none() {
            self.consumer = None;
        }
        Poll::Ready(Some((reading, next)))
    }
}

/// All of it, for as long as the connection lasts.
struct Office<'a> {
    connection: Arc<Object>,
    number: u64,
    names: Names,
    bounds: MailboxBounds,
    message_bytes_max: usize,
    metrics: BrokerMetrics,
    asked: mpsc::UnboundedSender<Asked>,
    readings: &'a mut Readings,
    letters: Channel,
    looks: Channel,
    under_way: FuturesUnordered<BoxFuture<'static, Result<Done, lapin::Error>>>,
    /// What somebody waits for, each with channels of its own: so many at a time.
    beside: FuturesUnordered<BoxFuture<'static, Result<Done, lapin::Error>>>,
    turns: Arc<Semaphore>,
    mail: SelectAll<Mail>,
    /// Whose mailboxes are to be looked for.
    unknown: Vec<u64>,
}

impl Supervisor {
    /// Serves over one connection, until it is lost.
    pub async fn serve(&mut self, connection: Arc<Object>) -> Trouble {
        let mut events = std::pin::pin!(connection.events_listener());
        let channels = async {
            let (letters, looks) = (connection.create_channel().await?, connection.create_channel().await?);
            letters.basic_qos(LETTERS_UNACKNOWLEDGED_MAX, BasicQosOptions::default()).await?;
            looks.confirm_select(ConfirmSelectOptions::default()).await?;
            crate::broker::rabbitmq::topology::declare_cluster(&looks, &self.names).await?;
            Ok::<_, lapin::Error>((letters, looks))
        };
        let (letters, looks) = match channels.await {
            Ok(channels) => channels,
            Err(error) => {
                self.endpoints.skip();
                return error.into();
            }
        };
        let mut look_due = interval(LOOK_INTERVAL);
        look_due.reset();
        let entrance = self.entrance.clone();
        let mut entering = std::pin::pin!(entrance.serve(&connection));
        let unknown = self.readings.all.keys().copied().collect();
        let mut office = Office {
            connection: connection.clone(),
            number: self.connections,
            names: self.names.clone(),
            bounds: self.bounds,
            message_bytes_max: self.message_bytes_max,
            metrics: self.metrics.clone(),
            asked: self.asked.clone(),
            readings: &mut self.readings,
            letters,
            looks,
            under_way: FuturesUnordered::new(),
            beside: FuturesUnordered::new(),
            turns: Arc::new(Semaphore::new(BESIDE_MAX)),
            mail: SelectAll::new(),
            unknown,
        };
        loop {
            office.look_for_some();
            let outcome = tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Event::Error(error)) if !is_of_one_channel(&error) => Err(error.into()),
                    Some(_) => Ok(()),
                    None => Err(Trouble::passing("the connection ended")),
                },
                entered = &mut entering => entered,
                Some(done) = office.under_way.next(), if !office.under_way.is_empty() => office.done(done),
                Some(done) = office.beside.next(), if !office.beside.is_empty() => office.done(done),
                _ = look_due.tick() => {
                    office.look_at_absent();
                    Ok(())
                }
                Some(asked) = self.orders.recv() => office.answer(asked).await,
                Some((reading, delivery)) = office.mail.next(), if !office.mail.is_empty() => {
                    office.deliver(reading, delivery).await
                }
            };
            if let Err(trouble) = outcome {
                return trouble;
            }
        }
    }
}

impl Office<'_> {
    async fn answer(&mut self, asked: Asked) -> Result<(), Trouble> {
        match asked {
            Asked::Read(user, number, reader) => {
                self.readings.add(number, user, reader);
                self.unknown.push(number);
            }
            Asked::End(number) => self.end(number).await?,
            Asked::Acknowledge(held) if held.connection == self.number => {
                if let Some(one) = self.readings.all.get_mut(&held.reading)
                    && one.unacknowledged.remove(&held.tag)
                {
                    self.letters.basic_ack(held.tag, BasicAckOptions { multiple: false }).await?;
                }
            }
            // It came again, or went to somebody else.
            Asked::Acknowledge(_) => {}
            Asked::Made(user) => {
                if let Some(number) = self.readings.by_user.get(&user).copied() {
                    self.look_again(number);
                }
            }
            Asked::LookAgain => self.look_at_absent(),
            Asked::Change(change, done) => {
                let (connection, names, bounds) = (self.connection.clone(), self.names.clone(), self.bounds);
                self.beside(async move {
                    // Who does not wait any more asks again.
                    if !done.is_closed() {
                        let outcome = making::change(&connection, &names, bounds, &change).await;
                        let _ = done.send(outcome.map_err(no_mailbox));
                    }
                });
            }
            Asked::Take(mailbox, looked_at_max, wanted, taken) => {
                let (connection, names) = (self.connection.clone(), self.names.clone());
                self.beside(async move {
                    let is_awaited = || !taken.is_closed();
                    if is_awaited() {
                        let taking = making::take(&connection, &names, &mailbox, looked_at_max, &wanted, is_awaited);
                        let outcome = taking.await;
                        let _ = taken.send(outcome.map_err(no_mailbox));
                    }
                });
            }
        }
        Ok(())
    }

    fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let turns = self.turns.clone();
        self.beside.push(Box::pin(async move {
            let _turn = turns.acquire().await;
            work.await;
            Ok(Done::Else)
        }));
    }

    /// Looks again for what did not stand, or could not be read.
    fn look_at_absent(&mut self) {
        let all: Vec<u64> = self.readings.all.keys().copied().collect();
        all.into_iter().for_each(|number| self.look_again(number));
        let unknown = self.readings.all.iter().filter(|(_, one)| one.state == State::Unknown);
        self.unknown = unknown.map(|(number, _)| *number).collect();
    }

    /// Whatever was seen before, it may stand now.
    fn look_again(&mut self, number: u64) {
        let Some(one) = self.readings.all.get_mut(&number) else { return };
        match one.state {
            State::Absent => {
                one.state = State::Unknown;
                self.unknown.push(number);
            }
            State::Looking => one.state = State::LookingAgain,
            State::Unknown | State::LookingAgain | State::Beginning | State::Consuming => {}
        }
    }

    /// Looks for mailboxes: a message that goes at once unless somebody reads there, and comes back if nothing is there.
    fn look_for_some(&mut self) {
        while self.under_way.len() < UNDER_WAY_MAX
            && let Some(number) = self.unknown.pop()
        {
            let may_be_read = |one: &&mut OneReading| {
                one.state == State::Unknown && one.not_before.is_none_or(|time| time <= Instant::now())
            };
            let Some(one) = self.readings.all.get_mut(&number).filter(may_be_read) else {
                continue;
            };
            one.state = State::Looking;
            let (looks, queue) = (self.looks.clone(), self.names.mailbox(&MailboxName::of_user(one.user.clone())));
            self.under_way.push(Box::pin(async move {
                let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                let confirm =
                    looks.basic_publish(ShortString::default(), queue, options, &[], envelope::look()).await?;
                Ok(match confirm.await? {
                    Confirmation::Ack(Some(_returned)) => Done::Looked(number, false),
                    // A full mailbox refuses even that.
                    Confirmation::Ack(None) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                        Done::Looked(number, true)
                    }
                })
            }));
        }
    }

    fn done(&mut self, done: Result<Done, lapin::Error>) -> Result<(), Trouble> {
        match done? {
            Done::Looked(number, stands) => self.looked(number, stands),
            Done::Consumes(reading, consumer) if self.readings.all.contains_key(&reading) => {
                if let Some(one) = self.readings.all.get_mut(&reading) {
                    one.state = State::Consuming;
                }
                self.mail.push(Mail { reading, consumer: Some(consumer) });
            }
            Done::NotConsumed(reading, error) => {
                // Its channel is gone, and everybody's consumers with it; all others begin anew at once.
                if let Some(one) = self.readings.all.get_mut(&reading).filter(|_| is_of_one_channel(&error)) {
                    log::warn!("a mailbox cannot be read, and is left alone for some time: {error}");
                    one.not_before = Some(Instant::now() + UNREADABLE_PAUSE);
                }
                return Err(error.into());
            }
            // Its end was asked for before it began.
            Done::Consumes(reading, consumer) => {
                self.mail.push(Mail { reading, consumer: Some(consumer) });
                self.cancel(reading);
            }
            Done::Waited(number) => self.begin_with_the_older(number),
            Done::Else => {}
        }
        Ok(())
    }

    /// Hands over what came first. If newer letters came before older ones they go back to their places, behind whatever else
    /// of the older ones there was no room for.
    fn begin_with_the_older(&mut self, number: u64) {
        let Some(one) = self.readings.all.get_mut(&number) else { return };
        let Some(first) = one.first.take() else { return };
        let is_in_order = first.is_sorted_by_key(|(_, is_older, _)| !is_older);
        let mut newer = Vec::new();
        for (tag, is_older, letter) in first {
            if is_older || is_in_order {
                one.reader.take(letter);
            } else if one.unacknowledged.remove(&tag) {
                newer.push(tag);
            }
        }
        // The oldest first: each may come again at once.
        let letters = self.letters.clone();
        self.under_way.push(Box::pin(async move {
            for tag in newer {
                letters.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await?;
            }
            Ok(Done::Else)
        }));
    }

    fn looked(&mut self, number: u64, stands: bool) {
        let Some(one) = self.readings.all.get_mut(&number) else { return };
        if !stands {
            let again = std::mem::replace(&mut one.state, State::Absent) == State::LookingAgain;
            if again {
                self.look_again(number);
            }
            return;
        }
        one.state = State::Beginning;
        one.first = Some(Vec::new());
        let (letters, queue) = (self.letters.clone(), self.names.mailbox(&MailboxName::of_user(one.user.clone())));
        self.under_way.push(Box::pin(async move {
            let options = BasicConsumeOptions::default();
            Ok(match letters.basic_consume(queue, tag(number), options, FieldTable::default()).await {
                Ok(consumer) => Done::Consumes(number, consumer),
                Err(error) => Done::NotConsumed(number, error),
            })
        }));
    }

    /// Gives back what a reading has not acknowledged.
    async fn end(&mut self, number: u64) -> Result<(), Trouble> {
        let Some(one) = self.readings.remove(number) else { return Ok(()) };
        if one.state != State::Consuming {
            return Ok(());
        }
        self.cancel(number);
        // The oldest first: each may go to the next reader at once.
        for held in one.unacknowledged {
            self.letters.basic_nack(held, BasicNackOptions { multiple: false, requeue: true }).await?;
        }
        Ok(())
    }

    fn cancel(&self, number: u64) {
        let letters = self.letters.clone();
        let mut cancelling: BoxFuture<'static, _> = Box::pin(async move {
            letters.basic_cancel(tag(number), BasicCancelOptions::default()).await?;
            Ok(Done::Else)
        });
        // lapin queues the frame at the first poll: before what goes back, which would else come here again.
        if cancelling.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.under_way.push(cancelling);
        }
    }

    async fn deliver(&mut self, number: u64, delivery: Option<Result<Delivery, lapin::Error>>) -> Result<(), Trouble> {
        let Some(delivery) = delivery.transpose()? else {
            // The broker ended it: the mailbox is gone, or its node.
            if let Some(one) = self.readings.all.get_mut(&number) {
                one.state = State::Unknown;
                one.unacknowledged.clear();
                one.first = None;
                self.unknown.push(number);
            }
            return Ok(());
        };
        let (tag, is_older) = (delivery.delivery_tag, delivery.redelivered);
        let Some(one) = self.readings.all.get_mut(&number) else {
            // It comes to who reads now.
            self.letters.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await?;
            return Ok(());
        };
        let fits = delivery.data.len() <= self.message_bytes_max;
        let message = envelope::open_letter(delivery, &self.names, &one.user);
        let is_of_use = |terms: &crate::terms::Terms| !terms.is_expired(now_unix_ms());
        let Some(message) =
            message.filter(|message| fits && message.terms.as_ref().is_none_or(|terms| is_of_use(terms)))
        else {
            if !fits {
                self.metrics.dropped(Dropped::Oversized);
            }
            self.letters.basic_ack(tag, BasicAckOptions { multiple: false }).await?;
            return Ok(());
        };
        let id = message.id.clone().unwrap_or_else(|| MessageId::of_content(message.published_ms, &message.payload));
        let message = Message { id: Some(id), ..message };
        one.unacknowledged.insert(tag);
        let (asked, held) = (self.asked.clone(), Held { connection: self.number, reading: number, tag });
        let letter = Letter::new(message, move || drop(asked.send(Asked::Acknowledge(held))));
        let Some(first) = &mut one.first else {
            one.reader.take(letter);
            return Ok(());
        };
        if first.is_empty() {
            self.under_way.push(Box::pin(async move {
                tokio::time::sleep(FIRST_WAIT).await;
                Ok(Done::Waited(number))
            }));
        }
        first.push((tag, is_older, letter));
        Ok(())
    }
}

fn no_mailbox(error: lapin::Error) -> NotAccepted {
    log::debug!("a mailbox cannot be reached: {error}");
    NotAccepted::NoMailbox
}

/// Of a reading's consumer.
fn tag(number: u64) -> ShortString {
    format!("reading-{number:x}").into()
}
