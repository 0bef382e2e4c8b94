//! Reading mailboxes over one connection: consuming those that stand, acknowledging, giving back. Nothing is published here.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, SelectAll};
use futures_util::{Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Event};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::errands::{Errand, Look};
use super::{Asked, Held, Readings, State, Supervisor};
use crate::broker::rabbitmq::envelope;
use crate::broker::rabbitmq::link::{Trouble, interval, is_of_one_channel};
use crate::broker::rabbitmq::topology::Names;
use crate::broker::{LETTERS_UNACKNOWLEDGED_MAX, Letter, MailboxName};
use crate::message::{Message, MessageId, now_unix_ms};
use crate::metrics::{BrokerMetrics, Dropped};

/// How often it is looked whether mailboxes stand that did not: word of one may have been lost, and a node that was away brings
/// its own back without a word.
const LOOK_INTERVAL: Duration = Duration::from_secs(45);

/// How long a mailbox is left alone that could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// How long a reader waits for what the one before gives back: that was sent with its end. A broker that is late by more lets
/// newer letters come first (seen on a machine with six times as much to do as it could).
pub const FIRST_WAIT: Duration = Duration::from_millis(200);

/// What was done beside.
enum Done {
    /// A reading has waited for older letters.
    Waited(u64),
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
    number: u64,
    names: Names,
    message_bytes_max: usize,
    metrics: BrokerMetrics,
    asked: mpsc::UnboundedSender<Asked>,
    errands: mpsc::UnboundedSender<Errand>,
    readings: &'a mut Readings,
    letters: Channel,
    under_way: FuturesUnordered<BoxFuture<'static, Result<Done, lapin::Error>>>,
    mail: SelectAll<Mail>,
}

impl Supervisor {
    /// Serves over one connection, until it is lost.
    pub async fn serve(&mut self, connection: &Object) -> Trouble {
        let mut events = std::pin::pin!(connection.events_listener());
        let channel = async {
            let letters = connection.create_channel().await?;
            letters.basic_qos(LETTERS_UNACKNOWLEDGED_MAX, BasicQosOptions::default()).await?;
            Ok::<_, lapin::Error>(letters)
        };
        let letters = match channel.await {
            Ok(letters) => letters,
            Err(error) => {
                self.endpoints.skip();
                return error.into();
            }
        };
        let mut look_due = interval(LOOK_INTERVAL);
        let mut office = Office {
            number: self.connections,
            names: self.names.clone(),
            message_bytes_max: self.message_bytes_max,
            metrics: self.metrics.clone(),
            asked: self.asked.clone(),
            errands: self.errands.clone(),
            readings: &mut self.readings,
            letters,
            under_way: FuturesUnordered::new(),
            mail: SelectAll::new(),
        };
        loop {
            let outcome = tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Event::Error(error)) if !is_of_one_channel(&error) => Err(error.into()),
                    Some(_) => Ok(()),
                    None => Err(Trouble::passing("the connection ended")),
                },
                Some(done) = office.under_way.next(), if !office.under_way.is_empty() => office.done(done),
                // The first comes at once, for all that are here.
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
                self.look(number);
            }
            Asked::Looked { reading, look, stands } => self.looked(reading, look, stands),
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
        }
        Ok(())
    }

    /// Looks for what is not known to stand, or could not be read.
    fn look_at_absent(&mut self) {
        let all: Vec<u64> = self.readings.all.keys().copied().collect();
        all.into_iter().for_each(|number| self.look_again(number));
    }

    /// Whatever was seen before, it may stand now.
    fn look_again(&mut self, number: u64) {
        let Some(one) = self.readings.all.get_mut(&number) else { return };
        match one.state {
            State::Absent | State::Unknown => self.look(number),
            State::Looking => one.state = State::LookingAgain,
            State::LookingAgain | State::Beginning | State::Consuming => {}
        }
    }

    /// Has somebody look for a mailbox.
    fn look(&mut self, number: u64) {
        let Some(one) = self.readings.all.get_mut(&number) else { return };
        if one.not_before.is_some_and(|time| time > Instant::now()) {
            return;
        }
        one.state = State::Looking;
        one.look += 1;
        let look = Look { user: one.user.clone(), reading: number, number: one.look };
        // The task ends with the instance.
        let _ = self.errands.send(Errand::Look(look));
    }

    fn done(&mut self, done: Result<Done, lapin::Error>) -> Result<(), Trouble> {
        match done? {
            Done::Consumes(reading, consumer) if self.readings.all.contains_key(&reading) => {
                if let Some(one) = self.readings.all.get_mut(&reading) {
                    one.state = State::Consuming;
                }
                self.mail.push(Mail { reading, consumer: Some(consumer) });
            }
            Done::NotConsumed(reading, error) => {
                // Its channel is gone, and everybody's consumers with it; all others begin anew at once.
                if let Some(one) = self.readings.all.get_mut(&reading).filter(|_| is_of_one_channel(&error)) {
                    // Without RabbitMQ's text: it names the user.
                    log::warn!("a mailbox cannot be read, and is left alone for some time");
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

    /// Hands over what came first. Newer letters that came before older ones go back to their places, behind whatever else of the
    /// older ones there was no room for; and as long as there was room for no more, there may be such.
    fn begin_with_the_older(&mut self, number: u64) {
        let Some(one) = self.readings.all.get_mut(&number) else { return };
        let Some(first) = one.first.take() else { return };
        let is_full = first.len() >= usize::from(LETTERS_UNACKNOWLEDGED_MAX);
        let all_are_older = first.iter().all(|(_, is_older, _)| *is_older);
        let is_in_order = first.is_sorted_by_key(|(_, is_older, _)| !is_older);
        let is_sure = all_are_older || (is_in_order && !is_full);
        let mut newer = Vec::new();
        for (tag, is_older, letter) in first {
            if is_older || is_sure {
                one.reader.take(letter);
            } else if one.unacknowledged.remove(&tag) {
                newer.push(tag);
            }
        }
        if newer.is_empty() {
            return;
        }
        // They come again, as older ones, and perhaps others before them.
        one.first = Some(Vec::new());
        // The oldest first: each may come again at once.
        let letters = self.letters.clone();
        self.under_way.push(Box::pin(async move {
            for tag in newer {
                letters.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await?;
            }
            Ok(Done::Else)
        }));
    }

    fn looked(&mut self, number: u64, look: u64, stands: bool) {
        // One of another connection's time is not asked for any more.
        let Some(one) = self.readings.all.get_mut(&number).filter(|one| one.look == look) else { return };
        if !matches!(one.state, State::Looking | State::LookingAgain) {
            return;
        }
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
        // The oldest first: each may go to the next reader at once. And together with the cancel, behind which the next reader is
        // given newer ones.
        for held in one.unacknowledged {
            let letters = self.letters.clone();
            self.begin(async move {
                letters.basic_nack(held, BasicNackOptions { multiple: false, requeue: true }).await?;
                Ok(Done::Else)
            });
        }
        Ok(())
    }

    /// Before what goes back, which would else come here again.
    fn cancel(&self, number: u64) {
        let letters = self.letters.clone();
        self.begin(async move {
            letters.basic_cancel(tag(number), BasicCancelOptions::default()).await?;
            Ok(Done::Else)
        });
    }

    /// lapin queues a frame at the first poll, so what is begun in turn goes out in turn.
    fn begin(&self, work: impl Future<Output = Result<Done, lapin::Error>> + Send + 'static) {
        let mut work: BoxFuture<'static, _> = Box::pin(work);
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => self.under_way.push(work),
            Poll::Ready(done) => self.under_way.push(Box::pin(std::future::ready(done))),
        }
    }

    async fn deliver(&mut self, number: u64, delivery: Option<Result<Delivery, lapin::Error>>) -> Result<(), Trouble> {
        let Some(delivery) = delivery.transpose()? else {
            // The broker ended it: the mailbox is gone, or its node.
            if let Some(one) = self.readings.all.get_mut(&number) {
                one.state = State::Unknown;
                one.unacknowledged.clear();
                one.first = None;
                self.look(number);
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

/// Of a reading's consumer.
fn tag(number: u64) -> ShortString {
    format!("reading-{number:x}").into()
}
