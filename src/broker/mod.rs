//! Carrying messages between instances. A broker knows neither users nor sessions nor what a message means.

mod arrivals;
mod mailboxes;
pub mod memory;
pub mod rabbitmq;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

pub use arrivals::{Arrivals, KeyBounds};
pub use mailboxes::{
    LETTERS_UNACKNOWLEDGED_MAX, Letter, MailboxBounds, MailboxName, Mailboxes, Reader, Reading, Wanted,
};

use crate::message::Message;
use crate::place::{Delivered, Partition, Position};

/// Batches of delivered messages that wait for the hub; past it the broker holds its own deliveries back.
pub const DELIVERIES_WAITING_MAX: usize = 16;

/// Bytes of what instances tell each other in one message. It is theirs alone, so no option bounds it.
pub const WORD_BYTES_MAX: usize = 128 * 1024;

/// How the broadcast comes from RabbitMQ to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Through the instance's own queue: what is sent while the instance is cut off is lost to it.
    Queue,
    /// From the cluster's stream: the instance goes on where it was.
    Stream,
}

/// A text that names no way of delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are only two")]
pub struct UnknownDelivery;

impl FromStr for Delivery {
    type Err = UnknownDelivery;

    fn from_str(text: &str) -> Result<Delivery, UnknownDelivery> {
        match text {
            "queue" => Ok(Delivery::Queue),
            "stream" => Ok(Delivery::Stream),
            _ => Err(UnknownDelivery),
        }
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::Queue => "queue",
            Delivery::Stream => "stream",
        })
    }
}

/// Carries messages from each instance to all that are meant, its own included.
///
/// What it delivers goes to the channel it was built with, in batches of what was ready; while that channel is full
/// it takes no more from the wire.
pub trait Broker: Send + Sync + 'static {
    /// Hands a message over, waiting while there is no room for it.
    ///
    /// Order: messages that one caller hands over one after the other are delivered everywhere in that order; see
    /// `docs/delivery.md` for the one exception. Doubles: none, unless a publisher outside sends them; what asks for more
    /// by its [terms](crate::terms::Terms), each instance hands on once, and in time. Loss: none while
    /// this process lives; what was taken is published until the broker has it. What becomes of the message is told to
    /// `receipt`, exactly once. The future is ready once the message is taken, or was refused; the receipt may be settled
    /// long after that. Cancellation: dropping the future before it is ready withdraws the message, so that nobody gets
    /// it, and settles its receipt as unconfirmed; afterwards nothing withdraws it.
    fn publish(&self, message: Message, receipt: Receipt) -> BoxFuture<'_, ()>;

    /// The state of the link, now and whenever it changes.
    fn link(&self) -> watch::Receiver<Link>;

    /// Reads a partition again from behind a position, as it was delivered then, until the receiver is dropped. The first
    /// that it delivers says by a gap if something behind the position is gone. `age`: how long ago the position was given
    /// to who asks. `None` where nothing is kept, or too many read already.
    fn read_back(
        &self,
        partition: Partition,
        behind: Position,
        age: Duration,
    ) -> BoxFuture<'_, Option<mpsc::Receiver<Delivered>>> {
        let _ = (partition, behind, age);
        Box::pin(std::future::ready(None))
    }

    /// Takes no more messages, and is ready when the outcome of all that were under way is told. What others publish is
    /// still delivered. The caller bounds the wait.
    fn finish_publishing(&self) -> BoxFuture<'_, ()>;

    /// Leaves: nothing is delivered any more. The caller bounds the wait.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    #[error("the broker has taken nothing for so long that the spool is full")]
    SpoolFull,
    #[error("the broker's word did not come in time; it may have been delivered")]
    Unconfirmed,
    #[error("the instance is stopping")]
    Stopping,
    #[error("no backend is bound to hear it")]
    NoBackend,
    #[error("a queue that is bound to hear it takes no more; others may have it")]
    QueueFull,
    #[error("there are no backends: the server runs without RabbitMQ")]
    WithoutBackends,
    #[error("the mailbox is full, or that of a member: others may have it")]
    MailboxFull,
    #[error("the mailbox cannot be reached now")]
    NoMailbox,
    #[error("nobody belongs to the group")]
    NoMembers,
    #[error("the user has no session")]
    NotConnected,
    #[error("the instance is gone")]
    NoInstance,
}

/// Who wants to know what became of a message.
pub trait Settle: Send + Sync {
    fn settled(&self, outcome: Result<(), NotAccepted>);
}

/// The promise to tell a message's sender what became of it. Dropped unsettled, it tells that nobody knows.
pub struct Receipt {
    sender: Option<Arc<dyn Settle>>,
}

impl Receipt {
    pub fn to(sender: Arc<dyn Settle>) -> Receipt {
        Receipt { sender: Some(sender) }
    }

    pub fn settle(mut self, outcome: Result<(), NotAccepted>) {
        if let Some(sender) = self.sender.take() {
            sender.settled(outcome);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.settled(Err(NotAccepted::Unconfirmed));
        }
    }
}

/// The link to the broker: one way to it, one way from it. Shown by `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// `memory` or `rabbitmq`.
    pub kind: &'static str,
    pub publishing: LinkState,
    pub consuming: LinkState,
    /// How often this instance has begun to hear: 0 until it first does.
    pub attachments: u64,
}

impl Link {
    pub fn is_up(&self) -> bool {
        self.publishing == LinkState::Up && self.consuming == LinkState::Up
    }
}

/// One direction of the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LinkState {
    /// Not yet up for the first time.
    Connecting,
    Up,
    /// The broker reads nothing from publishers (`connection.blocked`).
    Blocked {
        reason: String,
    },
    /// It broke, or could not be made; it is tried again.
    Down {
        reason: String,
        /// No retry mends it: somebody must change a configuration, here or in the broker.
        permanent: bool,
    },
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkState::Connecting => f.write_str("connecting"),
            LinkState::Up => f.write_str("up"),
            LinkState::Blocked { reason } => write!(f, "blocked by the broker: {reason}"),
            LinkState::Down { reason, permanent: false } => write!(f, "down: {reason}"),
            LinkState::Down { reason, permanent: true } => write!(f, "down, and no retry mends it: {reason}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What a sender was told, in order.
    #[derive(Default)]
    pub struct Heard(pub Mutex<Vec<Result<(), NotAccepted>>>);

    impl Settle for Heard {
        fn settled(&self, outcome: Result<(), NotAccepted>) {
            self.0.lock().unwrap().push(outcome);
        }
    }

    #[test]
    fn a_receipt_settles_exactly_once() {
        let heard = Arc::new(Heard::default());
        Receipt::to(heard.clone()).settle(Ok(()));
        drop(Receipt::to(heard.clone()));
        assert_eq!(*heard.0.lock().unwrap(), [Ok(()), Err(NotAccepted::Unconfirmed)]);
    }
}
