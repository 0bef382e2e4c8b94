//! Messages that came before one of their publisher that is missing: they wait until that comes.
//!
//! When a stream gets a new leader RabbitMQ may drop a message and take those behind it (seen with 3.10.8 when a node was
//! killed). Its publisher gets no confirm for it and publishes it again: behind its successors. They are held back here
//! meanwhile, so that every instance hands them out in their order. A publisher has at most `--publish-window` messages
//! on their way, so that no more than that wait for each, unless something was lost for good.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::route::Route;
use crate::message::Message;
use crate::place::{Partition, Position};

/// Payload held of all publishers together; past it those that have waited for longest go on without what is missing.
/// Each message counts with what it takes beside its payload.
const BYTES_MAX: usize = 32 << 20;
const OVERHEAD_BYTES: usize = 512;

/// A message, and where it stands, if it was read where others can be read again.
pub type Arrived = (Message, Option<(Partition, Position)>);

/// A publisher, and one of its routes.
pub type Line = (Box<str>, Route);

#[derive(Debug)]
pub struct Hold {
    patience: Duration,
    waiting: HashMap<Line, Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// By number.
    messages: BTreeMap<u64, Arrived>,
}

impl Hold {
    /// `patience`: how long a missing message is waited for.
    pub fn new(patience: Duration) -> Hold {
        Hold { patience, waiting: HashMap::new(), bytes: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a message back; false if it is there already.
    pub fn keep(&mut self, line: &Line, number: u64, message: Arrived) -> bool {
        let empty = || Waiting { since: Instant::now(), messages: BTreeMap::new() };
        let waiting = self.waiting.entry(line.clone()).or_insert_with(empty);
        let bytes = cost(&message);
        let is_new = waiting.messages.insert(number, message).is_none();
        self.bytes += if is_new { bytes } else { 0 };
        is_new
    }

    /// Whether something of the partition waits. (Messages of one publisher and route are in one partition.)
    pub fn holds(&self, partition: Partition) -> bool {
        let firsts = self.waiting.values().filter_map(|waiting| waiting.messages.first_key_value());
        firsts.into_iter().any(|(_, (_, at))| at.is_some_and(|(at, _)| at == partition))
    }

    pub fn is_full(&self) -> bool {
        self.bytes > BYTES_MAX
    }

    /// What is missing will not come.
    pub fn lose_patience(&mut self) {
        let long_ago = Instant::now().checked_sub(self.patience).unwrap_or_else(Instant::now);
        self.waiting.values_mut().for_each(|waiting| waiting.since = long_ago);
    }

    /// The oldest of a route, if `is_its_turn` by its number; what was missing before it has come.
    pub fn next(&mut self, line: &Line, is_its_turn: impl FnOnce(u64) -> bool) -> Option<(u64, Arrived)> {
        let waiting = self.waiting.get_mut(line)?;
        let first = waiting.messages.first_entry()?;
        if !is_its_turn(*first.key()) {
            return None;
        }
        let next = first.remove_entry();
        waiting.since = Instant::now();
        self.bytes -= cost(&next.1);
        if waiting.messages.is_empty() {
            self.waiting.remove(line);
        }
        Some(next)
    }

    /// A route whose missing message has not come in time, or for whose messages there is no room; with all of them.
    pub fn give_up(&mut self) -> Option<(Line, BTreeMap<u64, Arrived>)> {
        let (line, since) = self.waiting.iter().map(|(line, waiting)| (line, waiting.since)).min_by_key(|one| one.1)?;
        if since.elapsed() < self.patience && !self.is_full() {
            return None;
        }
        let line = line.clone();
        let messages = self.waiting.remove(&line)?.messages;
        self.bytes -= messages.values().map(cost).sum::<usize>();
        Some((line, messages))
    }
}

fn cost((message, _): &Arrived) -> usize {
    message.payload.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PayloadKind;
    use crate::message::Target;

    const PATIENCE: Duration = Duration::from_secs(15);

    fn message() -> Arrived {
        of_payload("x".into())
    }

    fn of_payload(payload: bytes::Bytes) -> Arrived {
        let (target, kind) = (Target::Broadcast, PayloadKind::Text);
        let position = Position { offset: 1, check: 0 };
        let message = Message { id: None, target, kind, published_ms: 0, terms: None, payload };
        (message, Some((Partition::BROADCAST, position)))
    }

    fn route(name: &str) -> Line {
        (name.into(), Route::Broadcast)
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_goes_on_in_order_when_its_turn_comes() {
        let mut hold = Hold::new(PATIENCE);
        for number in [5, 3, 4] {
            assert!(hold.keep(&route("a"), number, message()));
        }
        assert!(Partition::all().filter(|partition| hold.holds(*partition)).eq([Partition::BROADCAST]));
        assert!(!hold.keep(&route("a"), 4, message()), "a double");
        assert!(hold.next(&route("a"), |_| false).is_none() && hold.next(&route("b"), |_| true).is_none());
        for expected in [3, 4, 5] {
            let (number, _) = hold.next(&route("a"), |number| number == expected).expect("its turn");
            assert_eq!(number, expected);
        }
        assert!(hold.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_goes_on_without() {
        let mut hold = Hold::new(PATIENCE);
        hold.keep(&route("a"), 3, message());
        tokio::time::advance(PATIENCE / 2).await;
        hold.keep(&route("a"), 4, message());
        hold.keep(&route("b"), 9, message());
        assert!(hold.give_up().is_none());
        tokio::time::advance(PATIENCE / 2).await;
        let (given_up, messages) = hold.give_up().expect("the first has waited for long enough");
        assert_eq!((given_up, messages.into_keys().collect::<Vec<_>>()), (route("a"), vec![3, 4]));
        assert!(hold.give_up().is_none() && !hold.is_empty());
        hold.lose_patience();
        assert!(hold.give_up().is_some() && hold.is_empty() && hold.bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_in_bytes() {
        let mut hold = Hold::new(PATIENCE);
        let payload = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        for number in 2..=31 {
            assert!(hold.keep(&route("a"), number, of_payload(payload.clone())));
        }
        assert!(hold.give_up().is_none());
        tokio::time::advance(PATIENCE / 2).await;
        for number in 32..=40 {
            hold.keep(&route("b"), number, of_payload(payload.clone()));
        }
        assert_eq!(hold.give_up().map(|(line, messages)| (line, messages.len())), Some((route("a"), 30)));
        assert!(!hold.is_full() && hold.give_up().is_none());
    }
}
