//! What was handed out lately, for those who were away: messages with their places, and what of each partition is whole.
//!
//! One task owns it (see [`Feed`](super::feed::Feed)), so nothing is locked. Full segments are shared with those who read
//! them, outside of that task, and never copied.

use std::collections::VecDeque;
use std::sync::Arc;

use super::wish::Wish;
use crate::cursor::Cursor;
use crate::message::Message;
use crate::place::{Partition, Place, Position, Reading};

/// Messages of a segment.
const SEGMENT_MESSAGES: usize = 256;

/// Entries of a partition whose checks are known. Beacons are entries, too, and take no other memory here.
const CHECKS_MAX: usize = 65_536;

/// What an entry takes beside its payload, about: itself, its id, its topic, and what the allocator adds.
const OVERHEAD_BYTES: usize = 256;

/// Offsets that may be missing between two entries that follow each other: RabbitMQ leaves some out, and what was
/// withdrawn leaves one empty.
const SKIPS_MAX: u64 = 100;

/// A message that was handed out, and where it stands.
#[derive(Clone, Debug)]
pub struct Record {
    pub message: Message,
    pub place: Place,
}

impl Record {
    /// Whether it may have come behind what a client has. Of what was handed out while something was held back, a client
    /// cannot say how much of it it had.
    pub fn is_behind(&self, cursor: &Cursor) -> bool {
        let Some(had) = cursor.position(self.place.partition) else { return false };
        let reached = self.place.reached.map_or(0, |reached| reached.offset);
        reached.max(self.place.offset) > had.offset
    }
}

/// Segments of the log, and which records they are.
#[derive(Clone, Debug, Default)]
pub struct Excerpt {
    segments: Vec<Arc<[Record]>>,
    /// The number of the first.
    first: u64,
    /// By partition: the number of the record from which on it is one line.
    since: [u64; Partition::COUNT],
}

impl Excerpt {
    /// What someone wished for that may have come behind a cursor.
    pub fn wished<'a>(&'a self, wish: &'a Wish, cursor: Cursor) -> impl Iterator<Item = &'a Record> {
        let records = self.segments.iter().flat_map(|segment| segment.iter());
        let records = (self.first..).zip(records).filter(|(number, record)| {
            *number >= self.since[record.place.partition.index()] && wish.includes(&record.message.target)
        });
        records.map(|(_, record)| record).filter(move |record| record.is_behind(&cursor))
    }

    /// The number of the record that comes next.
    pub fn end(&self) -> u64 {
        self.first + self.segments.iter().map(|segment| segment.len() as u64).sum::<u64>()
    }
}

/// What the log knows of what came behind a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// All of it.
    Whole,
    /// It was handed out before the log begins.
    Older,
    /// It has not been read here yet.
    Ahead,
    /// Another entry stands there: it is of a partition that was since deleted.
    Foreign,
}

pub struct Log {
    bytes_max: usize,
    closed: VecDeque<Arc<[Record]>>,
    open: Vec<Record>,
    /// The number of the first record that is still there.
    first: u64,
    bytes: usize,
    /// By partition.
    kept: Vec<Kept>,
}

/// What is whole of a partition.
#[derive(Debug, Default)]
struct Kept {
    /// The offset of the first of `checks`.
    first: u64,
    /// Of each offset from there on.
    checks: VecDeque<u16>,
    /// Everything behind this offset is in the log.
    whole_behind: u64,
    /// The number of the record from which on that is so.
    since: u64,
}

impl Log {
    /// Keeps messages in so much memory; with none it keeps nothing.
    pub fn new(bytes_max: usize) -> Log {
        let kept = Partition::all().map(|_| Kept::default()).collect();
        Log { bytes_max, closed: VecDeque::new(), open: Vec::new(), first: 0, bytes: 0, kept }
    }

    /// Whether anything is kept.
    pub fn is_kept(&self) -> bool {
        self.bytes_max > 0
    }

    pub fn record(&mut self, message: &Message, place: Place) {
        if self.bytes_max == 0 {
            return;
        }
        self.bytes += cost(message);
        self.open.push(Record { message: message.clone(), place });
        if self.open.len() >= SEGMENT_MESSAGES {
            self.close_open();
        }
        while self.bytes > self.bytes_max {
            self.drop_oldest();
        }
    }

    /// What comes next of a partition does not go on from what came before. To be called before [`Log::record`] for it.
    pub fn begin(&mut self, reading: &Reading) {
        if let Some(first) = reading.entries.first() {
            let (first, since) = (first.offset, self.end());
            self.kept[reading.partition.index()] = Kept { first, checks: VecDeque::new(), whole_behind: first, since };
        }
    }

    /// Notes what was read. To be called behind [`Log::record`] for what was in it.
    pub fn note(&mut self, reading: &Reading) {
        if self.bytes_max > 0 {
            let kept = &mut self.kept[reading.partition.index()];
            reading.entries.iter().for_each(|entry| kept.push(*entry));
        }
    }

    /// The number of the record that comes next.
    fn end(&self) -> u64 {
        self.first + self.closed.iter().map(|segment| segment.len() as u64).sum::<u64>() + self.open.len() as u64
    }

    /// What is known of what came behind a position.
    pub fn knows(&self, partition: Partition, position: Position) -> Known {
        let kept = &self.kept[partition.index()];
        let Some(index) = position.offset.checked_sub(kept.first) else { return Known::Older };
        match kept.checks.get(index as usize) {
            None => Known::Ahead,
            Some(_) if position.offset < kept.whole_behind => Known::Older,
            Some(check) if *check == position.check => Known::Whole,
            Some(_) => Known::Foreign,
        }
    }

    /// The position behind which all that is known of a partition came.
    pub fn oldest(&self, partition: Partition) -> Option<Position> {
        let kept = &self.kept[partition.index()];
        let offset = kept.whole_behind.max(kept.first);
        let check = *kept.checks.get((offset - kept.first) as usize)?;
        Some(Position { offset, check })
    }

    /// Whether a partition has been one line since the record with this number.
    pub fn goes_on(&self, partition: Partition, number: u64) -> bool {
        self.kept[partition.index()].since <= number
    }

    /// All records from a number on; `None` if some of them are gone.
    pub fn from(&mut self, number: u64) -> Option<Excerpt> {
        let mut skipped = number.checked_sub(self.first)? as usize;
        self.close_open();
        let since = std::array::from_fn(|index| self.kept[index].since);
        let mut excerpt = Excerpt { segments: Vec::new(), first: number, since };
        for segment in &self.closed {
            if skipped == 0 {
                excerpt.segments.push(segment.clone());
            } else if skipped < segment.len() {
                excerpt.segments.push(segment[skipped..].into());
                skipped = 0;
            } else {
                skipped -= segment.len();
            }
        }
        Some(excerpt)
    }

    /// All records.
    pub fn all(&mut self) -> Excerpt {
        self.from(self.first).unwrap_or_default()
    }

    fn close_open(&mut self) {
        if !self.open.is_empty() {
            self.closed.push_back(std::mem::take(&mut self.open).into());
        }
    }

    fn drop_oldest(&mut self) {
        if self.closed.is_empty() {
            self.close_open();
        }
        let Some(oldest) = self.closed.pop_front() else { return };
        for (number, Record { message, place }) in (self.first..).zip(oldest.iter()) {
            self.bytes -= cost(message);
            let reached = place.reached.map_or(0, |reached| reached.offset);
            let kept = &mut self.kept[place.partition.index()];
            // What is of a line that has ended says nothing of this one.
            if number >= kept.since {
                kept.whole_behind = kept.whole_behind.max(place.offset.max(reached));
            }
        }
        self.first += oldest.len() as u64;
    }
}

impl Kept {
    fn push(&mut self, entry: Position) {
        let next = self.first + self.checks.len() as u64;
        match entry.offset.checked_sub(next) {
            None => return,
            Some(skipped) if skipped <= SKIPS_MAX => {
                self.checks.extend((0..skipped).map(|_| 0));
            }
            // Whoever reads would have said that it begins anew; nothing before is whole, to be on the safe side.
            Some(_) => {
                self.checks.clear();
                (self.first, self.whole_behind) = (entry.offset, entry.offset);
            }
        }
        self.checks.push_back(entry.check);
        while self.checks.len() > CHECKS_MAX {
            self.checks.pop_front();
            self.first += 1;
        }
    }
}

fn cost(message: &Message) -> usize {
    message.payload.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{PayloadKind, Target};

    const PARTITION: Partition = Partition::BROADCAST;

    fn at(offset: u64) -> Position {
        Position { offset, check: offset as u16 ^ 0x5A5A }
    }

    fn reading(begins: bool, offsets: impl Iterator<Item = u64>) -> Reading {
        let entries: Vec<Position> = offsets.map(at).collect();
        Reading { partition: PARTITION, begins, reached: entries.last().copied(), entries }
    }

    /// A message that says its offset, handed on when everything up to `reached` was.
    fn record(log: &mut Log, offset: u64, reached: u64) {
        let (target, payload) = (Target::Broadcast, offset.to_string().into());
        let message = Message { id: None, target, kind: PayloadKind::Text, published_ms: 0, terms: None, payload };
        let place = Place { partition: PARTITION, offset, reached: Some(at(reached)), is_past: false };
        log.record(&message, place);
    }

    fn read(log: &mut Log, offsets: std::ops::Range<u64>) {
        for offset in offsets {
            record(log, offset, offset);
            log.note(&reading(false, offset..offset + 1));
        }
    }

    fn begun(bytes_max: usize, first: u64) -> Log {
        let mut log = Log::new(bytes_max);
        let beginning = reading(true, first..first + 1);
        log.begin(&beginning);
        log.note(&beginning);
        log
    }

    fn behind(excerpt: &Excerpt, offset: u64) -> Vec<u64> {
        let mut cursor = Cursor::default();
        cursor.set(PARTITION, at(offset));
        let wish = Wish::new(true, &[]);
        let texts = excerpt.wished(&wish, cursor).map(|record| String::from_utf8(record.message.payload.to_vec()));
        texts.map(|text| text.unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn what_came_behind_a_position_is_known_while_it_is_there() {
        let mut log = begun(1 << 20, 10);
        read(&mut log, 11..600);
        for (position, known) in [
            (at(9), Known::Older),
            (at(10), Known::Whole),
            (at(300), Known::Whole),
            (at(599), Known::Whole),
            (at(600), Known::Ahead),
            (Position { check: 0, ..at(300) }, Known::Foreign),
        ] {
            assert_eq!(log.knows(PARTITION, position), known, "{position:?}");
        }
        assert_eq!(log.knows(Partition::topics().next().unwrap(), at(0)), Known::Ahead, "nothing was read there");
        assert!(behind(&log.all(), 597).into_iter().eq(598..600));
        assert!(behind(&log.all(), 10).into_iter().eq(11..600));
    }

    #[test]
    fn what_had_no_more_room_is_older() {
        let room_for = |messages: usize| messages * (OVERHEAD_BYTES + 3);
        let mut log = begun(room_for(300), 100);
        read(&mut log, 101..999);
        let oldest = log.oldest(PARTITION).expect("something is there");
        assert!(oldest.offset >= 698 && oldest.offset < 998, "{oldest:?}");
        assert_eq!(log.knows(PARTITION, oldest), Known::Whole);
        assert_eq!(log.knows(PARTITION, at(oldest.offset - 1)), Known::Older);
        assert!(behind(&log.all(), oldest.offset).into_iter().eq(oldest.offset + 1..999));
        assert!(log.bytes <= room_for(300));
    }

    #[test]
    fn what_follows_a_number_is_given_while_nothing_of_it_is_gone() {
        let mut log = begun(1 << 20, 0);
        read(&mut log, 1..300);
        let end = log.all().end();
        read(&mut log, 300..303);
        let rest = log.from(end).expect("all of it is there");
        assert_eq!((behind(&rest, 0), rest.end()), (vec![300, 301, 302], end + 3));
        assert_eq!(log.from(rest.end()).map(|rest| behind(&rest, 0)), Some(vec![]));
        let mut small = begun(10 * OVERHEAD_BYTES, 0);
        read(&mut small, 1..100);
        assert!(small.from(5).is_none());
    }

    /// Another stream may reach offsets that the last one had.
    #[test]
    fn nothing_of_before_belongs_to_what_begins_anew() {
        let mut log = begun(1 << 20, 500);
        read(&mut log, 501..600);
        let anew = reading(true, 3..4);
        log.begin(&anew);
        record(&mut log, 3, 3);
        log.note(&anew);
        read(&mut log, 4..6);
        assert_eq!(log.knows(PARTITION, at(550)), Known::Ahead);
        assert_eq!(behind(&log.all(), 3), [4, 5]);
        let far = reading(false, 900..901);
        log.note(&far);
        assert_eq!(log.knows(PARTITION, at(5)), Known::Older, "what lies between was not read");
    }

    /// 4 is missing; 5 waits for it, and what others said does not. Then 4 comes, as 8.
    #[test]
    fn whoever_left_while_something_was_held_back_misses_nothing() {
        let mut log = begun(1 << 20, 3);
        for offset in [6, 7] {
            record(&mut log, offset, 3);
        }
        log.note(&reading(false, 5..8));
        for offset in [8, 5] {
            record(&mut log, offset, if offset == 5 { 8 } else { 3 });
        }
        log.note(&reading(false, 8..9));
        assert_eq!(behind(&log.all(), 3), [6, 7, 8, 5]);
        assert_eq!(behind(&log.all(), 8), [0; 0]);
    }

    #[test]
    fn without_memory_nothing_is_kept() {
        let mut log = begun(0, 1);
        read(&mut log, 2..5);
        assert!(!log.is_kept() && log.all().end() == 0 && log.oldest(PARTITION).is_none());
    }
}
