//! What someone wants to hear.

use std::collections::HashSet;

use crate::message::Target;
use crate::place::Partition;
use crate::topic::{Pattern, Topic};

/// The broadcast, topics, or both.
#[derive(Clone, Debug)]
pub struct Wish {
    pub broadcast: bool,
    /// By name.
    topics: HashSet<Topic>,
    /// With wildcards.
    patterns: Vec<Pattern>,
    /// By partition, whether something of it may be there.
    partitions: [bool; Partition::COUNT],
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
        // What programs publish to a topic by the broadcast's entrance is with the broadcast.
        let mut partitions = [!others.is_empty(); Partition::COUNT];
        partitions[Partition::BROADCAST.index()] = true;
        topics.iter().for_each(|topic| partitions[Partition::of(topic).index()] = true);
        Wish { broadcast, topics, patterns: others, partitions }
    }

    pub fn includes(&self, target: &Target) -> bool {
        match target {
            Target::Broadcast => self.broadcast,
            Target::Topic(topic) => {
                self.topics.contains(topic) || self.patterns.iter().any(|pattern| pattern.matches(topic))
            }
            _ => false,
        }
    }

    /// Where it may be.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        let partitions = self.partitions;
        Partition::all().filter(move |partition| partitions[partition.index()])
    }
}
