//! Who has come and who has gone, for those who ask: one instance of the cluster tells of users, the first by name of those
//! that know everything. The others remember what they would have told for as long as it may take to notice that it is gone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::instance::InstanceName;
use crate::topic::{Pattern, Topic};
use crate::user::UserName;

/// What is told of users.
pub const USERS: &str = "warren.presence.users";

/// What is told of a topic stands beneath this.
pub const TOPICS: &str = "warren.presence.topics.";

/// How long what another instance tells is remembered: the grace after an outage, and the silence.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// Events that wait, or are remembered. The oldest go first.
const EVENTS_MAX: usize = 10_000;

/// A user has come to the cluster, or gone from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub user: UserName,
    pub joins: bool,
    /// The first, or the last, to hold it.
    pub instance: InstanceName,
    pub time_ms: u64,
    /// When this instance saw it.
    pub seen: Instant,
}

/// An event as it is told.
#[derive(Serialize)]
pub struct Told<'a> {
    pub event: &'static str,
    pub user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<&'a str>,
    pub instance: &'a str,
    pub time: String,
}

impl Told<'_> {
    pub fn name(joins: bool) -> &'static str {
        if joins { "join" } else { "leave" }
    }
}

/// What is new, and what another instance tells.
#[derive(Default)]
pub struct News {
    waiting: VecDeque<Event>,
    remembered: VecDeque<Event>,
}

impl News {
    pub fn push(&mut self, event: Event) {
        push_bounded(&mut self.waiting, event);
    }

    /// What this instance has to tell next.
    pub fn next(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }

    /// It could not be told yet.
    pub fn put_back(&mut self, event: Event) {
        // As old as it is it would be the first to go.
        if self.waiting.len() < EVENTS_MAX {
            self.waiting.push_front(event);
        }
    }

    /// When this instance saw the first of what it has to tell.
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|event| event.seen)
    }

    /// Another instance tells it.
    pub fn remember(&mut self, now: Instant) {
        while let Some(event) = self.waiting.pop_front() {
            push_bounded(&mut self.remembered, event);
        }
        while self.remembered.front().is_some_and(|event| now - event.seen > REMEMBERED_FOR) {
            self.remembered.pop_front();
        }
    }

    /// Who told is gone, and had told what was seen until then: the rest may not be told yet.
    pub fn recall(&mut self, told: Instant) {
        let untold = self.remembered.iter().position(|event| event.seen > told).unwrap_or(self.remembered.len());
        let mut untold = self.remembered.split_off(untold);
        untold.append(&mut self.waiting);
        self.waiting = untold;
    }
}

fn push_bounded(events: &mut VecDeque<Event>, event: Event) {
    if events.len() >= EVENTS_MAX {
        events.pop_front();
    }
    events.push_back(event);
}

/// What instances ask for, by instance.
#[derive(Default)]
pub struct Asked {
    by_instance: BTreeMap<InstanceName, Vec<Pattern>>,
}

impl Asked {
    pub fn set(&mut self, name: InstanceName, patterns: Vec<Pattern>) {
        if patterns.is_empty() {
            self.by_instance.remove(&name);
        } else {
            self.by_instance.insert(name, patterns);
        }
    }

    /// What others asked for who are not there any more counts no longer.
    pub fn retain(&mut self, is_there: impl Fn(&InstanceName) -> bool) {
        self.by_instance.retain(|name, _| is_there(name));
    }

    pub fn is_about(&self, topic: &Topic) -> bool {
        self.by_instance.values().flatten().any(|pattern| pattern.matches(topic))
    }

    /// Whether anything that is asked for may be about topics: nothing that begins otherwise is.
    pub fn may_be_about_topics(&self) -> bool {
        let of_users = |pattern: &Pattern| pattern.as_str() == USERS;
        self.by_instance.values().flatten().any(|pattern| !of_users(pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, seen: Instant) -> Event {
        let instance = InstanceName::parse("a_1").unwrap();
        Event { user: UserName::parse(name).unwrap(), joins: true, instance, time_ms: 0, seen }
    }

    #[test]
    fn what_who_is_gone_may_not_have_told_is_told() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut news = News::default();
        for (name, seconds) in [("a", 0), ("b", 20), ("c", 33)] {
            news.push(event(name, at(seconds)));
            news.remember(at(seconds));
        }
        news.push(event("d", at(34)));
        let names = |news: &mut News| {
            std::iter::from_fn(|| news.next()).map(|event| event.user.to_string()).collect::<Vec<_>>()
        };
        news.recall(at(30));
        assert_eq!(names(&mut news), ["c", "d"]);
        news.recall(began);
        assert_eq!(names(&mut news), ["b"], "what is older than it may take is forgotten");
    }

    #[test]
    fn what_is_asked_for_is_told_apart() {
        let mut asked = Asked::default();
        let name = InstanceName::parse("a_1").unwrap();
        let users = Topic::parse(USERS).unwrap();
        let of_orders = Topic::parse(&format!("{TOPICS}orders")).unwrap();
        let mut ask = |text: &str| {
            let patterns = if text.is_empty() { vec![] } else { vec![Pattern::parse(text).unwrap()] };
            asked.set(name.clone(), patterns);
            (asked.is_about(&users), asked.is_about(&of_orders), asked.may_be_about_topics())
        };
        assert_eq!(ask(USERS), (true, false, false));
        assert_eq!(ask("warren.presence.topics.orders"), (false, true, true));
        assert_eq!(ask("warren.presence.topics.#"), (false, true, true));
        assert_eq!(ask("warren.presence.#"), (true, true, true));
        assert_eq!(ask(""), (false, false, false));
    }
}
