//! The load generator: sessions, publishers, and the books of what each session heard.
//!
//! Worker threads own the sessions, each with an event loop and one read buffer of its own; nothing is locked and
//! nothing allocated for a delivery. [`Load`] is the conductor's end: it starts the workers, tells them what phase it
//! is, and waits with a deadline for what must happen.

mod books;
mod control;
mod inflate;
mod pace;
mod session;
mod timer;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::check::Faults;
use super::payload::Content;
use super::target::Target;
use control::Control;
use worker::Worker;

pub use books::Tally;
pub use pace::Pace;
pub use session::{ACCEPT_KEY, handshake_answer};

/// Pause between two looks at the workers' counters.
const LOOK: Duration = Duration::from_millis(1);

/// Without progress for this long a phase is given up, and what has not come counts as lost.
const STALL: Duration = Duration::from_secs(5);

/// Bytes of one publisher in an open loop that the server has not taken, at most; one message may always wait.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Between two probes of who hears: a session of a cluster may have to wait for its instance's binding.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// What to open and to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sessions are spread over them in turn.
    pub targets: Vec<Target>,
    pub sessions: usize,
    /// The first so many sessions publish.
    pub publishers: usize,
    pub pace: Pace,
    pub content: Content,
    /// Bytes of payload.
    pub size: usize,
    /// Open no session that will not be sent compressed messages.
    pub compress: bool,
    pub threads: usize,
    /// Handshakes under way at a time.
    pub concurrency: usize,
}

#[cfg(test)]
impl Default for Plan {
    fn default() -> Plan {
        Plan {
            targets: Vec::new(),
            sessions: 1,
            publishers: 1,
            pace: Pace::Window(1),
            content: Content::Filler,
            size: 128,
            compress: false,
            threads: 1,
            concurrency: 1,
        }
    }
}

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("interrupted")]
    Interrupted,
    /// The server takes less than is published, and what waits for it grows without end.
    #[error("cannot send at this rate: {UNSENT_BYTES_MAX} bytes of one publisher wait to be taken by the server")]
    TooFast,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A load under way.
pub struct Load {
    plan: Arc<Plan>,
    control: Arc<Control>,
    workers: Vec<JoinHandle<Tally>>,
}

/// How opening the sessions went.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub sessions: usize,
    pub took: Duration,
}

/// What one publishing phase came to.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    pub messages: u64,
    pub deliveries: u64,
    /// Bytes of the frames in which they came.
    pub bytes: u64,
    /// From the first message to the last delivery.
    pub took: Duration,
    /// From the first message until all has come or is given up.
    pub watched: Duration,
    /// CPU time of the busiest worker, of all that time.
    pub busiest: Duration,
}

impl Load {
    /// Starts the workers, which begin to open sessions at once.
    pub fn start(plan: Plan) -> io::Result<Load> {
        let addresses = plan.targets.iter().map(Target::resolve).collect::<io::Result<Vec<_>>>()?;
        let plan = Arc::new(plan);
        let (control, polls) = Control::new(&plan)?;
        let control = Arc::new(control);
        let start = |(index, poll)| {
            let worker = Worker::new(plan.clone(), control.clone(), addresses.clone(), index, poll)?;
            std::thread::Builder::new().name(format!("bench-{index}")).spawn(move || worker.run())
        };
        let workers = polls.into_iter().enumerate().map(start).collect::<io::Result<_>>()?;
        Ok(Load { plan, control, workers })
    }

    /// Waits until every session is open or refused, or no more answers come. `look` is called again and again with the number so far; it
    /// ends the run by an error.
    pub fn opened(&self, mut look: impl FnMut(u64) -> Result<(), Ended>) -> Result<Opened, Ended> {
        let control = &self.control;
        let settled = || (control.open.load(Acquire) + control.refused.load(Acquire)) as u64;
        self.wait(settled, self.plan.sessions as u64, &mut look)?;
        let took = Duration::from_nanos(control.last_opened_ns.load(Acquire));
        Ok(Opened { sessions: control.open.load(Acquire), took })
    }

    /// Asks until every session has heard something; false if some never do.
    pub fn heard(&self, mut look: impl FnMut(u64) -> Result<(), Ended>) -> Result<bool, Ended> {
        let control = &self.control;
        let heard = || control.heard.load(Acquire) as u64;
        let wanted = control.open.load(Acquire) as u64;
        let mut next = Instant::now();
        self.wait(heard, wanted, &mut |count| {
            if Instant::now() >= next {
                next = Instant::now() + PROBE_PAUSE;
                control.probes.fetch_add(1, Release);
                control.wake_all();
            }
            look(count)
        })
    }

    /// Publishes for `duration`, then waits until everything has arrived. Latencies count if `measured`.
    pub fn publish(
        &self,
        duration: Duration,
        measured: bool,
        mut look: impl FnMut(u64) -> Result<(), Ended>,
    ) -> Result<Published, Ended> {
        let control = &self.control;
        let before = (control.published.load(Acquire), control.delivered.load(Acquire));
        let bytes_before = control.delivered_bytes.load(Acquire);
        let busy_before = control.busy();
        let from = control.now_ns();
        control.begin_publishing(from, measured);
        let end = Instant::now() + duration;
        let mut progress = Progress::new(before.1);
        while Instant::now() < end {
            std::thread::sleep(LOOK);
            let delivered = control.delivered.load(Acquire);
            look(delivered - before.1)?;
            if control.too_fast.load(Acquire) || (self.is_closed_loop() && progress.is_stalled(delivered)) {
                break;
            }
        }
        control.end_publishing();
        if control.too_fast.load(Acquire) {
            return Err(Ended::TooFast);
        }
        let messages = control.published.load(Acquire) - before.0;
        let wanted = messages * control.open.load(Acquire) as u64;
        let delivered = || control.delivered.load(Acquire) - before.1;
        self.wait(delivered, wanted, &mut look)?;
        let took = control.last_delivery_ns.load(Acquire).saturating_sub(from);
        let busiest = control.busy().iter().zip(busy_before).map(|(after, before)| *after - before).max();
        Ok(Published {
            messages,
            deliveries: delivered(),
            bytes: control.delivered_bytes.load(Acquire) - bytes_before,
            took: Duration::from_nanos(took),
            watched: Duration::from_nanos(control.now_ns().saturating_sub(from)),
            busiest: busiest.unwrap_or_default(),
        })
    }

    /// Every session leaves at once.
    pub fn leave(self) -> Tally {
        self.control.leave();
        let tallies = self.workers.into_iter().filter_map(|worker| worker.join().ok());
        let mut tally = tallies.reduce(Tally::join).unwrap_or_else(|| Tally::new(0, 1, 1));
        tally.faults = tally.settle();
        let (open, refused) = (self.control.open.load(Relaxed), self.control.refused.load(Relaxed));
        tally.faults.add(&Faults {
            refused: refused as u64,
            unanswered: self.plan.sessions.saturating_sub(open + refused) as u64,
            closed: self.control.closed.load(Relaxed) as u64,
            ..Faults::default()
        });
        tally.first_error = self.control.first_error();
        tally
    }

    fn is_closed_loop(&self) -> bool {
        matches!(self.plan.pace, Pace::Window(_))
    }

    /// Until `count` reaches `wanted`; false if it stalls before.
    fn wait(
        &self,
        count: impl Fn() -> u64,
        wanted: u64,
        look: &mut dyn FnMut(u64) -> Result<(), Ended>,
    ) -> Result<bool, Ended> {
        let mut progress = Progress::new(count());
        loop {
            let now = count();
            look(now)?;
            if now >= wanted {
                return Ok(true);
            }
            if progress.is_stalled(now) {
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Notices that a counter stands still.
struct Progress {
    count: u64,
    moved: Instant,
}

impl Progress {
    fn new(count: u64) -> Progress {
        Progress { count, moved: Instant::now() }
    }

    fn is_stalled(&mut self, count: u64) -> bool {
        if count != self.count {
            *self = Progress::new(count);
        }
        self.moved.elapsed() > STALL
    }
}

/// Latencies from 1 µs to a minute in nanoseconds, to three digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are in order and the digits within 0 to 5")
}
