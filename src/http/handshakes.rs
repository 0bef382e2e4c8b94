//! The connections that have not become sessions yet, oldest first, and how many there may be.
//!
//! Past the limit the oldest is turned away, never the newest: who means well completes a handshake within a round trip
//! or two, so the oldest are those who hold a connection and say nothing. Turning the newest away would let a handful
//! of these shut everybody out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All handshakes under way. A cheap handle.
#[derive(Clone)]
pub struct Handshakes {
    max: usize,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Default)]
struct UnderWay {
    begun: u64,
    /// By when they began. Dropping an end of a channel turns that one away; nothing is ever sent.
    waiting: BTreeMap<u64, oneshot::Sender<Infallible>>,
}

/// That a connection counts as a handshake. Its drop ends that.
pub struct Handshake {
    all: Handshakes,
    number: u64,
}

impl Handshakes {
    /// At most `max` at a time, at least one.
    pub fn new(max: usize) -> Handshakes {
        Handshakes { max: max.max(1), under_way: Arc::default() }
    }

    /// One more; the receiver is ready when it is turned away.
    pub fn begin(&self) -> (Handshake, oneshot::Receiver<Infallible>) {
        let (stays, turned_away) = oneshot::channel();
        let mut under_way = self.lock();
        if under_way.waiting.len() >= self.max {
            under_way.waiting.pop_first();
        }
        under_way.begun += 1;
        let number = under_way.begun;
        under_way.waiting.insert(number, stays);
        (Handshake { all: self.clone(), number }, turned_away)
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn the_oldest_makes_room_and_who_is_done_needs_none() {
        let all = Handshakes::new(2);
        let (first, mut first_away) = all.begin();
        let (second, mut second_away) = all.begin();
        drop(first);
        let (_third, mut third_away) = all.begin();
        assert_eq!(second_away.try_recv(), Err(TryRecvError::Empty));
        let (fourth, mut fourth_away) = all.begin();
        assert_eq!(second_away.try_recv(), Err(TryRecvError::Closed));
        for stays in [&mut third_away, &mut fourth_away] {
            assert_eq!(stays.try_recv(), Err(TryRecvError::Empty));
        }
        drop((second, fourth));
        assert_eq!(all.lock().waiting.len(), 1);
        assert_eq!(first_away.try_recv(), Err(TryRecvError::Closed));
    }
}
