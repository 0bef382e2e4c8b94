//! The lanes in which messages wait for the broker, so that what some receivers cannot take holds nobody else up.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::spool::Entry;
use crate::message::Target;

/// Messages of one lane keep their order, and never wait for those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What instances hear.
    Instances,
    /// What is said to backends.
    Backends,
    /// What is said to users, into their mailboxes.
    Users,
    /// What instances tell each other, and copies for users whom they hold: it must not wait while mailboxes are made.
    Peers,
}

impl Lane {
    const COUNT: usize = 4;

    pub fn of(target: &Target) -> Lane {
        match target {
            Target::Broadcast | Target::Topic(_) | Target::Instance(_) | Target::Session(_) => Lane::Instances,
            Target::Backends(_) => Lane::Backends,
            Target::User(_) | Target::Unread(_) | Target::Group(_) => Lane::Users,
            Target::UserAt(..) | Target::Peers | Target::Peer(_) => Lane::Peers,
        }
    }
}

/// Out of which lanes messages may go.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    pub instances: bool,
    pub backends: bool,
    pub users: bool,
    pub peers: bool,
}

impl Lanes {
    pub fn any(self) -> bool {
        self.each().contains(&true)
    }

    fn each(self) -> [bool; Lane::COUNT] {
        [self.instances, self.backends, self.users, self.peers]
    }
}

/// Oldest first, numbered where they are.
#[derive(Default)]
pub struct Waiting([VecDeque<Entry>; Lane::COUNT]);

impl Waiting {
    pub fn lane(&mut self, lane: Lane) -> &mut VecDeque<Entry> {
        &mut self.0[lane as usize]
    }

    /// Where a message waits.
    pub fn lane_of(&mut self, entry: &Entry) -> &mut VecDeque<Entry> {
        self.lane(Lane::of(&entry.message.target))
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(VecDeque::is_empty)
    }

    /// Whether what instances hear waits.
    pub fn has_some_for_instances(&self) -> bool {
        !self.0[Lane::Instances as usize].is_empty()
    }

    pub fn has_some_in(&self, lanes: Lanes) -> bool {
        self.0.iter().zip(lanes.each()).any(|(lane, is_open)| is_open && !lane.is_empty())
    }

    /// Since when the oldest waits whose sender is to be told.
    pub fn since(&self) -> Option<Instant> {
        let of = |lane: &VecDeque<Entry>| lane.iter().find(|entry| entry.is_awaited()).map(Entry::since);
        self.0.iter().filter_map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::super::spool::{Bounds, Intake, Spool, open};
    use super::*;
    use crate::broker::Receipt;
    use crate::broker::tests::Heard;
    use crate::inbound::{Destination, Inbound, SessionName};
    use crate::message::{Message, PayloadKind};
    use crate::metrics::BrokerMetrics;

    const INSTANCES: Lanes = Lanes { instances: true, backends: false, users: false, peers: false };
    const BACKENDS: Lanes = Lanes { instances: false, backends: true, users: false, peers: false };

    fn open_spool() -> (Intake, Spool) {
        let bounds = Bounds {
            messages_max: 10,
            bytes_max: 1 << 20,
            age_max: Duration::from_secs(60),
            wait: Duration::from_secs(60),
            keep: Duration::from_secs(60),
        };
        open(bounds, BrokerMetrics::default())
    }

    async fn take(intake: &Intake, target: Target, text: &'static str) {
        let payload = Bytes::from_static(text.as_bytes());
        let message = Message { id: None, target, kind: PayloadKind::Text, published_ms: 0, terms: None, payload };
        intake.take(message, Receipt::to(Arc::new(Heard::default()))).await;
    }

    fn to_backends() -> Target {
        let destination = Destination::parse("/app/test").unwrap();
        Target::Backends(Arc::new(Inbound { destination, session: SessionName::from_publisher("a_1@0/1") }))
    }

    fn waiting(spool: &mut Spool, lane: Lane) -> Vec<(Bytes, Option<u64>)> {
        std::iter::from_fn(|| spool.next(lane)).map(|entry| (entry.message.payload, entry.number)).collect()
    }

    #[tokio::test]
    async fn neither_lane_waits_for_the_other_and_only_one_is_numbered() {
        let (intake, mut spool) = open_spool();
        for (target, text) in [(Target::Broadcast, "a"), (to_backends(), "b"), (to_backends(), "c")] {
            take(&intake, target, text).await;
        }
        assert!(spool.ready(BACKENDS).now_or_never().is_some() && spool.ready(INSTANCES).now_or_never().is_some());
        let first = spool.next(Lane::Backends).expect("b");
        spool.put_back([first.on_its_way()].into_iter());
        assert_eq!(waiting(&mut spool, Lane::Backends), [("b".into(), None), ("c".into(), None)]);
        assert!(spool.numbers().is_none());
        assert_eq!(waiting(&mut spool, Lane::Instances), [("a".into(), Some(1))]);
        take(&intake, to_backends(), "d").await;
        assert!(spool.ready(INSTANCES).now_or_never().is_none());
        assert!(spool.numbers().is_some(), "what waits for backends is none of the numbers' business");
        assert!(!spool.is_finished());
    }

    #[tokio::test]
    async fn what_backends_have_is_never_sent_again() {
        let (intake, mut spool) = open_spool();
        take(&intake, to_backends(), "a").await;
        let sent = spool.next(Lane::Backends).expect("a");
        spool.confirm(sent.on_its_way());
        spool.rewind();
        assert_eq!(waiting(&mut spool, Lane::Backends), []);
    }

    #[tokio::test]
    async fn a_stop_is_told_once_to_who_waits_for_a_lane() {
        let (intake, mut spool) = open_spool();
        take(&intake, to_backends(), "a").await;
        intake.stop();
        assert!(spool.ready(INSTANCES).now_or_never().is_some());
        assert!(spool.ready(INSTANCES).now_or_never().is_none(), "nothing will ever come, and nobody spins");
        assert!(spool.ready(BACKENDS).now_or_never().is_some());
    }
}
