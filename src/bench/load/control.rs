//! What the workers and the conductor share: the phase, and counters that only grow.

use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::{Poll, Waker};

use super::Plan;
use super::worker::WAKE;

/// In the place of a time: not now.
const NEVER: u64 = u64::MAX;

/// What came to one worker in one turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deliveries {
    pub count: u64,
    /// Of their frames.
    pub bytes: u64,
    /// When the last of them came.
    pub last_ns: u64,
}

pub struct Control {
    /// Tells this run's messages from others'.
    pub run: u32,
    epoch: Instant,
    publishing: AtomicBool,
    /// When publishing began; due times count from here.
    publish_from_ns: AtomicU64,
    /// Messages sent from then on count for the latencies.
    measure_from_ns: AtomicU64,
    leaving: AtomicBool,
    /// A publisher has more unsent than it may.
    pub too_fast: AtomicBool,
    /// Probes to be sent so far.
    pub probes: AtomicU32,

    pub open: AtomicUsize,
    pub refused: AtomicUsize,
    pub closed: AtomicUsize,
    pub heard: AtomicUsize,
    pub last_opened_ns: AtomicU64,
    pub published: AtomicU64,
    pub delivered: AtomicU64,
    /// Bytes of the frames in which deliveries came.
    pub delivered_bytes: AtomicU64,
    pub last_delivery_ns: AtomicU64,
    /// CPU time of each worker, in nanoseconds.
    busy_ns: Vec<AtomicU64>,

    wakers: Vec<Waker>,
    first_error: Mutex<Option<String>>,
}

impl Control {
    /// The shared state, and each worker's poll.
    pub fn new(plan: &Plan) -> io::Result<(Control, Vec<Poll>)> {
        let polls = (0..plan.threads.max(1)).map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let wakers = polls.iter().map(|poll| Waker::new(poll.registry(), WAKE)).collect::<io::Result<Vec<_>>>()?;
        let control = Control {
            run: fastrand::u32(..),
            epoch: Instant::now(),
            publishing: AtomicBool::new(false),
            publish_from_ns: AtomicU64::new(NEVER),
            measure_from_ns: AtomicU64::new(NEVER),
            leaving: AtomicBool::new(false),
            too_fast: AtomicBool::new(false),
            probes: AtomicU32::new(0),
            open: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            heard: AtomicUsize::new(0),
            last_opened_ns: AtomicU64::new(0),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            last_delivery_ns: AtomicU64::new(0),
            busy_ns: polls.iter().map(|_| AtomicU64::new(0)).collect(),
            wakers,
            first_error: Mutex::new(None),
        };
        Ok((control, polls))
    }

    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    pub fn begin_publishing(&self, from_ns: u64, measured: bool) {
        self.publish_from_ns.store(from_ns, Relaxed);
        self.measure_from_ns.store(if measured { from_ns } else { NEVER }, Relaxed);
        self.publishing.store(true, Release);
        self.wake_all();
    }

    /// Nobody begins another message.
    pub fn stop_publishing(&self) {
        self.publishing.store(false, Release);
    }

    /// Returns when no worker publishes any more.
    pub fn end_publishing(&self) {
        self.stop_publishing();
        self.wake_all();
        // A worker looks at the flag at each turn, which even with every session readable takes less than this.
        std::thread::sleep(Duration::from_millis(5));
    }

    /// The start of publishing while it goes on.
    pub fn publishing_from(&self) -> Option<u64> {
        self.publishing.load(Acquire).then(|| self.publish_from_ns.load(Relaxed))
    }

    pub fn measuring_from(&self) -> u64 {
        self.measure_from_ns.load(Relaxed)
    }

    pub fn leave(&self) {
        self.leaving.store(true, Release);
        self.wake_all();
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Acquire)
    }

    /// Enters one turn's deliveries of a worker.
    pub fn delivered(&self, deliveries: Deliveries) {
        self.last_delivery_ns.fetch_max(deliveries.last_ns, AcqRel);
        self.delivered_bytes.fetch_add(deliveries.bytes, AcqRel);
        self.delivered.fetch_add(deliveries.count, AcqRel);
    }

    pub fn set_busy(&self, worker: usize, cpu: Duration) {
        self.busy_ns[worker].store(u64::try_from(cpu.as_nanos()).unwrap_or(NEVER), Relaxed);
    }

    pub fn busy(&self) -> Vec<Duration> {
        self.busy_ns.iter().map(|busy| Duration::from_nanos(busy.load(Relaxed))).collect()
    }

    pub fn wake_all(&self) {
        (0..self.wakers.len()).for_each(|worker| self.wake(worker));
    }

    /// A worker that cannot be woken looks by itself before long.
    pub fn wake(&self, worker: usize) {
        let _ = self.wakers[worker].wake();
    }

    pub fn note_error(&self, error: String) {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub fn first_error(&self) -> Option<String> {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
