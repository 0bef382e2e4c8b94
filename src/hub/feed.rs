//! The one order of an instance: the task through which all that the broker delivers passes, and all who join with a
//! replay.
//!
//! Whoever joins so is let in between two batches: given the past up to the last batch, then put into its worker's queue
//! before the next. So there is neither a hole nor a double, however far a worker is behind, and without a lock: the past
//! is taken here, where it is written. It must therefore end where the last batch ended: what waits to be handed out is
//! handed out first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::{Batch, Encoder};
use super::format::{Format, Wanted};
use super::frames::Frames;
use super::history::{History, Replay};
use super::log::Log;
use super::resume::{Entrance, Look};
use super::worker::Audience;
use super::{Batching, Hub, Listener, Post, SessionNamed};
use crate::cursor::Cursor;
use crate::inbound::SessionName;
use crate::instance::InstanceName;
use crate::message::{Message, Target, now_unix_ms};
use crate::place::{Delivered, Gap, Partition, Position};
use crate::protocol::frame;
use crate::protocol::json::Notice;
use crate::topic::Topic;

/// Batches this long are handed out before more is added: longer ones save no system calls, since a socket's send
/// buffer takes about this much at once, and they hold back who comes first.
const BATCH_BYTES: usize = 64 * 1024;

/// What sessions ask for.
pub enum Asked {
    /// To be let in with the past before.
    Replay(Latecomer),
    /// What is known of what came behind a cursor.
    Look(Box<Cursor>, oneshot::Sender<Look>),
    /// To be let in where a reading of the log ended.
    Enter(Box<Entrance>),
}

/// Someone who waits to be let in.
pub struct Latecomer {
    pub listener: Arc<dyn Listener>,
    pub worker: usize,
    pub asked: Replay,
}

pub struct Feed {
    hub: Hub,
    asked: mpsc::UnboundedReceiver<Asked>,
    own_name: InstanceName,
    encoder: Encoder,
    /// What was not handed out yet, in the forms that tell nobody's place: for all who hear the broadcast, and by topic.
    broadcast: Batch,
    topics: HashMap<Topic, Batch>,
    /// The same in the forms that do: with a message goes how far everything was heard, so that their order is one, whatever
    /// they are of. What follows each other for the same listeners is one batch.
    placed: Vec<(Audience, Batch)>,
    /// What was wanted of the last message.
    wanted: Wanted,
    /// Bytes in all of them, each message counted as its plain frame.
    bytes: usize,
    history: Option<History>,
    /// What is answered when so many more deliveries are taken.
    later: VecDeque<(Asked, usize)>,
    log: Log,
    /// How far everything was taken.
    at: Cursor,
    coalesce: Duration,
    looks_back: Arc<dyn Fn() -> bool + Send + Sync>,
    session_named: SessionNamed,
    post: Post,
    /// When the newest message of the history was heard.
    heard: Option<Instant>,
    /// When the batches are handed out at the latest; `None` while they are empty.
    due: Option<Instant>,
}

impl Feed {
    pub fn new(hub: Hub, asked: mpsc::UnboundedReceiver<Asked>, batching: Batching) -> Feed {
        let Batching {
            own,
            compression_bytes_min,
            coalesce,
            history,
            resume_bytes_max,
            looks_back,
            session_named,
            post,
        } = batching;
        Feed {
            hub,
            asked,
            own_name: own.name().clone(),
            encoder: Encoder::new(own, compression_bytes_min),
            broadcast: Batch::unplaced(),
            topics: HashMap::new(),
            placed: Vec::new(),
            wanted: Wanted::default(),
            bytes: 0,
            history: history.map(History::new),
            later: VecDeque::new(),
            log: Log::new(resume_bytes_max),
            at: Cursor::default(),
            coalesce,
            looks_back,
            session_named,
            post,
            heard: None,
            due: None,
        }
    }

    /// Whatever is ready becomes one batch, and whatever comes while its first message may wait.
    pub async fn run(mut self, mut deliveries: mpsc::Receiver<Delivered>) {
        loop {
            tokio::select! {
                biased;
                () = reached(self.due), if self.due.is_some() => self.hand_out().await,
                delivered = deliveries.recv() => {
                    let Some(delivered) = delivered else { break };
                    self.take(delivered, deliveries.len()).await;
                    if self.coalesce.is_zero() {
                        while let Ok(more) = deliveries.try_recv() {
                            self.take(more, deliveries.len()).await;
                        }
                        self.hand_out().await;
                    }
                }
                Some(asked) = self.asked.recv() => self.answer(asked).await,
            }
        }
        self.hand_out().await;
    }

    /// Takes what the broker has delivered; behind it so many more wait.
    async fn take(&mut self, delivered: Delivered, waiting: usize) {
        // Whoever joined before the broker delivered these hears them live: such a client may be their sender. What others
        // ask for is answered when all is taken that was delivered before they asked.
        for _ in 0..self.asked.len() {
            match self.asked.try_recv() {
                Ok(Asked::Replay(latecomer)) => self.let_in(latecomer).await,
                Ok(asked) => self.later.push_back((asked, waiting + 1)),
                Err(_) => break,
            }
        }
        let now = Instant::now();
        delivered.readings.iter().filter(|reading| reading.begins).for_each(|reading| self.log.begin(reading));
        for (message, place) in &delivered.messages {
            if let Some(place) = place {
                self.log.record(message, *place);
                self.reach(place.partition, place.reached);
                if place.is_past {
                    continue;
                }
            }
            self.add(message, now).await;
        }
        for reading in &delivered.readings {
            self.log.note(reading);
            self.reach(reading.partition, reading.reached);
        }
        for gap in delivered.gaps {
            self.tell(gap).await;
        }
        self.later.iter_mut().for_each(|(_, before)| *before -= 1);
        while self.later.front().is_some_and(|(_, before)| *before == 0) {
            let Some((asked, _)) = self.later.pop_front() else { break };
            self.answer(asked).await;
        }
    }

    fn reach(&mut self, partition: Partition, reached: Option<Position>) {
        if let Some(reached) = reached
            && self.log.is_kept()
        {
            self.at.set(partition, reached);
        }
    }

    async fn add(&mut self, message: &Message, now: Instant) {
        match &message.target {
            Target::Broadcast => self.add_broadcast(message, now),
            Target::Instance(name) if *name == self.own_name => self.add_broadcast(message, now),
            Target::Topic(topic) if self.hub.shared.interest.wants(topic) => self.add_topic(topic, message),
            Target::Session(name) => return self.tell_one(name, message),
            Target::UserAt(name, user) if *name == self.own_name => return (self.post.to_user)(user, message),
            Target::Peers => return (self.post.to_instance)(message),
            Target::Peer(name) if *name == self.own_name => return (self.post.to_instance)(message),
            Target::Instance(_)
            | Target::Topic(_)
            | Target::Backends(_)
            | Target::User(_)
            | Target::Unread(_)
            | Target::Group(_)
            | Target::UserAt(..)
            | Target::Peer(_) => return,
        }
        self.due.get_or_insert(now + self.coalesce);
        self.bytes += frame::encoded_len(message.payload.len());
        if self.bytes >= BATCH_BYTES {
            self.hand_out().await;
        }
    }

    /// Tells of what is missing behind what came before it.
    async fn tell(&mut self, gap: Gap) {
        self.hand_out().await;
        let notice = Notice::gap(gap);
        self.hand_to_workers(Audience::Missing(gap.scope), Frames::notice(notice.frame(), notice.event())).await;
    }

    /// For all who hear the broadcast, be it meant for every instance or for this one alone.
    fn add_broadcast(&mut self, message: &Message, now: Instant) {
        let mut wanted = self.hub.shared.demand.now();
        wanted.plain |= self.history.is_some();
        self.add_placed(message, wanted, || Audience::Broadcast);
        let frame = self.broadcast.add(&mut self.encoder, message, &self.at, wanted);
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
            self.topics.insert(topic.clone(), Batch::unplaced());
        }
        let wanted = self.hub.shared.demand.now();
        self.add_placed(message, wanted, || Audience::Topic(topic.clone()));
        let Some(batch) = self.topics.get_mut(topic) else { return };
        batch.add(&mut self.encoder, message, &self.at, wanted);
    }

    fn add_placed(&mut self, message: &Message, wanted: Wanted, audience: impl Fn() -> Audience) {
        if std::mem::replace(&mut self.wanted, wanted) != wanted {
            self.placed.iter_mut().for_each(|(_, batch)| batch.forget_unless(wanted));
        }
        if !wanted.some_placed() {
            return;
        }
        let audience = audience();
        if self.placed.last().is_none_or(|(last, _)| *last != audience) {
            self.placed.push((audience, Batch::placed()));
        }
        if let Some((_, batch)) = self.placed.last_mut() {
            batch.add(&mut self.encoder, message, &self.at, wanted);
        }
    }

    async fn answer(&mut self, asked: Asked) {
        match asked {
            Asked::Replay(latecomer) => self.let_in(latecomer).await,
            Asked::Look(since, answer) => {
                // Who does not wait any more does not care.
                let at = self.now_at();
                let _ = answer.send(Look::new(&mut self.log, &since, at));
            }
            Asked::Enter(entrance) => self.enter(*entrance).await,
        }
    }

    /// How far everything was taken, as of now.
    fn now_at(&self) -> Cursor {
        self.at.at(now_unix_ms())
    }

    /// Lets someone in behind what it has read of the log: what has come since is given to it before.
    async fn enter(&mut self, entrance: Entrance) {
        self.hand_out().await;
        let Some(rest) = entrance.rest(&mut self.log) else { return entrance.refuse() };
        let work = entrance.with(&rest, &self.now_at());
        let past = work.past.len() as u64;
        self.hub.shared.metrics.replayed(past.saturating_sub(1));
        self.hub.shared.workers[work.worker].enter(work).await;
    }

    /// Tells one session alone, past the workers: what is said to it keeps its order, but none beside what others hear, and
    /// moves nobody's place.
    fn tell_one(&mut self, name: &SessionName, message: &Message) {
        let Some(listener) = (self.session_named)(name) else { return };
        let wanted = Wanted::by(listener.format());
        let mut batch = if wanted.some_placed() { Batch::placed() } else { Batch::unplaced() };
        batch.add(&mut self.encoder, message, &Cursor::default(), wanted);
        let frames = batch.take();
        listener.deliver(&frames);
        let metrics = &self.hub.shared.metrics;
        metrics.broadcast(1, frames.about().payload_bytes);
        metrics.delivered(1, frames.of(listener.format()).len() as u64);
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
            self.count_and_hand_out(Audience::Broadcast, frames).await;
        }
        for (topic, mut batch) in std::mem::take(&mut self.topics) {
            self.count_and_hand_out(Audience::Topic(topic), batch.take()).await;
        }
        for (audience, mut batch) in std::mem::take(&mut self.placed) {
            self.hand_to_workers(audience, batch.take()).await;
        }
    }

    /// Every message comes here once.
    async fn count_and_hand_out(&self, audience: Audience, frames: Frames) {
        self.hub.shared.metrics.broadcast(frames.about().messages, frames.about().payload_bytes);
        if !frames.of(Format::Plain).is_empty() {
            self.hand_to_workers(audience, frames).await;
        }
    }

    async fn hand_to_workers(&self, audience: Audience, frames: Frames) {
        let shared = &self.hub.shared;
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
