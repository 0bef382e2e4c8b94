//! What is said to users, on its way to their mailboxes.
//!
//! What finds no mailbox comes back. Then nothing else of this lane is published until the mailbox is made and what came
//! back is on its way again, in order. That holds for a user's first message only if no later one slips in: so of a user
//! whose mailbox was not seen so far one message is on its way at a time.

use std::collections::HashSet;

use lapin::Confirmation;
use tokio::time::Instant;

use super::outstanding::{Outstanding, Settled};
use super::spool::Entry;
use crate::broker::{MailboxName, NotAccepted};
use crate::metrics::BrokerMetrics;

/// Users whose mailboxes are remembered to stand; past them all are forgotten, and each is seen again.
const KNOWN_MAX: usize = 100_000;

#[derive(Default)]
pub struct ToUsers {
    pub outstanding: Outstanding,
    /// What found no mailbox, oldest first.
    returned: Vec<Entry>,
    known: HashSet<MailboxName>,
    /// Whose first message is on its way.
    doubted: HashSet<MailboxName>,
    /// The next message waits for one of these.
    waits: bool,
}

/// What is done with what was settled.
pub enum Verdict {
    Confirmed(Entry),
    Refused(Entry, NotAccepted),
}

impl ToUsers {
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.returned.is_empty()
    }

    /// Whether more may go.
    pub fn is_open(&self, window: usize) -> bool {
        self.returned.is_empty() && !self.waits && self.outstanding.len() < window
    }

    /// Whether a message may go now; if so it is counted as being on its way.
    pub fn lets_pass(&mut self, entry: &Entry) -> bool {
        let unknown = MailboxName::of(&entry.message.target).filter(|name| !self.known.contains(name));
        let passes = unknown.is_none_or(|name| self.doubted.insert(name));
        self.waits = !passes;
        passes
    }

    /// Sorts what the broker has said.
    pub fn settle(&mut self, settled: Vec<Settled>, metrics: &BrokerMetrics) -> Vec<Verdict> {
        self.waits = false;
        let mut verdicts = Vec::with_capacity(settled.len());
        for (entry, confirmation) in settled {
            let mailbox = MailboxName::of(&entry.message.target);
            if let Some(mailbox) = &mailbox {
                self.doubted.remove(mailbox);
            }
            match confirmation {
                Confirmation::Ack(None) => {
                    mailbox.into_iter().for_each(|name| self.note(name));
                    verdicts.push(Verdict::Confirmed(entry));
                }
                Confirmation::Ack(Some(_returned)) => {
                    metrics.returned(1);
                    if let Some(name) = mailbox {
                        self.known.remove(&name);
                        self.returned.push(entry);
                        continue;
                    }
                    verdicts.push(Verdict::Refused(entry, NotAccepted::NoMembers));
                }
                Confirmation::Nack(_) | Confirmation::NotRequested => {
                    metrics.nacked(1);
                    mailbox.into_iter().for_each(|name| self.note(name));
                    verdicts.push(Verdict::Refused(entry, NotAccepted::MailboxFull));
                }
            }
        }
        verdicts
    }

    fn note(&mut self, name: MailboxName) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(name);
    }

    /// Whose mailboxes are to be made before anything else goes.
    pub fn wanted(&self) -> Option<Vec<MailboxName>> {
        if self.returned.is_empty() || !self.outstanding.is_empty() {
            return None;
        }
        let names = self.returned.iter().filter_map(|entry| MailboxName::of(&entry.message.target));
        let names: HashSet<MailboxName> = names.collect();
        Some(names.into_iter().collect())
    }

    /// What is published again now that these mailboxes stand, and what cannot be.
    pub fn made(&mut self, made: &HashSet<MailboxName>) -> (Vec<Entry>, Vec<Entry>) {
        let stands = |entry: &Entry| MailboxName::of(&entry.message.target).is_none_or(|name| made.contains(&name));
        std::mem::take(&mut self.returned).into_iter().partition(stands)
    }

    /// Everything that is not settled, oldest first. A broker that comes back may not have a mailbox for a moment, or not any
    /// more: each is to be seen again, or a later message could find what an earlier one did not.
    pub fn drain(&mut self) -> Vec<Entry> {
        self.known.clear();
        self.doubted.clear();
        self.waits = false;
        self.returned.drain(..).chain(self.outstanding.drain()).collect()
    }

    /// Gives up waiting for the oldest, if it is late.
    pub fn give_up_late(&mut self) -> Option<Entry> {
        let entry = self.outstanding.give_up_late()?;
        self.waits = false;
        if let Some(name) = MailboxName::of(&entry.message.target) {
            self.doubted.remove(&name);
        }
        Some(entry)
    }

    pub fn postpone(&mut self, deadline: Instant) {
        self.outstanding.postpone(deadline);
    }
}
