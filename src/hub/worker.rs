//! One share of the listeners, and the task that alone owns their list.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::{BATCHES_WAITING_MAX, Frames, Listener};
use crate::metrics::HubMetrics;

/// Deliveries after which the worker lets other tasks run: at the kernel's 5 µs per write about a third of a
/// millisecond, so that a long fan-out starves neither accepts nor pongs.
const DELIVERIES_PER_TURN: usize = 64;

/// Batches that wait are joined up to this size, for one write per listener instead of several.
const JOINED_BYTES_MAX: usize = 128 * 1024;

pub enum Change {
    Join(Arc<dyn Listener>),
    Leave(Arc<dyn Listener>),
}

/// The hub's end of a worker.
pub struct WorkerHandle {
    changes: mpsc::UnboundedSender<Change>,
    batches: mpsc::Sender<Frames>,
    listeners: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// Never waits, since leaving happens in a `Drop`; the number of changes is bounded by that of sessions.
    pub fn change(&self, change: Change) {
        match change {
            Change::Join(_) => self.listeners.fetch_add(1, Ordering::Release),
            Change::Leave(_) => self.listeners.fetch_sub(1, Ordering::Release),
        };
        // A worker ends only with its runtime, when nobody listens any more.
        let _ = self.changes.send(change);
    }

    pub fn has_listeners(&self) -> bool {
        self.listeners.load(Ordering::Acquire) > 0
    }

    pub async fn hand_out(&self, frames: Frames) {
        let _ = self.batches.send(frames).await;
    }
}

pub struct Worker {
    changes: mpsc::UnboundedReceiver<Change>,
    batches: mpsc::Receiver<Frames>,
    listeners: Vec<Arc<dyn Listener>>,
    /// Of the listeners.
    inflating: usize,
    metrics: HubMetrics,
}

impl Worker {
    pub fn start(metrics: HubMetrics) -> WorkerHandle {
        let (changes, changes_in) = mpsc::unbounded_channel();
        let (batches, batches_in) = mpsc::channel(BATCHES_WAITING_MAX);
        let worker = Worker { changes: changes_in, batches: batches_in, listeners: Vec::new(), inflating: 0, metrics };
        tokio::spawn(worker.run());
        WorkerHandle { changes, batches, listeners: Arc::default() }
    }

    async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                change = self.changes.recv() => match change {
                    Some(change) => self.apply(change),
                    None => return,
                },
                batch = self.batches.recv() => match batch {
                    Some(batch) => self.fan_out(batch).await,
                    None => return,
                },
            }
        }
    }

    async fn fan_out(&mut self, first: Frames) {
        // Whoever joined before a message was handed out hears it.
        while let Ok(change) = self.changes.try_recv() {
            self.apply(change);
        }
        let frames = self.join_waiting(first);
        for (index, listener) in self.listeners.iter().enumerate() {
            if index % DELIVERIES_PER_TURN == DELIVERIES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            listener.deliver(&frames);
        }
        self.count(&frames);
    }

    /// Once for all deliveries: something that workers share, touched at each, would cost more than the rest of it.
    fn count(&self, frames: &Frames) {
        if self.listeners.is_empty() {
            return;
        }
        let (inflating, plain) = (self.inflating, self.listeners.len() - self.inflating);
        let bytes = plain * frames.plain().len() + inflating * frames.deflated().len();
        let about = frames.about();
        self.metrics.delivered(self.listeners.len() as u64 * about.messages, bytes as u64);
        self.metrics.latencies(about.taken, about.read);
    }

    /// Joins the batches that piled up meanwhile.
    fn join_waiting(&mut self, first: Frames) -> Frames {
        let Ok(second) = self.batches.try_recv() else { return first };
        let mut bytes = first.plain().len() + second.plain().len();
        let mut parts = vec![first, second];
        while bytes < JOINED_BYTES_MAX {
            let Ok(next) = self.batches.try_recv() else { break };
            bytes += next.plain().len();
            parts.push(next);
        }
        Frames::join(&parts)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Join(listener) => {
                let seat = u32::try_from(self.listeners.len()).expect("a process has fewer than 2^32 sockets");
                listener.seat().0.store(seat, Ordering::Relaxed);
                self.inflating += usize::from(listener.inflates());
                self.listeners.push(listener);
            }
            Change::Leave(listener) => {
                let seat = listener.seat().0.load(Ordering::Relaxed) as usize;
                self.listeners.swap_remove(seat);
                self.inflating -= usize::from(listener.inflates());
                if let Some(moved) = self.listeners.get(seat) {
                    moved.seat().0.store(seat as u32, Ordering::Relaxed);
                }
            }
        }
    }
}
