//! Where messages for users are kept until somebody has acknowledged them.
//!
//! What is published to [`Target::User`](crate::message::Target::User) or
//! [`Target::Group`](crate::message::Target::Group) goes into mailboxes, one for each user who ever needed one: confirmed
//! means kept. Reading one is apart from that: whoever holds the user reads, one reader at a time in the whole cluster.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::NotAccepted;
use crate::message::{Message, Target};
use crate::user::{GroupName, UserName};

/// Letters that one reader may hold without having acknowledged them.
pub const LETTERS_UNACKNOWLEDGED_MAX: u16 = 32;

/// How much a mailbox keeps, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct MailboxBounds {
    /// Messages that nobody reads just now.
    pub messages_max: usize,
    /// Their payloads.
    pub bytes_max: usize,
    /// After this a message is kept no more.
    pub age_max: Duration,
    /// After this without a reader, a message by name or a new membership the mailbox need not stand any more, and with it the
    /// user's memberships.
    pub idle_max: Duration,
}

impl MailboxBounds {
    /// For how long a mailbox stands from its last use on: whatever is put into it while it need stand is kept for its time.
    pub fn lease(&self) -> Duration {
        self.idle_max + self.age_max
    }
}

/// Which mailbox: of what is read when the user comes, or of what waits until the user asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MailboxName {
    pub user: UserName,
    pub is_asked_for: bool,
}

impl MailboxName {
    /// What is read when the user comes.
    pub fn of_user(user: UserName) -> MailboxName {
        MailboxName { user, is_asked_for: false }
    }

    /// What waits until the user asks for it.
    pub fn of_unread(user: UserName) -> MailboxName {
        MailboxName { user, is_asked_for: true }
    }

    /// Where a message is kept, if that is one mailbox.
    pub fn of(target: &Target) -> Option<MailboxName> {
        match target {
            Target::User(user) => Some(MailboxName::of_user(user.clone())),
            Target::Unread(user) => Some(MailboxName::of_unread(user.clone())),
            _ => None,
        }
    }
}

/// A message out of a mailbox. It is kept there until it is acknowledged: dropped, it stays kept, and comes again to the
/// next reader.
pub struct Letter {
    pub message: Message,
    acknowledge: Box<dyn FnOnce() + Send + Sync>,
}

impl Letter {
    /// `acknowledge` has it kept no more.
    pub fn new(message: Message, acknowledge: impl FnOnce() + Send + Sync + 'static) -> Letter {
        Letter { message, acknowledge: Box::new(acknowledge) }
    }

    /// Somebody has it.
    pub fn acknowledge(self) {
        (self.acknowledge)();
    }
}

/// Who reads a mailbox.
pub trait Reader: Send + Sync + 'static {
    /// Takes the next letter, without waiting.
    fn take(&self, letter: Letter);
}

/// For as long as this is kept, a mailbox is read. Its drop gives back what was not acknowledged.
pub struct Reading {
    end: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Reading {
    /// `end` ends it.
    pub fn until(end: impl FnOnce() + Send + Sync + 'static) -> Reading {
        Reading { end: Some(Box::new(end)) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end();
        }
    }
}

/// Which messages are meant.
pub type Wanted = Box<dyn Fn(&Message) -> bool + Send + Sync>;

/// The mailboxes of the cluster.
pub trait Mailboxes: Send + Sync + 'static {
    /// Reads a user's mailbox from its beginning, if there is one or as soon as there is. While another reader in the
    /// cluster reads, nothing comes; when that ends, everything does that it did not acknowledge. So what came may come
    /// again, with the same id. At most [`LETTERS_UNACKNOWLEDGED_MAX`] come ahead of acknowledgements.
    fn read(&self, user: UserName, reader: Arc<dyn Reader>) -> Reading;

    /// Has a user belong to a group: ready when what is published to the group from then on is kept for them.
    fn join(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>>;

    /// Ends that.
    fn leave(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>>;

    /// Takes out of a mailbox what `wanted` picks of what no reader holds, oldest first, having looked at no more than
    /// `looked_at_max`. What is taken is kept no more: so it comes at most once.
    fn take(
        &self,
        mailbox: MailboxName,
        looked_at_max: usize,
        wanted: Wanted,
    ) -> BoxFuture<'_, Result<Vec<Message>, NotAccepted>>;
}
