//! Who subscribes to what, within one worker: names in a table, patterns in a trie.
//!
//! Looking a topic up walks the trie word by word with the set of nodes that can be meant (as an automaton that is in
//! several states at once), so that no pattern makes it take longer than words times nodes: there is nothing to try twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::topic::{Pattern, Topic, Word};

/// A subscriber's number within its worker.
pub type Subscriber = u32;

#[derive(Debug, Default)]
pub struct Subscriptions {
    names: HashMap<Topic, Vec<Subscriber>>,
    patterns: Trie,
}

impl Subscriptions {
    /// Adds a subscription that is not there yet. The answer is the pattern to remember: where others subscribe to the
    /// same name, all share it.
    pub fn add(&mut self, pattern: &Pattern, subscriber: Subscriber) -> Pattern {
        let Some(topic) = pattern.as_topic() else {
            self.patterns.add(pattern, subscriber);
            return pattern.clone();
        };
        let entry = self.names.entry(topic);
        let shared = Pattern::from(entry.key().clone());
        match entry {
            Entry::Occupied(mut subscribers) => subscribers.get_mut().push(subscriber),
            Entry::Vacant(vacant) => _ = vacant.insert(vec![subscriber]),
        }
        shared
    }

    /// Takes a subscription back, if it is there.
    pub fn remove(&mut self, pattern: &Pattern, subscriber: Subscriber) {
        let Some(topic) = pattern.as_topic() else { return self.patterns.remove(pattern, subscriber) };
        let Entry::Occupied(mut subscribers) = self.names.entry(topic) else { return };
        forget(subscribers.get_mut(), subscriber);
        if subscribers.get().is_empty() {
            subscribers.remove();
        }
    }

    /// The topics that are subscribed to by name, with how many do.
    pub fn names(&self) -> impl Iterator<Item = (&str, usize)> {
        self.names.iter().map(|(topic, subscribers)| (topic.as_str(), subscribers.len()))
    }

    /// Who hears a message of this topic: each once, however many of its subscriptions match.
    pub fn of(&mut self, topic: &Topic, subscribers: &mut Vec<Subscriber>) {
        subscribers.clear();
        let named = self.names.get(topic).map_or(&[][..], Vec::as_slice);
        subscribers.extend_from_slice(named);
        self.patterns.collect(topic, subscribers);
        if subscribers.len() > named.len() {
            subscribers.sort_unstable();
            subscribers.dedup();
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.patterns.is_empty()
    }
}

type NodeIndex = usize;

const ROOT: NodeIndex = 0;

/// Patterns by their words.
#[derive(Debug)]
struct Trie {
    nodes: Vec<Node>,
    /// Nodes that nobody needs any more.
    free: Vec<NodeIndex>,
    /// For walks: the nodes that can be meant, before and after a word, and in which walk each was last added.
    states: [Vec<NodeIndex>; 2],
    marks: Vec<u64>,
    walk: u64,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, NodeIndex>,
    any: Option<NodeIndex>,
    any_number: Option<NodeIndex>,
    /// It stands behind a `#`, so that further words do not leave it.
    stays: bool,
    subscribers: Vec<Subscriber>,
}

impl Node {
    fn child(&self, word: Word<'_>) -> Option<NodeIndex> {
        match word {
            Word::Literal(literal) => self.literals.get(literal).copied(),
            Word::Any => self.any,
            Word::AnyNumber => self.any_number,
        }
    }

    fn set_child(&mut self, word: Word<'_>, child: Option<NodeIndex>) {
        match (word, child) {
            (Word::Literal(literal), Some(child)) => drop(self.literals.insert(literal.into(), child)),
            (Word::Literal(literal), None) => drop(self.literals.remove(literal)),
            (Word::Any, child) => self.any = child,
            (Word::AnyNumber, child) => self.any_number = child,
        }
    }

    fn is_unused(&self) -> bool {
        self.subscribers.is_empty() && self.literals.is_empty() && self.any.is_none() && self.any_number.is_none()
    }
}

impl Default for Trie {
    fn default() -> Trie {
        Trie { nodes: vec![Node::default()], free: Vec::new(), states: Default::default(), marks: vec![0], walk: 0 }
    }
}

impl Trie {
    fn is_empty(&self) -> bool {
        self.nodes[ROOT].is_unused()
    }

    fn add(&mut self, pattern: &Pattern, subscriber: Subscriber) {
        let mut at = ROOT;
        for word in pattern.words() {
            at = match self.nodes[at].child(word) {
                Some(child) => child,
                None => {
                    let child = self.new_node(word == Word::AnyNumber);
                    self.nodes[at].set_child(word, Some(child));
                    child
                }
            };
        }
        self.nodes[at].subscribers.push(subscriber);
    }

    fn new_node(&mut self, stays: bool) -> NodeIndex {
        let node = Node { stays, ..Node::default() };
        match self.free.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.marks.push(0);
                self.nodes.len() - 1
            }
        }
    }

    fn remove(&mut self, pattern: &Pattern, subscriber: Subscriber) {
        let mut way = vec![ROOT];
        for word in pattern.words() {
            let Some(child) = self.nodes[way[way.len() - 1]].child(word) else { return };
            way.push(child);
        }
        forget(&mut self.nodes[way[way.len() - 1]].subscribers, subscriber);
        let words: Vec<Word<'_>> = pattern.words().collect();
        for (depth, word) in words.iter().enumerate().rev() {
            let (parent, child) = (way[depth], way[depth + 1]);
            if !self.nodes[child].is_unused() {
                return;
            }
            self.nodes[parent].set_child(*word, None);
            self.nodes[child] = Node::default();
            self.free.push(child);
        }
    }

    /// Adds the subscribers of all patterns that match, some perhaps more than once.
    fn collect(&mut self, topic: &Topic, subscribers: &mut Vec<Subscriber>) {
        if self.is_empty() {
            return;
        }
        let [mut before, mut after] = std::mem::take(&mut self.states);
        self.begin_walk(&mut before);
        let mut words = topic.words();
        if topic.is_reserved() {
            // No wildcard stands for its first word.
            let first = words.next().and_then(|first| self.nodes[ROOT].literals.get(first).copied());
            first.into_iter().for_each(|first| self.enter(first, &mut before));
        } else {
            self.enter(ROOT, &mut before);
        }
        for word in words {
            self.begin_walk(&mut after);
            for &state in &before {
                let node = &self.nodes[state];
                let (stays, literal, any) = (node.stays, node.literals.get(word).copied(), node.any);
                for next in [stays.then_some(state), literal, any].into_iter().flatten() {
                    self.enter(next, &mut after);
                }
            }
            std::mem::swap(&mut before, &mut after);
        }
        for &state in &before {
            subscribers.extend_from_slice(&self.nodes[state].subscribers);
        }
        self.states = [before, after];
    }

    fn begin_walk(&mut self, states: &mut Vec<NodeIndex>) {
        states.clear();
        self.walk += 1;
    }

    /// Adds a node once, and with it what stands behind a `#` after it, since that matches no word, too.
    fn enter(&mut self, state: NodeIndex, states: &mut Vec<NodeIndex>) {
        let mut next = Some(state);
        while let Some(state) = next {
            if self.marks[state] == self.walk {
                return;
            }
            self.marks[state] = self.walk;
            states.push(state);
            next = self.nodes[state].any_number;
        }
    }
}

fn forget(subscribers: &mut Vec<Subscriber>, subscriber: Subscriber) {
    if let Some(index) = subscribers.iter().position(|one| *one == subscriber) {
        subscribers.swap_remove(index);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn who(subscriptions: &mut Subscriptions, topic: &str) -> Vec<Subscriber> {
        let mut found = Vec::new();
        subscriptions.of(&Topic::parse(topic).unwrap(), &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn wildcards_match_as_in_rabbitmq() {
        for (text, matched, not_matched) in [
            ("a.b", &["a.b"][..], &["a", "a.b.c", "b.a"][..]),
            ("a.*", &["a.b", "a.c"], &["a", "a.b.c", "b.a"]),
            ("*", &["a"], &["a.b"]),
            ("#", &["a", "a.b", "a.b.c"], &[]),
            ("a.#", &["a", "a.b", "a.b.c"], &["b", "b.a"]),
            ("#.a", &["a", "b.a", "c.b.a", "a.a"], &["b", "a.b"]),
            ("a.#.b", &["a.b", "a.x.b", "a.x.y.b", "a.b.b"], &["a", "b", "a.b.c"]),
            ("*.#", &["a", "a.b"], &[]),
            ("#.*", &["a", "a.b"], &[]),
            ("#.a.#", &["a", "b.a", "a.b", "b.a.c"], &["b", "b.c"]),
            ("#.#", &["a", "a.b"], &[]),
            ("*.*", &["a.b"], &["a", "a.b.c"]),
        ] {
            let mut subscriptions = Subscriptions::default();
            subscriptions.add(&pattern(text), 7);
            for topic in matched {
                assert_eq!(who(&mut subscriptions, topic), [7], "{text} matches {topic}");
            }
            for topic in not_matched {
                assert!(who(&mut subscriptions, topic).is_empty(), "{text} does not match {topic}");
            }
            subscriptions.remove(&pattern(text), 7);
            assert!(subscriptions.is_empty(), "{text}");
        }
    }

    #[test]
    fn who_matches_twice_hears_once() {
        let mut subscriptions = Subscriptions::default();
        for text in ["a.b", "a.*", "#", "#.b"] {
            subscriptions.add(&pattern(text), 1);
        }
        subscriptions.add(&pattern("a.*"), 2);
        assert_eq!(who(&mut subscriptions, "a.b"), [1, 2]);
        subscriptions.remove(&pattern("a.*"), 1);
        assert_eq!(who(&mut subscriptions, "a.c"), [1, 2]);
        subscriptions.remove(&pattern("a.x"), 1);
        subscriptions.remove(&pattern("#"), 1);
        assert_eq!(who(&mut subscriptions, "a.c"), [2]);
    }

    /// Ten lines that are plainly right.
    fn matches(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => matches(rest, topic),
            (Some((&"#", rest)), Some((_, later))) => matches(rest, topic) || matches(pattern, later),
            (Some((&"*", rest)), Some((_, later))) => matches(rest, later),
            (Some((word, rest)), Some((said, later))) => word == said && matches(rest, later),
            _ => false,
        }
    }

    fn pattern_words() -> impl Strategy<Value = Vec<&'static str>> {
        let any_number = |words: &Vec<&str>| words.iter().filter(|word| **word == "#").count();
        words(&["a", "b", "*", "#"]).prop_filter("a pattern has # twice at most", move |words| any_number(words) <= 2)
    }

    fn words(from: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
        vec(select(from), 1..6)
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_the_right_ones_hear(
            changes in vec((any::<bool>(), pattern_words(), 0..4u32), 1..40),
            topics in vec(words(&["a", "b", "c"]), 1..6),
        ) {
            let mut subscriptions = Subscriptions::default();
            let mut model: Vec<(Vec<&str>, Subscriber)> = Vec::new();
            for (adds, words, subscriber) in changes {
                let pattern = pattern(&words.join("."));
                let known = model.iter().position(|one| *one == (words.clone(), subscriber));
                match known {
                    None if adds => {
                        subscriptions.add(&pattern, subscriber);
                        model.push((words, subscriber));
                    }
                    Some(index) if !adds => {
                        subscriptions.remove(&pattern, subscriber);
                        model.swap_remove(index);
                    }
                    // Taking back what is not there changes nothing.
                    None => subscriptions.remove(&pattern, subscriber),
                    Some(_) => {}
                }
            }
            for topic in topics {
                let mut expected: Vec<Subscriber> =
                    model.iter().filter(|(words, _)| matches(words, &topic)).map(|(_, subscriber)| *subscriber).collect();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(who(&mut subscriptions, &topic.join(".")), expected);
            }
            prop_assert_eq!(subscriptions.is_empty(), model.is_empty());
        }
    }
}
