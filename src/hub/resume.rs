//! Going on where a client was: a look at what is known of that, and the way in behind it.
//!
//! A session that comes with a cursor looks first. What the log has it reads by itself, outside of the feed's task, as fast
//! as its client takes it. Then it asks to be let in where its reading ended: the feed adds what has come since, and from
//! then on it hears like everybody else. So neither a long past nor a slow client holds anybody up.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::feed::Asked;
use super::log::{Excerpt, Known, Log, Record};
use super::wish::Wish;
use super::{Format, Hub, Listener, Membership};
use crate::cursor::Cursor;
use crate::interest::Interest;
use crate::message::{Message, PayloadKind, now_unix_ms};
use crate::place::{Partition, Position};
use crate::protocol::{frame, json};
use crate::topic::Pattern;

/// Payload that someone is given on the way in, where it counts towards no limit. Who has more to come reads on first.
const REST_BYTES_MAX: usize = 128 * 1024;

/// What there is of what came behind a cursor.
#[derive(Debug)]
pub struct Look {
    /// By partition, as far as the cursor has it.
    known: Vec<Option<Known>>,
    /// What the log has.
    pub excerpt: Excerpt,
    /// How far everything was taken.
    pub at: Cursor,
    /// By partition: from behind where everything is in the log.
    oldest: Vec<Option<Position>>,
}

impl Look {
    pub(super) fn new(log: &mut Log, since: &Cursor, at: Cursor) -> Look {
        let known = Partition::all().map(|partition| Some(log.knows(partition, since.position(partition)?)));
        let oldest = Partition::all().map(|partition| log.oldest(partition)).collect();
        Look { known: known.collect(), excerpt: log.all(), at, oldest }
    }

    /// What is known of a partition; `None` if the cursor has no place in it.
    pub fn known(&self, partition: Partition) -> Option<Known> {
        self.known[partition.index()]
    }

    /// The position behind which all that is known of a partition came.
    pub fn oldest(&self, partition: Partition) -> Option<Position> {
        self.oldest[partition.index()]
    }
}

/// Some of the records behind the place from which somebody asked on are gone; with what it brought.
pub struct Gone {
    pub expected: Expected,
    pub last: Last,
}

/// The last thing that someone is told before it hears live, made when it is known how far everything was taken.
pub type Last = Box<dyn FnOnce(&Cursor) -> Option<Bytes> + Send + Sync>;

/// Someone who wants to be let in behind what it has read of the log.
pub struct Entrance {
    pub listener: Arc<dyn Listener>,
    pub worker: usize,
    pub behind: Option<Behind>,
    pub wish: Wish,
    pub expected: Expected,
    pub last: Last,
    pub done: oneshot::Sender<Result<(), Gone>>,
}

/// What somebody has read already.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// The record from which on it has not read the log yet.
    pub number: u64,
    /// How far it has heard.
    pub cursor: Cursor,
}

/// The same for its worker, with all that it is told before.
pub struct Entering {
    pub listener: Arc<dyn Listener>,
    pub worker: usize,
    pub past: Vec<Bytes>,
    pub broadcast: bool,
    pub expected: Expected,
    pub done: oneshot::Sender<Result<(), Gone>>,
}

impl Entrance {
    /// What the log has of what it has not read yet. `None` if some of that is gone, or if it is so much that the client had
    /// better take it at its own pace.
    pub(super) fn rest(&self, log: &mut Log) -> Option<Excerpt> {
        let Some(Behind { number, cursor }) = self.behind else { return Some(Excerpt::default()) };
        if !self.wish.partitions().all(|partition| log.goes_on(partition, number)) {
            return None;
        }
        let rest = log.from(number)?;
        let bytes: usize = rest.wished(&self.wish, cursor).map(|record| record.message.payload.len()).sum();
        (bytes <= REST_BYTES_MAX).then_some(rest)
    }

    pub(super) fn refuse(self) {
        let _ = self.done.send(Err(Gone { expected: self.expected, last: self.last }));
    }

    pub(super) fn with(self, rest: &Excerpt, at: &Cursor) -> Entering {
        let Entrance { listener, worker, behind, wish, expected, last, done } = self;
        let mut past = Vec::new();
        if let Some(Behind { mut cursor, .. }) = behind {
            let format = listener.format();
            past.extend(rest.wished(&wish, cursor).map(|record| encode(record, format, &mut cursor)));
        }
        past.extend(last(at));
        Entering { listener, worker, past, broadcast: wish.broadcast, expected, done }
    }
}

/// A message of the past for one client, which has heard everything up to `cursor`, and then this.
pub fn encode(record: &Record, format: Format, cursor: &mut Cursor) -> Bytes {
    *cursor = cursor.at(now_unix_ms());
    if let Some(reached) = record.place.reached {
        cursor.set(record.place.partition, reached);
    }
    encode_one(&record.message, format, cursor)
}

/// One message for one client, uncompressed; `at` is how far it has heard everything else, if it is told.
pub fn encode_one(message: &Message, format: Format, at: &Cursor) -> Bytes {
    match format {
        Format::Plain | Format::PlainDeflated => frame::message(message.kind, &message.payload),
        Format::Json | Format::JsonDeflated => {
            let mut text = Vec::new();
            json::encode_message(message, at, &mut text);
            frame::message(PayloadKind::Text, &text)
        }
        Format::Events => {
            let (mut text, mut event) = (Vec::new(), BytesMut::new());
            json::encode_message(message, at, &mut text);
            json::encode_event(message, at, &text, &mut event);
            event.freeze()
        }
    }
}

/// Topics that count as wanted though nobody hears them yet. Dropped, they do not any more.
pub struct Expected {
    interest: Arc<Interest>,
    patterns: Vec<Pattern>,
}

impl Expected {
    pub fn new(interest: Arc<Interest>, patterns: Vec<Pattern>) -> Expected {
        patterns.iter().for_each(|pattern| interest.add(pattern));
        Expected { interest, patterns }
    }

    /// They are heard from now on, by who sees to the count itself.
    pub(super) fn fulfil(mut self) -> Vec<Pattern> {
        std::mem::take(&mut self.patterns)
    }

    /// Ready when what is published from then on of all of them will be delivered here.
    pub async fn are_in_force(&self) {
        for pattern in &self.patterns {
            self.interest.in_force(pattern).await;
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.patterns.iter().for_each(|pattern| self.interest.remove(pattern));
    }
}

impl Hub {
    /// What is known of what came behind a cursor. `None` once nothing is handed out any more.
    pub async fn look(&self, since: Cursor) -> Option<Look> {
        let (answer, answered) = oneshot::channel();
        self.shared.asked.send(Asked::Look(Box::new(since), answer)).ok()?;
        answered.await.ok()
    }
}

impl Membership {
    /// Has topics count as wanted, so that they are delivered.
    pub fn expect(&self, patterns: Vec<Pattern>) -> Expected {
        Expected::new(self.hub.shared.interest.clone(), patterns)
    }

    pub async fn look(&self, since: Cursor) -> Option<Look> {
        self.hub.look(since).await
    }

    /// From now on the listener hears what it wishes for, and before that what came since, if it has read some already, and
    /// then `last`. Whoever gives up waiting hears nothing. What it wishes for and has already is the caller's
    /// mistake.
    pub async fn enter(
        &mut self,
        wish: Wish,
        expected: Expected,
        behind: Option<Behind>,
        last: Last,
    ) -> Result<(), Gone> {
        if !expected.patterns.is_empty() && !std::mem::replace(&mut self.subscribing, true) {
            self.worker().expect_subscriber();
        }
        if wish.broadcast && !std::mem::replace(&mut self.joined, true) {
            self.worker().expect_one();
        }
        let (done, is_done) = oneshot::channel();
        let (listener, worker) = (self.listener.clone(), self.worker as usize);
        let entrance = Entrance { listener, worker, behind, wish, expected, last, done };
        // Nothing is handed out any more where nobody is left to ask.
        let _ = self.hub.shared.asked.send(Asked::Enter(Box::new(entrance)));
        is_done.await.unwrap_or(Ok(()))
    }
}
