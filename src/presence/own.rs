//! Who is here, and what of that is still to be said to the others. No I/O.
//!
//! What is said is numbered, and all that is said comes out of one place in one order: a piece of a snapshot is as after
//! the last change that was said before it.

use std::collections::VecDeque;

use super::roll::{Key, Roll, Turn};
use super::word::{ENTRIES_MAX, Entry, Speaker, Standing, Word};
use crate::instance::InstanceName;
use crate::message::Target;
use crate::user::UserName;

/// Changes that wait to be said. Past them nobody is told of each, but sent all that is here.
const CHANGES_WAITING_MAX: usize = 100_000;

/// Snapshots at a time: of a cluster's instances.
const SNAPSHOTS_MAX: usize = 1000;

/// This instance's users.
pub struct Own {
    pub speaker: Speaker,
    pub roll: Roll,
    here: Vec<Entry>,
    gone: Vec<(UserName, u64)>,
    sequence: u64,
    snapshots: VecDeque<Snapshot>,
}

/// A snapshot on its way to another instance.
struct Snapshot {
    to: InstanceName,
    index: u64,
    after: Option<Key>,
}

impl Own {
    pub fn new(speaker: Speaker) -> Own {
        Own {
            speaker,
            roll: Roll::default(),
            here: Vec::new(),
            gone: Vec::new(),
            sequence: 0,
            snapshots: VecDeque::new(),
        }
    }

    pub fn arrive(&mut self, user: &UserName, number: u64, since_ms: u64) -> Turn {
        let turn = self.roll.add(user, number, since_ms);
        if turn != Turn::Nothing {
            self.here.push((user.clone(), number, since_ms));
            self.bound_changes();
        }
        turn
    }

    pub fn leave(&mut self, user: &UserName, number: u64) -> Turn {
        let turn = self.roll.remove(user, number);
        if turn != Turn::Nothing {
            self.gone.push((user.clone(), number));
            self.bound_changes();
        }
        turn
    }

    /// Skips a number, so that everybody sees that it missed something.
    fn bound_changes(&mut self) {
        if self.here.len() + self.gone.len() > CHANGES_WAITING_MAX {
            self.here = Vec::new();
            self.gone = Vec::new();
            self.sequence += 1;
        }
    }

    /// From the beginning, even if one was on its way.
    pub fn send_snapshot(&mut self, to: InstanceName) {
        self.snapshots.retain(|snapshot| snapshot.to != to);
        if self.snapshots.len() < SNAPSHOTS_MAX {
            self.snapshots.push_back(Snapshot { to, index: 0, after: None });
        }
    }

    /// What has changed since it was last said.
    pub fn changes(&mut self) -> Vec<(Target, Word)> {
        let (mut here, mut gone) =
            (std::mem::take(&mut self.here).into_iter(), std::mem::take(&mut self.gone).into_iter());
        let mut words = Vec::new();
        loop {
            let here: Vec<_> = here.by_ref().take(ENTRIES_MAX).collect();
            let gone: Vec<_> = gone.by_ref().take(ENTRIES_MAX - here.len()).collect();
            if here.is_empty() && gone.is_empty() {
                return words;
            }
            self.sequence += 1;
            words.push((Target::Peers, Word::Changes { sequence: self.sequence, here, gone }));
        }
    }

    /// How this instance stands, behind the changes until then.
    pub fn standing(&mut self, knows_all: bool, untold_ms: u64) -> (Vec<(Target, Word)>, Standing) {
        let changes = self.changes();
        let (count, digest) = (self.roll.count(), self.roll.digest());
        (changes, Standing { sequence: self.sequence, count, digest, knows_all, untold_ms })
    }

    /// The next piece of a snapshot, behind the changes until then; nothing if nobody waits for one.
    pub fn next_piece(&mut self) -> Vec<(Target, Word)> {
        let Some(mut snapshot) = self.snapshots.pop_front() else { return Vec::new() };
        let mut words = self.changes();
        let mut rest = self.roll.behind(snapshot.after.as_ref());
        let entries: Vec<Entry> = rest
            .by_ref()
            .take(ENTRIES_MAX)
            .map(|((user, number), since_ms)| (user.clone(), *number, since_ms))
            .collect();
        let is_last = rest.next().is_none();
        drop(rest);
        let (to, index) = (snapshot.to.clone(), snapshot.index);
        if let Some((user, number, _)) = entries.last().filter(|_| !is_last) {
            snapshot.after = Some((user.clone(), *number));
            snapshot.index += 1;
            self.snapshots.push_back(snapshot);
        }
        words.push((Target::Peer(to), Word::Piece { sequence: self.sequence, index, entries, is_last }));
        words
    }
}
