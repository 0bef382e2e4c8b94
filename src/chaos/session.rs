//! One session of the run: connects to its instance, again and again, does what its role is, and enters what it hears.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::books::{Cause, End};
use super::instance::Door;
use super::ledger::Ledger;
use super::seat::Seat;
use super::subject::Role;
use crate::bench::client::{Client, Ended};
use crate::bench::marker::MARKER_BYTES;
use crate::bench::payload::Content;
use crate::bench::wire::{self, Template};

/// Pause before a session connects again, unless it was told another; half of it is chance.
const PAUSE: Duration = Duration::from_millis(400);

/// The longest pause that a session lets itself be told.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Between two requests of a session that comes and goes.
const PAUSE_BETWEEN_REQUESTS: Duration = Duration::from_millis(500);

/// What all sessions are to do at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub publishes: bool,
    /// Nothing more is published, and everything that was is to arrive.
    pub is_settling: bool,
    /// Sessions of this number and above do not read.
    pub stalled_from: Option<usize>,
}

/// What sessions share.
pub struct Shared {
    pub ledger: Arc<Ledger>,
    pub orders: watch::Receiver<Orders>,
    /// Sessions that are connected.
    pub connected: Arc<AtomicUsize>,
}

pub struct Session {
    number: usize,
    instance: usize,
    role: Role,
    door: watch::Receiver<Door>,
    orders: watch::Receiver<Orders>,
    ledger: Arc<Ledger>,
    connected: Arc<AtomicUsize>,
    /// Between two messages, or two requests.
    interval: Duration,
}

impl Session {
    /// `interval` is that between two messages of a session that publishes.
    pub fn new(
        number: usize,
        instance: usize,
        role: Role,
        door: watch::Receiver<Door>,
        shared: &Shared,
        interval: Duration,
    ) -> Session {
        let Shared { ledger, orders, connected } = shared;
        let (ledger, orders, connected) = (ledger.clone(), orders.clone(), connected.clone());
        let interval = if matches!(role, Role::ComesAndGoes(_)) { PAUSE_BETWEEN_REQUESTS } else { interval };
        Session { number, instance, role, door, orders, ledger, connected, interval }
    }

    /// Goes on until it is dropped, or the run is over.
    pub async fn run(mut self) {
        loop {
            let Ok(door) = self.door.wait_for(|door| door.is_open).await.map(|door| *door) else { return };
            let pause =
                match Client::connect(door.address, &self.role.hears().path(), Seat::subprotocol(self.role)).await {
                    Ok(client) => self.live(client, door.generation).await,
                    Err(_) => None,
                };
            tokio::time::sleep(pause.unwrap_or_else(|| PAUSE.mul_f64(0.5 + 0.5 * fastrand::f64()))).await;
        }
    }

    /// From the server's agreement to the end; the pause that the server asked for.
    async fn live(&mut self, mut client: Client, generation: u64) -> Option<Duration> {
        let mut seat = Seat::take(&self.ledger, self.instance, self.role);
        self.connected.fetch_add(1, AcqRel);
        let mut has_stalled = false;
        let ended = self.exchange(&mut client, &mut seat, &mut has_stalled).await;
        self.connected.fetch_sub(1, AcqRel);
        let was_struck = self.door.borrow().generation != generation;
        let cause = cause(&ended, was_struck, has_stalled);
        seat.leave(End { why: ended.to_string(), cause });
        asked_pause(&ended)
    }

    async fn exchange(&mut self, client: &mut Client, seat: &mut Seat, has_stalled: &mut bool) -> Ended {
        let template = Template::new(Content::Filler, MARKER_BYTES);
        let mut ticks = ticks(self.interval);
        loop {
            let orders = *self.orders.borrow_and_update();
            let is_stalled = orders.stalled_from.is_some_and(|from| self.number >= from);
            *has_stalled |= is_stalled;
            let may_send = orders.publishes && client.is_flushed() && !matches!(self.role, Role::Listens(_));
            let done = tokio::select! {
                turned = client.turn(), if !is_stalled => {
                    turned.map_err(Ended::from).and_then(|()| client.take(|payload| seat.hear(payload)))
                }
                _ = ticks.tick(), if may_send => {
                    let (message, request) = (seat.next_message(), seat.next_request());
                    let sent = client.send(|out| {
                        message.into_iter().for_each(|marker| template.append(marker, out));
                        request.iter().for_each(|request| wire::encode(wire::TEXT, request.as_bytes(), out));
                    });
                    self.ledger.sent.notify_waiters();
                    sent.map_err(Ended::from)
                }
                changed = self.orders.changed() => match changed {
                    Ok(()) => Ok(()),
                    // The run is over; nobody asks any more how this ends.
                    Err(_) => std::future::pending().await,
                },
            };
            if let Err(ended) = done {
                return ended;
            }
        }
    }
}

/// How many of them are connected.
pub fn connected(count: &AtomicUsize) -> usize {
    count.load(Acquire)
}

/// The first tick at a time of chance, so that not all publish at once. A session that only listens has ticks too, which
/// nobody waits for.
fn ticks(interval: Duration) -> Interval {
    let start = tokio::time::Instant::now() + interval.mul_f64(fastrand::f64());
    let mut ticks = tokio::time::interval_at(start, interval);
    // What could not be sent in time is not made up for: the rate is steady.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn cause(ended: &Ended, was_struck: bool, has_stalled: bool) -> Cause {
    const GOING_AWAY: u16 = 1001;
    const TOO_SLOW: u16 = 4001;
    const NOT_ACCEPTED: u16 = 1013;
    match ended {
        Ended::Closed { code: Some(GOING_AWAY), .. } if was_struck => Cause::GoodBye,
        _ if was_struck => Cause::Instance,
        Ended::Closed { code: Some(TOO_SLOW), .. } if has_stalled => Cause::Stall,
        Ended::Closed { code: Some(NOT_ACCEPTED), .. } => Cause::Refused,
        _ => Cause::None,
    }
}

/// When the server wants to see the session again, as the reason of its good-bye says: `retry-after-ms` and a number.
fn asked_pause(ended: &Ended) -> Option<Duration> {
    let Ended::Closed { reason, .. } = ended else { return None };
    let (_, rest) = reason.split_once("retry-after-ms")?;
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().map(|ms| Duration::from_millis(ms).min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16, reason: &str) -> Ended {
        Ended::Closed { code: Some(code), reason: reason.to_owned() }
    }

    #[test]
    fn a_server_may_say_when_to_come_back() {
        for (reason, ms) in [
            ("the server is stopping; retry-after-ms=1500", Some(1500)),
            ("retry-after-ms: 20, please", Some(20)),
            ("retry-after-ms=99999999", Some(60_000)),
            ("retry-after-ms soon", None),
            ("the server is stopping", None),
        ] {
            assert_eq!(asked_pause(&closed(1001, reason)), ms.map(Duration::from_millis), "{reason}");
        }
        assert_eq!(asked_pause(&Ended::Refused("503".to_owned())), None);
    }

    #[test]
    fn only_a_strike_or_a_stall_explains_an_end() {
        let lost = Ended::Lost(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(cause(&lost, true, false), Cause::Instance);
        assert_eq!(cause(&closed(1001, ""), true, false), Cause::GoodBye);
        assert_eq!(cause(&closed(1013, ""), true, false), Cause::Instance);
        assert_eq!(cause(&lost, false, true), Cause::None);
        assert_eq!(cause(&closed(4001, ""), false, true), Cause::Stall);
        assert_eq!(cause(&closed(4001, ""), false, false), Cause::None);
        assert_eq!(cause(&closed(1013, ""), false, false), Cause::Refused);
        assert_eq!(cause(&closed(1001, ""), false, false), Cause::None);
    }
}
