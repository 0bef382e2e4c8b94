//! One other instance, as far as it was heard: who is there, and whether that is all. No I/O.
//!
//! What it says is numbered. A hole in the numbers, or a digest that is not ours, shows that something was missed: then it is
//! asked for a snapshot, whose pieces replace what is known, stretch by stretch. Until that is whole, what is known is the
//! best there is.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::roll::{Key, Roll, Turn};
use super::word::{Entry, Speaker, Standing, Word};
use crate::user::UserName;

/// When a snapshot, or its next piece, does not come within this time it is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Sessions of one instance; more is no instance's word.
pub const SESSIONS_MAX: usize = 1_000_000;

/// Nothing is remembered for longer than that.
const UNTOLD_MAX_MS: u64 = 60_000;

pub struct Peer {
    pub speaker: Speaker,
    pub roll: Roll,
    pub heard: Instant,
    /// Until when it has told what was seen of users, if it is the one that tells.
    pub told: Instant,
    /// Since when a message to it has come back and it was not heard.
    pub suspected: Option<Instant>,
    /// Whether it says that it knows who is on all others.
    pub knows_all: bool,
    state: State,
    /// Whether all of it was known once.
    pub was_whole: bool,
    /// When it was last asked, or has last sent a piece.
    asked: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Something is missing.
    Lost,
    /// A snapshot is coming in: `upto` is how far it has come.
    Filling { at: u64, next: u64, upto: Option<Key> },
    /// As after the change of this number.
    Whole { at: u64 },
}

/// Users whose first session on this instance came, or whose last one went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turned {
    pub came: Vec<UserName>,
    pub went: Vec<UserName>,
    /// Users who have a session more.
    pub grown: Vec<UserName>,
}

impl Turned {
    fn note(&mut self, turn: Turn, comes: bool, user: &UserName) {
        if comes && turn != Turn::Nothing {
            self.grown.push(user.clone());
        }
        if turn == Turn::Turned {
            let list = if comes { &mut self.came } else { &mut self.went };
            list.push(user.clone());
        }
    }
}

impl Peer {
    pub fn new(speaker: Speaker, now: Instant) -> Peer {
        Peer {
            speaker,
            roll: Roll::default(),
            heard: now,
            told: now,
            suspected: None,
            knows_all: false,
            state: State::Lost,
            was_whole: false,
            asked: None,
        }
    }

    /// Takes what it says of itself.
    pub fn hear(&mut self, word: Word, now: Instant, turned: &mut Turned) {
        self.heard = now;
        self.suspected = None;
        match word {
            Word::Hello(standing) | Word::Beat(standing) => {
                self.knows_all = standing.knows_all;
                let untold = Duration::from_millis(standing.untold_ms.min(UNTOLD_MAX_MS));
                self.told = now.checked_sub(untold).unwrap_or(self.told);
                self.compare(&standing);
            }
            Word::Changes { sequence, here, gone } => self.change(sequence, &here, &gone, turned),
            Word::Piece { sequence, index, entries, is_last } => {
                self.fill(sequence, index, &entries, is_last, now, turned);
            }
            Word::Ask | Word::Watch { .. } | Word::Count { .. } | Word::Counted { .. } | Word::Goodbye => {}
        }
        self.was_whole |= self.is_whole();
    }

    /// Whether all that it said is known.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole { .. })
    }

    /// Whether it is to be asked for a snapshot now; whoever is told so asks.
    pub fn is_to_be_asked(&mut self, now: Instant) -> bool {
        let is_due = self.asked.is_none_or(|asked| now - asked >= ASK_AGAIN_AFTER);
        let asks = !self.is_whole() && is_due;
        if asks {
            self.state = State::Lost;
            self.asked = Some(now);
        }
        asks
    }

    fn compare(&mut self, standing: &Standing) {
        let agrees = (standing.count, standing.digest) == (self.roll.count(), self.roll.digest());
        let is_missing = match self.state {
            // So it is at the beginning, while nobody is there.
            State::Lost if agrees => {
                self.state = State::Whole { at: standing.sequence };
                false
            }
            State::Lost => false,
            State::Filling { at, .. } => standing.sequence > at,
            State::Whole { at } => standing.sequence > at || (standing.sequence == at && !agrees),
        };
        if is_missing {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.state = State::Lost;
    }

    fn change(&mut self, sequence: u64, here: &[Entry], gone: &[(UserName, u64)], turned: &mut Turned) {
        match &mut self.state {
            State::Filling { at, .. } | State::Whole { at } if sequence <= *at => return,
            State::Filling { at, .. } | State::Whole { at } if sequence - 1 == *at => *at = sequence,
            State::Filling { .. } | State::Whole { .. } => self.lose(),
            State::Lost => {}
        }
        here.iter().for_each(|entry| self.add(entry, turned));
        for (user, number) in gone {
            turned.note(self.roll.remove(user, *number), false, user);
        }
    }

    fn add(&mut self, (user, number, since_ms): &Entry, turned: &mut Turned) {
        if self.roll.count().sessions < SESSIONS_MAX {
            turned.note(self.roll.add(user, *number, *since_ms), true, user);
        }
    }

    fn fill(&mut self, sequence: u64, index: u64, entries: &[Entry], is_last: bool, now: Instant, turned: &mut Turned) {
        let after = match &self.state {
            State::Whole { .. } => return,
            State::Lost | State::Filling { .. } if index == 0 => None,
            State::Filling { at, next, upto } if *next == index && *at == sequence => upto.clone(),
            // Pieces of one that was broken off.
            State::Lost => return,
            State::Filling { .. } => return self.lose(),
        };
        let key = |entry: &Entry| (entry.0.clone(), entry.1);
        let ascend = entries.windows(2).all(|pair| (&pair[0].0, pair[0].1) < (&pair[1].0, pair[1].1));
        let begin_behind = entries.first().zip(after.as_ref()).is_none_or(|(first, after)| key(first) > *after);
        if !ascend || !begin_behind || (entries.is_empty() && !is_last) {
            return self.lose();
        }
        let upto = entries.last().map(key).filter(|_| !is_last);
        let kept: HashSet<(&UserName, u64)> = entries.iter().map(|(user, number, _)| (user, *number)).collect();
        let obsolete =
            self.roll.between(after.as_ref(), upto.as_ref(), |(user, number)| kept.contains(&(user, *number)));
        // First who is here: so nobody goes and comes.
        entries.iter().for_each(|entry| self.add(entry, turned));
        for (user, number) in obsolete {
            turned.note(self.roll.remove(&user, number), false, &user);
        }
        self.asked = Some(now);
        self.state = if is_last {
            State::Whole { at: sequence }
        } else {
            State::Filling { at: sequence, next: index + 1, upto }
        };
    }
}
