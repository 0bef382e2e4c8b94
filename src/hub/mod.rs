//! Who listens here, and the fan-out to them.
//!
//! The hub takes messages from the broker, encodes each once for each format that somebody wants and hands the same bytes
//! to all who want it. It waits for no listener, does no I/O of its own and asks nothing of the broker. Listeners are
//! spread over workers, one per thread; a worker alone owns its list, so nothing is locked while it works.

mod batch;
mod census;
mod feed;
mod format;
mod frames;
mod history;
mod log;
mod resume;
mod seat;
mod subscriptions;
mod wish;
mod worker;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::inbound::SessionName;
use crate::instance::Incarnation;
use crate::interest::Interest;
use crate::message::Message;
use crate::metrics::HubMetrics;
use crate::place::Delivered;
use crate::topic::Pattern;
use crate::user::UserName;
use crate::watching::Watching;
pub use census::{Counted, NAMES_MAX, Question};
use feed::{Asked, Feed, Latecomer};
use format::Demand;
pub use format::Format;
pub use frames::{About, Frames};
pub use history::{HistoryLimits, Replay};
pub use log::{Excerpt, Known, Record};
pub use resume::{Behind, Expected, Gone, Last, Look, encode, encode_one};
pub use seat::Seat;
pub use wish::Wish;
use worker::{Change, Worker, WorkerHandle};

/// Batches that wait for one worker. Past it the hub waits for the worker and, through it, the broker for the hub.
const BATCHES_WAITING_MAX: usize = 16;

/// Someone who hears messages.
pub trait Listener: Send + Sync + 'static {
    /// Takes encoded frames, at once and without waiting: they are written, kept, or the listener gives up.
    fn deliver(&self, frames: &Frames);

    /// Takes frames of the past, before any other: plain ones that are not compressed.
    fn replay(&self, past: &[Bytes]);

    /// How it wants [`Frames`]; never changes.
    fn format(&self) -> Format {
        Format::Plain
    }

    /// Whose it is, if it is somebody's.
    fn user(&self) -> Option<UserName> {
        None
    }

    /// Where the hub notes its own place for this listener.
    fn seat(&self) -> &Seat;
}

/// Finds the session that bears a name, if it is there.
pub type SessionNamed = Arc<dyn Fn(&SessionName) -> Option<Arc<dyn Listener>> + Send + Sync>;

/// Who takes what is for no listener of the hub. Called from its one task: neither may wait.
#[derive(Clone)]
pub struct Post {
    /// What is for the sessions of a user here.
    pub to_user: ToUser,
    /// What instances tell each other.
    pub to_instance: ToInstance,
}

pub type ToUser = Arc<dyn Fn(&UserName, &Message) + Send + Sync>;
pub type ToInstance = Arc<dyn Fn(&Message) + Send + Sync>;

impl Default for Post {
    /// Nobody does.
    fn default() -> Post {
        Post { to_user: Arc::new(|_, _| {}), to_instance: Arc::new(|_| {}) }
    }
}

/// How messages become batches.
#[derive(Clone)]
pub struct Batching {
    pub own: Incarnation,
    /// The smallest payload that is compressed.
    pub compression_bytes_min: usize,
    /// How long the first message of a batch waits for more; zero: not at all.
    pub coalesce: Duration,
    /// What is kept for those who join with a replay.
    pub history: Option<HistoryLimits>,
    /// Memory for what those are given who were away.
    pub resume_bytes_max: usize,
    /// Whether the broker delivers what was said before this instance was there: that is as old as it says, while what
    /// comes later counts from when it comes.
    pub looks_back: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Who is meant by what is said to one session alone.
    pub session_named: SessionNamed,
    pub post: Post,
}

/// Who listens here. A cheap handle.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    workers: Box<[WorkerHandle]>,
    entered: AtomicUsize,
    demand: Demand,
    interest: Arc<Interest>,
    metrics: HubMetrics,
    /// To [`Hub::run`]; bounded by the number of sessions.
    asked: mpsc::UnboundedSender<Asked>,
    asked_out: Mutex<Option<mpsc::UnboundedReceiver<Asked>>>,
}

impl Hub {
    /// Starts `workers` tasks on the current runtime; they end with the last handle. What is subscribed to counts in
    /// `interest`.
    pub fn start(workers: usize, interest: Arc<Interest>, metrics: HubMetrics) -> Hub {
        let workers = (0..workers.max(1)).map(|_| Worker::start(interest.clone(), metrics.clone())).collect();
        let (asked, asked_out) = mpsc::unbounded_channel();
        let shared = Shared {
            workers,
            entered: AtomicUsize::new(0),
            demand: Demand::default(),
            interest,
            metrics,
            asked,
            asked_out: Mutex::new(Some(asked_out)),
        };
        Hub { shared: Arc::new(shared) }
    }

    /// A place for `listener`, which hears nothing yet. A listener enters once.
    pub fn enter(&self, listener: Arc<dyn Listener>) -> Membership {
        self.shared.demand.add(listener.format());
        let worker = self.shared.entered.fetch_add(1, Ordering::Relaxed) % self.shared.workers.len();
        Membership { hub: self.clone(), worker: worker as u32, joined: false, subscribing: false, listener }
    }

    /// Who asks to hear of comings and goings.
    pub fn watching(&self) -> &Watching {
        self.shared.interest.watching()
    }

    /// Counts who subscribes to what. Each worker answers in its turn.
    pub async fn count(&self, question: &Arc<Question>) -> Counted {
        let answers = self.shared.workers.iter().map(|worker| {
            let (answer, answered) = oneshot::channel();
            worker.change(Change::Count(question.clone(), answer));
            answered
        });
        let mut counted = Counted::default();
        for answered in answers.collect::<Vec<_>>() {
            // A worker ends only with its runtime.
            question.add(&mut counted, &answered.await.unwrap_or_default());
        }
        counted
    }

    /// Hands what the broker delivers to the listeners, until the broker's end is dropped. For one caller.
    pub async fn run(self, batching: Batching, deliveries: mpsc::Receiver<Delivered>) {
        let asked = self.shared.asked_out.lock().unwrap_or_else(PoisonError::into_inner).take();
        let asked = asked.expect("a hub is run once");
        Feed::new(self, asked, batching).run(deliveries).await;
    }
}

/// What a listener hears. Its drop ends that.
pub struct Membership {
    hub: Hub,
    worker: u32,
    joined: bool,
    subscribing: bool,
    listener: Arc<dyn Listener>,
}

impl Membership {
    /// From now on the listener hears the broadcast, and what is meant for this instance alone.
    pub fn join(&mut self) {
        if !std::mem::replace(&mut self.joined, true) {
            self.worker().change(Change::Join(self.listener.clone()));
        }
    }

    /// The same, and before that it is given the past that it asks for, as much as is there: the past ends where the rest
    /// begins, with neither a hole nor a double between them.
    pub fn join_with_replay(&mut self, asked: Replay) {
        if !std::mem::replace(&mut self.joined, true) {
            self.worker().expect_one();
            let latecomer = Latecomer { listener: self.listener.clone(), worker: self.worker as usize, asked };
            // The receiver is gone only when nothing is handed out any more.
            let _ = self.hub.shared.asked.send(Asked::Replay(latecomer));
        }
    }

    /// It hears the broadcast no more.
    pub fn leave(&mut self) {
        if std::mem::replace(&mut self.joined, false) {
            self.worker().change(Change::Leave(self.listener.clone()));
        }
    }

    /// From now on it hears what is delivered here of the topics that `pattern` matches, each message once. What is
    /// published elsewhere comes from when the broker delivers it: see [`Interest::in_force`]. Twice the same pattern is
    /// the caller's mistake.
    pub fn subscribe(&mut self, pattern: &Pattern) {
        self.hub.shared.interest.add(pattern);
        if !std::mem::replace(&mut self.subscribing, true) {
            self.worker().expect_subscriber();
        }
        self.worker().change(Change::Subscribe(self.listener.clone(), pattern.clone()));
    }

    /// Takes back a subscription that it has.
    pub fn unsubscribe(&mut self, pattern: &Pattern) {
        self.worker().change(Change::Unsubscribe(self.listener.clone(), pattern.clone()));
    }

    /// Ready when all that was changed so far counts: what it hears no more does not come any more. Whoever changes much
    /// waits for this, so that the worker is not left behind.
    pub async fn caught_up(&self) {
        let (done, is_done) = oneshot::channel();
        self.worker().change(Change::Tell(done));
        // A worker ends only with its runtime.
        let _ = is_done.await;
    }

    fn worker(&self) -> &WorkerHandle {
        &self.hub.shared.workers[self.worker as usize]
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
        if self.subscribing {
            self.worker().change(Change::UnsubscribeAll(self.listener.clone()));
        }
        self.hub.shared.demand.remove(self.listener.format());
    }
}

#[cfg(test)]
mod tests;
