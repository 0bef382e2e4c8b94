//! Where a listener stands in its worker's lists.

use std::sync::atomic::{AtomicU32, Ordering};

/// A listener's places in its worker's lists. Only that worker reads or writes it.
#[derive(Debug, Default)]
pub struct Seat {
    /// From 1, among those who hear the broadcast; or one of the two below.
    joined: AtomicU32,
    /// From 1, among those with subscriptions; or [`NOWHERE`].
    subscriber: AtomicU32,
}

const NOWHERE: u32 = 0;

/// It left before it was let in.
const LEFT: u32 = u32::MAX;

impl Seat {
    pub(super) fn joined(&self) -> Option<usize> {
        index(&self.joined)
    }

    pub(super) fn set_joined(&self, index: Option<usize>) {
        set(&self.joined, index);
    }

    pub(super) fn has_left(&self) -> bool {
        self.joined.load(Ordering::Relaxed) == LEFT
    }

    pub(super) fn set_left(&self) {
        self.joined.store(LEFT, Ordering::Relaxed);
    }

    pub(super) fn subscriber(&self) -> Option<usize> {
        index(&self.subscriber)
    }

    pub(super) fn set_subscriber(&self, index: Option<usize>) {
        set(&self.subscriber, index);
    }
}

fn index(number: &AtomicU32) -> Option<usize> {
    match number.load(Ordering::Relaxed) {
        NOWHERE | LEFT => None,
        number => Some(number as usize - 1),
    }
}

fn set(number: &AtomicU32, index: Option<usize>) {
    let value = index.map_or(NOWHERE, |index| u32::try_from(index + 1).expect("a process has fewer than 2^32 sockets"));
    number.store(value, Ordering::Relaxed);
}
