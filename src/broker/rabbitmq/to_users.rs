//! What is said to users, on its way to their mailboxes.
//!
//! A mailbox goes when nobody has used it for long, and RabbitMQ counts neither what is written to it nor what is in it as
//! use, only who declares or reads it. So whoever writes declares it first, unless it has done so lately: it stands then,
//! and for as long as the message is to be kept. Meanwhile what comes behind waits, too, which keeps the order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::outstanding::{Outcome, Outstanding, Settled};
use super::spool::Entry;
use crate::broker::{MailboxBounds, MailboxName, NotAccepted};
use crate::metrics::BrokerMetrics;

/// Mailboxes that are remembered; past them all are forgotten, and each is declared again.
const KNOWN_MAX: usize = 100_000;

/// Messages that wait together for mailboxes.
const ASIDE_MAX: usize = 1024;

/// How often a message may be handed to the broker: what comes back again and again, or ends the link, must not do so for
/// ever.
const HANDED_OVER_MAX: u32 = 5;

pub struct ToUsers {
    pub outstanding: Outstanding<Entry>,
    /// What found no mailbox, though one had stood, oldest first. Older than what is outstanding.
    returned: Vec<Entry>,
    /// What waits for a mailbox, and what is behind it, oldest first. Newer than what is outstanding.
    aside: Vec<Entry>,
    /// When a mailbox was last declared.
    known: HashMap<MailboxName, Instant>,
    /// For so long after that what is written to it is kept as long as it should be.
    known_for: Duration,
    /// Mailboxes are being made.
    is_making: bool,
}

/// What is done with what was settled.
pub enum Verdict {
    Confirmed(Entry),
    Refused(Entry, NotAccepted),
}

impl ToUsers {
    pub fn new(bounds: &MailboxBounds) -> ToUsers {
        ToUsers {
            outstanding: Outstanding::default(),
            returned: Vec::new(),
            aside: Vec::new(),
            known: HashMap::new(),
            known_for: bounds.idle_max,
            is_making: false,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && !self.has_waiting()
    }

    fn has_waiting(&self) -> bool {
        !(self.returned.is_empty() && self.aside.is_empty())
    }

    /// Everything that is not settled.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.returned.iter().chain(self.outstanding.entries()).chain(&self.aside)
    }

    /// Whether more may come.
    pub fn is_open(&self, window: usize) -> bool {
        !self.is_making && self.aside.len() < ASIDE_MAX && self.outstanding.len() < window
    }

    /// Takes a message; gives it back if it may be published now.
    pub fn admit(&mut self, entry: Entry) -> Option<Entry> {
        if !self.has_waiting() && self.stands(&entry) {
            return Some(entry);
        }
        self.aside.push(entry);
        None
    }

    /// Whether it needs no mailbox to be made.
    fn stands(&self, entry: &Entry) -> bool {
        MailboxName::of(&entry.message.target).is_none_or(|name| self.is_known(&name))
    }

    fn is_known(&self, name: &MailboxName) -> bool {
        self.known.get(name).is_some_and(|declared| declared.elapsed() < self.known_for)
    }

    /// Sorts what the broker has said.
    pub fn settle(&mut self, settled: Vec<Settled<Entry>>, metrics: &BrokerMetrics) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(settled.len());
        for (entry, outcome) in settled {
            match outcome {
                Outcome::Confirmed => verdicts.push(Verdict::Confirmed(entry)),
                Outcome::Nacked => {
                    metrics.nacked(1);
                    verdicts.push(Verdict::Refused(entry, NotAccepted::MailboxFull));
                }
                Outcome::Returned => {
                    metrics.returned(1);
                    match MailboxName::of(&entry.message.target) {
                        None => verdicts.push(Verdict::Refused(entry, NotAccepted::NoMembers)),
                        Some(_) if entry.handed_over >= HANDED_OVER_MAX => {
                            verdicts.push(Verdict::Refused(entry, NotAccepted::NoMailbox));
                        }
                        Some(name) => {
                            // Somebody has removed it.
                            self.known.remove(&name);
                            self.returned.push(entry);
                        }
                    }
                }
            }
        }
        verdicts
    }

    /// Whose mailboxes are to be made before anything else goes, now that nothing is on its way. The caller makes them.
    pub fn begin_making(&mut self) -> Option<Vec<MailboxName>> {
        if self.is_making || !self.has_waiting() || !self.outstanding.is_empty() {
            return None;
        }
        self.is_making = true;
        let names = self.entries().filter_map(|entry| MailboxName::of(&entry.message.target));
        let unknown: HashSet<MailboxName> = names.filter(|name| !self.is_known(name)).collect();
        Some(unknown.into_iter().collect())
    }

    /// What is published now that these mailboxes stand, in its order, and what cannot be.
    pub fn end_making(&mut self, made: &HashSet<MailboxName>) -> (Vec<Entry>, Vec<Entry>) {
        self.is_making = false;
        let now = Instant::now();
        self.known.extend(made.iter().map(|name| (name.clone(), now)));
        let waiting: Vec<Entry> = self.returned.drain(..).chain(self.aside.drain(..)).collect();
        let sorted = waiting.into_iter().partition(|entry| self.stands(entry));
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        sorted
    }

    /// Everything that is not settled, oldest first, and apart from it what has ended links too often. A broker that comes back
    /// may not have a mailbox for a moment, or not any more: each is declared again.
    pub fn drain(&mut self) -> (Vec<Entry>, Option<Entry>) {
        self.known.clear();
        self.is_making = false;
        let returned = self.returned.drain(..);
        let mut entries: Vec<Entry> = returned.chain(self.outstanding.drain()).chain(self.aside.drain(..)).collect();
        let is_culprit = entries.first().is_some_and(|first| first.handed_over >= HANDED_OVER_MAX);
        let culprit = is_culprit.then(|| entries.remove(0));
        (entries, culprit)
    }
}
