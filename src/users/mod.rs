//! The users who are here, and what is kept for them.
//!
//! Each user who has a session here has a `Here`: it reads the user's mailbox for as long as the first session has begun
//! and the last has not ended, gives each letter to all of the user's sessions here, sends copies to the other instances
//! that hold the user, and acknowledges it to the mailbox once one session has acknowledged it and the copies are on their
//! way. So a letter is removed only when somebody has it; whatever ends before gives it back.
//!
//! Which instances hold a user is somebody else's to know ([`Whereabouts`]). What a session is is not known here
//! ([`Recipient`]).

mod copies;
mod here;
mod taking;
mod unread;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::{Semaphore, mpsc};

pub use unread::{UnknownUnread, Unread};

use crate::broker::{Broker, MailboxName, Mailboxes, NotAccepted, Receipt, Settle, Wanted};
use crate::instance::InstanceName;
use crate::message::{Message, MessageId, Target};
use crate::metrics::LetterMetrics;
use crate::terms::Terms;
use crate::user::{GroupName, UserName};
use copies::{Copies, Copy};
use here::Here;
use taking::Taking;

/// How often it is looked who does not acknowledge.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long it is taken for granted at most that a membership stands, though somebody may end it.
const JOINED_FOR_MAX: Duration = Duration::from_secs(600);

/// Users of whom that is remembered; past them all are forgotten.
const JOINED_MAX: usize = 10_000;

/// How long it is waited for others to take what they want of a user's mailbox.
const TAKING_PATIENCE: Duration = Duration::from_secs(5);

/// Messages for who is connected now that may wait for the broker.
const UNKEPT_MAX: usize = 1024;

/// One session of a user, as what is kept for the user sees it. Nothing here waits.
pub trait Recipient: Send + Sync + 'static {
    /// By which it is told from others of this instance.
    fn number(&self) -> u64;

    /// Sends a message, to which [`Recipient::prove`] may follow.
    fn give(&self, message: &Message);

    /// Whether it can show that it has a message, in whichever way. If no session of a user can, nothing is read for it.
    fn acknowledges(&self) -> bool;

    /// Has the client show, if that can be without its help, that it has everything up to here: [`Users::proved`] tells.
    fn prove(&self, letter: u64);

    /// It has not acknowledged for too long, and is given no more letters for now.
    fn tell_unacknowledged(&self);
}

/// Which instances hold a user.
pub trait Whereabouts: Send + Sync + 'static {
    /// Other instances than this one.
    fn others(&self, user: &UserName) -> Vec<InstanceName>;

    /// A message to it came back.
    fn is_gone(&self, instance: &InstanceName);
}

/// Of an instance that has no others.
pub struct Alone;

impl Whereabouts for Alone {
    fn others(&self, _user: &UserName) -> Vec<InstanceName> {
        Vec::new()
    }

    fn is_gone(&self, _instance: &InstanceName) {}
}

/// Everything about the users of this instance. Shared by all of its sessions.
pub struct Users {
    own: InstanceName,
    here: DashMap<UserName, Arc<Here>>,
    mailboxes: Arc<dyn Mailboxes>,
    whereabouts: Arc<dyn Whereabouts>,
    copies: mpsc::UnboundedSender<Copy>,
    acknowledgement_timeout: Duration,
    unread: Unread,
    joined: DashMap<UserName, Joined>,
    joined_for: Duration,
    taking: Taking,
    metrics: LetterMetrics,
    /// For what is kept nowhere, on its way to the broker.
    room: Arc<Semaphore>,
}

/// The groups to which a user was seen to belong.
struct Joined {
    groups: Box<[GroupName]>,
    at: Instant,
}

impl Joined {
    fn has(&self, groups: &[GroupName], joined_for: Duration) -> bool {
        self.at.elapsed() < joined_for && groups.iter().all(|group| self.groups.contains(group))
    }
}

/// How users are served.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// After this without any acknowledgement of a user's sessions, they are given no more until there is one.
    pub acknowledgement_timeout: Duration,
    pub unread: Unread,
    /// How long a mailbox stands at least, and with it the user's memberships.
    pub mailbox_idle: Duration,
}

impl Users {
    /// Begins on the current runtime.
    pub fn start(
        own: InstanceName,
        broker: Arc<dyn Broker>,
        mailboxes: Arc<dyn Mailboxes>,
        whereabouts: Arc<dyn Whereabouts>,
        manner: Manner,
        metrics: LetterMetrics,
    ) -> Arc<Users> {
        let Manner { acknowledgement_timeout, unread, mailbox_idle } = manner;
        let copies = Copies::start(broker, whereabouts.clone(), metrics.clone());
        let here = DashMap::new();
        Arc::new(Users {
            own,
            here,
            mailboxes,
            whereabouts,
            copies,
            acknowledgement_timeout,
            unread,
            joined: DashMap::new(),
            // A membership goes with its mailbox.
            joined_for: JOINED_FOR_MAX.min(mailbox_idle / 2),
            taking: Taking::default(),
            metrics,
            room: Arc::new(Semaphore::new(UNKEPT_MAX)),
        })
    }

    /// A session begins. It is given what is kept for its user, and everything that comes.
    pub fn arrive(self: &Arc<Self>, user: &UserName, recipient: Arc<dyn Recipient>) {
        loop {
            let here = self.here.entry(user.clone()).or_insert_with(|| Here::new(user.clone(), self)).clone();
            // It may have ended since it was found.
            if here.enter(recipient.clone()) {
                return;
            }
        }
    }

    /// A session has ended.
    pub fn leave(&self, user: &UserName, recipient: u64) {
        let Some(here) = self.find(user) else { return };
        if here.exit(recipient) {
            self.here.remove_if(user, |_, one| Arc::ptr_eq(one, &here));
        }
    }

    /// A client says that it has a message.
    pub fn acknowledge(&self, user: &UserName, message: &MessageId) {
        if let Some(here) = self.find(user) {
            here.acknowledge(message);
        }
    }

    /// A client has shown that it has everything up to a letter.
    pub fn proved(&self, user: &UserName, letter: u64) {
        if let Some(here) = self.find(user) {
            here.proved(letter);
        }
    }

    /// Gives the user's sessions here what another instance read.
    pub fn give_copy(&self, user: &UserName, message: &Message) {
        if let Some(here) = self.find(user) {
            here.give_copy(message);
        }
    }

    /// Whether the user has a session here.
    pub fn is_here(&self, user: &UserName) -> bool {
        self.here.contains_key(user)
    }

    /// Sends a message to the sessions that its user has anywhere, and keeps it nowhere. Accepted if it is on its way to one
    /// instance at least.
    pub fn send_if_connected(&self, user: &UserName, message: Message, receipt: Receipt) {
        let mut instances = self.whereabouts.others(user);
        if self.is_here(user) {
            instances.push(self.own.clone());
        }
        if instances.is_empty() {
            return receipt.settle(Err(NotAccepted::NotConnected));
        }
        let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().try_acquire_many_owned(count) else {
            return receipt.settle(Err(NotAccepted::SpoolFull));
        };
        let room = Arc::new(room);
        let sending = copies::Sending::of(instances.len(), receipt);
        for instance in instances {
            let message = Message { target: Target::UserAt(instance.clone(), user.clone()), ..message.clone() };
            self.copy(Copy { instance, message, told: sending.clone(), _room: Some(room.clone()) });
        }
    }

    /// Has the user belong to groups, for as long as the mailbox stands. Who did so lately does.
    pub async fn join_all(&self, user: &UserName, groups: &[GroupName]) -> Result<(), NotAccepted> {
        if groups.is_empty() || self.joined.get(user).is_some_and(|lately| lately.has(groups, self.joined_for)) {
            return Ok(());
        }
        let joining = groups.iter().map(|group| self.mailboxes.join(user.clone(), group.clone()));
        futures_util::future::try_join_all(joining).await?;
        if self.joined.len() >= JOINED_MAX {
            self.joined.clear();
        }
        self.joined.insert(user.clone(), Joined { groups: groups.into(), at: Instant::now() });
        Ok(())
    }

    /// Has the user belong to a group no more.
    pub async fn leave_group(&self, user: &UserName, group: &GroupName) -> Result<(), NotAccepted> {
        let left = self.mailboxes.leave(user.clone(), group.clone()).await;
        self.joined.remove(user);
        left
    }

    /// Takes what waits for a user out of the mailbox, at most once. One request here at a time; through another instance at
    /// the same moment there may seem to be less than there is.
    pub async fn take_unread(
        &self,
        user: &UserName,
        looked_at_max: usize,
        wanted: Wanted,
    ) -> Result<Vec<Message>, NotAccepted> {
        let Some(_turn) = self.taking.turn(user, TAKING_PATIENCE).await else { return Err(NotAccepted::NoMailbox) };
        let wanted: Arc<dyn Fn(&Message) -> bool + Send + Sync> = wanted.into();
        let mut taken = Vec::new();
        for name in [MailboxName::of_unread(user.clone()), MailboxName::of_user(user.clone())] {
            if name.is_asked_for && self.unread == Unread::Push {
                continue;
            }
            let wanted = wanted.clone();
            let left = looked_at_max - taken.len().min(looked_at_max);
            match self.mailboxes.take(name, left, Box::new(move |message| wanted(message))).await {
                Ok(more) => taken.extend(more),
                // What was taken is kept no more: it must be told.
                Err(why) if taken.is_empty() => return Err(why),
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    /// Has a message wait until its user asks for it; `told` hears whether it does.
    fn set_aside(&self, user: &UserName, message: Message, told: Arc<dyn Settle>) {
        self.metrics.set_aside();
        let message = Message { target: Target::Unread(user.clone()), ..message };
        self.copy(Copy { instance: self.own.clone(), message, told, _room: None });
    }

    pub fn mailboxes(&self) -> &dyn Mailboxes {
        &*self.mailboxes
    }

    pub fn unread(&self) -> Unread {
        self.unread
    }

    /// Looks after those who have not acknowledged, for as long as the instance runs.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Nothing is done to them under the map's guards.
            let all: Vec<Arc<Here>> = self.here.iter().map(|entry| entry.value().clone()).collect();
            all.iter().for_each(|here| here.look_after(self.acknowledgement_timeout));
        }
    }

    fn find(&self, user: &UserName) -> Option<Arc<Here>> {
        self.here.get(user).map(|entry| entry.value().clone())
    }

    /// The other instances that hold a user.
    fn others(&self, user: &UserName) -> HashSet<InstanceName> {
        self.whereabouts.others(user).into_iter().collect()
    }

    /// Sends a copy of a letter to an instance that holds the user; `told` hears what becomes of it.
    fn copy_to(&self, instance: &InstanceName, user: &UserName, message: &Message, told: Arc<dyn Settle>) {
        let (instance, target) = (instance.clone(), Target::UserAt(instance.clone(), user.clone()));
        // Whoever sends it again means it: no key drops it there.
        let without_key = |terms: &Terms| Arc::new(Terms { idempotency_key: None, ..terms.clone() });
        let terms = message.terms.as_deref().map(without_key);
        self.copy(Copy { instance, message: Message { target, terms, ..message.clone() }, told, _room: None });
    }

    fn copy(&self, copy: Copy) {
        // The task ends with the instance.
        let _ = self.copies.send(copy);
    }
}

#[cfg(test)]
mod tests;
