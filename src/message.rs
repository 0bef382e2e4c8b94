//! What travels: one payload, where it goes, and by which id it is known. Immutable once made; no I/O.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::inbound::{Inbound, SessionName};
use crate::instance::{Incarnation, InstanceName};
use crate::terms::{Fingerprint, Terms};
use crate::topic::Topic;
use crate::user::{GroupName, UserName};

/// Whether a payload is text or binary: the two kinds of a WebSocket data message (RFC 6455 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Every session on `/message`, on every instance.
    Broadcast,
    /// Whoever listens to the topic, on every instance.
    Topic(Topic),
    /// Every session on `/message` of one instance.
    Instance(InstanceName),
    /// One session of this instance, if it is still there.
    Session(SessionName),
    /// One member of each group of backends that wants what comes to the destination.
    Backends(Arc<Inbound>),
    /// The user's mailbox: kept until somebody has acknowledged it.
    User(UserName),
    /// What the user missed and is to ask for: kept until then.
    Unread(UserName),
    /// The mailbox of everyone in the group.
    Group(GroupName),
    /// The sessions that a user has on one instance. Kept nowhere.
    UserAt(InstanceName, UserName),
    /// Every instance itself, and none of its sessions.
    Peers,
    /// One instance itself.
    Peer(InstanceName),
}

impl Target {
    /// Whether instances speak to each other: no client said it, and none hears it.
    pub fn is_between_instances(&self) -> bool {
        matches!(self, Target::Peers | Target::Peer(_))
    }
}

/// A message's identity, given by its publisher and kept by every copy of it. At most 255 bytes (an AMQP short string).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(Box<str>);

impl MessageId {
    /// Takes an id that somebody else gave; `None` if it is longer than an AMQP short string can be.
    pub fn from_publisher(id: &str) -> Option<MessageId> {
        (id.len() <= 255).then(|| MessageId(id.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for every repetition, by whichever instance it comes.
    pub fn of_repeatable(message: Fingerprint) -> MessageId {
        MessageId(format!("key-{message}").into())
    }

    /// Of a message to which nobody gave one: the same whenever it comes again.
    pub fn of_content(published_ms: u64, payload: &[u8]) -> MessageId {
        let digest = Sha256::new().chain_update(published_ms.to_be_bytes()).chain_update(payload).finalize();
        let half: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        MessageId(format!("content-{half}").into())
    }

    /// When `incarnation` gave it; `None` if somebody else did.
    pub fn given_at(&self, incarnation: &Incarnation) -> Option<Instant> {
        let own = self.0.strip_prefix(incarnation.as_str())?.strip_prefix('-')?;
        let (_, micros) = own.split_once('-')?;
        let since_began = Duration::from_micros(u64::from_str_radix(micros, 16).ok()?);
        incarnation.began().checked_add(since_began)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives ids that no other incarnation of any instance gives: the incarnation, a count, and the microseconds since the
/// incarnation began, hexadecimal. By these an instance knows, when its own message comes back, how long it was on its
/// way; nobody else's clock has a part in it, and nothing has to be remembered. Clones count together.
#[derive(Clone, Debug)]
pub struct MessageIds {
    incarnation: Incarnation,
    given: Arc<AtomicU64>,
}

impl MessageIds {
    pub fn new(incarnation: Incarnation) -> MessageIds {
        MessageIds { incarnation, given: Arc::default() }
    }

    pub fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    pub fn next(&self) -> MessageId {
        let count = self.given.fetch_add(1, Ordering::Relaxed) + 1;
        let since_began = self.incarnation.began().elapsed();
        MessageId(format!("{}-{count}-{:x}", self.incarnation, since_began.as_micros()).into())
    }
}

/// Now, in milliseconds of Unix time; 0 on a clock before 1970.
pub fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// One message. A clone shares the payload.
#[derive(Clone, Debug)]
pub struct Message {
    /// `None` when a foreign publisher gave none.
    pub id: Option<MessageId>,
    pub target: Target,
    pub kind: PayloadKind,
    /// When it was published, in milliseconds of Unix time; AMQP carries whole seconds of it.
    pub published_ms: u64,
    /// What its publisher asks of whoever receives it; mostly nothing.
    pub terms: Option<Arc<Terms>>,
    /// Byte for byte what the sender sent; valid UTF-8 where `kind` is text.
    pub payload: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation() -> Incarnation {
        Incarnation::begin(InstanceName::parse("10.0.0.5_8080").unwrap())
    }

    #[test]
    fn an_own_id_tells_when_it_was_given() {
        let own = incarnation();
        let before = Instant::now();
        let id = MessageIds::new(own.clone()).next();
        let given = id.given_at(&own).expect("an own id");
        // The id has whole microseconds.
        assert!(before - Duration::from_micros(1) <= given && given <= Instant::now());
    }

    #[test]
    fn what_somebody_else_gave_tells_nothing() {
        let own = incarnation();
        std::thread::sleep(Duration::from_micros(10));
        let other = MessageIds::new(incarnation()).next();
        let strange = ["", "-", "-1", "-1-", "-1-x", "-1-fffffffffffffffff", "1-1"].map(|end| format!("{own}{end}"));
        let strange = strange.iter().map(|text| MessageId::from_publisher(text).unwrap());
        for id in strange.chain([other]) {
            assert_eq!(id.given_at(&own), None, "{id}");
        }
    }
}
