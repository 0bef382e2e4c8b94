//! What every broker asks of a message that arrives: whether a repetition of it was here, and whether it comes in time.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Message, now_unix_ms};
use crate::metrics::{BrokerMetrics, Dropped};
use crate::terms::Fingerprint;

/// How long, and how many, idempotency keys are remembered.
#[derive(Clone, Copy, Debug)]
pub struct KeyBounds {
    pub window: Duration,
    /// Past it the oldest are forgotten.
    pub keys_max: usize,
}

/// Lets each message in once and in time, and counts what it keeps out.
pub struct Arrivals {
    bounds: KeyBounds,
    known: HashSet<Fingerprint>,
    /// Oldest first.
    since: VecDeque<(Instant, Fingerprint)>,
    metrics: BrokerMetrics,
}

impl Arrivals {
    pub fn new(bounds: KeyBounds, metrics: BrokerMetrics) -> Arrivals {
        Arrivals { bounds, known: HashSet::new(), since: VecDeque::new(), metrics }
    }

    /// Whether the message is to be handed on. To be asked once for each, when nothing else stands in its way: its key
    /// counts from then on. What comes too late leaves its key to a repetition.
    pub fn admit(&mut self, message: &Message) -> bool {
        let Some(terms) = &message.terms else { return true };
        if terms.is_expired(now_unix_ms()) {
            self.metrics.dropped(Dropped::Expired);
            return false;
        }
        let Some(fingerprint) = terms.fingerprint(&message.target) else { return true };
        if self.bounds.window.is_zero() || self.bounds.keys_max == 0 {
            return true;
        }
        self.forget_old();
        if !self.known.insert(fingerprint) {
            self.metrics.dropped(Dropped::Repeated);
            return false;
        }
        self.since.push_back((Instant::now(), fingerprint));
        true
    }

    /// Makes room for one more.
    fn forget_old(&mut self) {
        while let Some((since, fingerprint)) = self.since.front() {
            if since.elapsed() <= self.bounds.window && self.since.len() < self.bounds.keys_max {
                return;
            }
            self.known.remove(fingerprint);
            self.since.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{PayloadKind, Target};
    use crate::terms::{IdempotencyKey, Terms};

    const WINDOW: Duration = Duration::from_secs(60);

    fn arrivals() -> Arrivals {
        Arrivals::new(KeyBounds { window: WINDOW, keys_max: 3 }, BrokerMetrics::default())
    }

    fn message(key: Option<&str>, expires_ms: Option<u64>) -> Message {
        let idempotency_key = key.map(|key| IdempotencyKey::parse(key).unwrap());
        let terms = Some(Arc::new(Terms { idempotency_key, expires_ms, ..Terms::default() }));
        let (target, payload) = (Target::Broadcast, "x".into());
        Message { id: None, target, kind: PayloadKind::Text, published_ms: 0, terms, payload }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_counts_once_in_its_window() {
        let mut arrivals = arrivals();
        let mut admits = |key| arrivals.admit(&message(Some(key), None));
        assert_eq!([admits("a"), admits("a"), admits("b")], [true, false, true]);
        tokio::time::advance(WINDOW).await;
        assert!(!admits("a"));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(admits("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_remembered_are_bounded() {
        let mut arrivals = arrivals();
        let mut admits = |key| arrivals.admit(&message(Some(key), None));
        assert_eq!(["a", "b", "c", "d"].map(&mut admits), [true; 4]);
        assert_eq!([admits("d"), admits("a")], [false, true]);
        assert_eq!((arrivals.known.len(), arrivals.since.len()), (3, 3));
    }

    #[test]
    fn what_comes_too_late_is_dropped_and_leaves_its_key() {
        let mut arrivals = arrivals();
        let soon = now_unix_ms() + 3_600_000;
        let mut admits = |key, expires_ms| arrivals.admit(&message(key, Some(expires_ms)));
        assert_eq!([admits(Some("a"), 1), admits(Some("a"), soon), admits(None, 1)], [false, true, false]);
    }

    #[test]
    fn nothing_is_remembered_where_that_is_switched_off() {
        for (window, keys_max) in [(Duration::ZERO, 3), (WINDOW, 0)] {
            let mut arrivals = Arrivals::new(KeyBounds { window, keys_max }, BrokerMetrics::default());
            let keyed = message(Some("a"), None);
            assert!(arrivals.admit(&keyed) && arrivals.admit(&keyed));
        }
    }

    #[test]
    fn without_terms_everything_is_admitted() {
        let mut arrivals = arrivals();
        let plain = Message { terms: None, ..message(None, None) };
        assert!(arrivals.admit(&plain) && arrivals.admit(&plain));
    }
}
