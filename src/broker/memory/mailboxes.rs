//! Mailboxes in the memory of the process: they end with it.
//!
//! One task owns them all, so that letters come in order and nothing is locked. It ends with the last handle. It also looks
//! after those that nobody touches: what is too old goes, and an empty mailbox that neither is read nor belongs to a
//! group; memberships end when the user has not been here for as long as RabbitMQ would keep the mailbox.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::broker::{
    LETTERS_UNACKNOWLEDGED_MAX, Letter, MailboxBounds, MailboxName, Mailboxes, NotAccepted, Reader, Reading, Receipt,
    Wanted,
};
use crate::message::{Message, Target, now_unix_ms};
use crate::terms::Terms;
use crate::user::{GroupName, UserName};

/// How often it is looked what is kept no more. By so much longer than its age may something take memory.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// What is asked of the task.
enum Asked {
    Keep(Message, Receipt),
    Read(UserName, u64, Arc<dyn Reader>),
    End(UserName, u64),
    /// A letter by its number.
    Acknowledge(UserName, u64),
    Join(UserName, GroupName),
    Leave(UserName, GroupName),
    Take(MailboxName, usize, Wanted, oneshot::Sender<Vec<Message>>),
}

/// A handle to the mailboxes of the process.
#[derive(Clone)]
pub struct MemoryMailboxes {
    asked: mpsc::UnboundedSender<Asked>,
}

impl MemoryMailboxes {
    /// Starts the task on the current runtime.
    pub fn start(bounds: MailboxBounds) -> MemoryMailboxes {
        let (asked, orders) = mpsc::unbounded_channel();
        tokio::spawn(Office::new(bounds, asked.downgrade()).run(orders));
        MemoryMailboxes { asked }
    }

    /// Keeps a message for the user, or for each member of the group, that it is for.
    pub fn keep(&self, message: Message, receipt: Receipt) {
        self.ask(Asked::Keep(message, receipt));
    }

    fn ask(&self, asked: Asked) {
        // The task lives as long as any handle.
        let _ = self.asked.send(asked);
    }
}

impl Mailboxes for MemoryMailboxes {
    fn read(&self, user: UserName, reader: Arc<dyn Reader>) -> Reading {
        let number = fastrand::u64(..);
        self.ask(Asked::Read(user.clone(), number, reader));
        let asked = self.asked.clone();
        Reading::until(move || drop(asked.send(Asked::End(user, number))))
    }

    fn join(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>> {
        self.ask(Asked::Join(user, group));
        Box::pin(std::future::ready(Ok(())))
    }

    fn leave(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>> {
        self.ask(Asked::Leave(user, group));
        Box::pin(std::future::ready(Ok(())))
    }

    fn take(
        &self,
        mailbox: MailboxName,
        looked_at_max: usize,
        wanted: Wanted,
    ) -> BoxFuture<'_, Result<Vec<Message>, NotAccepted>> {
        let (answer, taken) = oneshot::channel();
        self.ask(Asked::Take(mailbox, looked_at_max, wanted, answer));
        Box::pin(async move { taken.await.map_err(|_| NotAccepted::NoMailbox) })
    }
}

/// What the task owns.
struct Office {
    bounds: MailboxBounds,
    boxes: HashMap<MailboxName, Mailbox>,
    groups: HashMap<GroupName, BTreeSet<UserName>>,
    /// The number of the newest letter.
    last: u64,
    asked: mpsc::WeakUnboundedSender<Asked>,
}

struct Mailbox {
    /// Oldest first.
    kept: VecDeque<Kept>,
    /// The first one reads.
    readers: VecDeque<(u64, Arc<dyn Reader>)>,
    /// To which its user belongs.
    groups: BTreeSet<GroupName>,
    /// When somebody last read it, took something out of it, or assigned its user to a group.
    used: Instant,
}

struct Kept {
    number: u64,
    message: Message,
    since: Instant,
    /// The reader has it.
    is_held: bool,
}

impl Office {
    fn new(bounds: MailboxBounds, asked: mpsc::WeakUnboundedSender<Asked>) -> Office {
        Office { bounds, boxes: HashMap::new(), groups: HashMap::new(), last: 0, asked }
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Asked>) {
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                asked = orders.recv() => match asked {
                    Some(asked) => self.answer(asked),
                    None => return,
                },
                _ = sweeps.tick() => self.sweep(),
            }
        }
    }

    fn answer(&mut self, asked: Asked) {
        match asked {
            Asked::Keep(message, receipt) => receipt.settle(self.keep(message)),
            Asked::Read(user, number, reader) => {
                let name = MailboxName::of_user(user);
                self.boxes.entry(name.clone()).or_insert_with(Mailbox::new).readers.push_back((number, reader));
                self.hand_out(&name);
            }
            Asked::End(user, number) => self.end(&user, number),
            Asked::Acknowledge(user, number) => {
                let name = MailboxName::of_user(user);
                if let Some(mailbox) = self.boxes.get_mut(&name) {
                    mailbox.kept.retain(|kept| kept.number != number);
                }
                self.hand_out(&name);
            }
            Asked::Join(user, group) => {
                let mailbox = self.boxes.entry(MailboxName::of_user(user.clone())).or_insert_with(Mailbox::new);
                mailbox.groups.insert(group.clone());
                mailbox.used = Instant::now();
                self.groups.entry(group).or_default().insert(user);
            }
            Asked::Leave(user, group) => {
                self.end_membership(&user, &group);
                let name = MailboxName::of_user(user);
                if let Some(mailbox) = self.boxes.get_mut(&name) {
                    mailbox.groups.remove(&group);
                }
                self.hand_out(&name);
            }
            Asked::Take(mailbox, looked_at_max, wanted, answer) => {
                // Who does not wait any more asks again.
                if !answer.is_closed() {
                    let _ = answer.send(self.take(&mailbox, looked_at_max, &wanted));
                }
            }
        }
    }

    fn keep(&mut self, message: Message) -> Result<(), NotAccepted> {
        if let Some(name) = MailboxName::of(&message.target) {
            return self.keep_in(&name, message);
        }
        match &message.target {
            Target::Group(group) => {
                let terms = message.terms.as_deref().cloned().unwrap_or_default();
                let terms = Some(Arc::new(Terms { group: Some(group.clone()), ..terms }));
                let members = self.groups.get(group).cloned().ok_or(NotAccepted::NoMembers)?;
                // As RabbitMQ does: every mailbox that has room keeps it, and the sender is told of one that has none.
                let outcomes: Vec<_> = members
                    .iter()
                    .map(|member| {
                        self.keep_in(
                            &MailboxName::of_user(member.clone()),
                            Message { target: Target::User(member.clone()), terms: terms.clone(), ..message.clone() },
                        )
                    })
                    .collect();
                outcomes.into_iter().collect()
            }
            _ => Err(NotAccepted::NoMailbox),
        }
    }

    fn keep_in(&mut self, name: &MailboxName, message: Message) -> Result<(), NotAccepted> {
        let bounds = self.bounds;
        let mailbox = self.boxes.entry(name.clone()).or_insert_with(Mailbox::new);
        mailbox.expire(bounds);
        let waiting = mailbox.kept.iter().filter(|kept| !kept.is_held);
        let (messages, bytes) =
            waiting.fold((0, 0), |(messages, bytes), kept| (messages + 1, bytes + kept.message.payload.len()));
        if messages >= bounds.messages_max || bytes + message.payload.len() > bounds.bytes_max {
            return Err(NotAccepted::MailboxFull);
        }
        self.last += 1;
        mailbox.kept.push_back(Kept { number: self.last, message, since: Instant::now(), is_held: false });
        self.hand_out(name);
        Ok(())
    }

    fn end(&mut self, user: &UserName, number: u64) {
        let name = MailboxName::of_user(user.clone());
        let Some(mailbox) = self.boxes.get_mut(&name) else { return };
        if mailbox.readers.front().is_some_and(|(first, _)| *first == number) {
            mailbox.kept.iter_mut().for_each(|kept| kept.is_held = false);
        }
        mailbox.readers.retain(|(one, _)| *one != number);
        mailbox.used = Instant::now();
        self.hand_out(&name);
    }

    fn end_membership(&mut self, user: &UserName, group: &GroupName) {
        if let Some(members) = self.groups.get_mut(group) {
            members.remove(user);
            if members.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Forgets what is too old, and whatever nobody needs then.
    fn sweep(&mut self) {
        let mut ended = Vec::new();
        for (name, mailbox) in &mut self.boxes {
            mailbox.expire(self.bounds);
            if mailbox.readers.is_empty() && mailbox.used.elapsed() > self.bounds.idle_max {
                ended.extend(std::mem::take(&mut mailbox.groups).into_iter().map(|group| (name.user.clone(), group)));
            }
        }
        for (user, group) in ended {
            self.end_membership(&user, &group);
        }
        self.boxes.retain(|_, mailbox| mailbox.is_needed());
        // It keeps its room else, though but a few remain of very many.
        if self.boxes.len() < self.boxes.capacity() / 4 {
            self.boxes.shrink_to_fit();
        }
    }

    /// Gives the reader what it may have, and forgets a mailbox that nobody needs.
    fn hand_out(&mut self, name: &MailboxName) {
        let Some(mailbox) = self.boxes.get_mut(name) else { return };
        mailbox.expire(self.bounds);
        let Some((_, reader)) = mailbox.readers.front().cloned() else {
            if !mailbox.is_needed() {
                self.boxes.remove(name);
            }
            return;
        };
        let held = mailbox.kept.iter().filter(|kept| kept.is_held).count();
        let room = usize::from(LETTERS_UNACKNOWLEDGED_MAX).saturating_sub(held);
        for kept in mailbox.kept.iter_mut().filter(|kept| !kept.is_held).take(room) {
            kept.is_held = true;
            let (asked, user, number) = (self.asked.clone(), name.user.clone(), kept.number);
            reader.take(Letter::new(kept.message.clone(), move || {
                if let Some(asked) = asked.upgrade() {
                    let _ = asked.send(Asked::Acknowledge(user, number));
                }
            }));
        }
    }

    fn take(&mut self, name: &MailboxName, looked_at_max: usize, wanted: &Wanted) -> Vec<Message> {
        let Some(mailbox) = self.boxes.get_mut(name) else { return Vec::new() };
        mailbox.expire(self.bounds);
        mailbox.used = Instant::now();
        let mut looked_at = 0;
        let mut taken = Vec::new();
        mailbox.kept.retain(|kept| {
            let is_looked_at = !kept.is_held && looked_at < looked_at_max;
            looked_at += usize::from(is_looked_at);
            let is_taken = is_looked_at && wanted(&kept.message);
            if is_taken {
                taken.push(kept.message.clone());
            }
            !is_taken
        });
        self.hand_out(name);
        taken
    }
}

impl Mailbox {
    fn new() -> Mailbox {
        Mailbox { kept: VecDeque::new(), readers: VecDeque::new(), groups: BTreeSet::new(), used: Instant::now() }
    }

    /// Whether anything is in it, comes out of it, or goes into it by way of a group.
    fn is_needed(&self) -> bool {
        !(self.kept.is_empty() && self.readers.is_empty() && self.groups.is_empty())
    }

    /// Forgets what is too old.
    fn expire(&mut self, bounds: MailboxBounds) {
        let (now, now_ms) = (Instant::now(), now_unix_ms());
        let is_fresh = |kept: &Kept| {
            let is_of_use = kept.message.terms.as_ref().is_none_or(|terms| !terms.is_expired(now_ms));
            kept.is_held || (is_of_use && now.duration_since(kept.since) <= bounds.age_max)
        };
        self.kept.retain(is_fresh);
    }
}

#[cfg(test)]
mod tests;
