//! When the next message is due.
//!
//! Open loop: message `m` is due at `start + m / rate`, whatever became of the ones before, and its latency counts from
//! then; a server that stalls so cannot hide the messages it kept from being sent (coordinated omission). Closed
//! loop: whenever fewer than the window are on their way.

use std::fmt;

use super::Plan;

/// How fast messages are sent, over all publishers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Messages per second, at times fixed beforehand.
    Rate(f64),
    /// As fast as it goes, with so many messages of each publisher on their way. One is on its way for as long as the
    /// deliveries so far do not make up for it.
    Window(u32),
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::Rate(rate) if rate.fract() == 0.0 => write!(f, "{rate} messages/s"),
            Pace::Rate(rate) => write!(f, "{rate:.2} messages/s"),
            Pace::Window(window) => write!(f, "window {window}"),
        }
    }
}

/// A message to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub publisher: usize,
    pub at_ns: u64,
}

/// One worker's part of the schedule: its own publishers' turns.
pub struct Schedule {
    pace: Pace,
    publishers: usize,
    sessions: u64,
    threads: usize,
    worker: usize,
    /// Messages of all publishers that were due so far; in a closed loop, of this worker.
    turn: u64,
    started_at: Option<u64>,
}

impl Schedule {
    pub fn new(plan: &Plan, worker: usize) -> Schedule {
        Schedule {
            pace: plan.pace,
            publishers: plan.publishers,
            sessions: plan.sessions as u64,
            threads: plan.threads,
            worker,
            turn: 0,
            started_at: None,
        }
    }

    /// Whether any publisher is this worker's.
    pub fn has_publishers(&self) -> bool {
        self.worker < self.publishers
    }

    /// Sets the start; `None` when publishing is over.
    pub fn follow(&mut self, started_at: Option<u64>) {
        if self.started_at != started_at {
            self.started_at = started_at;
            self.turn = 0;
        }
    }

    /// The next message, if it is due at `now_ns` with these totals.
    pub fn due(&mut self, now_ns: u64, published: u64, delivered: u64) -> Option<Due> {
        let start = self.started_at.filter(|_| self.has_publishers())?;
        match self.pace {
            Pace::Rate(rate) => {
                let at_ns = self.next_own(start, rate);
                (at_ns <= now_ns).then(|| {
                    let publisher = (self.turn % self.publishers as u64) as usize;
                    self.turn += 1;
                    Due { publisher, at_ns }
                })
            }
            Pace::Window(window) => {
                let on_their_way = published.saturating_sub(delivered / self.sessions.max(1));
                (on_their_way < u64::from(window) * self.publishers as u64).then(|| {
                    let own = self.publishers.saturating_sub(self.worker).div_ceil(self.threads);
                    let publisher = self.worker + (self.turn as usize % own) * self.threads;
                    self.turn += 1;
                    Due { publisher, at_ns: now_ns }
                })
            }
        }
    }

    /// When to look again, for an open loop.
    pub fn next_ns(&mut self) -> Option<u64> {
        let start = self.started_at.filter(|_| self.has_publishers())?;
        match self.pace {
            Pace::Rate(rate) => Some(self.next_own(start, rate)),
            Pace::Window(_) => None,
        }
    }

    /// Passes over the turns of other workers' publishers.
    fn next_own(&mut self, start: u64, rate: f64) -> u64 {
        let publishers = self.publishers as u64;
        while (self.turn % publishers) as usize % self.threads != self.worker {
            self.turn += 1;
        }
        start + (self.turn as f64 * 1e9 / rate) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(pace: Pace, publishers: usize, threads: usize, worker: usize) -> Schedule {
        let plan = Plan { sessions: 10, publishers, pace, threads, ..Plan::default() };
        let mut schedule = Schedule::new(&plan, worker);
        schedule.follow(Some(1_000));
        schedule
    }

    #[test]
    fn an_open_loop_keeps_its_times_whatever_arrives() {
        let mut schedule = schedule(Pace::Rate(1e6), 2, 1, 0);
        let mut due = |now| schedule.due(now, 100, 0).map(|due| (due.publisher, due.at_ns));
        assert_eq!(due(999), None);
        assert_eq!(due(1_000), Some((0, 1_000)));
        assert_eq!(due(1_999), None);
        assert_eq!(due(9_000), Some((1, 2_000)), "late, but timed as planned");
        assert_eq!(due(9_000), Some((0, 3_000)));
    }

    #[test]
    fn workers_share_the_turns_of_an_open_loop() {
        let mut all: Vec<(u64, usize)> = (0..3)
            .flat_map(|worker| {
                let mut schedule = schedule(Pace::Rate(1e9), 5, 3, worker);
                std::iter::from_fn(move || schedule.due(1_019, 0, 0))
                    .map(|due| (due.at_ns, due.publisher))
                    .collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        let expected: Vec<(u64, usize)> = (0..20).map(|turn| (1_000 + turn as u64, turn % 5)).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_closed_loop_keeps_its_window() {
        let mut schedule = schedule(Pace::Window(4), 2, 1, 0);
        let turns: Vec<usize> = (0..).map_while(|sent| schedule.due(5, sent, 0)).map(|due| due.publisher).collect();
        assert_eq!(turns, [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(schedule.due(5, 8, 9), None, "a message is over with its tenth delivery");
        assert!(schedule.due(5, 8, 10).is_some());
    }

    #[test]
    fn a_pace_is_shown_as_it_was_meant() {
        let shown = [Pace::Rate(20.0), Pace::Rate(100.0 / 18.0), Pace::Window(8)].map(|pace| pace.to_string());
        assert_eq!(shown, ["20 messages/s", "5.56 messages/s", "window 8"]);
    }

    #[test]
    fn nothing_is_due_without_a_start_or_a_publisher() {
        let mut stopped = schedule(Pace::Window(4), 1, 1, 0);
        stopped.follow(None);
        assert_eq!(stopped.due(5, 0, 0), None);
        let mut idle = schedule(Pace::Rate(1e9), 1, 2, 1);
        assert_eq!((idle.due(5_000, 0, 0), idle.next_ns()), (None, None));
    }
}
