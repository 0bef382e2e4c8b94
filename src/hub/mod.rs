//! Who listens here, and the fan-out to them.
//!
//! The hub takes messages from the broker, encodes each once and hands the same bytes to every listener. It waits
//! for no listener, does no I/O of its own and asks nothing of the broker. Listeners are spread over workers, one per
//! thread; a worker alone owns its list, so nothing is locked while it works.

mod batch;
mod frames;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::instance::Incarnation;
use crate::message::Message;
use crate::metrics::HubMetrics;
use batch::Batch;
pub use frames::{About, Frames};
use worker::{Change, Worker, WorkerHandle};

/// Batches that wait for one worker. Past it the hub waits for the worker and, through it, the broker for the hub.
const BATCHES_WAITING_MAX: usize = 16;

/// Someone who hears messages.
pub trait Listener: Send + Sync + 'static {
    /// Takes encoded frames, at once and without waiting: they are written, kept, or the listener gives up.
    fn deliver(&self, frames: &Frames);

    /// Whether it wants [`Frames::deflated`]; never changes.
    fn inflates(&self) -> bool {
        false
    }

    /// Where the hub notes its own place for this listener.
    fn seat(&self) -> &Seat;
}

/// A listener's place in its worker's list. Only that worker reads or writes it.
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
}

impl Hub {
    /// Starts `workers` tasks on the current runtime; they end with the last handle.
    pub fn start(workers: usize, metrics: HubMetrics) -> Hub {
        let workers = (0..workers.max(1)).map(|_| Worker::start(metrics.clone())).collect();
        let (joined, inflating) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Hub { shared: Arc::new(Shared { workers, joined, inflating, metrics }) }
    }

    /// From now on `listener` hears every message that [`Hub::run`] takes, until the membership is dropped.
    pub fn join(&self, listener: Arc<dyn Listener>) -> Membership {
        if listener.inflates() {
            self.shared.inflating.fetch_add(1, Ordering::Relaxed);
        }
        let workers = &self.shared.workers;
        let worker = self.shared.joined.fetch_add(1, Ordering::Relaxed) % workers.len();
        workers[worker].change(Change::Join(listener.clone()));
        Membership { hub: self.clone(), worker, listener }
    }

    /// Hands what the broker delivers to the listeners, until the broker's end is dropped.
    ///
    /// Whatever is ready becomes one batch, and whatever comes while its first message may wait.
    pub async fn run(self, batching: Batching, mut deliveries: mpsc::Receiver<Vec<Message>>) {
        let mut batch = Batch::new(batching.own, batching.compression_bytes_min);
        while let Some(first) = deliveries.recv().await {
            let deadline = (!batching.coalesce.is_zero()).then(|| Instant::now() + batching.coalesce);
            let mut next = Some(first);
            while let Some(messages) = next {
                for message in &messages {
                    if batch.is_full() {
                        self.hand_out(&mut batch).await;
                    }
                    // A listener that joins meanwhile can read plain frames as well.
                    batch.add(message, self.shared.inflating.load(Ordering::Relaxed) > 0);
                }
                next = match deadline {
                    None => deliveries.try_recv().ok(),
                    Some(_) if batch.is_full() => None,
                    Some(deadline) => tokio::time::timeout_at(deadline, deliveries.recv()).await.ok().flatten(),
                };
            }
            self.hand_out(&mut batch).await;
        }
    }

    async fn hand_out(&self, batch: &mut Batch) {
        if batch.is_empty() {
            return;
        }
        let frames = batch.take();
        self.shared.metrics.broadcast(frames.about().messages, frames.about().payload_bytes);
        for worker in self.shared.workers.iter().filter(|worker| worker.has_listeners()) {
            worker.hand_out(frames.clone()).await;
        }
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
