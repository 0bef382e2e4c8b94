//! Reading the cluster's stream: where this instance is in it, and whether nothing was skipped on the way.
//!
//! The place outlives every connection. To go on, the stream is asked for the last entry that was read, not for the one
//! behind it: if that very entry comes first, nothing is missing. RabbitMQ itself would not tell. Asked for what its
//! retention has dropped it goes on with the oldest it has; asked for what lies beyond the end of a stream that was
//! deleted and made anew it delivers nothing until that is as long. A stream without a leader is silent, too; so when
//! nothing comes, it is looked how far the stream reaches before it is taken for another one.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use crate::place::Position;

/// Time for a beacon of our own to come back through a stream that delivers nothing else. Past it, it is looked where the
/// stream ends.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Offsets that a stream may skip by itself between two entries. More of them are what retention has dropped before it was
/// read.
const SKIPS_MAX: u64 = 100;

/// Connections in a row that broke over what they read, at the same place, after which that is passed over.
const UNREADABLE_MAX: u32 = 3;

/// Entries in a row that are passed over, at most.
const UNREADABLE_ENTRIES_MAX: u32 = 100_000;

/// How far the stream was read, and how to go on.
#[derive(Debug)]
pub struct Reader {
    /// How far back an instance begins that has read nothing yet: as long as a publisher may take to repeat a message,
    /// so that it is known as a double.
    look_back: Duration,
    last: Option<Entry>,
    asks: Asks,
    /// Connections in a row that broke over what came behind `last`.
    unreadable: u32,
    /// Set until the first delivery after attaching.
    overlap: Option<Entry>,
    /// The beacon that proves that all before it was read, and since when it is awaited.
    awaited: Option<(u64, Instant)>,
}

/// From where on the stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// From where we were.
    Place,
    /// Its end alone, to see whether it reaches to where we were.
    End,
    /// All of it: it is another stream.
    Front,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offset: u64,
    /// Of what the entry holds: another stream may have another entry at the same offset.
    fingerprint: u32,
}

/// What the first delivery shows about the time in which nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To be handed on.
    New,
    /// It was read before.
    Known,
    /// To be handed on, but something before it may be missing: retention dropped it, or the stream is another one.
    NewAfterPossibleGap,
    /// It shows where to ask anew, and is not to be handed on.
    Elsewhere,
}

impl Reader {
    pub fn new(look_back: Duration) -> Reader {
        Reader { look_back, last: None, asks: Asks::Place, unreadable: 0, overlap: None, awaited: None }
    }

    /// The consumer's arguments for where to begin; `ticket` is that of the beacon that is asked for now.
    pub fn attach(&mut self, ticket: u64) -> FieldTable {
        self.awaited = Some((ticket, Instant::now()));
        let beyond = u64::from(self.unreadable.saturating_sub(UNREADABLE_MAX - 1));
        let offset = match (self.asks, self.last) {
            (Asks::Front, _) => AMQPValue::LongString("first".into()),
            (Asks::End, _) => AMQPValue::LongString("last".into()),
            // What cannot be read comes next: the one behind it, or if that cannot be read either, the one behind that.
            (Asks::Place, Some(last)) if beyond > 0 => offset_value(last.offset + 1 + beyond),
            (Asks::Place, Some(last)) => offset_value(last.offset),
            (Asks::Place, None) => AMQPValue::LongString(format!("{}s", self.look_back.as_secs().max(1)).into()),
        };
        self.overlap = self.last;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), offset);
        arguments
    }

    /// Notes a delivery.
    pub fn read(&mut self, delivery: &Delivery) -> Verdict {
        let Some(entry) = Entry::of(delivery) else { return Verdict::New };
        let offset = entry.offset;
        let last = self.overlap.take();
        if let (Asks::End, Some(last)) = (self.asks, self.last) {
            self.asks = if offset >= last.offset { Asks::Place } else { Asks::Front };
            return Verdict::Elsewhere;
        }
        self.asks = Asks::Place;
        if Some(entry) != self.last {
            self.unreadable = 0;
        }
        let expected = self.last.replace(entry);
        // The end of the silence, whatever comes.
        if let Some((_, since)) = &mut self.awaited {
            *since = Instant::now();
        }
        match last {
            None if expected.is_some_and(|last| entry.offset <= last.offset) => Verdict::NewAfterPossibleGap,
            None if expected.is_some_and(|last| entry.offset - last.offset > SKIPS_MAX) => Verdict::NewAfterPossibleGap,
            None => Verdict::New,
            Some(last) if last == entry => Verdict::Known,
            Some(_) => Verdict::NewAfterPossibleGap,
        }
    }

    /// The entry that was read last.
    pub fn position(&self) -> Option<Position> {
        self.last.map(Entry::position)
    }

    /// Whether a beacon that came back is the one that was awaited.
    pub fn arrived(&mut self, ticket: u64) -> bool {
        let arrived = self.awaited.is_some_and(|(awaited, _)| ticket >= awaited);
        if arrived {
            self.awaited = None;
        }
        arrived
    }

    /// Whether nothing is awaited: it was read up to the time at which it was asked for.
    pub fn is_caught_up(&self) -> bool {
        self.awaited.is_none()
    }

    /// A connection broke over what it read. (lapin gives up on a routing key or a property that is not UTF-8, and what
    /// stands in a stream would come again and again.) Whether it is to be passed over now.
    pub fn could_not_read(&mut self) -> bool {
        self.unreadable = (self.unreadable + 1).min(UNREADABLE_MAX + UNREADABLE_ENTRIES_MAX);
        self.unreadable >= UNREADABLE_MAX
    }

    /// Whether nothing has come for so long that the stream must be another one. `can_publish`: a beacon could have
    /// gone out.
    pub fn is_silent(&mut self, can_publish: bool) -> bool {
        let Some((_, since)) = &mut self.awaited else { return false };
        if !can_publish {
            *since = Instant::now();
        }
        let silent = since.elapsed() > SILENCE_MAX;
        if silent && self.last.is_some() {
            self.asks = Asks::End;
        }
        silent
    }
}

impl Entry {
    fn of(delivery: &Delivery) -> Option<Entry> {
        Some(Entry { offset: offset(delivery)?, fingerprint: fingerprint(delivery) })
    }

    fn position(self) -> Position {
        Position { offset: self.offset, check: self.fingerprint as u16 }
    }
}

/// Where a delivery stands in its stream.
pub fn position(delivery: &Delivery) -> Option<Position> {
    Entry::of(delivery).map(Entry::position)
}

fn offset_value(offset: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// The place of a delivery in its stream.
fn offset(delivery: &Delivery) -> Option<u64> {
    match delivery.properties.headers().as_ref()?.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => u64::try_from(*offset).ok(),
        _ => None,
    }
}

/// The same on every instance, whatever it was built with: cursors carry it from one to the other.
fn fingerprint(delivery: &Delivery) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let properties = &delivery.properties;
    let texts = [Some(&delivery.routing_key), properties.app_id().as_ref(), properties.message_id().as_ref()];
    for text in texts.into_iter().flatten() {
        hasher.update(text.as_str().as_bytes());
        // No text of AMQP's has this byte, which would make another of two.
        hasher.update(&[0xFF]);
    }
    hasher.update(&properties.timestamp().unwrap_or_default().to_be_bytes());
    // A beacon says in its headers what it has to say: its ticket tells it from others of its second.
    if let Some(AMQPValue::LongLongInt(ticket)) =
        properties.headers().as_ref().and_then(|headers| headers.inner().get(super::beacon::TICKET))
    {
        hasher.update(&ticket.to_be_bytes());
    }
    hasher.update(&delivery.data);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(offset: i64, body: &str) -> Delivery {
        let mut delivery = Delivery::mock(1, "warren.broadcast".into(), "".into(), false, body.into());
        let mut headers = FieldTable::default();
        headers.insert("x-stream-offset".into(), AMQPValue::LongLongInt(offset));
        delivery.properties = delivery.properties.with_headers(headers);
        delivery
    }

    fn asked(reader: &mut Reader) -> AMQPValue {
        reader.attach(1).inner()["x-stream-offset"].clone()
    }

    #[test]
    fn it_begins_some_time_back_and_goes_on_where_it_was() {
        let mut reader = Reader::new(Duration::from_secs(60));
        assert_eq!(asked(&mut reader), AMQPValue::LongString("60s".into()));
        assert_eq!([reader.read(&delivery(7, "a")), reader.read(&delivery(9, "b"))], [Verdict::New; 2]);
        assert_eq!(asked(&mut reader), AMQPValue::LongLongInt(9));
        assert_eq!([reader.read(&delivery(9, "b")), reader.read(&delivery(10, "c"))], [Verdict::Known, Verdict::New]);
    }

    #[test]
    fn what_retention_dropped_and_another_stream_may_hide_a_gap() {
        for (offset, body) in [(30, "z"), (9, "not b")] {
            let mut reader = Reader::new(Duration::from_secs(60));
            asked(&mut reader);
            reader.read(&delivery(9, "b"));
            asked(&mut reader);
            assert_eq!(reader.read(&delivery(offset, body)), Verdict::NewAfterPossibleGap, "{body}");
            assert_eq!(reader.read(&delivery(offset + 1, "c")), Verdict::New);
            assert_eq!(reader.read(&delivery(offset + 4, "d")), Verdict::New);
            assert_eq!(reader.read(&delivery(offset + 500, "e")), Verdict::NewAfterPossibleGap, "while it reads on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_stream_is_read_from_its_front_and_a_silent_one_from_where_it_was() {
        for (end, then, first, verdict) in [
            (3, AMQPValue::LongString("first".into()), delivery(0, "new"), Verdict::NewAfterPossibleGap),
            (9, AMQPValue::LongLongInt(9), delivery(9, "b"), Verdict::Known),
            (30, AMQPValue::LongLongInt(9), delivery(9, "b"), Verdict::Known),
        ] {
            let mut reader = Reader::new(Duration::from_secs(60));
            asked(&mut reader);
            reader.read(&delivery(9, "b"));
            assert!(reader.arrived(1) && !reader.is_silent(true), "nothing is awaited");
            asked(&mut reader);
            tokio::time::advance(SILENCE_MAX * 2).await;
            assert!(!reader.is_silent(false), "no beacon could go out");
            tokio::time::advance(SILENCE_MAX * 2).await;
            assert!(reader.is_silent(true));
            assert_eq!(asked(&mut reader), AMQPValue::LongString("last".into()));
            assert_eq!(reader.read(&delivery(end, "end")), Verdict::Elsewhere);
            assert_eq!(asked(&mut reader), then, "an end at {end}");
            assert_eq!(reader.read(&first), verdict, "an end at {end}");
            // It goes on from there, should the link break before the beacon is back.
            assert_eq!(asked(&mut reader), AMQPValue::LongLongInt(offset(&first).unwrap() as i64));
        }
    }

    #[test]
    fn what_cannot_be_read_is_passed_over_after_some_tries() {
        let mut reader = Reader::new(Duration::from_secs(60));
        asked(&mut reader);
        reader.read(&delivery(9, "b"));
        let mut tries = Vec::new();
        for _ in 0..4 {
            let AMQPValue::LongLongInt(offset) = asked(&mut reader) else { panic!("an offset") };
            if offset == 9 {
                assert_eq!(reader.read(&delivery(9, "b")), Verdict::Known);
            }
            tries.push((offset, reader.could_not_read()));
        }
        assert_eq!(tries, [(9, false), (9, false), (9, true), (11, true)]);
        assert_eq!(asked(&mut reader), AMQPValue::LongLongInt(12));
        assert_eq!(reader.read(&delivery(12, "c")), Verdict::NewAfterPossibleGap);
        assert!(!reader.could_not_read(), "it got on");
        assert_eq!(asked(&mut reader), AMQPValue::LongLongInt(12));
    }
}
