//! The books of what is written to users: what was accepted, and what each of them has seen of it.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// What begins each text, so that what somebody else writes counts nowhere.
const TAG: &str = "letter";

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    User(usize),
    /// Every user.
    Group,
}

/// What its writer knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unanswered,
    Accepted,
    /// It was refused, or its writer's session ended first: it may come or not.
    Told,
}

struct Letter {
    writer: usize,
    to: Addressee,
    fate: Fate,
}

/// What one user has seen, on all of its devices.
#[derive(Default)]
struct Seen {
    all: HashSet<usize>,
    /// Each at its first occurrence.
    in_turn: Vec<usize>,
}

/// Everything that was written and seen.
pub struct Mail {
    run: u32,
    letters: Mutex<Vec<Letter>>,
    users: Vec<Mutex<Seen>>,
    /// Whose order is looked at: who has one device. Two see the same things at different times.
    has_one_device: Vec<bool>,
    /// Devices that were let in once: from then on their users belong to the group.
    arrived: Mutex<HashSet<usize>>,
    repeated: AtomicU64,
    unwanted: AtomicU64,
    disconnected: AtomicU64,
}

/// What the books come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MailSums {
    /// Messages whose writer was told that they are kept; of those to the group each counts once.
    pub accepted: u64,
    /// Messages that were refused, or whose writer's session ended before an answer.
    pub told: u64,
    /// Users and messages: each of these that met.
    pub seen: u64,
    /// Accepted messages that a user did not see, though it was connected at the end.
    pub lost: u64,
    /// Messages that came again to the same user. They may.
    pub repeated: u64,
    /// Accepted messages that a user saw for the first time behind a later one of the same writer.
    pub reordered: u64,
    /// Messages that came to somebody else.
    pub unwanted: u64,
    /// Sessions of users and writers that ended though their instance lived.
    pub disconnected: u64,
}

impl Mail {
    /// For users by the number of their devices.
    pub fn new(devices: &[usize]) -> Mail {
        Mail {
            run: fastrand::u32(..),
            letters: Mutex::default(),
            users: devices.iter().map(|_| Mutex::default()).collect(),
            has_one_device: devices.iter().map(|devices| *devices == 1).collect(),
            arrived: Mutex::default(),
            repeated: AtomicU64::new(0),
            unwanted: AtomicU64::new(0),
            disconnected: AtomicU64::new(0),
        }
    }

    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// A user has a session.
    pub fn arrive(&self, user: usize) {
        lock(&self.arrived).insert(user);
    }

    /// Whether every user had a session once.
    pub fn all_arrived(&self) -> bool {
        lock(&self.arrived).len() == self.users.len()
    }

    /// The next message of a writer, which is to be written now: its number and its text.
    pub fn write(&self, writer: usize, to: Addressee) -> (usize, String) {
        let mut letters = lock(&self.letters);
        letters.push(Letter { writer, to, fate: Fate::Unanswered });
        let number = letters.len() - 1;
        (number, format!("{TAG} {:08x} {number}", self.run))
    }

    /// It is kept.
    pub fn accept(&self, letter: usize) {
        self.settle(letter, Fate::Accepted);
    }

    /// It was refused, or nobody will know.
    pub fn give_up(&self, letter: usize) {
        self.settle(letter, Fate::Told);
    }

    fn settle(&self, letter: usize, fate: Fate) {
        if let Some(letter) = lock(&self.letters).get_mut(letter) {
            letter.fate = fate;
        }
    }

    /// A user saw a text.
    pub fn see(&self, user: usize, text: &str) {
        let Some(letter) = self.number_of(text) else { return };
        let to = lock(&self.letters).get(letter).map(|letter| letter.to);
        if !matches!(to, Some(to) if to == Addressee::Group || to == Addressee::User(user)) {
            self.unwanted.fetch_add(1, Relaxed);
            return;
        }
        let mut seen = lock(&self.users[user]);
        if seen.all.insert(letter) {
            seen.in_turn.push(letter);
        } else {
            self.repeated.fetch_add(1, Relaxed);
        }
    }

    fn number_of(&self, text: &str) -> Option<usize> {
        let mut words = text.split(' ');
        let is_ours = words.next() == Some(TAG) && words.next() == Some(&format!("{:08x}", self.run));
        words.next().filter(|_| is_ours)?.parse().ok()
    }

    /// A session ended without a cause.
    pub fn note_disconnected(&self) {
        self.disconnected.fetch_add(1, Relaxed);
    }

    /// Users and messages: of these that are to meet and did not so far, those not answered among them.
    pub fn outstanding(&self) -> u64 {
        self.count_unseen(|fate| fate != Fate::Told)
    }

    fn count_unseen(&self, counts: impl Fn(Fate) -> bool) -> u64 {
        let letters = lock(&self.letters);
        let of_user = |(user, seen): (usize, &Mutex<Seen>)| {
            let seen = lock(seen);
            let is_due = |letter: &Letter| letter.to == Addressee::Group || letter.to == Addressee::User(user);
            let unseen = letters
                .iter()
                .enumerate()
                .filter(|(number, letter)| counts(letter.fate) && is_due(letter) && !seen.all.contains(number));
            unseen.count() as u64
        };
        self.users.iter().enumerate().map(of_user).sum()
    }

    pub fn sums(&self) -> MailSums {
        let letters = lock(&self.letters);
        let count = |fate| letters.iter().filter(|letter| letter.fate == fate).count() as u64;
        let (accepted, told) = (count(Fate::Accepted), count(Fate::Told) + count(Fate::Unanswered));
        let seen = self.users.iter().map(|seen| lock(seen).in_turn.len() as u64).sum();
        let one_device = self.users.iter().zip(&self.has_one_device).filter(|(_, has_one)| **has_one);
        let reordered = one_device.map(|(seen, _)| reordered(&lock(seen).in_turn, &letters)).sum();
        drop(letters);
        MailSums {
            accepted,
            told,
            seen,
            lost: self.count_unseen(|fate| fate == Fate::Accepted),
            repeated: self.repeated.load(Relaxed),
            reordered,
            unwanted: self.unwanted.load(Relaxed),
            disconnected: self.disconnected.load(Relaxed),
        }
    }
}

/// How many of them came behind a later one of the same writer. What was not accepted has no place in the order.
fn reordered(in_turn: &[usize], letters: &[Letter]) -> u64 {
    let mut newest = std::collections::HashMap::new();
    let mut count = 0;
    for letter in in_turn.iter().filter(|letter| letters[**letter].fate == Fate::Accepted) {
        let last = newest.entry(letters[*letter].writer).or_insert(*letter);
        count += u64::from(letter < last);
        *last = *letter.max(last);
    }
    count
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mail: &Mail, to: &[Addressee]) -> Vec<String> {
        to.iter().map(|to| mail.write(0, *to).1).collect()
    }

    #[test]
    fn what_was_accepted_and_not_seen_is_lost() {
        let mail = Mail::new(&[1, 1]);
        let texts = written(&mail, &[Addressee::User(0), Addressee::User(1), Addressee::Group]);
        assert_eq!((mail.outstanding(), mail.sums().lost, mail.sums().told), (4, 0, 3), "nobody was promised anything");
        mail.give_up(1);
        [0, 2].into_iter().for_each(|letter| mail.accept(letter));
        mail.see(0, &texts[2]);
        assert_eq!((mail.outstanding(), mail.sums().lost), (2, 2), "of one the other member did not see it");
        mail.see(0, &texts[0]);
        mail.see(1, &texts[2]);
        let sums = mail.sums();
        assert_eq!((sums.accepted, sums.told, sums.seen, sums.lost, mail.outstanding()), (2, 1, 3, 0, 0));
    }

    #[test]
    fn what_comes_again_is_counted_and_what_comes_to_others_is_unwanted() {
        let mail = Mail::new(&[1, 1]);
        let texts = written(&mail, &[Addressee::User(0)]);
        mail.accept(0);
        mail.see(0, &texts[0]);
        mail.see(0, &texts[0]);
        mail.see(1, &texts[0]);
        mail.see(1, "letter of somebody else");
        mail.see(1, &format!("letter {:08x} 0", mail.run.wrapping_add(1)));
        mail.see(1, &format!("letter {:08x} 17", mail.run));
        let sums = mail.sums();
        assert_eq!((sums.seen, sums.repeated, sums.unwanted), (1, 1, 2));
    }

    #[test]
    fn order_is_that_of_one_writer_and_of_what_was_accepted() {
        let mail = Mail::new(&[1, 2]);
        let own = written(&mail, &[Addressee::Group; 3]);
        let (_, other) = mail.write(1, Addressee::Group);
        (0..4).filter(|letter| *letter != 1).for_each(|letter| mail.accept(letter));
        for user in [0, 1] {
            [&other, &own[2], &own[1], &own[0]].into_iter().for_each(|text| mail.see(user, text));
        }
        assert_eq!(mail.sums().reordered, 1, "the second was not accepted, and two devices have no order");
    }

    #[test]
    fn all_have_arrived_when_each_has() {
        let mail = Mail::new(&[1, 2]);
        mail.arrive(1);
        mail.arrive(1);
        assert!(!mail.all_arrived());
        mail.arrive(0);
        assert!(mail.all_arrived());
    }
}
