//! The one order of an instance: the task through which all that the broker delivers passes, and all who join with a
//! replay.
//!
//! Whoever joins so is let in between two batches: given the past up to the last batch, then put into its worker's queue
//! before the next. So there is neither a hole nor a double, however far a worker is behind, and without a lock: the past
//! is taken here, where it is written. It must therefore end where the last batch ended: what waits to be handed out is
//! handed out first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::Batch;
use super::history::{History, Replay};
use super::{Batching, Hub, Listener};
use crate::message::{Message, Target, now_unix_ms};

/// A message that is younger counts as heard now: clocks differ, and seconds are rounded.
const AGE_MIN: Duration = Duration::from_secs(2);

/// Someone who waits to be let in.
pub struct Latecomer {
    pub listener: Arc<dyn Listener>,
    pub worker: usize,
    pub asked: Replay,
}

pub struct Feed {
    hub: Hub,
    latecomers: mpsc::UnboundedReceiver<Latecomer>,
    batch: Batch,
    history: Option<History>,
    coalesce: Duration,
    /// When the newest message of the history was heard.
    heard: Option<Instant>,
    /// When the batch is handed out at the latest; `None` while it is empty.
    due: Option<Instant>,
}

impl Feed {
    pub fn new(hub: Hub, latecomers: mpsc::UnboundedReceiver<Latecomer>, batching: Batching) -> Feed {
        let Batching { own, compression_bytes_min, coalesce, history } = batching;
        let batch = Batch::new(own, compression_bytes_min);
        Feed { hub, latecomers, batch, history: history.map(History::new), coalesce, heard: None, due: None }
    }

    /// Whatever is ready becomes one batch, and whatever comes while its first message may wait.
    pub async fn run(mut self, mut deliveries: mpsc::Receiver<Vec<Message>>) {
        loop {
            tokio::select! {
                biased;
                () = reached(self.due), if self.due.is_some() => self.hand_out().await,
                messages = deliveries.recv() => {
                    let Some(messages) = messages else { break };
                    self.take(messages).await;
                    if self.coalesce.is_zero() {
                        while let Ok(more) = deliveries.try_recv() {
                            self.take(more).await;
                        }
                        self.hand_out().await;
                    }
                }
                Some(latecomer) = self.latecomers.recv() => self.let_in(latecomer).await,
            }
        }
        self.hand_out().await;
    }

    async fn take(&mut self, messages: Vec<Message>) {
        // Whoever joined before the broker delivered these hears them live: such a client may be their sender.
        for _ in 0..self.latecomers.len() {
            let Ok(latecomer) = self.latecomers.try_recv() else { break };
            self.let_in(latecomer).await;
        }
        let now = Instant::now();
        for message in &messages {
            // A listener that joins meanwhile can read plain frames as well.
            let deflates = self.hub.shared.inflating.load(Ordering::Relaxed) > 0;
            let Some(frame) = self.batch.add(message, deflates) else { continue };
            self.due.get_or_insert(now + self.coalesce);
            // What is said to one instance alone concerns those who are there.
            if message.target == Target::Broadcast
                && let Some(history) = &mut self.history
            {
                let was = was_heard(message.published_ms, now);
                // Never back in time, or a search by age would go wrong.
                let heard = self.heard.map_or(was, |last| last.max(was));
                self.heard = Some(heard);
                history.record(frame, heard);
            }
            if self.batch.is_full() {
                self.hand_out().await;
            }
        }
    }

    async fn let_in(&mut self, latecomer: Latecomer) {
        self.hand_out().await;
        let past = self.history.as_mut().map(|history| history.replay(latecomer.asked)).unwrap_or_default();
        self.hub.shared.metrics.replayed(past.messages as u64);
        self.hub.shared.workers[latecomer.worker].let_in(latecomer.listener, past.pieces).await;
    }

    async fn hand_out(&mut self) {
        self.due = None;
        if self.batch.is_empty() {
            return;
        }
        let frames = self.batch.take();
        self.hub.shared.metrics.broadcast(frames.about().messages, frames.about().payload_bytes);
        for worker in self.hub.shared.workers.iter().filter(|worker| worker.has_listeners()) {
            worker.hand_out(frames.clone()).await;
        }
    }
}

/// When a message was heard: now, unless it is an old one that the broker has kept. AMQP tells whole seconds.
fn was_heard(published_ms: u64, now: Instant) -> Instant {
    let age = Duration::from_millis(now_unix_ms().saturating_sub(published_ms));
    if age < AGE_MIN { now } else { now.checked_sub(age).unwrap_or(now) }
}

async fn reached(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
