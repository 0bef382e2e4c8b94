//! Mailboxes in RabbitMQ: a durable queue for each user who ever needed one.
//!
//! ```text
//! default exchange ─► warren.mailbox.{user} ──► one of the instances that hold the user
//! warren.groups ────► (key: a group of the user's)
//! ```
//!
//! With `--unread pull` there is a second one, `warren.unread.{user}`, into which a reader puts what came before its user did.
//!
//! A mailbox is made when the first message finds none (`to_users` in the publisher) or when its user joins a group, and goes
//! when nothing was done with it for long (`x-expires`). Whoever makes one says so to every instance, *after* it stands;
//! an instance looks whether one stands *after* it has begun to hold a user. So one of the two sees the other, and a
//! mailbox of a user who is here is always read.
//!
//! It has a single active consumer: every instance that holds the user consumes, and RabbitMQ has one of them read. What
//! that one has not acknowledged when it goes, the next one gets. When a consumer ends whose channel goes on, the next may be
//! given new letters before the old ones are back; so whoever begins to read waits a moment for these
//! ([`office::FIRST_WAIT`]), and puts back newer ones that came before them.

mod errands;
mod making;
mod office;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

pub use making::make_all;

use super::Settings;
use super::connection::{Endpoints, discard};
use super::poison;
use super::topology::Names;
use crate::broker::{LETTERS_UNACKNOWLEDGED_MAX, Letter, MailboxName, Mailboxes, NotAccepted, Reader, Reading, Wanted};
use crate::message::Message;
use crate::metrics::BrokerMetrics;
use crate::user::{GroupName, UserName};
use errands::{Errand, Errands};

/// How long it is tried to do what somebody waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest pause before a lost connection is made anew.
const PAUSE: Duration = Duration::from_secs(1);

/// What is asked of the task.
enum Asked {
    Read(UserName, u64, Arc<dyn Reader>),
    End(u64),
    Acknowledge(Held),
    /// Somebody has made the user's mailbox.
    Made(UserName),
    /// Somebody may have made mailboxes without our hearing of it.
    LookAgain,
    /// What was seen when it was looked for a reading's mailbox, and which of its looks that was.
    Looked {
        reading: u64,
        look: u64,
        stands: bool,
    },
}

/// A membership that begins or ends.
struct Change {
    user: UserName,
    group: GroupName,
    joins: bool,
}

/// A delivery that waits for its acknowledgement.
#[derive(Clone, Copy)]
struct Held {
    /// Which of the task's connections brought it.
    connection: u64,
    reading: u64,
    tag: u64,
}

/// A handle to the mailboxes.
#[derive(Clone)]
pub struct RabbitMailboxes {
    asked: mpsc::UnboundedSender<Asked>,
    errands: mpsc::UnboundedSender<Errand>,
}

impl RabbitMailboxes {
    /// Starts the tasks. They work until they are aborted.
    pub fn start(settings: &Settings, names: Names) -> (RabbitMailboxes, [AbortHandle; 2]) {
        let (asked, orders) = mpsc::unbounded_channel();
        let (errands, errands_out) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            endpoints: Endpoints::new(settings, "mailboxes"),
            names: names.clone(),
            message_bytes_max: settings.message_bytes_max,
            metrics: settings.metrics.clone(),
            asked: asked.clone(),
            orders,
            errands: errands.clone(),
            readings: Readings::default(),
            connections: 0,
            unreadable: 0,
        };
        let errand_task = Errands {
            endpoints: Endpoints::new(settings, "errands"),
            names,
            bounds: settings.mailboxes,
            orders: errands_out,
            asked: asked.clone(),
            waiting: VecDeque::new(),
        };
        let tasks = [tokio::spawn(supervisor.run()).abort_handle(), tokio::spawn(errand_task.run()).abort_handle()];
        (RabbitMailboxes { asked, errands }, tasks)
    }

    /// Somebody says that a mailbox stands.
    pub fn made(&self, user: UserName) {
        self.ask(Asked::Made(user));
    }

    /// What was said meanwhile was not heard.
    pub fn look_again(&self) {
        self.ask(Asked::LookAgain);
    }

    fn ask(&self, asked: Asked) {
        // The task ends with the instance.
        let _ = self.asked.send(asked);
    }

    async fn done<T>(
        &self,
        errand: Errand,
        answer: oneshot::Receiver<Result<T, NotAccepted>>,
    ) -> Result<T, NotAccepted> {
        // The task ends with the instance.
        let _ = self.errands.send(errand);
        match timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(NotAccepted::NoMailbox),
        }
    }

    async fn change(&self, change: Change) -> Result<(), NotAccepted> {
        let (done, answer) = oneshot::channel();
        self.done(Errand::Change(change, done), answer).await
    }
}

impl Mailboxes for RabbitMailboxes {
    fn read(&self, user: UserName, reader: Arc<dyn Reader>) -> Reading {
        let number = fastrand::u64(..);
        self.ask(Asked::Read(user, number, reader));
        let asked = self.asked.clone();
        Reading::until(move || drop(asked.send(Asked::End(number))))
    }

    fn join(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>> {
        Box::pin(self.change(Change { user, group, joins: true }))
    }

    fn leave(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>> {
        Box::pin(self.change(Change { user, group, joins: false }))
    }

    fn take(
        &self,
        mailbox: MailboxName,
        looked_at_max: usize,
        wanted: Wanted,
    ) -> BoxFuture<'_, Result<Vec<Message>, NotAccepted>> {
        Box::pin(async move {
            let (taken, answer) = oneshot::channel();
            self.done(Errand::Take(mailbox, looked_at_max, wanted, taken), answer).await
        })
    }
}

/// Who reads here, whatever becomes of the connection.
#[derive(Default)]
struct Readings {
    all: HashMap<u64, OneReading>,
    by_user: HashMap<UserName, u64>,
}

struct OneReading {
    user: UserName,
    reader: Arc<dyn Reader>,
    state: State,
    /// How often it was looked for.
    look: u64,
    /// Tags of what it has not acknowledged.
    unacknowledged: BTreeSet<u64>,
    /// What came first, for as long as what a reader before gives back may come behind it.
    first: Option<First>,
    /// It could not be read before.
    not_before: Option<Instant>,
}

/// Letters, each with its tag and whether it was delivered before: those are the older ones.
type First = Vec<(u64, bool, Letter)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has looked whether there is a mailbox.
    Unknown,
    /// Somebody looks.
    Looking,
    /// The same, and it was made since.
    LookingAgain,
    Absent,
    /// RabbitMQ was asked for a consumer: until it has answered, none can be cancelled (with 3.10.8 that ends the connection).
    Beginning,
    Consuming,
}

/// Makes the connection anew whenever it is lost.
struct Supervisor {
    endpoints: Endpoints,
    names: Names,
    message_bytes_max: usize,
    metrics: BrokerMetrics,
    asked: mpsc::UnboundedSender<Asked>,
    orders: mpsc::UnboundedReceiver<Asked>,
    errands: mpsc::UnboundedSender<Errand>,
    readings: Readings,
    /// How many there were.
    connections: u64,
    /// How many of the last ones broke over what came.
    unreadable: u32,
}

impl Supervisor {
    async fn run(mut self) {
        loop {
            self.connections += 1;
            let trouble = match self.endpoints.connect().await {
                Ok(connection) => {
                    let trouble = self.serve(&connection).await;
                    discard(connection).await;
                    trouble
                }
                Err(trouble) => trouble,
            };
            log::debug!("the connection for mailboxes is lost: {trouble}");
            self.readings.lost();
            self.unreadable = if trouble.is_unreadable() { self.unreadable + 1 } else { 0 };
            if self.unreadable >= poison::SUSPICIOUS_AFTER {
                self.remove_poison().await;
            }
            pause().await;
        }
    }

    /// Something in somebody's mailbox ends every connection over which it comes, and keeps everybody's letters.
    async fn remove_poison(&mut self) {
        let users = self.readings.by_user.keys();
        let queues = users.map(|user| self.names.mailbox(&MailboxName::of_user(user.clone()))).collect();
        poison::remove(&mut self.endpoints, queues, LETTERS_UNACKNOWLEDGED_MAX, &self.metrics).await;
    }
}

/// Before a lost connection is made anew; half of it is chance.
async fn pause() {
    tokio::time::sleep(PAUSE.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
}

impl Readings {
    fn add(&mut self, number: u64, user: UserName, reader: Arc<dyn Reader>) {
        self.by_user.insert(user.clone(), number);
        let one = OneReading {
            user,
            reader,
            state: State::Unknown,
            look: 0,
            unacknowledged: BTreeSet::new(),
            first: None,
            not_before: None,
        };
        self.all.insert(number, one);
    }

    fn remove(&mut self, number: u64) -> Option<OneReading> {
        let one = self.all.remove(&number)?;
        if self.by_user.get(&one.user) == Some(&number) {
            self.by_user.remove(&one.user);
        }
        Some(one)
    }

    /// The broker gives what was not acknowledged to others, or again.
    fn lost(&mut self) {
        for one in self.all.values_mut() {
            one.state = State::Unknown;
            one.unacknowledged.clear();
            one.first = None;
        }
    }
}
