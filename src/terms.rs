//! What a publisher may ask of whoever receives its message: to take repetitions of it for one, and not to take it late.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::message::Target;
use crate::user::{GroupName, UserName};

/// Bytes of an idempotency key: room for any identifier, and it fits an AMQP short string.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 200;

/// Bytes of what a message says to be about.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// A message's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Messages to one target with the same key are one, however often and wherever it is published.
    pub idempotency_key: Option<IdempotencyKey>,
    /// After this it is of no use to anybody, in milliseconds of Unix time.
    pub expires_ms: Option<u64>,
    /// The user who says it.
    pub from: Option<UserName>,
    /// The group to which it was said.
    pub group: Option<GroupName>,
    /// What it is about, by which a user may ask for it ([`crate::broker::Mailboxes::take`]).
    pub subject: Option<Box<str>>,
}

/// A publisher's own name for a message: 1 to 200 visible characters of ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// A text that is no idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters of ASCII")]
pub struct InvalidIdempotencyKey;

/// Stands for a target and a key: 128 bits of SHA-256, so that nobody finds a second pair with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Terms {
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms < now_ms)
    }

    /// What stands for all repetitions of the message; `None` if it has none.
    pub fn fingerprint(&self, target: &Target) -> Option<Fingerprint> {
        self.idempotency_key.as_ref().map(|key| key.of(self.from.as_ref(), target))
    }
}

impl IdempotencyKey {
    pub fn parse(text: &str) -> Result<IdempotencyKey, InvalidIdempotencyKey> {
        let is_key =
            (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        is_key.then(|| IdempotencyKey(text.into())).ok_or(InvalidIdempotencyKey)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn for_target(&self, target: &Target) -> Fingerprint {
        self.of(None, target)
    }

    /// The same of a message that a user says: each has keys of their own.
    fn of(&self, from: Option<&UserName>, target: &Target) -> Fingerprint {
        let (kind, name) = match target {
            Target::Broadcast => ("broadcast", ""),
            Target::Topic(topic) => ("topic", topic.as_str()),
            Target::Instance(name) => ("instance", name.as_str()),
            Target::Session(name) => ("session", name.as_str()),
            Target::Backends(inbound) => ("backends", inbound.destination.routing_key()),
            Target::User(user) | Target::Unread(user) | Target::UserAt(_, user) => ("user", user.as_str()),
            Target::Group(group) => ("group", group.as_str()),
            Target::Peers => ("peers", ""),
            Target::Peer(name) => ("peer", name.as_str()),
        };
        // None of the parts can have a line feed.
        let from = from.map_or_else(String::new, |from| format!("\n{from}"));
        let digest = Sha256::digest(format!("{kind}\n{name}\n{}{from}", self.as_str()));
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Fingerprint(half)
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;

    #[test]
    fn a_key_is_short_and_visible() {
        for text in ["1", "8e03978e-40d5-43dd-bc93-6894a57f9324", &"x".repeat(200)] {
            assert_eq!(IdempotencyKey::parse(text).map(|key| key.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "a b", "a\n", "ä", &"x".repeat(201)] {
            assert_eq!(IdempotencyKey::parse(text), Err(InvalidIdempotencyKey), "{text:?}");
        }
    }

    #[test]
    fn a_key_counts_for_its_target() {
        let key = |text| IdempotencyKey::parse(text).unwrap();
        let topic = |name| Target::Topic(Topic::parse(name).unwrap());
        let one = key("1").for_target(&topic("a"));
        assert_eq!(one, key("1").for_target(&topic("/a")));
        for other in [key("2").for_target(&topic("a")), key("1").for_target(&topic("b"))] {
            assert_ne!(one, other);
        }
        assert_ne!(key("1").for_target(&Target::Broadcast), one);
        let said_by = |user: Option<&str>| {
            let from = user.map(|user| UserName::parse(user).unwrap());
            Terms { idempotency_key: Some(key("1")), from, ..Terms::default() }.fingerprint(&topic("a")).unwrap()
        };
        assert!(
            said_by(None) == one && said_by(Some("alice")) != one && said_by(Some("alice")) != said_by(Some("bob"))
        );
        assert_eq!(one.to_string().len(), 32);
    }

    #[test]
    fn what_has_a_time_to_live_expires_behind_it() {
        let terms = Terms { expires_ms: Some(10), ..Terms::default() };
        assert!(!terms.is_expired(10) && terms.is_expired(11) && !Terms::default().is_expired(u64::MAX));
    }
}
