//! The link to the broker: what goes out, what comes in, what waits, what is lost and told.
//!
//! The broker knows the families only as the methods here; whether anybody scrapes is no business of its.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Labelled, counters};
use crate::broker::{Link, LinkState};

const DIRECTION: &str = "direction";
const STATE: &str = "state";
const REASON: &str = "reason";

const STATES: [&str; 4] = ["connecting", "up", "blocked", "down"];

/// One way of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Publishing,
    Consuming,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Direction {
    const ALL: [Direction; 2] = [Direction::Publishing, Direction::Consuming];

    fn name(self) -> &'static str {
        match self {
            Direction::Publishing => "publishing",
            Direction::Consuming => "consuming",
        }
    }
}

/// Why a delivery of the broker was not handed on, other than being a double.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Larger than `--message-bytes-max`.
    Oversized,
    /// What names its topic is no topic's name.
    NotATopic,
    /// Another message with its idempotency key was handed on.
    Repeated,
    /// It came after its time to live.
    Expired,
    /// The one session that it is meant for is gone.
    NoSession,
    /// Its properties are not UTF-8, and it would have come again and again.
    Unreadable,
}

impl Dropped {
    const ALL: [Dropped; 6] = [
        Dropped::Oversized,
        Dropped::NotATopic,
        Dropped::Repeated,
        Dropped::Expired,
        Dropped::NoSession,
        Dropped::Unreadable,
    ];

    fn name(self) -> &'static str {
        match self {
            Dropped::Oversized => "oversized",
            Dropped::NotATopic => "not_a_topic",
            Dropped::Repeated => "repeated",
            Dropped::Expired => "expired",
            Dropped::NoSession => "no_session",
            Dropped::Unreadable => "unreadable",
        }
    }
}

/// Moved by the broker. A cheap handle.
#[derive(Clone)]
pub struct BrokerMetrics {
    link: Family<[(&'static str, &'static str); 2], Gauge>,
    reconnects: Labelled<Counter>,
    published: Counter,
    confirmed: Counter,
    nacked: Counter,
    returned: Counter,
    republished: Counter,
    unconfirmed: Gauge,
    spool_messages: Gauge,
    spool_bytes: Gauge,
    spool_age: Gauge<f64, AtomicU64>,
    spool_oldest: Arc<Mutex<Option<Instant>>>,
    missing: Counter,
    possible_gaps: Counter,
    duplicates: Counter,
    dropped: Labelled<Counter>,
}

impl Default for BrokerMetrics {
    fn default() -> BrokerMetrics {
        BrokerMetrics {
            link: Family::default(),
            reconnects: counters(DIRECTION, Direction::ALL.map(Direction::name)),
            published: Counter::default(),
            confirmed: Counter::default(),
            nacked: Counter::default(),
            returned: Counter::default(),
            republished: Counter::default(),
            unconfirmed: Gauge::default(),
            spool_messages: Gauge::default(),
            spool_bytes: Gauge::default(),
            spool_age: Gauge::default(),
            spool_oldest: Arc::default(),
            missing: Counter::default(),
            possible_gaps: Counter::default(),
            duplicates: Counter::default(),
            dropped: counters(REASON, Dropped::ALL.map(Dropped::name)),
        }
    }
}

impl BrokerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let link = "1 for the state that each direction of the link is in, 0 for the others";
        registry.register("link", link, self.link.clone());
        let reconnects = "Times that a direction of the link came up again";
        registry.register("reconnects", reconnects, self.reconnects.clone());
        self.register_publishing(registry);
        self.register_consuming(registry);
    }

    fn register_publishing(&self, registry: &mut Registry) {
        let counters = [
            ("published", "Messages written to the broker, repetitions included", &self.published),
            ("confirmed", "Messages that the broker confirmed", &self.confirmed),
            ("nacked", "Messages that the broker refused", &self.nacked),
            ("returned", "Messages that came back because nobody was bound to receive them", &self.returned),
            ("republished", "Messages written again, after a break, a refusal or a return", &self.republished),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let unconfirmed = "Messages that were written and wait for the broker's confirmation";
        registry.register("unconfirmed_messages", unconfirmed, self.unconfirmed.clone());
        registry.register(
            "spool_messages",
            "Messages of clients that wait until they are confirmed",
            self.spool_messages.clone(),
        );
        let bytes = "Bytes that these count for in the spool: payload, and 512 for each";
        registry.register_with_unit("spool", bytes, Unit::Bytes, self.spool_bytes.clone());
        let age = "Age of the oldest message that waits until it is confirmed";
        registry.register_with_unit("spool_oldest_age", age, Unit::Seconds, self.spool_age.clone());
    }

    fn register_consuming(&self, registry: &mut Registry) {
        let missing = "Messages that were missing when later ones came; a few of them may have come late";
        registry.register("missing_messages", missing, self.missing.clone());
        registry.register(
            "possible_gaps",
            "Times after which messages may be missing of which no number tells",
            self.possible_gaps.clone(),
        );
        let duplicates = "Deliveries that had been here before and were dropped";
        registry.register("duplicates_dropped", duplicates, self.duplicates.clone());
        let dropped = "Deliveries that were dropped for what they are, by reason";
        registry.register("dropped", dropped, self.dropped.clone());
    }

    /// A direction of the link is up again; the first time does not count.
    pub fn reconnected(&self, direction: Direction) {
        self.reconnects.get_or_create(&[(DIRECTION, direction.name())]).inc();
    }

    /// Messages were handed to the connection, whether for the first time or again.
    pub fn published(&self, messages: u64) {
        self.published.inc_by(messages);
    }

    pub fn confirmed(&self, messages: u64) {
        self.confirmed.inc_by(messages);
    }

    pub fn nacked(&self, messages: u64) {
        self.nacked.inc_by(messages);
    }

    pub fn returned(&self, messages: u64) {
        self.returned.inc_by(messages);
    }

    /// Of those published, how many were so again.
    pub fn republished(&self, messages: u64) {
        self.republished.inc_by(messages);
    }

    /// How many confirms are awaited now.
    pub fn unconfirmed(&self, messages: usize) {
        self.unconfirmed.set(gauge(messages));
    }

    /// What the spool holds now, and since when the oldest of it has waited. Cheap enough for each change; once a turn
    /// of the publisher will do.
    pub fn spool(&self, messages: usize, bytes: usize, oldest: Option<Instant>) {
        self.spool_messages.set(gauge(messages));
        self.spool_bytes.set(gauge(bytes));
        *self.spool_oldest.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    /// A jump in a publisher's numbers: so many messages did not come. What comes late after all stays counted.
    pub fn missing(&self, messages: u64) {
        self.missing.inc_by(messages);
    }

    /// The instance may have missed something without being able to tell what.
    pub fn possible_gap(&self) {
        self.possible_gaps.inc();
    }

    pub fn duplicate(&self) {
        self.duplicates.inc();
    }

    pub fn dropped(&self, reason: Dropped) {
        self.dropped.get_or_create(&[(REASON, reason.name())]).inc();
    }

    pub(super) fn read(&self, link: &Link) {
        for (direction, now) in [(Direction::Publishing, &link.publishing), (Direction::Consuming, &link.consuming)] {
            for state in STATES {
                let is_in = i64::from(state == name_of(now));
                self.link.get_or_create(&[(DIRECTION, direction.name()), (STATE, state)]).set(is_in);
            }
        }
        let oldest = *self.spool_oldest.lock().unwrap_or_else(PoisonError::into_inner);
        self.spool_age.set(oldest.map_or(0.0, |since| since.elapsed().as_secs_f64()));
    }
}

fn name_of(state: &LinkState) -> &'static str {
    match state {
        LinkState::Connecting => "connecting",
        LinkState::Up => "up",
        LinkState::Blocked { .. } => "blocked",
        LinkState::Down { .. } => "down",
    }
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
