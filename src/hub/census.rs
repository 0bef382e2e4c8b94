//! Counting who subscribes to what, when somebody asks: nothing is kept for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::topic::Topic;

/// Names in one answer. Each worker gives so many, and so does each instance.
pub const NAMES_MAX: usize = 200;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Who hears this topic; else, which topics somebody subscribes to by name.
    pub topic: Option<String>,
    /// Names behind this one,
    pub after: Option<String>,
    /// and so many of them.
    pub limit: usize,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Sessions that hear the topic; or topics that are subscribed to by name.
    pub total: usize,
    /// The first users among them, or topics, each with how many sessions it has.
    pub names: BTreeMap<String, usize>,
}

impl Question {
    /// The topic that is meant; an error if that is none.
    pub fn topic(&self) -> Option<Result<Topic, crate::topic::InvalidTopic>> {
        self.topic.as_deref().map(Topic::parse)
    }

    /// Whether somebody may be asked this.
    pub fn is_valid(&self) -> bool {
        self.limit <= NAMES_MAX && self.topic().is_none_or(|topic| topic.is_ok())
    }

    /// Counts what is behind `after`, and keeps the first names.
    pub fn count<'a>(&self, counted: &mut Counted, names: impl Iterator<Item = (&'a str, usize)>) {
        for (name, sessions) in names {
            if self.after.as_deref().is_some_and(|after| name <= after) {
                continue;
            }
            if let Some(before) = counted.names.get_mut(name) {
                *before = before.saturating_add(sessions);
                continue;
            }
            let is_full = counted.names.len() >= self.limit;
            let is_behind = counted.names.last_key_value().is_none_or(|(last, _)| *last.as_str() < *name);
            if is_full && is_behind {
                continue;
            }
            counted.names.insert(name.to_owned(), sessions);
            if is_full {
                counted.names.pop_last();
            }
        }
    }

    /// Adds what somebody else has counted. The first names of all are the first of each.
    pub fn add(&self, counted: &mut Counted, other: &Counted) {
        // Others may say anything.
        counted.total = counted.total.saturating_add(other.total);
        self.count(counted, other.names.iter().map(|(name, sessions)| (name.as_str(), *sessions)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_names_are_counted_wherever_they_stand(
            parts in prop::collection::vec(prop::collection::vec(("[a-f]{1,2}", 1..4_usize), 0..10), 0..4),
            after in prop::option::of("[a-f]"),
            limit in 0..6_usize,
        ) {
            let question = Question { topic: None, after: after.clone(), limit };
            let mut counted = Counted::default();
            for part in &parts {
                let mut of_part = Counted::default();
                question.count(&mut of_part, part.iter().map(|(name, sessions)| (name.as_str(), *sessions)));
                question.add(&mut counted, &of_part);
            }
            let mut expected = BTreeMap::new();
            for (name, sessions) in parts.into_iter().flatten().filter(|(name, _)| Some(name) > after.as_ref()) {
                *expected.entry(name).or_insert(0) += sessions;
            }
            let expected: BTreeMap<_, _> = expected.into_iter().take(limit).collect();
            prop_assert_eq!(counted.names, expected);
        }
    }
}
