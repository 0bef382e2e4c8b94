//! What a session listens to and what a message is said to: the broadcast, or topics.

use serde::Serialize;

/// What somebody listens to. The first two can be published to, as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Broadcast,
    /// The topic of this number.
    Topic(usize),
    /// Every topic of the run, by a pattern.
    AllTopics,
    /// Nothing, such as on a connection that subscribes later.
    Nothing,
}

/// Which way a message takes through the cluster: what each is held to may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    Broadcast,
    Topics,
}

impl Route {
    pub const ALL: [Route; 2] = [Route::Broadcast, Route::Topics];

    pub fn name(self) -> &'static str {
        match self {
            Route::Broadcast => "broadcast",
            Route::Topics => "topics",
        }
    }
}

impl Subject {
    /// Whether somebody who listens to this hears what is said to `message`.
    pub fn hears(self, message: Subject) -> bool {
        self == message && self != Subject::Nothing
            || matches!((self, message), (Subject::AllTopics, Subject::Topic(_)))
    }

    pub fn route(self) -> Route {
        if self == Subject::Broadcast { Route::Broadcast } else { Route::Topics }
    }

    /// Where a plain session of it is opened, or one that subscribes later.
    pub fn path(self) -> String {
        self.pattern().map_or_else(|| "/message".to_owned(), |pattern| format!("/message/{pattern}"))
    }

    /// How it is subscribed to.
    pub fn pattern(self) -> Option<String> {
        match self {
            Subject::Topic(number) => Some(format!("chaos.{number}")),
            Subject::AllTopics => Some("chaos.*".to_owned()),
            Subject::Broadcast | Subject::Nothing => None,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pattern() {
            Some(pattern) => f.write_str(&pattern),
            None => f.write_str("the broadcast"),
        }
    }
}

/// What a session does, as long as the run lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Says something to its subject at a steady rate, and hears it.
    Publishes(Subject),
    Listens(Subject),
    /// Subscribes to one of this many topics or leaves one, again and again.
    ComesAndGoes(usize),
}

impl Role {
    /// The role of a session by its number. Sessions are spread over the instances in turn, so that each role comes to every
    /// instance. The first publish, to the broadcast and to topics alternately; the others listen to the broadcast, come and
    /// go, listen to all topics, or to one.
    pub fn of(number: usize, instances: usize, publishers: usize, topics: usize) -> Role {
        let publishes = number < publishers;
        let turn = if publishes { number } else { number - publishers } / instances;
        match (publishes, turn % if publishes { 2 } else { 4 }) {
            (true, 1) if topics > 0 => Role::Publishes(Subject::Topic(turn / 2 % topics)),
            (true, _) => Role::Publishes(Subject::Broadcast),
            (false, 1) if topics > 0 => Role::ComesAndGoes(topics),
            (false, 2) if topics > 0 => Role::Listens(Subject::AllTopics),
            (false, 3) if topics > 0 => Role::Listens(Subject::Topic(turn / 4 % topics)),
            (false, _) => Role::Listens(Subject::Broadcast),
        }
    }

    /// What its connection hears from the beginning.
    pub fn hears(self) -> Subject {
        match self {
            Role::Publishes(subject) | Role::Listens(subject) => subject,
            Role::ComesAndGoes(_) => Subject::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_heard_by_name_and_by_pattern_and_the_broadcast_by_itself() {
        use Subject::{AllTopics, Broadcast, Nothing, Topic};
        let heard_by = |message| [Broadcast, Topic(1), Topic(2), AllTopics, Nothing].map(|own| own.hears(message));
        assert_eq!(heard_by(Broadcast), [true, false, false, false, false]);
        assert_eq!(heard_by(Topic(1)), [false, true, false, true, false]);
    }

    #[test]
    fn there_are_topics_and_a_pattern() {
        let name = |subject: Subject| subject.pattern().expect("a name");
        assert!(crate::topic::Topic::parse(&name(Subject::Topic(17))).is_ok());
        let pattern = crate::topic::Pattern::parse(&name(Subject::AllTopics)).expect("a pattern");
        assert_eq!(pattern.as_topic(), None);
        assert_eq!([Subject::Broadcast, Subject::Topic(3)].map(Subject::path), ["/message", "/message/chaos.3"]);
    }

    #[test]
    fn every_kind_of_session_is_on_every_instance() {
        use Role::{ComesAndGoes, Listens, Publishes};
        let (all, broadcast) = (Subject::AllTopics, Subject::Broadcast);
        let [first, second] = [0, 1].map(Subject::Topic);
        let publishing = [broadcast, first, broadcast, second].map(Publishes);
        let listening = [Listens(broadcast), ComesAndGoes(2), Listens(all), Listens(first), Listens(broadcast)];
        let of_each = [&publishing[..], &listening].concat();
        let roles = |topics| (0..18).map(move |number| Role::of(number, 2, 8, topics));
        assert_eq!(roles(2).step_by(2).collect::<Vec<_>>(), of_each);
        assert_eq!(roles(2).skip(1).step_by(2).collect::<Vec<_>>(), of_each);
        assert!(roles(0).all(|role| role.hears() == broadcast));
    }
}
