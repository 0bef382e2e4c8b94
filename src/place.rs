//! Where messages stand in what a broker keeps of them, so that reading can go on from there.
//!
//! A broker keeps messages in *partitions*: one for the broadcast and a fixed number for the topics, by their keys. Each is
//! one line, and the messages of a partition come in the same order everywhere.

use crate::message::Message;
use crate::topic::{Topic, TopicKey};

/// Into how many partitions topics are divided. The same number everywhere and for ever, as with their keys: what is kept
/// in a partition stays there. More of them would cost the broker more streams, fewer each reader more of what nobody
/// there wants.
pub const TOPIC_PARTITIONS: u8 = 16;

/// One line of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u8);

impl Partition {
    /// The broadcast's, and that of topics whose publisher used its entrance.
    pub const BROADCAST: Partition = Partition(0);

    /// How many there are.
    pub const COUNT: usize = 1 + TOPIC_PARTITIONS as usize;

    /// In which messages of a topic are.
    pub fn of(topic: &Topic) -> Partition {
        Partition::of_key(topic.key())
    }

    /// Keys with the same remainder modulo [`TOPIC_PARTITIONS`] share a partition.
    pub fn of_key(key: TopicKey) -> Partition {
        Partition(1 + (key.index() % usize::from(TOPIC_PARTITIONS)) as u8)
    }

    pub fn all() -> impl Iterator<Item = Partition> {
        (0..=TOPIC_PARTITIONS).map(Partition)
    }

    /// Those of topics.
    pub fn topics() -> impl Iterator<Item = Partition> {
        (1..=TOPIC_PARTITIONS).map(Partition)
    }

    /// From 0, which is the broadcast's, below [`Partition::COUNT`].
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// The keys whose topics are in it; none of the broadcast's.
    pub fn keys(self) -> impl Iterator<Item = TopicKey> {
        TopicKey::all().filter(move |key| Partition::of_key(*key) == self)
    }
}

/// An entry of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Grows from entry to entry.
    pub offset: u64,
    /// Made from what the entry holds: where a partition was deleted and made anew, another entry has its offset.
    pub check: u16,
}

/// Where a delivered message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub partition: Partition,
    pub offset: u64,
    /// Up to here everything of the partition was handed on once this message was. Mostly the message's own position;
    /// an earlier one while others wait for one that is missing.
    pub reached: Option<Position>,
    /// It was there before anybody here could have been promised to hear it.
    pub is_past: bool,
}

/// What was read of a partition, messages or not.
#[derive(Clone, Debug)]
pub struct Reading {
    pub partition: Partition,
    /// Does not go on from what was read before.
    pub begins: bool,
    /// All that was read, in order.
    pub entries: Vec<Position>,
    /// Up to here everything was handed on.
    pub reached: Option<Position>,
}

/// What a broker hands on at once.
#[derive(Clone, Debug, Default)]
pub struct Delivered {
    /// In their order, each with its place where that can be read again.
    pub messages: Vec<(Message, Option<Place>)>,
    /// What was read for them.
    pub readings: Vec<Reading>,
    /// What is missing.
    pub gaps: Vec<Gap>,
}

impl Delivered {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.readings.is_empty() && self.gaps.is_empty()
    }
}

/// Messages stand nowhere that could be read again.
impl From<Vec<Message>> for Delivered {
    fn from(messages: Vec<Message>) -> Delivered {
        let messages = messages.into_iter().map(|message| (message, None)).collect();
        Delivered { messages, ..Delivered::default() }
    }
}

/// Messages that were accepted and will not come, or may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub scope: Scope,
    /// How many, where that is known.
    pub missing: Option<u64>,
}

/// Of what messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Everything,
    Broadcast,
    /// Topics of this key.
    Key(TopicKey),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_partition_of_topics() {
        let mut keys: Vec<_> = Partition::topics().flat_map(Partition::keys).collect();
        keys.sort_unstable();
        assert!(keys.into_iter().eq(TopicKey::all()));
        assert_eq!(Partition::BROADCAST.keys().count(), 0);
        // Key 796, as in the documentation.
        assert_eq!(Partition::of(&Topic::parse("orders.eu.17").unwrap()).index(), 1 + 796 % 16);
        assert!(Partition::all().map(Partition::index).eq(0..Partition::COUNT));
    }
}
