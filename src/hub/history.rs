//! What was handed out lately, for those who come late.
//!
//! Keeps the plain frames of broadcasts, in the order in which they were handed out, and gives the newest of them. One
//! task owns it (see [`Feed`](super::feed::Feed)), so nothing is locked.
//!
//! The frames stand one behind the other in segments that hold nothing else. A full segment is shared by all who are
//! given it, and never copied; what is in the open one is copied once for all who come before the next message. What is
//! kept is counted as the memory that it takes, room that is still free and the list of messages included. The oldest
//! segment is dropped as soon as the limits hold without it; there are at least eight of them to the limit of bytes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

/// Room of a segment: about what a socket's send buffer takes at once.
const SEGMENT_BYTES: usize = 64 * 1024;

/// Into how many segments the limit of bytes is divided at least, so that no large part of the past is dropped at once.
const SEGMENTS_MIN: usize = 8;

/// Bytes of a segment for each message that it may list: where messages are shorter, it is closed before it is full,
/// or its list would be longer than what it lists.
const BYTES_PER_ENTRY: usize = 32;

/// How much of the past is kept. Each limit holds by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    pub bytes_max: usize,
    pub messages_max: usize,
    pub age_max: Duration,
}

impl HistoryLimits {
    /// Whether one of them is zero.
    pub fn keep_nothing(&self) -> bool {
        self.bytes_max == 0 || self.messages_max == 0 || self.age_max.is_zero()
    }
}

/// How much of the past someone wants: at most so much, if it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The last messages, so many.
    Messages(usize),
    /// What was handed out no longer ago than this.
    Age(Duration),
}

/// What was handed out lately.
pub struct History {
    limits: HistoryLimits,
    /// Full segments, the oldest in front.
    closed: VecDeque<Segment<Bytes>>,
    open: Segment<BytesMut>,
    /// What is in the open segment, once someone was given it.
    copied: Option<Bytes>,
    /// Messages in the closed segments.
    closed_messages: usize,
    /// Memory of the closed segments.
    closed_bytes: usize,
}

/// Frames one behind the other, and where each ends.
struct Segment<B> {
    frames: B,
    /// What the frames have room for.
    capacity: usize,
    entries: Vec<Entry>,
}

struct Entry {
    /// Where its frame ends in the segment.
    end: usize,
    /// When it was handed out; never earlier than the one before it.
    heard: Instant,
}

/// What is replayed.
#[derive(Debug, Default)]
pub struct Past {
    /// Frames, one or many in each.
    pub pieces: Vec<Bytes>,
    /// How many frames.
    pub messages: usize,
}

impl History {
    pub fn new(limits: HistoryLimits) -> History {
        History {
            limits,
            closed: VecDeque::new(),
            open: Segment::with_room_for(0),
            copied: None,
            closed_messages: 0,
            closed_bytes: 0,
        }
    }

    /// Adds a message's plain frame, heard now. One that passes the limit of bytes by itself leaves nothing: what is
    /// replayed has no hole.
    pub fn record(&mut self, frame: &[u8], heard: Instant) {
        let segment_bytes = SEGMENT_BYTES.min(self.limits.bytes_max / SEGMENTS_MIN);
        self.copied = None;
        if !self.open.takes(frame, segment_bytes) {
            self.close_open(segment_bytes.max(frame.len()));
        }
        self.open.push(frame, heard);
        if self.open.is_full() {
            self.close_open(0);
        }
        self.trim(heard);
        if self.bytes() > self.limits.bytes_max {
            self.open = Segment::with_room_for(0);
        }
    }

    /// The frames that are asked for, in order, one or many in each piece; less if less is kept.
    pub fn replay(&mut self, asked: Replay) -> Past {
        let (messages_max, age) = match asked {
            Replay::Messages(messages) => (messages.min(self.limits.messages_max), self.limits.age_max),
            Replay::Age(age) => (self.limits.messages_max, age.min(self.limits.age_max)),
        };
        let since = Instant::now().checked_sub(age);
        let open = self.copied.get_or_insert_with(|| Bytes::copy_from_slice(&self.open.frames));
        let open = [(&*open, &self.open.entries)];
        let closed = self.closed.iter().rev().map(|segment| (&segment.frames, &segment.entries));
        let (mut pieces, mut messages) = (Vec::new(), 0);
        for (frames, entries) in open.into_iter().chain(closed) {
            let young = since.map_or(0, |since| entries.partition_point(|entry| entry.heard < since));
            let first = young.max(entries.len().saturating_sub(messages_max - messages));
            messages += entries.len() - first;
            if first < entries.len() {
                pieces.push(frames.slice(end_before(entries, first)..));
            }
            if first > 0 {
                break;
            }
        }
        pieces.reverse();
        Past { pieces, messages }
    }

    /// Memory that it takes.
    fn bytes(&self) -> usize {
        self.closed_bytes + self.open.bytes()
    }

    /// Opens a new segment with so much room.
    fn close_open(&mut self, capacity: usize) {
        let Segment { frames, capacity, entries } = std::mem::replace(&mut self.open, Segment::with_room_for(capacity));
        if entries.is_empty() {
            return;
        }
        let segment = Segment { frames: frames.freeze(), capacity, entries };
        self.closed_messages += segment.entries.len();
        self.closed_bytes += segment.bytes();
        self.closed.push_back(segment);
    }

    /// Drops the oldest segments as far as the limits ask for it, or hold without them.
    fn trim(&mut self, now: Instant) {
        let since = now.checked_sub(self.limits.age_max);
        while let Some(oldest) = self.closed.front() {
            let is_old = oldest.entries.last().is_none_or(|entry| since.is_some_and(|since| entry.heard < since));
            let others = self.closed_messages - oldest.entries.len() + self.open.entries.len();
            if !is_old && others < self.limits.messages_max && self.bytes() <= self.limits.bytes_max {
                return;
            }
            self.closed_messages -= oldest.entries.len();
            self.closed_bytes -= oldest.bytes();
            self.closed.pop_front();
        }
    }
}

impl Segment<BytesMut> {
    fn with_room_for(capacity: usize) -> Segment<BytesMut> {
        Segment { frames: BytesMut::with_capacity(capacity), capacity, entries: Vec::new() }
    }

    /// Whether one more frame has room.
    fn takes(&self, frame: &[u8], segment_bytes: usize) -> bool {
        self.frames.len() + frame.len() <= self.capacity && self.entries.len() < segment_bytes / BYTES_PER_ENTRY
    }

    /// A message that needs a segment of its own fills it, and is never copied.
    fn is_full(&self) -> bool {
        self.frames.len() == self.capacity
    }

    fn push(&mut self, frame: &[u8], heard: Instant) {
        self.frames.extend_from_slice(frame);
        self.entries.push(Entry { end: self.frames.len(), heard });
    }
}

impl<B> Segment<B> {
    /// Memory that it takes.
    fn bytes(&self) -> usize {
        self.capacity + self.entries.capacity() * size_of::<Entry>()
    }
}

/// Where the frame of entry `index` begins.
fn end_before(entries: &[Entry], index: usize) -> usize {
    index.checked_sub(1).map_or(0, |before| entries[before].end)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn history(bytes_max: usize, messages_max: usize) -> History {
        History::new(HistoryLimits { bytes_max, messages_max, age_max: HOUR })
    }

    fn record(history: &mut History, text: &str) {
        history.record(text.as_bytes(), Instant::now());
    }

    fn replay(history: &mut History, asked: Replay) -> String {
        String::from_utf8(history.replay(asked).pieces.concat()).unwrap()
    }

    #[test]
    fn the_last_messages_are_given_in_order() {
        let mut history = history(1 << 20, 4);
        assert_eq!(replay(&mut history, Replay::Messages(3)), "");
        for text in ["a", "bb", "", "ccc", "d"] {
            record(&mut history, text);
        }
        for (messages, expected) in [(0, ""), (1, "d"), (2, "cccd"), (3, "cccd"), (4, "bbcccd"), (9, "bbcccd")] {
            assert_eq!(replay(&mut history, Replay::Messages(messages)), expected, "{messages}");
        }
        assert_eq!(replay(&mut history, Replay::Age(HOUR)), "bbcccd");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_asked_for_or_than_kept_is_not_given() {
        let mut history = history(1 << 20, 10);
        for text in ["a", "b", "c"] {
            record(&mut history, text);
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        for (seconds, expected) in [(9, ""), (10, "c"), (19, "c"), (20, "bc"), (30, "abc"), (9999, "abc")] {
            assert_eq!(replay(&mut history, Replay::Age(Duration::from_secs(seconds))), expected, "{seconds}");
        }
        tokio::time::advance(HOUR - Duration::from_secs(15)).await;
        assert_eq!(replay(&mut history, Replay::Messages(10)), "c");
        assert_eq!(replay(&mut history, Replay::Age(2 * HOUR)), "c");
        tokio::time::advance(HOUR).await;
        assert_eq!(replay(&mut history, Replay::Messages(10)), "");
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_of_what_is_too_old_comes_back() {
        let mut history = history(1 << 20, 1_000_000);
        let long = "x".repeat(1000);
        for _ in 0..500 {
            record(&mut history, &long);
        }
        assert!(history.bytes() >= 500 * 1000);
        tokio::time::advance(HOUR + Duration::from_secs(1)).await;
        record(&mut history, "later");
        assert!(history.bytes() <= 2 * SEGMENT_BYTES, "{}", history.bytes());
    }

    #[test]
    fn most_of_the_limit_is_used_for_messages() {
        for length in [50, 200, 3000, 40_000] {
            let mut history = history(1 << 20, usize::MAX);
            for _ in 0..(4 << 20) / length {
                record(&mut history, &"x".repeat(length));
            }
            let kept = replay(&mut history, Replay::Messages(usize::MAX)).len();
            assert!(kept >= (1 << 20) * 5 / 10, "{kept} of messages of {length}");
        }
    }

    #[test]
    fn a_message_beyond_the_limit_leaves_nothing_before_it() {
        let mut history = history(4096, 100);
        record(&mut history, "before");
        record(&mut history, &"x".repeat(5000));
        assert_eq!(replay(&mut history, Replay::Messages(100)), "");
        assert_eq!(history.bytes(), 0);
        record(&mut history, "after");
        assert_eq!(replay(&mut history, Replay::Messages(100)), "after");
    }

    #[test]
    fn whoever_comes_before_the_next_message_shares_what_the_others_got() {
        let mut history = history(1 << 20, 10_000);
        for _ in 0..200 {
            record(&mut history, &"x".repeat(1000));
        }
        let first = history.replay(Replay::Messages(10_000)).pieces;
        let second = history.replay(Replay::Messages(10_000)).pieces;
        record(&mut history, "more");
        let third = history.replay(Replay::Messages(10_000)).pieces;
        let addresses = |pieces: &[Bytes]| pieces.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>();
        assert!(first.len() > 2);
        assert_eq!(addresses(&first), addresses(&second));
        let closed = first.len() - 1;
        assert_eq!(addresses(&first)[..closed], addresses(&third)[..closed]);
    }

    proptest! {
        /// Whatever is recorded: the memory stays within the limit, and a replay is the end of what was recorded.
        #[test]
        fn a_replay_ends_with_the_last_message_and_memory_is_bounded(
            lengths in vec(prop_oneof![0..40usize, 0..3000usize, 0..12_000usize], 1..300),
            bytes_max in 1000..60_000usize,
            messages_max in 1..200usize,
            asked in 0..250usize,
        ) {
            let mut history = history(bytes_max, messages_max);
            let mut frames: Vec<Vec<u8>> = Vec::new();
            for (index, length) in lengths.into_iter().enumerate() {
                // No frame looks like the end of another.
                let frame = [&(index as u32).to_be_bytes()[..], &vec![0xFF; length]].concat();
                history.record(&frame, Instant::now());
                frames.push(frame);
                prop_assert!(history.bytes() <= bytes_max, "{} of {}", history.bytes(), bytes_max);
                let past = history.replay(Replay::Messages(asked));
                let (messages, past) = (past.messages, past.pieces.concat());
                let mut expected = 0;
                let mut bytes = 0;
                while bytes < past.len() {
                    expected += 1;
                    bytes += frames[frames.len() - expected].len();
                }
                prop_assert!(frames[frames.len() - expected..].concat() == past);
                prop_assert!(expected == messages && messages <= asked.min(messages_max));
                let kept = history.closed_messages + history.open.entries.len();
                prop_assert_eq!(expected, asked.min(messages_max).min(kept));
            }
        }
    }
}
