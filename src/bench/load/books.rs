//! What one worker enters of each delivery, and the sum over workers.

use hdrhistogram::Histogram;

use super::latency_histogram;
use crate::bench::check::{Checker, Faults};
use crate::bench::marker::{Marker, PROBE};

/// What an entered message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Delivery,
    Probe,
    /// A double, or nothing of this run.
    Other,
}

/// One worker's results; joined, those of the whole load.
pub struct Tally {
    /// From the time a message was due to its arrival, for each delivery of a measured phase; by the target of the
    /// session that heard it.
    pub latencies: Vec<Histogram<u64>>,
    /// From the start of a connection to the server's agreement.
    pub handshakes: Histogram<u64>,
    /// How late messages were sent, which their latencies contain.
    pub lateness: Histogram<u64>,
    pub published: Vec<u32>,
    /// Deliveries that came compressed.
    pub compressed: u64,
    /// Messages of others on the same server.
    pub foreign: u64,
    pub faults: Faults,
    pub first_error: Option<String>,
    checkers: Vec<Checker>,
}

impl Tally {
    pub fn new(sessions: usize, publishers: usize, targets: usize) -> Tally {
        Tally {
            latencies: (0..targets.max(1)).map(|_| latency_histogram()).collect(),
            handshakes: latency_histogram(),
            lateness: latency_histogram(),
            published: vec![0; publishers],
            compressed: 0,
            foreign: 0,
            faults: Faults::default(),
            first_error: None,
            checkers: vec![Checker::new(sessions, publishers)],
        }
    }

    /// Enters what arrived at `session`, the worker's own number of it.
    #[inline]
    pub fn enter(&mut self, session: usize, payload: &[u8], expected: Expected) -> Entry {
        let marker = payload.get(expected.marker_at..).and_then(Marker::decode);
        let Some(marker) = marker.filter(|marker| marker.run == expected.run) else {
            self.foreign += 1;
            return Entry::Other;
        };
        if marker.publisher == PROBE {
            return Entry::Probe;
        }
        let checker = &mut self.checkers[0];
        if payload.len() != expected.size {
            checker.damaged();
        }
        if !checker.enter(session, marker.publisher, marker.sequence) {
            return Entry::Other;
        }
        if marker.sent_ns >= expected.measured_from_ns {
            self.latencies[expected.target].saturating_record(expected.now_ns.saturating_sub(marker.sent_ns));
        }
        Entry::Delivery
    }

    /// Enters what cannot be inflated.
    pub fn corrupt(&mut self) {
        self.checkers[0].damaged();
    }

    pub fn join(mut self, other: Tally) -> Tally {
        // All histograms have the same bounds, so adding cannot fail.
        for (sum, part) in self.latencies.iter_mut().zip(&other.latencies) {
            let _ = sum.add(part);
        }
        let _ = self.handshakes.add(&other.handshakes);
        let _ = self.lateness.add(&other.lateness);
        for (sum, part) in self.published.iter_mut().zip(&other.published) {
            *sum += part;
        }
        self.compressed += other.compressed;
        self.foreign += other.foreign;
        self.checkers.extend(other.checkers);
        self
    }

    /// The latencies over all targets.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = latency_histogram();
        for latency in &self.latencies {
            let _ = all.add(latency);
        }
        all
    }

    /// The faults over all sessions, once all is published.
    pub fn settle(&self) -> Faults {
        let mut faults = Faults::default();
        for checker in &self.checkers {
            faults.add(&checker.settle(&self.published));
        }
        faults
    }
}

/// What entries are judged by.
#[derive(Clone, Copy)]
pub struct Expected {
    pub run: u32,
    pub size: usize,
    pub marker_at: usize,
    /// Where the session that heard it is connected, by the plan's order.
    pub target: usize,
    pub now_ns: u64,
    pub measured_from_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::marker::MARKER_BYTES;

    const EXPECTED: Expected = Expected {
        run: 7,
        size: MARKER_BYTES,
        marker_at: 0,
        target: 0,
        now_ns: 5_000_000,
        measured_from_ns: 2_000_000,
    };

    fn payload(run: u32, publisher: u32, sequence: u32, sent_ns: u64) -> [u8; MARKER_BYTES] {
        Marker { run, publisher, sequence, sent_ns }.encode()
    }

    #[test]
    fn deliveries_count_and_those_of_the_measured_phase_are_timed() {
        let mut tally = Tally::new(1, 1, 1);
        assert_eq!(tally.enter(0, &payload(7, 0, 0, 1_000_000), EXPECTED), Entry::Delivery);
        assert_eq!(tally.enter(0, &payload(7, 0, 1, 2_000_000), EXPECTED), Entry::Delivery);
        assert_eq!((tally.latency().len(), tally.latency().max() / 100_000), (1, 30));
        assert_eq!(tally.enter(0, &payload(7, 0, 1, 2_000_000), EXPECTED), Entry::Other);
        tally.published = vec![3];
        assert_eq!(tally.settle(), Faults { lost: 1, doubled: 1, ..Faults::default() });
    }

    #[test]
    fn latencies_are_kept_apart_by_target() {
        let mut tally = Tally::new(2, 1, 2);
        tally.enter(0, &payload(7, 0, 0, 4_000_000), EXPECTED);
        tally.enter(1, &payload(7, 0, 0, 2_000_000), Expected { target: 1, ..EXPECTED });
        let milliseconds: Vec<u64> = tally.latencies.iter().map(|latency| latency.max() / 900_000).collect();
        assert_eq!((milliseconds, tally.latency().len()), (vec![1, 3], 2));
    }

    #[test]
    fn probes_and_strangers_count_for_nothing() {
        let mut tally = Tally::new(1, 1, 1);
        assert_eq!(tally.enter(0, &payload(7, PROBE, 0, 0), EXPECTED), Entry::Probe);
        assert_eq!(tally.enter(0, &payload(8, 0, 0, 0), EXPECTED), Entry::Other);
        assert_eq!(tally.enter(0, b"Hello", EXPECTED), Entry::Other);
        assert_eq!((tally.foreign, tally.settle()), (2, Faults::default()));
    }

    #[test]
    fn a_message_of_another_length_is_damaged() {
        let mut tally = Tally::new(1, 1, 1);
        let longer = [&payload(7, 0, 0, 0)[..], b"x"].concat();
        tally.enter(0, &longer, EXPECTED);
        tally.published = vec![1];
        assert_eq!(tally.settle(), Faults { damaged: 1, ..Faults::default() });
    }

    #[test]
    fn workers_add_up() {
        let (mut one, mut two) = (Tally::new(1, 2, 1), Tally::new(1, 2, 1));
        one.published = vec![1, 0];
        two.published = vec![0, 1];
        one.enter(0, &payload(7, 0, 0, 0), EXPECTED);
        two.enter(0, &payload(7, 1, 0, 0), EXPECTED);
        assert_eq!(one.join(two).settle().lost, 2, "each session misses the other's");
    }
}
