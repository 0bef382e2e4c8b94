//! One user who has sessions here, and the letters that they have not acknowledged.
//!
//! Everything of one user happens under one lock, held while letters are written to that user's few sessions: it is what
//! makes one order for all of them, whoever comes in the middle. Nobody else waits for it, and nothing in it waits.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

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
    seats: Vec<Arc<dyn Recipient>>,
    /// Given to all seats and not acknowledged, or not copied so far; oldest first.
    held: VecDeque<Held>,
    /// The number of the newest letter.
    last: u64,
    /// Other instances that were sent copies of what is held.
    others: HashSet<InstanceName>,
    reading: Option<Reading>,
    /// Which of the readings that is: what an earlier one brings comes again.
    generation: u64,
    /// When somebody last acknowledged something, or there was something to acknowledge for the first time.
    heard: Option<Instant>,
    /// Nobody acknowledges: nothing is read until somebody does, or comes.
    is_deaf: bool,
    has_ended: bool,
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
    /// Instances whose copies did not get through, and are to be sent again.
    to_copy_again: HashSet<InstanceName>,
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
    instance: InstanceName,
}

impl Settle for CopyOf {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        // Whoever is gone needs none.
        let is_done = matches!(outcome, Ok(()) | Err(NotAccepted::NoInstance));
        self.here.copied(self.generation, self.number, (!is_done).then_some(&self.instance));
    }
}

/// A letter on its way into the mailbox from which its user asks for it; it stays in the other until it is there. If it does not
/// get there, its user has it at once.
struct Aside {
    here: Arc<Here>,
    generation: u64,
    letter: Mutex<Option<Letter>>,
}

impl Settle for Aside {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        let letter = self.letter.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (outcome, letter) {
            (Ok(()), Some(letter)) => letter.acknowledge(),
            (Err(_), Some(letter)) => self.here.take_after_all(letter, self.generation),
            (_, None) => {}
        }
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
        for held in &state.held {
            recipient.give(&held.message);
            recipient.prove(held.number);
        }
        let reads = recipient.acknowledges();
        state.seats.push(recipient);
        if reads {
            self.read(&mut state);
        }
        true
    }

    /// A session less. True if it was the last: what is not acknowledged goes back.
    pub fn exit(&self, recipient: u64) -> bool {
        let mut state = self.lock();
        state.seats.retain(|seat| seat.number() != recipient);
        if !state.seats.iter().any(|seat| seat.acknowledges()) {
            // Nobody is left who could.
            state.stop();
        }
        state.has_ended = state.seats.is_empty();
        state.has_ended
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
            let message = letter.message.clone();
            let aside = Aside { here: self.clone(), generation, letter: Mutex::new(Some(letter)) };
            return users.set_aside(&self.user, message, Arc::new(aside));
        }
        self.give(&mut state, letter);
    }

    /// Gives everyone here a letter that did not find its way into the mailbox from which its user asks for it.
    fn take_after_all(self: &Arc<Self>, letter: Letter, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation && state.reading.is_some() {
            self.give(&mut state, letter);
        }
    }

    fn give(self: &Arc<Self>, state: &mut State, letter: Letter) {
        self.copy_to_newcomers(state);
        state.last += 1;
        let (number, message) = (state.last, letter.message.clone());
        for seat in &state.seats {
            seat.give(&message);
            seat.prove(number);
        }
        self.metrics.given();
        let (since, is_acknowledged, to_copy_again) = (Instant::now(), !KEEPS, HashSet::new());
        let mut held = Held { number, message, letter: Some(letter), since, is_acknowledged, copies: 0, to_copy_again };
        state.others.iter().for_each(|instance| self.copy(&mut held, instance, state.generation));
        if state.held.is_empty() {
            state.heard = Some(since);
        }
        state.held.push_back(held);
        if !KEEPS {
            state.forget_done(&self.metrics);
        }
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
        let (here, number, instance_of_copy) = (self.clone(), held.number, instance.clone());
        let told = Arc::new(CopyOf { here, generation, number, instance: instance_of_copy });
        users.copy_to(instance, &self.user, &held.message, told);
    }

    /// Gives everyone here what came to another instance.
    pub fn give_copy(&self, message: &Message) {
        let state = self.lock();
        let message = Message { target: Target::User(self.user.clone()), ..message.clone() };
        state.seats.iter().for_each(|seat| seat.give(&message));
    }

    /// A client has a message.
    pub fn acknowledge(self: &Arc<Self>, message: &MessageId) {
        self.have(|held| held.message.id.as_ref() == Some(message));
    }

    /// A client has everything up to here.
    pub fn proved(self: &Arc<Self>, letter: u64) {
        self.have(|held| held.number <= letter);
    }

    /// Some client has these.
    fn have(self: &Arc<Self>, is_meant: impl Fn(&Held) -> bool) {
        let mut state = self.lock();
        state.held.iter_mut().filter(|held| is_meant(held)).for_each(|held| held.is_acknowledged = true);
        state.heard = Some(Instant::now());
        state.forget_done(&self.metrics);
        if state.is_deaf {
            self.read(&mut state);
        }
    }

    /// It is known what became of a copy; one to `again` did not get through.
    fn copied(&self, generation: u64, number: u64, again: Option<&InstanceName>) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        if let Some(held) = state.held.iter_mut().find(|held| held.number == number) {
            held.copies = held.copies.saturating_sub(1);
            held.to_copy_again.extend(again.cloned());
        }
        state.forget_done(&self.metrics);
    }

    /// Sends copies anew that did not get through; gives back what waits for an acknowledgement if there was none for so long:
    /// somebody else may have one.
    pub fn look_after(self: &Arc<Self>, timeout: Duration) {
        let mut state = self.lock();
        if state.held.iter().any(|held| !held.is_acknowledged) {
            self.copy_to_newcomers(&mut state);
        }
        self.copy_again(&mut state);
        let is_late = |held: &Held| !held.is_acknowledged && held.since.elapsed() > timeout;
        if !state.held.iter().any(is_late) || state.heard.is_some_and(|heard| heard.elapsed() <= timeout) {
            return;
        }
        self.metrics.given_back(state.held.len());
        state.stop();
        state.is_deaf = true;
        state.seats.iter().for_each(|seat| seat.tell_unacknowledged());
    }

    fn copy_again(self: &Arc<Self>, state: &mut State) {
        if state.held.iter().all(|held| held.to_copy_again.is_empty()) {
            return;
        }
        let others = self.users.upgrade().map_or_else(HashSet::new, |users| users.others(&self.user));
        let generation = state.generation;
        for held in &mut state.held {
            let again = std::mem::take(&mut held.to_copy_again);
            again.intersection(&others).for_each(|instance| self.copy(held, instance, generation));
        }
        state.forget_done(&self.metrics);
    }

    /// Letters that are not done.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Acknowledges to the mailbox what somebody has and everybody was sent.
    fn forget_done(&mut self, metrics: &LetterMetrics) {
        for held in &mut self.held {
            let is_done = held.is_acknowledged && held.copies == 0 && held.to_copy_again.is_empty();
            if is_done && let Some(letter) = held.letter.take() {
                letter.acknowledge();
                metrics.acknowledged();
            }
        }
        self.held.retain(|held| held.letter.is_some());
    }

    /// Reads no more; the mailbox keeps what nobody has acknowledged. Copies are on their way without it.
    fn stop(&mut self) {
        let acknowledged = self.held.iter_mut().filter(|held| held.is_acknowledged);
        acknowledged.filter_map(|held| held.letter.take()).for_each(Letter::acknowledge);
        self.reading = None;
        self.held.clear();
    }
}
