//! One share of the listeners, and the task that alone owns their list.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BATCHES_WAITING_MAX, Frames, Listener};
use crate::metrics::HubMetrics;

/// Deliveries after which the worker lets other tasks run: at the kernel's 5 µs per write about a third of a
/// millisecond, so that a long fan-out starves neither accepts nor pongs.
const DELIVERIES_PER_TURN: usize = 64;

/// Batches that wait are joined up to this size, for one write per listener instead of several.
const JOINED_BYTES_MAX: usize = 128 * 1024;

/// The seat of who has none yet.
const NO_SEAT: u32 = 0;

/// The seat of who left before it was let in.
const LEFT: u32 = u32::MAX;

pub enum Change {
    Join(Arc<dyn Listener>),
    Leave(Arc<dyn Listener>),
}

/// What must happen in the order in which the hub says it.
enum Work {
    HandOut(Frames),
    LetIn { listener: Arc<dyn Listener>, past: Vec<Bytes> },
}

/// The hub's end of a worker.
pub struct WorkerHandle {
    changes: mpsc::UnboundedSender<Change>,
    work: mpsc::Sender<Work>,
    listeners: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// Never waits, since leaving happens in a `Drop`; the number of changes is bounded by that of sessions.
    pub fn change(&self, change: Change) {
        match change {
            Change::Join(_) => self.expect_one(),
            Change::Leave(_) => {
                self.listeners.fetch_sub(1, Ordering::Release);
            }
        }
        // A worker ends only with its runtime, when nobody listens any more.
        let _ = self.changes.send(change);
    }

    /// Counts a listener that will be let in, so that from its turn on every batch comes here.
    pub fn expect_one(&self) {
        self.listeners.fetch_add(1, Ordering::Release);
    }

    pub fn has_listeners(&self) -> bool {
        self.listeners.load(Ordering::Acquire) > 0
    }

    pub async fn hand_out(&self, frames: Frames) {
        let _ = self.work.send(Work::HandOut(frames)).await;
    }

    /// Takes a listener in behind all that was handed out before, and gives it the past first.
    pub async fn let_in(&self, listener: Arc<dyn Listener>, past: Vec<Bytes>) {
        let _ = self.work.send(Work::LetIn { listener, past }).await;
    }
}

pub struct Worker {
    changes: mpsc::UnboundedReceiver<Change>,
    work: mpsc::Receiver<Work>,
    /// What was taken out of `work` before its turn.
    next: Option<Work>,
    listeners: Vec<Arc<dyn Listener>>,
    /// Of the listeners.
    inflating: usize,
    metrics: HubMetrics,
}

impl Worker {
    pub fn start(metrics: HubMetrics) -> WorkerHandle {
        let (changes, changes_in) = mpsc::unbounded_channel();
        let (work, work_in) = mpsc::channel(BATCHES_WAITING_MAX);
        let worker =
            Worker { changes: changes_in, work: work_in, next: None, listeners: Vec::new(), inflating: 0, metrics };
        tokio::spawn(worker.run());
        WorkerHandle { changes, work, listeners: Arc::default() }
    }

    async fn run(mut self) {
        while let Some(work) = self.next_work().await {
            match work {
                Work::HandOut(frames) => self.fan_out(frames).await,
                Work::LetIn { listener, past } => self.let_in(listener, &past),
            }
        }
    }

    async fn next_work(&mut self) -> Option<Work> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        loop {
            tokio::select! {
                biased;
                change = self.changes.recv() => self.apply(change?),
                work = self.work.recv() => return work,
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

    /// Joins the batches that piled up meanwhile, but none behind someone who is let in between.
    fn join_waiting(&mut self, first: Frames) -> Frames {
        let Some(second) = self.next_frames() else { return first };
        let mut bytes = first.plain().len() + second.plain().len();
        let mut parts = vec![first, second];
        while bytes < JOINED_BYTES_MAX {
            let Some(next) = self.next_frames() else { break };
            bytes += next.plain().len();
            parts.push(next);
        }
        Frames::join(&parts)
    }

    /// The batch that waits next, if it is one: other work keeps its turn.
    fn next_frames(&mut self) -> Option<Frames> {
        match self.work.try_recv() {
            Ok(Work::HandOut(frames)) => Some(frames),
            Ok(other) => {
                self.next = Some(other);
                None
            }
            Err(_) => None,
        }
    }

    fn let_in(&mut self, listener: Arc<dyn Listener>, past: &[Bytes]) {
        if listener.seat().0.load(Ordering::Relaxed) != LEFT {
            listener.replay(past);
            self.seat(listener);
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Join(listener) => self.seat(listener),
            Change::Leave(listener) => self.unseat(&*listener),
        }
    }

    fn seat(&mut self, listener: Arc<dyn Listener>) {
        self.inflating += usize::from(listener.inflates());
        self.listeners.push(listener);
        self.note_seat(self.listeners.len() - 1);
    }

    fn unseat(&mut self, listener: &dyn Listener) {
        match listener.seat().0.load(Ordering::Relaxed) {
            // It is let in only in its turn, but leaves at once.
            NO_SEAT => listener.seat().0.store(LEFT, Ordering::Relaxed),
            number => {
                let index = number as usize - 1;
                self.listeners.swap_remove(index);
                self.inflating -= usize::from(listener.inflates());
                if index < self.listeners.len() {
                    self.note_seat(index);
                }
            }
        }
    }

    /// Tells a listener its seat's number, from 1.
    fn note_seat(&self, index: usize) {
        let number = u32::try_from(index + 1).expect("a process has fewer than 2^32 sockets");
        self.listeners[index].seat().0.store(number, Ordering::Relaxed);
    }
}
