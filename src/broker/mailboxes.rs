//! Where messages for users are kept until somebody has acknowledged them.
//!
//! What is published to [`Target::User`](crate::message::Target::User) or
//! [`Target::Group`](crate::message::Target::Group) goes into mailboxes, one for each user who ever needed one: confirmed
//! means kept. Reading one is apart from that: whoever holds the user reads, one reader at a time in the whole cluster.

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::NotAccepted;
use crate::message::Message;
use crate::user::{GroupName, UserName};

/// Letters that one reader may hold without having acknowledged them.
pub const LETTERS_UNACKNOWLEDGED_MAX: u16 = 32;

/// A message out of a mailbox. It is kept there until it is acknowledged: dropped, it goes back to its place.
pub struct Letter {
    pub message: Message,
    acknowledge: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Letter {
    /// `acknowledge` has it kept no more.
    pub fn new(message: Message, acknowledge: impl FnOnce() + Send + Sync + 'static) -> Letter {
        Letter { message, acknowledge: Some(Box::new(acknowledge)) }
    }

    /// Somebody has it.
    pub fn acknowledge(mut self) {
        if let Some(acknowledge) = self.acknowledge.take() {
            acknowledge();
        }
    }
}

/// The mailboxes of the cluster.
pub trait Mailboxes: Send + Sync + 'static {
    /// Reads a user's mailbox from its beginning, if there is one or as soon as there is, until the receiver is dropped:
    /// what was not acknowledged by then goes back. While another reader reads, nothing comes; when it ends, everything
    /// does. What came and was not acknowledged may come again, with the same id. At most
    /// [`LETTERS_UNACKNOWLEDGED_MAX`] come ahead of acknowledgements.
    fn read(&self, user: UserName) -> mpsc::UnboundedReceiver<Letter>;

    /// Has a user belong to a group: ready when what is published to the group from then on is kept for them.
    fn join(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>>;

    /// Ends that.
    fn leave(&self, user: UserName, group: GroupName) -> BoxFuture<'_, Result<(), NotAccepted>>;

    /// Takes out of a mailbox what `wanted` picks of what nobody reads just now, oldest first and at most `max`. What is
    /// taken is kept no more: so it comes at most once.
    fn take(
        &self,
        user: UserName,
        max: usize,
        wanted: Box<dyn Fn(&Message) -> bool + Send + Sync>,
    ) -> BoxFuture<'_, Result<Vec<Message>, NotAccepted>>;
}
