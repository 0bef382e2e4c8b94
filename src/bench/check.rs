//! What each session should have heard, against what it did: lost, doubled, out of order.
//!
//! Every publisher counts its messages from 0, and every session is open before the first, so each session expects
//! each publisher's numbers one by one. A number left out is missing until it comes late (out of order) or the run
//! ends (lost); a number that is neither next nor missing came twice. Memory follows the number of gaps, not their
//! length.

use std::collections::BTreeMap;

/// How often each thing went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Faults {
    /// Deliveries that did not come before the run gave up waiting.
    pub lost: u64,
    /// Deliveries of a message that the session had already.
    pub doubled: u64,
    /// Deliveries that came after a later message of the same publisher.
    pub reordered: u64,
    /// Messages whose length or marker is not what was sent.
    pub damaged: u64,
    /// Sessions that could not be opened.
    pub refused: u64,
    /// Sessions whose handshake was never answered.
    pub unanswered: u64,
    /// Sessions that ended while they were needed.
    pub closed: u64,
    /// Measurements that should have had traffic, and had none.
    pub untried: u64,
}

impl Faults {
    pub fn is_none(&self) -> bool {
        *self == Faults::default()
    }

    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.closed += other.closed;
        self.untried += other.untried;
    }

    /// Each defect by its name, with its count: what goes to the user beside a non-zero exit.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("deliveries lost", self.lost),
            ("deliveries doubled", self.doubled),
            ("deliveries out of order", self.reordered),
            ("messages damaged", self.damaged),
            ("sessions refused", self.refused),
            ("handshakes never answered", self.unanswered),
            ("sessions closed by the server", self.closed),
            ("measurements without any message", self.untried),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
    }
}

/// The books of one worker's sessions.
pub struct Checker {
    publishers: usize,
    /// The number expected next, by session and publisher.
    next: Vec<u32>,
    /// Gaps: session and publisher, first number; behind the last.
    missing: BTreeMap<(usize, u32), u32>,
    faults: Faults,
}

impl Checker {
    pub fn new(sessions: usize, publishers: usize) -> Checker {
        Checker {
            publishers,
            next: vec![0; sessions * publishers],
            missing: BTreeMap::new(),
            faults: Faults::default(),
        }
    }

    /// Enters one delivery; true if it is the first of this message to this session.
    #[inline]
    pub fn enter(&mut self, session: usize, publisher: u32, sequence: u32) -> bool {
        let publisher = publisher as usize;
        let line = session * self.publishers + publisher;
        let Some(next) = self.next.get_mut(line).filter(|_| publisher < self.publishers) else {
            self.faults.damaged += 1;
            return false;
        };
        if sequence == *next {
            *next += 1;
            return true;
        }
        self.unexpected(line, sequence)
    }

    #[cold]
    fn unexpected(&mut self, line: usize, sequence: u32) -> bool {
        let next = self.next[line];
        if sequence > next {
            self.missing.insert((line, next), sequence);
            self.next[line] = sequence + 1;
            return true;
        }
        let gap = self.missing.range(..=(line, sequence)).next_back();
        match gap.map(|(&(at, from), &to)| (at, from, to)) {
            Some((at, from, to)) if at == line && sequence < to => {
                self.missing.remove(&(line, from));
                if from < sequence {
                    self.missing.insert((line, from), sequence);
                }
                if sequence + 1 < to {
                    self.missing.insert((line, sequence + 1), to);
                }
                self.faults.reordered += 1;
                true
            }
            _ => {
                self.faults.doubled += 1;
                false
            }
        }
    }

    pub fn damaged(&mut self) {
        self.faults.damaged += 1;
    }

    /// The balance, given how many messages each publisher sent.
    pub fn settle(&self, published: &[u32]) -> Faults {
        let gaps: u64 = self.missing.iter().map(|(&(_, from), &to)| u64::from(to - from)).sum();
        let ends: u64 = self
            .next
            .chunks_exact(self.publishers.max(1))
            .flat_map(|session| session.iter().zip(published))
            .map(|(next, published)| u64::from(published.saturating_sub(*next)))
            .sum();
        Faults { lost: gaps + ends, ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(deliveries: &[u32], published: u32) -> Faults {
        let mut checker = Checker::new(1, 1);
        for sequence in deliveries {
            checker.enter(0, 0, *sequence);
        }
        checker.settle(&[published])
    }

    #[test]
    fn all_in_order_is_without_fault() {
        assert!(faults(&[0, 1, 2, 3], 4).is_none());
    }

    #[test]
    fn gaps_and_a_missing_end_are_lost() {
        assert_eq!(faults(&[0, 3, 4], 7), Faults { lost: 4, ..Faults::default() });
        assert_eq!(faults(&[], 5), Faults { lost: 5, ..Faults::default() });
    }

    #[test]
    fn a_late_one_is_out_of_order_and_not_lost() {
        for late in [1, 2, 3] {
            let deliveries: Vec<u32> = [0, 4].into_iter().chain([1, 2, 3].into_iter().filter(|n| *n != late)).collect();
            let expected = Faults { lost: 1, reordered: 2, ..Faults::default() };
            assert_eq!(faults(&deliveries, 5), expected, "without {late}");
            let whole: Vec<u32> = deliveries.into_iter().chain([late]).collect();
            assert_eq!(faults(&whole, 5), Faults { reordered: 3, ..Faults::default() });
        }
    }

    #[test]
    fn a_repeated_one_is_doubled_wherever_it_comes() {
        assert_eq!(faults(&[0, 0, 1], 2), Faults { doubled: 1, ..Faults::default() });
        assert_eq!(faults(&[0, 2, 1, 1, 0], 3), Faults { reordered: 1, doubled: 2, ..Faults::default() });
    }

    #[test]
    fn sessions_and_publishers_are_kept_apart() {
        let mut checker = Checker::new(2, 2);
        for (session, publisher, sequence) in [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1), (0, 1, 0)] {
            assert!(checker.enter(session, publisher, sequence));
        }
        assert_eq!(checker.settle(&[1, 2]), Faults { reordered: 1, ..Faults::default() });
        assert!(!checker.enter(0, 2, 0));
        assert_eq!(checker.settle(&[1, 2]).damaged, 1);
    }

    #[test]
    fn each_defect_has_a_name() {
        let faults = Faults { lost: 2, doubled: 1, ..Faults::default() };
        let named: Vec<_> = faults.named().collect();
        assert_eq!(named, [("deliveries lost", 2), ("deliveries doubled", 1)]);
    }
}
