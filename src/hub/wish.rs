//! What someone wants to hear.

use std::collections::HashSet;

use crate::message::Target;
use crate::place::Partition;
use crate::topic::{Pattern, Topic};

/// The broadcast, topics, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    pub broadcast: bool,
    /// By name.
    topics: HashSet<Topic>,
    /// With wildcards.
    patterns: Vec<Pattern>,
}

impl Wish {
    pub fn new(broadcast: bool, patterns: &[Pattern]) -> Wish {
        let (mut topics, mut others) = (HashSet::new(), Vec::new());
        for pattern in patterns {
            match pattern.as_topic() {
                Some(topic) => drop(topics.insert(topic)),
                None => others.push(pattern.clone()),
            }
        }
        Wish { broadcast, topics, patterns: others }
    }

    pub fn includes(&self, target: &Target) -> bool {
        match target {
            Target::Broadcast => self.broadcast,
            Target::Topic(topic) => {
                self.topics.contains(topic) || self.patterns.iter().any(|pattern| pattern.matches(topic))
            }
            Target::Instance(_) | Target::Session(_) | Target::Backends(_) => false,
        }
    }

    /// Where it may be. What programs publish to a topic by the broadcast's entrance is with the broadcast.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        Partition::all().filter(|partition| {
            *partition == Partition::BROADCAST
                || !self.patterns.is_empty()
                || self.topics.iter().any(|topic| Partition::of(topic) == *partition)
        })
    }
}
