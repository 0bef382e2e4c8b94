//! When the publisher may publish: not while nothing could come back to its own instance.
//!
//! With `--delivery queue` a message that is published while the instance's own queue is away is lost to its own
//! sessions, so it waits in the spool. When both links broke and the consumer has attached anew, the broker itself may
//! have been lost, and with it what it had confirmed and what sat in others' queues: that is then sent again, once the
//! others are back. With `--delivery stream`, that the consumer is attached proves that the stream takes what is
//! published: while its leader is not there yet RabbitMQ drops some messages and takes those behind them (seen with 3.10.8
//! after a restart), which would break their order.
//!
//! The publishing link may notice first that the broker is gone, and find another node, while the consuming one still
//! trusts a connection that nobody is at the other end of. So after the publishing link broke, a beacon of our own has to
//! come back first, or the consumer has to attach anew.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::beacon::Tickets;
use super::peers::Peers;
use crate::broker::{Delivery, Link, LinkState};

/// How long those are waited for that were there before the broker was lost: more than two of the longest pauses between
/// their tries.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Gate {
    link: watch::Receiver<Link>,
    delivery: Delivery,
    peers: Peers,
    open: bool,
    /// [`Link::attachments`] when it was open last.
    attachments: u64,
    /// The publishing link has broken since; with the ticket of a beacon that shows that the consumer hears all the same.
    publishing_broke: Option<u64>,
    tickets: Tickets,
    back: watch::Receiver<u64>,
    /// Who was there when it was open last.
    expected: Vec<Box<str>>,
    /// Since when they are waited for.
    waits_since: Option<Instant>,
}

/// What has become of the gate.
#[derive(Debug, PartialEq, Eq)]
pub enum Moved {
    Opened {
        /// The broker may have lost what it had confirmed.
        lost: bool,
    },
    Closed,
}

impl Gate {
    pub fn new(link: watch::Receiver<Link>, delivery: Delivery, peers: Peers, tickets: Tickets) -> Gate {
        Gate {
            link,
            delivery,
            peers,
            open: false,
            attachments: 0,
            publishing_broke: None,
            back: tickets.back(),
            tickets,
            expected: Vec::new(),
            waits_since: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a beacon may go out: one through a queue says that its instance hears; one through the stream is how the
    /// instance learns that.
    pub fn lets_beacons_pass(&self) -> bool {
        self.delivery == Delivery::Stream || self.link.borrow().consuming == LinkState::Up
    }

    /// The publishing link broke.
    pub fn publishing_lost(&mut self) {
        // No beacon with this ticket can go out over the link that broke.
        self.publishing_broke = (self.attachments > 0).then(|| self.tickets.ask());
        self.shut();
    }

    fn shut(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            self.expected = self.peers.present();
        }
        self.waits_since = None;
    }

    /// Ready when it opens or closes. Loses nothing when dropped.
    pub async fn moved(&mut self) -> Moved {
        loop {
            let (may_open, attachments) = self.look();
            if self.open && !may_open {
                self.shut();
                return Moved::Closed;
            }
            let attached_anew = self.attachments != attachments;
            let awaited =
                self.publishing_broke.filter(|ticket| !attached_anew && *self.back.borrow_and_update() < *ticket);
            if !self.open && may_open && awaited.is_none() {
                // Had one link alone broken, the broker would stand, and what others' queues hold be safe.
                let both_broke = self.publishing_broke.is_some() && attached_anew;
                let lost = self.delivery == Delivery::Queue && both_broke;
                if lost && !self.others_are_back().await {
                    continue;
                }
                self.open = true;
                self.attachments = attachments;
                self.publishing_broke = None;
                self.waits_since = None;
                return Moved::Opened { lost };
            }
            tokio::select! {
                changed = self.link.changed() => if changed.is_err() {
                    std::future::pending().await
                },
                // The sender is our own, too.
                _ = self.back.changed(), if awaited.is_some() => {}
            }
        }
    }

    /// True when those are back that were there before, or have been waited for long enough; false if the link has
    /// changed meanwhile.
    async fn others_are_back(&mut self) -> bool {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        tokio::select! {
            () = self.peers.are_back(&self.expected, since) => true,
            () = sleep_until(since + OTHERS_TIMEOUT) => true,
            _ = self.link.changed() => false,
        }
    }

    fn look(&mut self) -> (bool, u64) {
        let link = self.link.borrow_and_update();
        (link.consuming == LinkState::Up, link.attachments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(consuming: LinkState, attachments: u64) -> Link {
        Link { kind: "rabbitmq", publishing: LinkState::Up, consuming, attachments }
    }

    async fn stays_shut(gate: &mut Gate) -> bool {
        tokio::time::timeout(Duration::from_secs(1), gate.moved()).await.is_err()
    }

    fn down() -> LinkState {
        LinkState::Down { reason: "test".into(), permanent: false }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_loss_of_both_links_sends_again_and_waits_for_the_others() {
        let state = watch::Sender::new(link(LinkState::Connecting, 0));
        let peers = Peers::default();
        let tickets = Tickets::default();
        let mut gate = Gate::new(state.subscribe(), Delivery::Queue, peers.clone(), tickets.clone());
        state.send_replace(link(LinkState::Up, 1));
        assert_eq!(gate.moved().await, Moved::Opened { lost: false });

        state.send_replace(link(down(), 1));
        assert_eq!(gate.moved().await, Moved::Closed);
        state.send_replace(link(LinkState::Up, 2));
        assert_eq!(gate.moved().await, Moved::Opened { lost: false }, "the consumer alone was cut off");

        gate.publishing_lost();
        assert!(stays_shut(&mut gate).await, "the consumer may be deaf");
        tickets.came_back(tickets.last());
        assert_eq!(gate.moved().await, Moved::Opened { lost: false }, "the publisher alone was cut off");

        // The consumer notices first.
        peers.hear("other");
        state.send_replace(link(down(), 2));
        assert_eq!(gate.moved().await, Moved::Closed);
        gate.publishing_lost();
        state.send_replace(link(LinkState::Up, 3));
        assert!(stays_shut(&mut gate).await, "the other is not back");
        peers.hear("other");
        let soon = tokio::time::timeout(Duration::from_secs(1), gate.moved()).await;
        assert_eq!(soon, Ok(Moved::Opened { lost: true }));

        // The publisher notices first, and finds another node before the consumer sees that its own is gone.
        gate.publishing_lost();
        assert!(stays_shut(&mut gate).await, "the consumer may be deaf");
        state.send_replace(link(LinkState::Up, 4));
        let before = Instant::now();
        assert_eq!(gate.moved().await, Moved::Opened { lost: true }, "the other is gone for good");
        assert!(before.elapsed() >= OTHERS_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_stream_nothing_is_sent_again() {
        let state = watch::Sender::new(link(LinkState::Connecting, 0));
        let mut gate = Gate::new(state.subscribe(), Delivery::Stream, Peers::default(), Tickets::default());
        assert!(gate.lets_beacons_pass());
        let early = tokio::time::timeout(Duration::from_secs(60), gate.moved()).await;
        assert!(early.is_err(), "nothing would hold what is published");
        state.send_replace(link(LinkState::Up, 1));
        assert_eq!(gate.moved().await, Moved::Opened { lost: false });
        gate.publishing_lost();
        state.send_replace(link(LinkState::Up, 2));
        assert_eq!(gate.moved().await, Moved::Opened { lost: false });
    }
}
