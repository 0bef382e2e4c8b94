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

mod making;
mod office;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

pub use making::make_all;

use super::Settings;
use super::connection::{Endpoints, discard};
use super::entrance::Entrance;
use super::topology::Names;
use crate::broker::{Letter, MailboxBounds, MailboxName, Mailboxes, NotAccepted, Reader, Reading, Wanted};
use crate::message::Message;
use crate::metrics::BrokerMetrics;
use crate::user::{GroupName, UserName};

/// How long it is tried to do what somebody waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a lost connection is made anew; half of it is chance.
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
    Change(Change, oneshot::Sender<Result<(), NotAccepted>>),
    Take(MailboxName, usize, Wanted, oneshot::Sender<Result<Vec<Message>, NotAccepted>>),
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
}

impl RabbitMailboxes {
    /// Starts the task. It works until it is aborted.
    pub fn start(settings: &Settings, names: Names, entrance: Entrance) -> (RabbitMailboxes, AbortHandle) {
        let (asked, orders) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            endpoints: Endpoints::new(settings, "mailboxes"),
            names,
            bounds: settings.mailboxes,
            message_bytes_max: settings.message_bytes_max,
            metrics: settings.metrics.clone(),
            asked: asked.clone(),
            orders,
            entrance,
            readings: Readings::default(),
            connections: 0,
        };
        (RabbitMailboxes { asked }, tokio::spawn(supervisor.run()).abort_handle())
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

    async fn answered<T>(&self, answer: oneshot::Receiver<Result<T, NotAccepted>>) -> Result<T, NotAccepted> {
        match timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(NotAccepted::NoMailbox),
        }
    }

    async fn change(&self, change: Change) -> Result<(), NotAccepted> {
        let (done, answer) = oneshot::channel();
        self.ask(Asked::Change(change, done));
        self.answered(answer).await
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
            self.ask(Asked::Take(mailbox, looked_at_max, wanted, taken));
            self.answered(answer).await
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
    bounds: MailboxBounds,
    message_bytes_max: usize,
    metrics: BrokerMetrics,
    asked: mpsc::UnboundedSender<Asked>,
    orders: mpsc::UnboundedReceiver<Asked>,
    /// Served over the same connection.
    entrance: Entrance,
    readings: Readings,
    /// How many there were.
    connections: u64,
}

impl Supervisor {
    async fn run(mut self) {
        loop {
            self.connections += 1;
            let trouble = match self.endpoints.connect().await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    let trouble = self.serve(connection.clone()).await;
                    if let Some(connection) = Arc::into_inner(connection) {
                        discard(connection).await;
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            log::debug!("the connection for mailboxes is lost: {trouble}");
            self.readings.lost();
            tokio::time::sleep(PAUSE.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        }
    }
}

impl Readings {
    fn add(&mut self, number: u64, user: UserName, reader: Arc<dyn Reader>) {
        self.by_user.insert(user.clone(), number);
        let one = OneReading {
            user,
            reader,
            state: State::Unknown,
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
