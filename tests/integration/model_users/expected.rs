//! What every user should have seen: small enough to be right on one look.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::*;

/// A message for users. Its place in the list of all is its text; a sender's are there in the order of sending.
pub struct Letter {
    pub sender: usize,
    pub to: Vec<usize>,
    /// Its id, if its sender was told that it is accepted. Else it may come or not.
    pub accepted: Option<String>,
}

/// What was written, and what each user saw.
#[derive(Default)]
pub struct Model {
    pub letters: Vec<Letter>,
    /// By user, each message at its first occurrence.
    pub seen: [Vec<usize>; USERS.len()],
    /// By message, the id that came with it.
    pub ids: HashMap<usize, String>,
    /// By user, what was acknowledged for certain and must not come again.
    pub done: [HashSet<usize>; USERS.len()],
    pub repetitions: usize,
}

impl Model {
    pub fn write(&mut self, sender: usize, to: Vec<usize>) -> usize {
        println!("{sender} writes {} to {to:?}", self.letters.len());
        self.letters.push(Letter { sender, to, accepted: None });
        self.letters.len() - 1
    }

    pub fn accept(&mut self, letter: usize, id: &Value) {
        println!("{letter} is accepted");
        self.letters[letter].accepted = Some(id.as_str().expect("an id").to_owned());
    }

    pub fn see(&mut self, user: usize, text: &str, id: Option<&str>) -> usize {
        let letter: usize = text.parse().expect("the number of a letter");
        assert!(self.letters[letter].to.contains(&user), "{letter} is not for {}", USERS[user]);
        assert!(!self.done[user].contains(&letter), "{} had acknowledged {letter}", USERS[user]);
        if let Some(id) = id {
            let known = self.ids.entry(letter).or_insert_with(|| id.to_owned());
            assert_eq!(known, id, "{letter} comes again by another id");
        }
        match self.seen[user].contains(&letter) {
            true => self.repetitions += 1,
            false => self.seen[user].push(letter),
        }
        println!("{} sees {letter}", USERS[user]);
        letter
    }

    /// What was accepted for a user who has not seen it.
    pub fn missing(&self, user: usize) -> BTreeSet<usize> {
        let is_due = |letter: &Letter| letter.accepted.is_some() && letter.to.contains(&user);
        let due = (0..self.letters.len()).filter(|letter| is_due(&self.letters[*letter]));
        due.filter(|letter| !self.seen[user].contains(letter)).collect()
    }

    /// What came had the id that its sender was told, and what was accepted of a sender came in the order of sending.
    pub fn check(&self) {
        for (letter, id) in &self.ids {
            let accepted = self.letters[*letter].accepted.as_ref();
            assert!(accepted.is_none_or(|accepted| accepted == id), "{letter}: {id} is not {accepted:?}");
        }
        for (user, seen) in self.seen.iter().enumerate().filter(|(user, _)| *user != WITH_TWO_DEVICES) {
            let mut last = BTreeMap::new();
            for letter in seen.iter().filter(|letter| self.letters[**letter].accepted.is_some()) {
                let before = last.insert(self.letters[*letter].sender, *letter);
                assert!(before < Some(*letter), "{} saw {letter} behind {before:?}: {seen:?}", USERS[user]);
            }
        }
    }
}
