//! What becomes of what was published: by lane, it is accepted, goes back to be published again, or its sender is told.

use super::PublishingLink;
use crate::broker::NotAccepted;
use crate::broker::rabbitmq::link::Trouble;
use crate::broker::rabbitmq::outstanding::{Outcome, Settled};
use crate::broker::rabbitmq::spool::{Entry, Spool};
use crate::broker::rabbitmq::to_users::Verdict;

/// How the broker refuses a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Nobody is bound to receive it.
    Returned,
    Nacked,
}

impl PublishingLink {
    /// What the broker has is settled; what it refused is the answer.
    fn settle(&self, settled: Vec<Settled<Entry>>, spool: &mut Spool) -> Vec<(Entry, Refused)> {
        let mut refused = Vec::new();
        for (entry, outcome) in settled {
            match outcome {
                Outcome::Confirmed => {
                    self.metrics.confirmed(u64::from(!entry.message.target.is_between_instances()));
                    spool.confirm(entry);
                }
                Outcome::Returned => {
                    self.metrics.returned(1);
                    refused.push((entry, Refused::Returned));
                }
                Outcome::Nacked => {
                    self.metrics.nacked(1);
                    refused.push((entry, Refused::Nacked));
                }
            }
        }
        refused
    }

    /// What instances are to hear is published again, whatever it was refused for.
    pub fn settle_to_instances(&mut self, settled: Vec<Settled<Entry>>, spool: &mut Spool) {
        for (entry, refused) in self.settle(settled, spool) {
            if refused == Refused::Returned {
                self.around.unroutable.notify_one();
            }
            self.refused.push(entry);
        }
    }

    /// Of what backends are to hear, the sender is told.
    pub fn settle_to_backends(&mut self, settled: Vec<Settled<Entry>>, spool: &mut Spool) {
        for (entry, refused) in self.settle(settled, spool) {
            let why = match refused {
                Refused::Returned => NotAccepted::NoBackend,
                Refused::Nacked => NotAccepted::QueueFull,
            };
            refuse(entry, why);
        }
    }

    /// Of what concerns users, the sender is told; but first what found no mailbox is published again, into a new one.
    pub fn settle_to_users(&mut self, settled: Vec<Settled<Entry>>, spool: &mut Spool) {
        for verdict in self.to_users.settle(settled, &self.metrics) {
            match verdict {
                Verdict::Confirmed(entry) => {
                    self.metrics.confirmed(u64::from(!entry.message.target.is_between_instances()));
                    spool.confirm(entry);
                }
                Verdict::Refused(entry, why) => refuse(entry, why),
            }
        }
    }

    /// Of what one instance was to hear, the sender is told when that is gone.
    pub fn settle_to_peers(&mut self, settled: Vec<Settled<Entry>>, spool: &mut Spool) {
        for (entry, refused) in self.settle(settled, spool) {
            refuse(
                entry,
                if refused == Refused::Returned { NotAccepted::NoInstance } else { NotAccepted::Unconfirmed },
            );
        }
    }

    /// The next of those that are waited for no longer, though others are confirmed.
    fn late(&mut self) -> Option<Entry> {
        let late = self.to_backends.give_up_late().or_else(|| self.to_users.outstanding.give_up_late());
        late.or_else(|| self.to_peers.give_up_late())
    }

    /// A confirm that does not come means a dead link, unless the broker has said that it reads nothing for now; or, if
    /// others come, a queue of the backends' that cannot take anything.
    pub fn check_deadlines(&mut self) -> Result<(), Trouble> {
        if self.blocked {
            return Ok(());
        }
        if self.outstanding.is_late() {
            return Err(Trouble::passing(format!("no confirm within {} ms", self.timeout.as_millis())));
        }
        while let Some(entry) = self.late() {
            entry.refuse(NotAccepted::Unconfirmed);
        }
        Ok(())
    }
}

/// Tells a sender why its message is nowhere; or, if it may be somewhere from an earlier time, that nobody knows.
pub fn refuse(entry: Entry, why: NotAccepted) {
    let is_first_time = entry.handed_over <= 1;
    entry.refuse(if is_first_time { why } else { NotAccepted::Unconfirmed });
}
