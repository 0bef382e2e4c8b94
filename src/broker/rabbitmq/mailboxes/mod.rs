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
//! that one has not acknowledged when it goes, the next one gets, before anything newer: each reading has a channel of its
//! own, and when a channel closes RabbitMQ takes its consumer away and puts its messages back to their places in one step.
//! (Cancelling the consumer is not enough: the next one is given newer messages before the old ones are back.)

mod errands;
mod line;
mod making;
mod readings;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

pub use making::make_all;

use super::Settings;
use super::connection::Endpoints;
use super::topology::Names;
use crate::broker::{MailboxName, Mailboxes, NotAccepted, Reader, Reading, Wanted};
use crate::message::Message;
use crate::user::{GroupName, UserName};
use errands::{Errand, Errands, Other, Waiting};
use readings::Readings;

/// How long it is tried to do what somebody waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest pause before a lost connection is made anew.
const PAUSE: Duration = Duration::from_secs(1);

/// What the task that knows all readings is asked, or told.
enum Asked {
    Read(UserName, u64, Arc<dyn Reader>),
    End(u64),
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
    /// A reading's mailbox is not there, or not any more.
    Gone(u64),
    /// The broker lets nobody read a reading's mailbox.
    Unreadable(u64),
    /// The reading's line has no more channels.
    NoRoom(u64),
}

/// A membership that begins or ends.
struct Change {
    user: UserName,
    group: GroupName,
    joins: bool,
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
        let lines = Arc::new(line::Settings { broker: settings.clone(), names: names.clone(), asked: asked.clone() });
        let readings = Readings::new(move || line::begin(lines.clone()), errands.clone());
        let errand_task = Errands {
            endpoints: Endpoints::new(settings, "errands"),
            names,
            bounds: settings.mailboxes,
            orders: errands_out,
            asked: asked.clone(),
            waiting: Waiting::default(),
        };
        let tasks = [tokio::spawn(readings.run(orders)).abort_handle(), tokio::spawn(errand_task.run()).abort_handle()];
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

    async fn done<T>(&self, other: Other, answer: oneshot::Receiver<Result<T, NotAccepted>>) -> Result<T, NotAccepted> {
        // The task ends with the instance.
        let _ = self.errands.send(Errand::Other(other));
        match timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(NotAccepted::NoMailbox),
        }
    }

    async fn change(&self, change: Change) -> Result<(), NotAccepted> {
        let (done, answer) = oneshot::channel();
        self.done(Other::Change(change, done), answer).await
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
            self.done(Other::Take(mailbox, looked_at_max, wanted, taken), answer).await
        })
    }
}

/// Before a lost connection is made anew; half of it is chance.
async fn pause() {
    tokio::time::sleep(PAUSE.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
}
