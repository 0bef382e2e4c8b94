//! What is wrong with a link, and telling it: once in the log for each change, and in [`Link`] for `readyz`.

use std::fmt;
use std::time::{Duration, Instant};

use lapin::ErrorKind;
use lapin::protocol::AMQPErrorKind;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::broker::{Link, LinkState};
use crate::metrics::{BrokerMetrics, Direction};

/// First pause before a link is tried again; doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A link that was up for this long was all right: its next pause is the shortest again.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// Ticks of a link's own duties; those that are late are not made up for.
pub fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Why a link is not up.
#[derive(Clone, Debug)]
pub struct Trouble {
    reason: String,
    /// No retry mends it (403, 406, 530): a user, a right, a virtual host, an exchange of other kind.
    permanent: bool,
    /// lapin could not parse what came.
    unreadable: bool,
}

impl Trouble {
    pub fn passing(reason: impl Into<String>) -> Trouble {
        Trouble { reason: reason.into(), permanent: false, unreadable: false }
    }

    pub fn permanent(reason: impl Into<String>) -> Trouble {
        Trouble { permanent: true, ..Trouble::passing(reason) }
    }

    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    pub fn at(self, place: impl fmt::Display) -> Trouble {
        Trouble { reason: format!("{place}: {}", self.reason), ..self }
    }

    /// One of several; permanent if every one of them is.
    pub fn all(troubles: Vec<Trouble>) -> Trouble {
        let permanent = !troubles.is_empty() && troubles.iter().all(|trouble| trouble.permanent);
        let reasons: Vec<String> = troubles.into_iter().map(|trouble| trouble.reason).collect();
        Trouble { permanent, ..Trouble::passing(reasons.join("; ")) }
    }
}

impl From<lapin::Error> for Trouble {
    fn from(error: lapin::Error) -> Trouble {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let code = amqp.get_id();
                let text = format!("{code} {}", amqp.get_message());
                // RabbitMQ's reply codes: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
                match (amqp.kind(), code) {
                    (AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_), 403 | 406 | 530) => Trouble::permanent(text),
                    _ => Trouble::passing(text),
                }
            }
            ErrorKind::ParsingError(_) => Trouble { unreadable: true, ..Trouble::passing(error.to_string()) },
            ErrorKind::IOError(error) => Trouble::passing(error.to_string()),
            _ => Trouble::passing(error.to_string()),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Whether an error has ended one channel and not the connection (AMQP 0-9-1 calls it soft). Whoever uses the channel meets
/// it there, too.
pub fn is_of_one_channel(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if matches!(amqp.kind(), AMQPErrorKind::Soft(_)))
}

/// Tells of a connection that no state of the link stands for: at level debug, but once as an error what no retry mends.
pub struct Complaints {
    what: &'static str,
    told: Option<String>,
}

impl Complaints {
    pub fn of(what: &'static str) -> Complaints {
        Complaints { what, told: None }
    }

    pub fn about(&mut self, trouble: &Trouble) {
        log::debug!("{} is lost: {trouble}", self.what);
        if trouble.permanent && self.told.as_ref() != Some(&trouble.reason) {
            log::error!("{} cannot be had: {trouble}", self.what);
            self.told = Some(trouble.reason.clone());
        }
    }
}

/// One direction of the link, and how long to wait before it is tried again.
pub struct Side {
    link: watch::Sender<Link>,
    direction: Direction,
    metrics: BrokerMetrics,
    was_up: bool,
    backoff: Duration,
    up_since: Option<Instant>,
}

impl Side {
    pub fn new(direction: Direction, link: watch::Sender<Link>, metrics: BrokerMetrics) -> Side {
        Side { link, direction, metrics, was_up: false, backoff: BACKOFF_MIN, up_since: None }
    }

    pub fn up(&mut self) {
        self.up_since = Some(Instant::now());
        self.set(LinkState::Up);
    }

    pub fn blocked(&mut self, reason: String) {
        self.set(LinkState::Blocked { reason });
    }

    /// Tells the trouble; the answer is how long to wait before the next try.
    pub fn down(&mut self, trouble: &Trouble) -> Duration {
        self.set(LinkState::Down { reason: trouble.reason.clone(), permanent: trouble.permanent });
        // A link that comes up only to break again is not tried ever faster.
        if self.up_since.take().is_some_and(|since| since.elapsed() > STEADY_AFTER) {
            self.backoff = BACKOFF_MIN;
        }
        let pause = if trouble.permanent { BACKOFF_MAX } else { self.backoff };
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        // Half of it is chance, so that instances do not come back all at once.
        pause.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    fn set(&mut self, state: LinkState) {
        let direction = self.direction;
        let is_up = state == LinkState::Up;
        let mut was_down = false;
        self.link.send_if_modified(|link| {
            let current = match direction {
                Direction::Publishing => &mut link.publishing,
                Direction::Consuming => &mut link.consuming,
            };
            if *current == state {
                return false;
            }
            log_change(direction, &state);
            was_down = matches!(current, LinkState::Down { .. });
            *current = state;
            link.attachments += u64::from(is_up && direction == Direction::Consuming);
            true
        });
        // The first time up is no return.
        if is_up && std::mem::replace(&mut self.was_up, true) && was_down {
            self.metrics.reconnected(direction);
        }
    }
}

fn log_change(direction: Direction, state: &LinkState) {
    match state {
        LinkState::Down { permanent: true, .. } => log::error!("broker link ({direction}) {state}"),
        LinkState::Down { .. } | LinkState::Blocked { .. } => log::warn!("broker link ({direction}) {state}"),
        LinkState::Up | LinkState::Connecting => log::info!("broker link ({direction}) {state}"),
    }
}
