//! One share of the listeners, and the task that alone owns their lists.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use super::format::ByFormat;
use super::resume::Entering;
use super::subscriptions::{Subscriber, Subscriptions};
use super::{BATCHES_WAITING_MAX, Counted, Format, Frames, Listener, Question};
use crate::interest::Interest;
use crate::metrics::HubMetrics;
use crate::place::Scope;
use crate::topic::{Pattern, Topic};
use crate::user::UserName;

/// Deliveries after which the worker lets other tasks run: at the kernel's 5 µs per write about a third of a
/// millisecond, so that a long fan-out starves neither accepts nor pongs.
const DELIVERIES_PER_TURN: usize = 64;

/// Batches that wait are joined up to this size of their payloads, for one write per listener instead of several.
const JOINED_BYTES_MAX: u64 = 128 * 1024;

/// Who hears a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Who joined.
    Broadcast,
    /// Who subscribes to the topic.
    Topic(Topic),
    /// Who may miss something of that.
    Missing(Scope),
}

/// What happens to one listener. It is told in the order in which the listener did it.
pub enum Change {
    /// It hears the broadcast from now on, or no more.
    Join(Arc<dyn Listener>),
    Leave(Arc<dyn Listener>),
    /// Of subscriptions that are not there yet, or are.
    Subscribe(Arc<dyn Listener>, Pattern),
    Unsubscribe(Arc<dyn Listener>, Pattern),
    /// All subscriptions of who had some end.
    UnsubscribeAll(Arc<dyn Listener>),
    /// Somebody wants to know that all before this has happened.
    Tell(oneshot::Sender<()>),
    /// Somebody wants to know who subscribes to what.
    Count(Arc<Question>, oneshot::Sender<Counted>),
}

/// What must happen in the order in which the hub says it.
#[expect(clippy::large_enum_variant, reason = "nearly all of it is the large one")]
enum Work {
    HandOut(Audience, Frames),
    LetIn { listener: Arc<dyn Listener>, past: Vec<Bytes> },
    Enter(Box<Entering>),
}

/// How many there are, so that who has none is not asked.
#[derive(Default)]
struct Counts {
    /// Listeners that hear the broadcast, or will.
    joined: AtomicUsize,
    /// Listeners that have had subscriptions.
    subscribing: AtomicUsize,
}

/// The hub's end of a worker.
pub struct WorkerHandle {
    changes: mpsc::UnboundedSender<Change>,
    work: mpsc::Sender<Work>,
    counts: Arc<Counts>,
}

impl WorkerHandle {
    /// Never waits, since leaving happens in a `Drop`; the number of changes is bounded by that of sessions and what each
    /// may change before it waits for the worker.
    pub fn change(&self, change: Change) {
        match change {
            Change::Join(_) => self.expect_one(),
            Change::Leave(_) => drop(self.counts.joined.fetch_sub(1, Ordering::Release)),
            Change::UnsubscribeAll(_) => drop(self.counts.subscribing.fetch_sub(1, Ordering::Release)),
            Change::Subscribe(..) | Change::Unsubscribe(..) | Change::Tell(_) | Change::Count(..) => {}
        }
        // A worker ends only with its runtime, when nobody listens any more.
        let _ = self.changes.send(change);
    }

    /// Counts a listener that will be let in, so that from its turn on every batch comes here.
    pub fn expect_one(&self) {
        self.counts.joined.fetch_add(1, Ordering::Release);
    }

    /// Counts a listener that will subscribe for the first time.
    pub fn expect_subscriber(&self) {
        self.counts.subscribing.fetch_add(1, Ordering::Release);
    }

    /// Whether some of the audience may be here.
    pub fn has_some_of(&self, audience: &Audience) -> bool {
        let Counts { joined, subscribing } = &*self.counts;
        match audience {
            Audience::Broadcast | Audience::Missing(Scope::Broadcast) => is_some(joined),
            Audience::Topic(_) | Audience::Missing(Scope::Key(_)) => is_some(subscribing),
            Audience::Missing(Scope::Everything) => is_some(joined) || is_some(subscribing),
        }
    }

    pub async fn hand_out(&self, audience: Audience, frames: Frames) {
        let _ = self.work.send(Work::HandOut(audience, frames)).await;
    }

    /// Takes someone in behind all that was handed out before.
    pub async fn enter(&self, entering: Entering) {
        let _ = self.work.send(Work::Enter(Box::new(entering))).await;
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
    /// Who hears the broadcast.
    joined: Vec<Arc<dyn Listener>>,
    /// How many of them want each format.
    joined_by_format: ByFormat,
    subscribers: Slab<Subscribing>,
    subscriptions: Subscriptions,
    /// Who hears the topic at hand.
    hearing: Vec<Subscriber>,
    interest: Arc<Interest>,
    metrics: HubMetrics,
}

/// Someone with subscriptions.
struct Subscribing {
    listener: Arc<dyn Listener>,
    patterns: HashSet<Pattern>,
}

impl Worker {
    pub fn start(interest: Arc<Interest>, metrics: HubMetrics) -> WorkerHandle {
        let (changes, changes_in) = mpsc::unbounded_channel();
        let (work, work_in) = mpsc::channel(BATCHES_WAITING_MAX);
        let worker = Worker {
            changes: changes_in,
            work: work_in,
            next: None,
            joined: Vec::new(),
            joined_by_format: ByFormat::default(),
            subscribers: Slab::new(),
            subscriptions: Subscriptions::default(),
            hearing: Vec::new(),
            interest,
            metrics,
        };
        tokio::spawn(worker.run());
        WorkerHandle { changes, work, counts: Arc::default() }
    }

    async fn run(mut self) {
        while let Some(work) = self.next_work().await {
            match work {
                Work::HandOut(audience, frames) => self.fan_out(&audience, frames).await,
                Work::LetIn { listener, past } => self.let_in(listener, &past),
                Work::Enter(entering) => {
                    // What its client did before comes first.
                    self.catch_up();
                    self.enter(*entering);
                }
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

    async fn fan_out(&mut self, audience: &Audience, first: Frames) {
        let frames = self.join_waiting(audience, first);
        // Whoever joined before a message was handed out hears it, also one of those that were joined to the first.
        self.catch_up();
        match audience {
            Audience::Broadcast => {
                deliver(&frames, self.joined.iter()).await;
                self.count(&frames, &self.joined_by_format);
            }
            Audience::Topic(topic) => {
                self.subscriptions.of(topic, &mut self.hearing);
                let listeners = self.hearing.iter().map(|subscriber| &self.subscribers[*subscriber as usize].listener);
                deliver(&frames, listeners.clone()).await;
                let mut by_format = ByFormat::default();
                listeners.for_each(|listener| by_format.add(listener.format()));
                self.count(&frames, &by_format);
            }
            Audience::Missing(scope) => deliver(&frames, self.who_misses(*scope).iter()).await,
        }
    }

    fn who_misses(&self, scope: Scope) -> Vec<Arc<dyn Listener>> {
        let joined = self.joined.iter().cloned();
        let subscribers = self.subscribers.iter().map(|(_, subscriber)| subscriber);
        match scope {
            Scope::Broadcast => joined.collect(),
            Scope::Key(key) => {
                let may_match = |pattern: &Pattern| pattern.as_topic().is_none_or(|topic| topic.key() == key);
                let subscribers = subscribers.filter(|subscriber| subscriber.patterns.iter().any(may_match));
                subscribers.map(|subscriber| subscriber.listener.clone()).collect()
            }
            Scope::Everything => {
                let others = subscribers.map(|subscriber| subscriber.listener.clone());
                joined.chain(others.filter(|listener| listener.seat().joined().is_none())).collect()
            }
        }
    }

    fn catch_up(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            self.apply(change);
        }
    }

    /// Once for all deliveries: something that workers share, touched at each, would cost more than the rest of it.
    fn count(&self, frames: &Frames, listeners: &ByFormat) {
        let lengths = Format::ALL.map(|format| (listeners.of(format), frames.of(format).len()));
        let bytes: usize = lengths.iter().map(|(listeners, length)| listeners * length).sum();
        let listeners: usize = lengths.iter().filter(|(_, length)| *length > 0).map(|(listeners, _)| listeners).sum();
        if listeners == 0 {
            return;
        }
        let about = frames.about();
        self.metrics.delivered(listeners as u64 * about.messages, bytes as u64);
        self.metrics.latencies(about.taken, about.read);
    }

    /// Joins the batches for the same audience that piled up meanwhile, but none behind anything else.
    fn join_waiting(&mut self, audience: &Audience, first: Frames) -> Frames {
        let is_placed = first.is_placed();
        let Some(second) = self.next_frames(audience, is_placed) else { return first };
        let mut bytes = first.about().payload_bytes + second.about().payload_bytes;
        let mut parts = vec![first, second];
        while bytes < JOINED_BYTES_MAX {
            let Some(next) = self.next_frames(audience, is_placed) else { break };
            bytes += next.about().payload_bytes;
            parts.push(next);
        }
        Frames::join(&parts)
    }

    /// The batch that waits next, if it goes with one for this audience: other work keeps its turn.
    fn next_frames(&mut self, audience: &Audience, is_placed: bool) -> Option<Frames> {
        if self.next.is_some() {
            return None;
        }
        match self.work.try_recv() {
            Ok(Work::HandOut(other, frames)) if other == *audience && frames.is_placed() == is_placed => Some(frames),
            Ok(other) => {
                self.next = Some(other);
                None
            }
            Err(_) => None,
        }
    }

    fn enter(&mut self, entering: Entering) {
        let Entering { listener, past, broadcast, expected, done, .. } = entering;
        if listener.seat().has_left() {
            return listener.seat().set_joined(None);
        }
        // Whoever waits no longer has ended what it wished for before this.
        if done.is_closed() {
            return;
        }
        listener.replay(&past);
        for pattern in expected.fulfil() {
            self.subscribe(listener.clone(), &pattern);
        }
        if broadcast && listener.seat().joined().is_none() {
            self.join(listener);
        }
        let _ = done.send(Ok(()));
    }

    fn let_in(&mut self, listener: Arc<dyn Listener>, past: &[Bytes]) {
        if listener.seat().has_left() {
            listener.seat().set_joined(None);
        } else {
            listener.replay(past);
            self.join(listener);
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Join(listener) => self.join(listener),
            Change::Leave(listener) => self.leave(&*listener),
            Change::Subscribe(listener, pattern) => self.subscribe(listener, &pattern),
            Change::Unsubscribe(listener, pattern) => self.unsubscribe(&*listener, &pattern),
            Change::UnsubscribeAll(listener) => self.unsubscribe_all(&*listener),
            // Who does not wait any more does not care.
            Change::Tell(done) => _ = done.send(()),
            Change::Count(question, answer) => _ = answer.send(self.answer(&question)),
        }
    }

    // --- the broadcast ---

    fn join(&mut self, listener: Arc<dyn Listener>) {
        self.joined_by_format.add(listener.format());
        listener.seat().set_joined(Some(self.joined.len()));
        self.joined.push(listener);
    }

    fn leave(&mut self, listener: &dyn Listener) {
        // It is let in only in its turn, but leaves at once.
        let Some(index) = listener.seat().joined() else { return listener.seat().set_left() };
        listener.seat().set_joined(None);
        self.joined.swap_remove(index);
        self.joined_by_format.remove(listener.format());
        if let Some(moved) = self.joined.get(index) {
            moved.seat().set_joined(Some(index));
        }
    }

    // --- topics ---

    fn subscribe(&mut self, listener: Arc<dyn Listener>, pattern: &Pattern) {
        let subscriber = listener.seat().subscriber().unwrap_or_else(|| {
            let subscriber =
                self.subscribers.insert(Subscribing { listener: listener.clone(), patterns: HashSet::new() });
            listener.seat().set_subscriber(Some(subscriber));
            subscriber
        });
        self.interest.watching().note(listener.user().as_ref(), pattern, true);
        let pattern = self.subscriptions.add(pattern, number(subscriber));
        self.subscribers[subscriber].patterns.insert(pattern);
    }

    fn unsubscribe(&mut self, listener: &dyn Listener, pattern: &Pattern) {
        let Some(subscriber) = listener.seat().subscriber() else { return };
        if self.subscribers[subscriber].patterns.remove(pattern) {
            self.interest.watching().note(listener.user().as_ref(), pattern, false);
            self.end_subscription(subscriber, pattern);
        }
    }

    fn unsubscribe_all(&mut self, listener: &dyn Listener) {
        let Some(subscriber) = listener.seat().subscriber() else { return };
        listener.seat().set_subscriber(None);
        for pattern in self.subscribers.remove(subscriber).patterns {
            self.interest.watching().note(listener.user().as_ref(), &pattern, false);
            self.end_subscription(subscriber, &pattern);
        }
    }

    fn answer(&mut self, question: &Question) -> Counted {
        let mut counted = Counted::default();
        match question.topic() {
            Some(Ok(topic)) => {
                self.subscriptions.of(&topic, &mut self.hearing);
                counted.total = self.hearing.len();
                let listeners = self.hearing.iter().map(|subscriber| &self.subscribers[*subscriber as usize].listener);
                let users: Vec<UserName> = listeners.filter_map(|one| one.user()).collect();
                question.count(&mut counted, users.iter().map(|user| (user.as_str(), 1)));
            }
            Some(Err(_)) => {}
            None => {
                counted.total = self.subscriptions.names().count();
                question.count(&mut counted, self.subscriptions.names());
            }
        }
        counted
    }

    fn end_subscription(&mut self, subscriber: usize, pattern: &Pattern) {
        self.subscriptions.remove(pattern, number(subscriber));
        self.interest.remove(pattern);
    }
}

fn is_some(count: &AtomicUsize) -> bool {
    count.load(Ordering::Acquire) > 0
}

async fn deliver<'a>(frames: &Frames, listeners: impl Iterator<Item = &'a Arc<dyn Listener>>) {
    for (index, listener) in listeners.enumerate() {
        if index % DELIVERIES_PER_TURN == DELIVERIES_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        listener.deliver(frames);
    }
}

fn number(subscriber: usize) -> Subscriber {
    Subscriber::try_from(subscriber).expect("a process has fewer than 2^32 sockets")
}
