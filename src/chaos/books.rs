//! What one session heard, by the numbers inside the payloads.
//!
//! A session's books begin anew with each of its connections, and where it subscribes on one, with each subscription: a
//! [`Life`]. From each sender a life expects every number
//! from the sender's count at the moment the life began, its baseline; what was on its way by then may come too. A
//! number left out is a gap until it comes late, which is out of order, or never, which is a loss.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::subject::Subject;

/// What an arrived number was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    InOrder,
    /// Behind a later number of the same sender.
    Late,
    /// It was here before.
    Double,
}

/// The numbers of one sender that arrived in one life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The first number that is expected.
    baseline: u32,
    /// The lowest that arrived, and one past the highest; equal as long as none did.
    floor: u32,
    next: u32,
    /// What is missing between them.
    gaps: Vec<Range<u32>>,
}

impl Line {
    pub fn new(baseline: u32) -> Line {
        Line { baseline, floor: baseline, next: baseline, gaps: Vec::new() }
    }

    pub fn enter(&mut self, number: u32) -> Entry {
        if self.floor == self.next && number < self.baseline {
            (self.floor, self.next) = (number, number + 1);
            return Entry::InOrder;
        }
        if number >= self.next {
            if number > self.next {
                self.gaps.push(self.next..number);
            }
            self.next = number + 1;
            return Entry::InOrder;
        }
        if number < self.floor {
            if number + 1 < self.floor {
                self.gaps.insert(0, number + 1..self.floor);
            }
            self.floor = number;
            return Entry::Late;
        }
        self.fill(number)
    }

    fn fill(&mut self, number: u32) -> Entry {
        let Some(place) = self.gaps.iter().position(|gap| gap.contains(&number)) else { return Entry::Double };
        let gap = self.gaps[place].clone();
        let rest = [gap.start..number, number + 1..gap.end];
        self.gaps.splice(place..=place, rest.into_iter().filter(|part| !part.is_empty()));
        Entry::Late
    }

    /// Expected numbers below `end` that did not come; without an `end`, those that a later one shows to be missing.
    pub fn missing(&self, end: Option<u32>) -> Vec<Range<u32>> {
        let behind = self.next.max(self.baseline)..end.unwrap_or(0);
        let expected = |gap: &Range<u32>| gap.start.max(self.baseline)..gap.end.min(end.unwrap_or(u32::MAX));
        self.gaps.iter().map(expected).chain([behind]).filter(|gap| !gap.is_empty()).collect()
    }

    /// One past the highest that arrived; 0 if none did.
    pub fn end(&self) -> u32 {
        if self.floor == self.next { 0 } else { self.next }
    }

    /// The numbers that came.
    pub fn arrived(&self) -> Vec<Range<u32>> {
        let starts = std::iter::once(self.floor).chain(self.gaps.iter().map(|gap| gap.end));
        let ends = self.gaps.iter().map(|gap| gap.start).chain([self.next]);
        starts.zip(ends).map(|(start, end)| start..end).filter(|part| !part.is_empty()).collect()
    }
}

/// The numbers that are in both; each list is in order.
pub fn common(one: &[Range<u32>], other: &[Range<u32>]) -> Vec<Range<u32>> {
    let overlap = |a: &Range<u32>, b: &Range<u32>| a.start.max(b.start)..a.end.min(b.end);
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| overlap(a, b)));
    pairs.filter(|part| !part.is_empty()).collect()
}

/// How many numbers there are in these.
pub fn count(ranges: &[Range<u32>]) -> u64 {
    ranges.iter().map(|range| range.len() as u64).sum()
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// In the server's words, or the socket's.
    pub why: String,
    pub cause: Cause,
}

/// Who is to answer for the end of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its instance was killed, or drained and said nothing better.
    Instance,
    /// Its instance was drained and said good-bye (close code 1001): what it had read was accepted.
    GoodBye,
    /// It had not been reading, and its instance gave it up for that.
    Stall,
    /// Its message was refused (close code 1013).
    Refused,
    /// The session left it by itself, or its connection ended, which has a life of its own.
    Left,
    /// Nothing that explains it.
    None,
}

/// One connection of a session, from the server's agreement to its end; or a subscription on one, from its acknowledgement
/// to the one of its end.
pub struct Life {
    /// The place of its instance.
    pub instance: usize,
    pub hears: Subject,
    /// Senders of this number and above did not exist when it began: all they send is expected.
    joined_at: u32,
    /// It stood before anything was sent.
    pub stood_first: bool,
    page: Mutex<Page>,
}

/// By sender; with the place of the sender's instance.
pub type Lines = HashMap<u32, (usize, Line)>;

/// What a life heard.
#[derive(Debug, Default)]
pub struct Page {
    pub lines: Lines,
    pub delivered: u64,
    pub doubled: u64,
    /// When each message that came late had been sent, in nanoseconds of the run.
    pub late_sent_ns: Vec<u64>,
    /// The place of the last message in the one order of its subject, and how many came behind one of a later place.
    pub places: HashMap<Subject, u64>,
    pub unordered: u64,
    /// `None` while it lasts.
    pub end: Option<End>,
}

impl Life {
    /// Begins with the senders that live at this moment and that it hears, and how many messages each has sent.
    pub fn new(
        instance: usize,
        hears: Subject,
        joined_at: u32,
        senders: impl IntoIterator<Item = (u32, usize, u32)>,
    ) -> Life {
        let lines: Lines = senders.into_iter().map(|(id, instance, sent)| (id, (instance, Line::new(sent)))).collect();
        Life { instance, hears, joined_at, stood_first: false, page: Mutex::new(Page { lines, ..Page::default() }) }
    }

    pub fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first number expected of a sender that has no line yet; of one that had ended before this life, none is.
    pub fn baseline_of_new(&self, sender: u32) -> u32 {
        if sender >= self.joined_at { 0 } else { u32::MAX }
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant, also of one")]
mod tests {
    use super::*;

    fn line(baseline: u32, numbers: &[u32]) -> (Line, Vec<Entry>) {
        let mut line = Line::new(baseline);
        let entries = numbers.iter().map(|number| line.enter(*number)).collect();
        (line, entries)
    }

    #[test]
    fn all_in_order_misses_nothing() {
        let (line, entries) = line(0, &[0, 1, 2]);
        assert_eq!(entries, [Entry::InOrder; 3]);
        assert_eq!((line.missing(Some(3)), line.missing(None)), (vec![], vec![]));
        assert_eq!(line.arrived(), [0..3]);
    }

    #[test]
    fn a_gap_and_a_missing_end_are_missing() {
        let (line, _) = line(0, &[0, 3, 4]);
        assert_eq!(line.missing(Some(7)), [1..3, 5..7]);
        assert_eq!(line.missing(None), [1..3], "nobody knows of more, once the life has ended");
        assert_eq!((line.arrived(), line.end()), (vec![0..1, 3..5], 5));
    }

    #[test]
    fn nothing_at_all_is_missing_as_a_whole() {
        let (line, _) = line(4, &[]);
        assert_eq!((line.missing(Some(7)), line.missing(None), line.arrived()), (vec![4..7], vec![], vec![]));
        assert_eq!(line.end(), 0);
    }

    #[test]
    fn a_late_number_closes_its_gap_wherever_it_lies() {
        for late in [1, 2, 3] {
            let (line, entries) = line(0, &[0, 4, late]);
            assert_eq!(entries, [Entry::InOrder, Entry::InOrder, Entry::Late]);
            assert_eq!(count(&line.missing(Some(5))), 2);
            assert!(common(&line.missing(Some(5)), &[late..late + 1]).is_empty());
        }
    }

    #[test]
    fn a_number_that_was_there_is_a_double() {
        assert_eq!(line(0, &[0, 0, 1]).1, [Entry::InOrder, Entry::Double, Entry::InOrder]);
        let entries = line(0, &[0, 2, 1, 1, 0]).1;
        assert_eq!(entries[2..], [Entry::Late, Entry::Double, Entry::Double]);
    }

    #[test]
    fn what_was_sent_before_the_life_began_may_come_but_is_not_expected() {
        let (line, entries) = line(5, &[3, 6]);
        assert_eq!(entries, [Entry::InOrder; 2]);
        assert_eq!(line.missing(Some(8)), [5..6, 7..8], "4 was on its way before");
        let (line, entries) = super::tests::line(5, &[4, 3, 4, 2]);
        assert_eq!(entries, [Entry::InOrder, Entry::Late, Entry::Double, Entry::Late]);
        assert_eq!(line.missing(Some(6)), [5..6]);
    }

    #[test]
    fn of_a_sender_that_had_ended_nothing_is_expected() {
        let life = Life::new(0, Subject::Broadcast, 2, [(1, 0, 7)]);
        assert_eq!(life.page().lines[&1].1, Line::new(7));
        assert_eq!((life.baseline_of_new(0), life.baseline_of_new(2)), (u32::MAX, 0));
        let (line, entries) = line(u32::MAX, &[3, 5, 5]);
        assert_eq!(entries, [Entry::InOrder, Entry::InOrder, Entry::Double]);
        assert_eq!((line.missing(Some(9)), line.missing(None)), (vec![], vec![]));
    }

    #[test]
    fn common_numbers_are_found() {
        assert_eq!(common(&[0..5, 8..10], &[3..9]), [3..5, 8..9]);
        assert!(common(&[0..3], &[3..9]).is_empty());
    }

    mod properties {
        use std::collections::BTreeSet;

        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// The books agree with a set of all that came.
            #[test]
            fn books_agree_with_a_set(baseline in 0_u32..20, numbers in prop::collection::vec(0_u32..40, 0..60)) {
                let (mut line, mut seen) = (Line::new(baseline), BTreeSet::new());
                for number in numbers {
                    let expected = match seen.last() {
                        _ if seen.contains(&number) => Entry::Double,
                        Some(last) if number < *last => Entry::Late,
                        _ => Entry::InOrder,
                    };
                    prop_assert_eq!(line.enter(number), expected);
                    seen.insert(number);
                }
                let missing: BTreeSet<u32> = line.missing(Some(40)).into_iter().flatten().collect();
                let expected: BTreeSet<u32> = (baseline..40).filter(|number| !seen.contains(number)).collect();
                prop_assert_eq!(missing, expected);
                let arrived: BTreeSet<u32> = line.arrived().into_iter().flatten().collect();
                prop_assert_eq!(arrived, seen);
            }
        }
    }
}
