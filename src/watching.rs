//! Who asks to hear of comings and goings: the patterns beneath `warren.presence` that sessions here subscribe to; and which
//! subscriptions of users there is to tell of. Between the hub, which knows of both, and [`crate::presence`], which tells.
//!
//! While nobody in the cluster asks, a subscription costs one look at a flag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::topic::{Pattern, Topic};
use crate::user::UserName;

/// What the patterns begin with by which somebody asks. A wildcard in front of it does not ask, but hears.
const ASKING: &str = "warren.presence.";

/// Subscriptions that wait to be told of. What comes beyond them is not told.
const CHANGES_WAITING_MAX: usize = 10_000;

/// A user has begun to hear a topic, or ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub user: UserName,
    pub topic: Topic,
    pub joins: bool,
}

pub struct Watching {
    patterns: Mutex<BTreeMap<Pattern, usize>>,
    /// Whether somebody in the cluster asks about topics.
    is_telling: AtomicBool,
    changes: mpsc::Sender<Change>,
    changes_out: Mutex<Option<mpsc::Receiver<Change>>>,
}

impl Default for Watching {
    fn default() -> Watching {
        let (changes, changes_out) = mpsc::channel(CHANGES_WAITING_MAX);
        Watching {
            patterns: Mutex::default(),
            is_telling: AtomicBool::new(false),
            changes,
            changes_out: Mutex::new(Some(changes_out)),
        }
    }
}

impl Watching {
    /// One more session subscribes to that.
    pub fn add(&self, pattern: &Pattern) {
        if pattern.as_str().starts_with(ASKING) {
            *self.lock().entry(pattern.clone()).or_default() += 1;
        }
    }

    /// One less.
    pub fn remove(&self, pattern: &Pattern) {
        if !pattern.as_str().starts_with(ASKING) {
            return;
        }
        let mut patterns = self.lock();
        let Some(count) = patterns.get_mut(pattern) else { return };
        *count -= 1;
        if *count == 0 {
            patterns.remove(pattern);
        }
    }

    /// The first of those that sessions here ask by.
    pub fn patterns(&self, limit: usize) -> Vec<Pattern> {
        self.lock().keys().take(limit).cloned().collect()
    }

    /// Somebody's subscription has begun or ended. Only names count, and not those of Warren's own topics.
    pub fn note(&self, user: Option<&UserName>, pattern: &Pattern, joins: bool) {
        if !self.is_telling.load(Ordering::Relaxed) {
            return;
        }
        if let (Some(user), Some(topic)) = (user, pattern.as_topic())
            && !topic.is_reserved()
        {
            let _ = self.changes.try_send(Change { user: user.clone(), topic, joins });
        }
    }

    /// Whether what is noted is told from now on.
    pub fn set_telling(&self, is_telling: bool) {
        self.is_telling.store(is_telling, Ordering::Relaxed);
    }

    /// What is noted. For one caller.
    pub fn changes(&self) -> Option<mpsc::Receiver<Change>> {
        self.changes_out.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pattern, usize>> {
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_the_name_of_presence_asks() {
        let watching = Watching::default();
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        let texts = ["warren.presence.users", "warren.presence.topics.#", "#", "warren.#", "orders"];
        let asked = || watching.patterns(9).iter().map(ToString::to_string).collect::<Vec<_>>();
        for _ in 0..2 {
            texts.iter().for_each(|text| watching.add(&pattern(text)));
        }
        assert_eq!(asked(), ["warren.presence.topics.#", "warren.presence.users"]);
        assert_eq!(watching.patterns(1).len(), 1);
        for _ in 0..2 {
            assert_eq!(asked().len(), 2);
            texts.iter().for_each(|text| watching.remove(&pattern(text)));
        }
        assert!(asked().is_empty());
    }

    #[test]
    fn users_names_of_topics_are_noted_while_somebody_asks() {
        let watching = Watching::default();
        let mut changes = watching.changes().unwrap();
        let alice = UserName::parse("alice").unwrap();
        let note = |text: &str| watching.note(Some(&alice), &Pattern::parse(text).unwrap(), true);
        note("orders");
        watching.set_telling(true);
        ["orders.#", "warren.presence.users"].iter().for_each(|text| note(text));
        watching.note(None, &Pattern::parse("orders").unwrap(), true);
        assert!(changes.try_recv().is_err());
        note("orders");
        let topic = Topic::parse("orders").unwrap();
        assert_eq!(changes.try_recv(), Ok(Change { user: alice.clone(), topic, joins: true }));
    }
}
