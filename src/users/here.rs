//! One user who has sessions here, and the letters that they have not acknowledged.
//!
//! Everything of one user happens under one lock, held while letters are written to that user's few sessions: it is what
//! makes one order for all of them, whoever comes in the middle. Nobody else waits for it, and nothing in it waits.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Recipient, Unread, Users};
use crate::broker::{Letter, NotAccepted, Reader, Reading, Settle};
use crate::instance::InstanceName;
use crate::message::{Message, MessageId, Target, now_unix_ms};
use crate::metrics::LetterMetrics;
use crate::user::UserName;

/// Off only in a build that is to be caught losing messages: it calls acknowledged what nobody has acknowledged.
const KEEPS: bool = !cfg!(feature = "fault-no-keeping");

pub struct Here {
    user: UserName,
    users: Weak<Users>,
    /// When the first session began, in milliseconds of Unix time.
    since_ms: u64,
    metrics: LetterMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seats: Vec<Seat>,
    /// Given to all seats and not acknowledged, or not copied so far; oldest first.
    held: VecDeque<Held>,
    /// The number of the newest letter.
    last: u64,
    /// Other instances that were sent copies of what is held.
    others: HashSet<InstanceName>,
    reading: Option<Reading>,
    /// Which of the readings that is: what an earlier one brings comes again.
    generation: u64,
    /// Nobody acknowledges: nothing is read until somebody does, or comes.
    is_deaf: bool,
    has_ended: bool,
}

/// One session's place.
struct Seat {
    recipient: Arc<dyn Recipient>,
    /// A proof is under way.
    is_proving: bool,
}

struct Held {
    number: u64,
    message: Message,
    /// Until it is acknowledged.
    letter: Option<Letter>,
    since: Instant,
    is_acknowledged: bool,
    /// Copies whose outcome is not known.
    copies: usize,
}

/// One reading of the user's mailbox.
struct MailReader {
    here: Arc<Here>,
    generation: u64,
}

impl Reader for MailReader {
    fn take(&self, letter: Letter) {
        self.here.take(letter, self.generation);
    }
}

/// Hears what became of a letter's copy.
struct CopyOf {
    here: Arc<Here>,
    generation: u64,
    number: u64,
}

impl Settle for CopyOf {
    fn settled(&self, _outcome: Result<(), NotAccepted>) {
        self.here.copied(self.generation, self.number);
    }
}

impl Here {
    pub fn new(user: UserName, users: &Arc<Users>) -> Arc<Here> {
        Arc::new(Here {
            user,
            users: Arc::downgrade(users),
            since_ms: now_unix_ms(),
            metrics: users.metrics.clone(),
            state: Mutex::default(),
        })
    }

    /// A session more. False if the last has gone, and this with it.
    pub fn enter(self: &Arc<Self>, recipient: Arc<dyn Recipient>) -> bool {
        let mut state = self.lock();
        if state.has_ended {
            return false;
        }
        // What others have not acknowledged it is given, too, before anything else.
        state.held.iter().for_each(|held| recipient.give(&held.message));
        let mut seat = Seat { recipient, is_proving: false };
        seat.prove(&state.held);
        state.seats.push(seat);
        self.read(&mut state);
        true
    }

    /// A session less. True if it was the last: what is not acknowledged goes back.
    pub fn exit(&self, recipient: u64) -> bool {
        let mut state = self.lock();
        state.seats.retain(|seat| seat.recipient.number() != recipient);
        if !state.seats.is_empty() {
            return false;
        }
        state.has_ended = true;
        state.stop();
        true
    }

    /// Reads the mailbox, unless it is read.
    fn read(self: &Arc<Self>, state: &mut State) {
        state.is_deaf = false;
        let Some(users) = self.users.upgrade().filter(|_| state.reading.is_none()) else { return };
        state.generation += 1;
        let reader = MailReader { here: self.clone(), generation: state.generation };
        state.reading = Some(users.mailboxes.read(self.user.clone(), Arc::new(reader)));
    }

    /// Gives a letter to everyone who is here, and copies of it to the other instances.
    fn take(self: &Arc<Self>, letter: Letter, generation: u64) {
        let mut state = self.lock();
        if state.generation != generation || state.reading.is_none() {
            return;
        }
        if let Some(users) = self.users.upgrade()
            && users.unread() == Unread::Pull
            && letter.message.published_ms < self.since_ms
        {
            return users.set_aside(&self.user, letter);
        }
        self.copy_to_newcomers(&mut state);
        state.last += 1;
        let (number, message) = (state.last, letter.message.clone());
        state.seats.iter().for_each(|seat| seat.recipient.give(&message));
        self.metrics.given();
        let (since, is_acknowledged) = (Instant::now(), !KEEPS);
        let mut held = Held { number, message, letter: Some(letter), since, is_acknowledged, copies: 0 };
        state.others.iter().for_each(|instance| self.copy(&mut held, instance, generation));
        state.held.push_back(held);
        if !KEEPS {
            state.forget_done(&self.metrics);
        }
        state.prove_all();
    }

    /// Sends copies of what nobody has acknowledged to the instances that hold the user only now: whoever moved there has not
    /// seen it, perhaps, and is to see it before what comes later.
    fn copy_to_newcomers(self: &Arc<Self>, state: &mut State) {
        let others = self.users.upgrade().map_or_else(HashSet::new, |users| users.others(&self.user));
        let State { held, generation, others: known, .. } = state;
        for held in held.iter_mut().filter(|held| !held.is_acknowledged) {
            others.difference(known).for_each(|instance| self.copy(held, instance, *generation));
        }
        *known = others;
    }

    fn copy(self: &Arc<Self>, held: &mut Held, instance: &InstanceName, generation: u64) {
        let Some(users) = self.users.upgrade() else { return };
        held.copies += 1;
        let told = Arc::new(CopyOf { here: self.clone(), generation, number: held.number });
        users.copy_to(instance, &self.user, &held.message, told);
    }

    /// Gives everyone here what came to another instance.
    pub fn give_copy(&self, message: &Message) {
        let state = self.lock();
        let message = Message { target: Target::User(self.user.clone()), ..message.clone() };
        state.seats.iter().for_each(|seat| seat.recipient.give(&message));
    }

    /// A client has a message.
    pub fn acknowledge(self: &Arc<Self>, message: &MessageId) {
        let mut state = self.lock();
        for held in state.held.iter_mut().filter(|held| held.message.id.as_ref() == Some(message)) {
            held.is_acknowledged = true;
        }
        state.forget_done(&self.metrics);
        if state.is_deaf {
            self.read(&mut state);
        }
    }

    /// A client has everything up to here.
    pub fn proved(self: &Arc<Self>, recipient: u64, letter: u64) {
        let mut state = self.lock();
        for held in state.held.iter_mut().filter(|held| held.number <= letter) {
            held.is_acknowledged = true;
        }
        state.forget_done(&self.metrics);
        if let Some(seat) = state.seats.iter_mut().find(|seat| seat.recipient.number() == recipient) {
            seat.is_proving = false;
        }
        state.prove_all();
        if state.is_deaf {
            self.read(&mut state);
        }
    }

    /// It is known what became of a copy.
    fn copied(&self, generation: u64, number: u64) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        if let Some(held) = state.held.iter_mut().find(|held| held.number == number) {
            held.copies = held.copies.saturating_sub(1);
        }
        state.forget_done(&self.metrics);
    }

    /// Gives back what nobody has acknowledged for so long: somebody else may.
    pub fn look_after(self: &Arc<Self>, timeout: Duration) {
        let mut state = self.lock();
        if state.held.iter().any(|held| !held.is_acknowledged) {
            self.copy_to_newcomers(&mut state);
        }
        let is_late = |held: &Held| !held.is_acknowledged && held.since.elapsed() > timeout;
        if !state.held.iter().any(is_late) {
            return;
        }
        self.metrics.given_back(state.held.len());
        state.stop();
        state.is_deaf = true;
        state.seats.iter().for_each(|seat| seat.recipient.tell_unacknowledged());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Acknowledges to the mailbox what somebody has and everybody was sent.
    fn forget_done(&mut self, metrics: &LetterMetrics) {
        for held in &mut self.held {
            let is_done = held.is_acknowledged && held.copies == 0;
            if is_done && let Some(letter) = held.letter.take() {
                letter.acknowledge();
                metrics.acknowledged();
            }
        }
        self.held.retain(|held| held.letter.is_some());
    }

    fn prove_all(&mut self) {
        let State { seats, held, .. } = self;
        seats.iter_mut().for_each(|seat| seat.prove(held));
    }

    /// Reads no more; the mailbox keeps what nobody has acknowledged. Copies are on their way without it.
    fn stop(&mut self) {
        let acknowledged = self.held.iter_mut().filter(|held| held.is_acknowledged);
        acknowledged.filter_map(|held| held.letter.take()).for_each(Letter::acknowledge);
        self.reading = None;
        self.held.clear();
        self.seats.iter_mut().for_each(|seat| seat.is_proving = false);
    }
}

impl Seat {
    /// Asks for a proof of all that is not acknowledged, one at a time.
    fn prove(&mut self, held: &VecDeque<Held>) {
        let newest = held.iter().rev().find(|held| !held.is_acknowledged);
        if let Some(newest) = newest.filter(|_| !self.is_proving) {
            self.is_proving = self.recipient.prove(newest.number);
        }
    }
}
