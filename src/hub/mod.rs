//! Who listens here, and the fan-out to them.
//!
//! The hub takes messages from the broker, encodes each once and hands the same bytes to every listener. It waits
//! for no listener, does no I/O of its own and asks nothing of the broker. Listeners are spread over workers, one per
//! thread; a worker alone owns its list, so nothing is locked while it works.

mod batch;
mod feed;
mod frames;
mod history;
mod worker;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::instance::Incarnation;
use crate::message::Message;
use crate::metrics::HubMetrics;
use feed::{Feed, Latecomer};
pub use frames::{About, Frames};
pub use history::{HistoryLimits, Replay};
use worker::{Change, Worker, WorkerHandle};

/// Batches that wait for one worker. Past it the hub waits for the worker and, through it, the broker for the hub.
const BATCHES_WAITING_MAX: usize = 16;

/// Someone who hears messages.
pub trait Listener: Send + Sync + 'static {
    /// Takes encoded frames, at once and without waiting: they are written, kept, or the listener gives up.
    fn deliver(&self, frames: &Frames);

    /// Takes frames of the past, before any other: plain ones, which are right for whoever inflates, too.
    fn replay(&self, past: &[Bytes]);

    /// Whether it wants [`Frames::deflated`]; never changes.
    fn inflates(&self) -> bool {
        false
    }

    /// Where the hub notes its own place for this listener.
    fn seat(&self) -> &Seat;
}

/// A listener's place in its worker's list. Only that worker reads or writes it. A listener joins once.
#[derive(Debug, Default)]
pub struct Seat(AtomicU32);

/// How messages become batches.
#[derive(Clone, Debug)]
pub struct Batching {
    pub own: Incarnation,
    /// The smallest payload that is compressed.
    pub compression_bytes_min: usize,
    /// How long the first message of a batch waits for more; zero: not at all.
    pub coalesce: Duration,
    /// What is kept for those who join with a replay.
    pub history: Option<HistoryLimits>,
}

/// Who listens here. A cheap handle.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    workers: Box<[WorkerHandle]>,
    joined: AtomicUsize,
    /// Listeners now that inflate.
    inflating: AtomicUsize,
    metrics: HubMetrics,
    /// To [`Hub::run`]; bounded by the number of sessions.
    latecomers: mpsc::UnboundedSender<Latecomer>,
    latecomers_out: Mutex<Option<mpsc::UnboundedReceiver<Latecomer>>>,
}

impl Hub {
    /// Starts `workers` tasks on the current runtime; they end with the last handle.
    pub fn start(workers: usize, metrics: HubMetrics) -> Hub {
        let workers = (0..workers.max(1)).map(|_| Worker::start(metrics.clone())).collect();
        let (latecomers, latecomers_out) = mpsc::unbounded_channel();
        let shared = Shared {
            workers,
            joined: AtomicUsize::new(0),
            inflating: AtomicUsize::new(0),
            metrics,
            latecomers,
            latecomers_out: Mutex::new(Some(latecomers_out)),
        };
        Hub { shared: Arc::new(shared) }
    }

    /// From now on `listener` hears every message that [`Hub::run`] takes, until the membership is dropped.
    pub fn join(&self, listener: Arc<dyn Listener>) -> Membership {
        let membership = self.membership(listener.clone());
        self.worker_of(&membership).change(Change::Join(listener));
        membership
    }

    /// The same, and before that `listener` is given the past that it asks for, as much as is there: the past ends where
    /// the rest begins, with neither a hole nor a double between them.
    pub fn join_with_replay(&self, listener: Arc<dyn Listener>, asked: Replay) -> Membership {
        let membership = self.membership(listener.clone());
        self.worker_of(&membership).expect_one();
        // The receiver is gone only when nothing is handed out any more.
        let _ = self.shared.latecomers.send(Latecomer { listener, worker: membership.worker, asked });
        membership
    }

    /// Hands what the broker delivers to the listeners, until the broker's end is dropped. For one caller.
    pub async fn run(self, batching: Batching, deliveries: mpsc::Receiver<Vec<Message>>) {
        let latecomers = self.shared.latecomers_out.lock().unwrap_or_else(PoisonError::into_inner).take();
        let latecomers = latecomers.expect("a hub is run once");
        Feed::new(self, latecomers, batching).run(deliveries).await;
    }

    fn membership(&self, listener: Arc<dyn Listener>) -> Membership {
        if listener.inflates() {
            self.shared.inflating.fetch_add(1, Ordering::Relaxed);
        }
        let worker = self.shared.joined.fetch_add(1, Ordering::Relaxed) % self.shared.workers.len();
        Membership { hub: self.clone(), worker, listener }
    }

    fn worker_of(&self, membership: &Membership) -> &WorkerHandle {
        &self.shared.workers[membership.worker]
    }
}

/// That a listener listens. Its drop ends that.
pub struct Membership {
    hub: Hub,
    worker: usize,
    listener: Arc<dyn Listener>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.listener.inflates() {
            self.hub.shared.inflating.fetch_sub(1, Ordering::Relaxed);
        }
        self.hub.shared.workers[self.worker].change(Change::Leave(self.listener.clone()));
    }
}

#[cfg(test)]
mod tests;
