//! The one order of an instance: the task through which all that the broker delivers passes, and all who join with a
//! replay.
//!
//! Whoever joins so is let in between two batches: given the past up to the last batch, then put into its worker's queue
//! before the next. So there is neither a hole nor a double, however far a worker is behind, and without a lock: the past
//! is taken here, where it is written. It must therefore end where the last batch ended: what waits to be handed out is
//! handed out first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::{Batch, Encoder};
use super::frames::Frames;
use super::history::{History, Replay};
use super::worker::Audience;
use super::{Batching, Hub, Listener};
use crate::instance::InstanceName;
use crate::message::{Message, Target, now_unix_ms};
use crate::protocol::frame;
use crate::topic::Topic;

/// Batches this long are handed out before more is added: longer ones save no system calls, since a socket's send
/// buffer takes about this much at once, and they hold back who comes first.
const BATCH_BYTES: usize = 64 * 1024;

/// Someone who waits to be let in.
pub struct Latecomer {
    pub listener: Arc<dyn Listener>,
    pub worker: usize,
    pub asked: Replay,
}

pub struct Feed {
    hub: Hub,
    latecomers: mpsc::UnboundedReceiver<Latecomer>,
    own_name: InstanceName,
    encoder: Encoder,
    /// What was not handed out yet: for all who hear the broadcast, and by topic.
    broadcast: Batch,
    topics: HashMap<Topic, Batch>,
    /// Bytes in all of them, each message counted as its plain frame.
    bytes: usize,
    history: Option<History>,
    coalesce: Duration,
    looks_back: Arc<dyn Fn() -> bool + Send + Sync>,
    /// When the newest message of the history was heard.
    heard: Option<Instant>,
    /// When the batches are handed out at the latest; `None` while they are empty.
    due: Option<Instant>,
}

impl Feed {
    pub fn new(hub: Hub, latecomers: mpsc::UnboundedReceiver<Latecomer>, batching: Batching) -> Feed {
        let Batching { own, compression_bytes_min, coalesce, history, looks_back } = batching;
        Feed {
            hub,
            latecomers,
            own_name: own.name().clone(),
            encoder: Encoder::new(own, compression_bytes_min),
            broadcast: Batch::default(),
            topics: HashMap::new(),
            bytes: 0,
            history: history.map(History::new),
            coalesce,
            looks_back,
            heard: None,
            due: None,
        }
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
            match &message.target {
                Target::Broadcast => self.add_broadcast(message, now),
                Target::Instance(name) if *name == self.own_name => self.add_broadcast(message, now),
                Target::Topic(topic) if self.hub.shared.interest.wants(topic) => self.add_topic(topic, message),
                Target::Instance(_) | Target::Topic(_) => continue,
            }
            self.due.get_or_insert(now + self.coalesce);
            self.bytes += frame::encoded_len(message.payload.len());
            if self.bytes >= BATCH_BYTES {
                self.hand_out().await;
            }
        }
    }

    /// For all who hear the broadcast, be it meant for every instance or for this one alone.
    fn add_broadcast(&mut self, message: &Message, now: Instant) {
        let mut wanted = self.hub.shared.demand.now();
        wanted.plain |= self.history.is_some();
        let frame = self.broadcast.add(&mut self.encoder, message, wanted);
        // What is said to one instance alone concerns those who are there.
        if message.target == Target::Broadcast
            && let Some(history) = &mut self.history
        {
            let was = if (self.looks_back)() { was_heard(message.published_ms, now) } else { now };
            // Never back in time, or a search by age would go wrong.
            let heard = self.heard.map_or(was, |last| last.max(was));
            self.heard = Some(heard);
            history.record(frame, heard);
        }
    }

    fn add_topic(&mut self, topic: &Topic, message: &Message) {
        // Most batches have one message of a topic.
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.clone(), Batch::default());
        }
        let Some(batch) = self.topics.get_mut(topic) else { return };
        batch.add(&mut self.encoder, message, self.hub.shared.demand.now());
    }

    async fn let_in(&mut self, latecomer: Latecomer) {
        self.hand_out().await;
        let past = self.history.as_mut().map(|history| history.replay(latecomer.asked)).unwrap_or_default();
        self.hub.shared.metrics.replayed(past.messages as u64);
        self.hub.shared.workers[latecomer.worker].let_in(latecomer.listener, past.pieces).await;
    }

    async fn hand_out(&mut self) {
        self.due = None;
        self.bytes = 0;
        if !self.broadcast.is_empty() {
            let frames = self.broadcast.take();
            self.hand_to_workers(Audience::Broadcast, frames).await;
        }
        for (topic, mut batch) in std::mem::take(&mut self.topics) {
            self.hand_to_workers(Audience::Topic(topic), batch.take()).await;
        }
    }

    async fn hand_to_workers(&self, audience: Audience, frames: Frames) {
        let shared = &self.hub.shared;
        shared.metrics.broadcast(frames.about().messages, frames.about().payload_bytes);
        for worker in shared.workers.iter().filter(|worker| worker.has_some_of(&audience)) {
            worker.hand_out(audience.clone(), frames.clone()).await;
        }
    }
}

/// When a message was heard that the broker has kept: when it was published, of which AMQP tells whole seconds.
fn was_heard(published_ms: u64, now: Instant) -> Instant {
    let age = Duration::from_millis(now_unix_ms().saturating_sub(published_ms));
    now.checked_sub(age).unwrap_or(now)
}

async fn reached(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
