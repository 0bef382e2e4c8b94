//! Names of topics. A topic is what an AMQP program writes into the routing key; the empty key is the broadcast.

use std::fmt;

/// A topic's name: 1 to 255 bytes, the length of an AMQP routing key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic(Box<str>);

impl Topic {
    /// `None` for the empty name, which means the broadcast, and for one that no routing key can carry.
    pub fn from_routing_key(key: &str) -> Option<Topic> {
        (1..=255).contains(&key.len()).then(|| Topic(key.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
