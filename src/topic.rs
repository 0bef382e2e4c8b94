//! Names of topics, and the patterns by which clients subscribe to them.
//!
//! A name is words between separators. Dots and slashes both separate, so that `orders.eu.17` and `/orders/eu/17` are one
//! topic: inside there are only dots, as AMQP programs write them into routing keys. One slash in front says nothing.
//! There are at most [`TOPIC_WORDS_MAX`] words. A word has at least one character; none of its characters is a separator, white space, a control character, `*` or
//! `#`. Upper and lower case differ, and so do different encodings of what looks the same (no Unicode normalisation).
//!
//! Topics are spread over a fixed number of keys, by which a broker carries a message only to those instances that have
//! subscribers for its key. The same number everywhere and for ever: programs outside compute keys, too.
//!
//! A pattern may have `*` for exactly one word and `#` for any number of words, none included, as in RabbitMQ's topic
//! exchanges. The broadcast is no topic: it has no name, and no pattern matches it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Bytes of a name, which is what a routing key of AMQP can carry.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Words of a name or a pattern: what looking up a topic costs grows with them, times those of all patterns.
pub const TOPIC_WORDS_MAX: usize = 16;

/// `#` in one pattern.
const ANY_NUMBER_MAX: usize = 2;

/// How many keys there are. An instance with one subscription is handed one topic in a thousand that nobody there wants;
/// more keys would be more bindings in the broker for who subscribes to everything.
pub const TOPIC_KEYS: u16 = 1024;

/// The key of a topic: the CRC-32 (ISO 3309, as in zlib) of its name in its one form, modulo [`TOPIC_KEYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicKey(u16);

/// A topic's name in its one form. A clone shares it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// Which topics somebody subscribes to: one by its name, or all that wildcards match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

/// Why a text names no topic, or is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    #[error("a topic must have a name")]
    Empty,
    #[error("a topic has at most {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    #[error("a word between two separators is missing")]
    EmptyWord,
    #[error("a topic cannot have the character {0:?}")]
    Character(char),
    #[error("a topic has at most {TOPIC_WORDS_MAX} words")]
    TooManyWords,
    #[error("a pattern has at most {ANY_NUMBER_MAX} wildcards # for any number of words")]
    TooManyWildcards,
    #[error("only subscriptions can have wildcards")]
    Wildcard,
    #[error("a wildcard must be a word by itself")]
    WildcardInWord,
    #[error("what begins with the word {OWN} is said by Warren alone")]
    Reserved,
}

/// The first word of topics of which only Warren itself speaks.
const OWN: &str = "warren";

/// Exactly one word.
const ANY_WORD: &str = "*";

/// Any number of words.
const ANY_WORDS: &str = "#";

impl TopicKey {
    /// Reads a key as it stands in a routing key: decimal, without leading zeros.
    pub fn parse(text: &str) -> Option<TopicKey> {
        let key = TopicKey(text.parse().ok()?);
        (key.0 < TOPIC_KEYS && key.to_string() == text).then_some(key)
    }

    pub fn all() -> impl Iterator<Item = TopicKey> {
        (0..TOPIC_KEYS).map(TopicKey)
    }

    /// From 0, below [`TOPIC_KEYS`].
    pub fn index(self) -> usize {
        self.0.into()
    }
}

impl fmt::Display for TopicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Topic {
    /// Reads a name in any of its forms.
    pub fn parse(text: &str) -> Result<Topic, InvalidTopic> {
        let pattern = Pattern::parse(text)?;
        pattern.as_topic().ok_or(InvalidTopic::Wildcard)
    }

    /// The same of a topic that somebody wants to publish to.
    pub fn parse_to_publish(text: &str) -> Result<Topic, InvalidTopic> {
        let topic = Topic::parse(text)?;
        if topic.is_reserved() { Err(InvalidTopic::Reserved) } else { Ok(topic) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether only Warren itself speaks of it.
    pub fn is_reserved(&self) -> bool {
        self.words().next() == Some(OWN)
    }

    pub fn key(&self) -> TopicKey {
        TopicKey((crc32fast::hash(self.0.as_bytes()) % u32::from(TOPIC_KEYS)) as u16)
    }
}

impl Pattern {
    /// Reads a name or a pattern in any of its forms.
    pub fn parse(text: &str) -> Result<Pattern, InvalidTopic> {
        let text = text.strip_prefix('/').unwrap_or(text);
        if text.is_empty() {
            return Err(InvalidTopic::Empty);
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(InvalidTopic::TooLong);
        }
        text.split(SEPARATORS).try_for_each(check_word)?;
        if text.split(SEPARATORS).count() > TOPIC_WORDS_MAX {
            return Err(InvalidTopic::TooManyWords);
        }
        if text.split(SEPARATORS).filter(|word| *word == ANY_WORDS).count() > ANY_NUMBER_MAX {
            return Err(InvalidTopic::TooManyWildcards);
        }
        Ok(Pattern(if text.contains('/') { text.replace('/', ".").into() } else { text.into() }))
    }

    /// The one topic that it names, if it has no wildcard.
    pub fn as_topic(&self) -> Option<Topic> {
        self.words().all(|word| matches!(word, Word::Literal(_))).then(|| Topic(self.0.clone()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the topic is one of those that are meant.
    pub fn matches(&self, topic: &Topic) -> bool {
        if topic.is_reserved() && !self.is_reserved() {
            return false;
        }
        let pattern: Vec<Word<'_>> = self.words().collect();
        let words: Vec<&str> = topic.words().collect();
        are_matched(&pattern, &words)
    }

    /// Whether every topic that `inner` matches is matched by this one, too. "No" where that is not seen to be so: of
    /// patterns with several `#` some "no" could be a "yes".
    pub fn contains(&self, inner: &Pattern) -> bool {
        self.is_reserved() == inner.is_reserved() && are_contained(&in_order(self), &in_order(inner))
    }

    /// Whether it matches topics that the server alone speaks on. A wildcard as the first word does not.
    pub fn is_reserved(&self) -> bool {
        matches!(self.words().next(), Some(Word::Literal(first)) if first == OWN)
    }

    /// Its words, wildcards among them.
    pub fn words(&self) -> impl Iterator<Item = Word<'_>> {
        self.0.split('.').map(|word| match word {
            ANY_WORD => Word::Any,
            ANY_WORDS => Word::AnyNumber,
            literal => Word::Literal(literal),
        })
    }
}

/// A word of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    Literal(&'a str),
    /// Exactly one word, whatever it is.
    Any,
    /// Any number of words.
    AnyNumber,
}

fn are_matched(pattern: &[Word<'_>], words: &[&str]) -> bool {
    match (pattern.split_first(), words.split_first()) {
        (None, words) => words.is_none(),
        (Some((Word::AnyNumber, rest)), word) => {
            are_matched(rest, words) || word.is_some_and(|(_, words)| are_matched(pattern, words))
        }
        (Some((Word::Any, rest)), Some((_, words))) => are_matched(rest, words),
        (Some((Word::Literal(literal), rest)), Some((word, words))) => literal == word && are_matched(rest, words),
        (Some(_), None) => false,
    }
}

/// The words with each run of wildcards in one form: first those for one word, then at most one for any number. What
/// matches is the same. A `#` alone is `*.#`, since a topic has at least one word.
fn in_order(pattern: &Pattern) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut any_number = false;
    for word in pattern.words() {
        match word {
            Word::AnyNumber => any_number = true,
            Word::Any => words.push(word),
            Word::Literal(_) => {
                words.extend(std::mem::take(&mut any_number).then_some(Word::AnyNumber));
                words.push(word);
            }
        }
    }
    if any_number && words.is_empty() {
        words.push(Word::Any);
    }
    words.extend(any_number.then_some(Word::AnyNumber));
    words
}

/// By what is contained of their ends: in time that grows with the product of their words, whatever they are.
fn are_contained(outer: &[Word<'_>], inner: &[Word<'_>]) -> bool {
    // Whether the rest of `outer` contains the rest of `inner` from each of its words on, and behind the last.
    let mut behind: Vec<bool> = (0..=inner.len()).map(|at| at == inner.len()).collect();
    for word in outer.iter().rev() {
        let mut here = vec![false; behind.len()];
        for at in (0..=inner.len()).rev() {
            here[at] = match (word, inner.get(at)) {
                // It stands for no word, or also for what the next one stands for.
                (Word::AnyNumber, next) => behind[at] || (next.is_some() && here[at + 1]),
                // Which stands for no word, or for one and then for any number.
                (Word::Any, Some(Word::AnyNumber)) => here[at + 1] && behind[at],
                (Word::Any, Some(Word::Any | Word::Literal(_))) => behind[at + 1],
                (Word::Literal(one), Some(Word::Literal(other))) => one == other && behind[at + 1],
                (Word::Any | Word::Literal(_), _) => false,
            };
        }
        behind = here;
    }
    behind[0]
}

const SEPARATORS: [char; 2] = ['.', '/'];

fn check_word(word: &str) -> Result<(), InvalidTopic> {
    if word.is_empty() {
        return Err(InvalidTopic::EmptyWord);
    }
    if word == ANY_WORD || word == ANY_WORDS {
        return Ok(());
    }
    match word.chars().find(|character| is_forbidden(*character)) {
        Some('*' | '#') => Err(InvalidTopic::WildcardInWord),
        Some(character) => Err(InvalidTopic::Character(character)),
        None => Ok(()),
    }
}

fn is_forbidden(character: char) -> bool {
    character.is_control() || character.is_whitespace() || matches!(character, '*' | '#')
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Pattern {
        Pattern(topic.0)
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS_BY_PYTHON: [(&str, usize); 4] =
        [("orders.eu.17", 796), ("topic.frontend", 12), ("a", 579), ("Grüße", 113)];

    #[test]
    fn one_topic_has_one_form() {
        for (text, name) in [
            ("orders.eu.17", "orders.eu.17"),
            ("orders/eu/17", "orders.eu.17"),
            ("/orders/eu/17", "orders.eu.17"),
            ("/topic/frontend", "topic.frontend"),
            ("orders/eu.17", "orders.eu.17"),
            ("/orders", "orders"),
            ("Grüße.ß", "Grüße.ß"),
            ("a-b_c:1", "a-b_c:1"),
        ] {
            assert_eq!(Topic::parse(text).map(|topic| topic.to_string()), Ok(name.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_told_why() {
        use InvalidTopic::{
            Character, Empty, EmptyWord, TooLong, TooManyWildcards, TooManyWords, Wildcard, WildcardInWord,
        };
        let long = "x".repeat(TOPIC_BYTES_MAX + 1);
        for (text, reason) in [
            ("", Empty),
            ("/", Empty),
            ("//a", EmptyWord),
            ("a..b", EmptyWord),
            ("a./b", EmptyWord),
            (".a", EmptyWord),
            ("a/", EmptyWord),
            ("a b", Character(' ')),
            ("a\u{a0}b", Character('\u{a0}')),
            ("a\n", Character('\n')),
            ("a\0", Character('\0')),
            ("a.*", Wildcard),
            ("#", Wildcard),
            ("a.b*", WildcardInWord),
            ("a.##", WildcardInWord),
            (&long, TooLong),
            (&"a.".repeat(TOPIC_WORDS_MAX), EmptyWord),
            (&["a"; TOPIC_WORDS_MAX + 1].join("."), TooManyWords),
            ("#.a.#.b.#", TooManyWildcards),
        ] {
            assert_eq!(Topic::parse(text), Err(reason), "{text:?}");
        }
        assert!(Topic::parse(&long[1..]).is_ok());
        assert!(Topic::parse(&["a"; TOPIC_WORDS_MAX].join(".")).is_ok() && Pattern::parse("#.a.#").is_ok());
    }

    /// Computed with `zlib.crc32(name.encode()) % 1024` in Python 3.
    #[test]
    fn keys_are_those_that_other_programs_compute() {
        for (name, key) in KEYS_BY_PYTHON {
            let computed = Topic::parse(name).unwrap().key();
            assert_eq!((computed.index(), computed.to_string().parse()), (key, Ok(key)), "{name}");
            assert_eq!(TopicKey::parse(&computed.to_string()), Some(computed));
        }
        assert_eq!(TopicKey::all().count(), 1024);
        for text in ["", "1024", "-1", "+1", "01", "x", "65536"] {
            assert_eq!(TopicKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_pattern_matches_word_by_word() {
        for (pattern, matched, others) in [
            ("a.b", &["a.b"][..], &["a", "a.c", "a.b.c"][..]),
            ("a.*", &["a.b"], &["a", "a.b.c", "b.b"]),
            ("a.#", &["a", "a.b", "a.b.c"], &["b", "b.a"]),
            ("#.z", &["z", "a.z", "z.z", "a.b.z"], &["a", "z.a"]),
            ("#.b.#", &["b", "a.b", "b.c", "a.b.c.d"], &["a", "a.c"]),
            ("#", &["a", "a.b.c"], &[]),
            ("*.#.z", &["a.z", "a.b.z"], &["z"]),
        ] {
            let matches = |name: &&str| Pattern::parse(pattern).unwrap().matches(&Topic::parse(name).unwrap());
            assert!(matched.iter().all(matches) && !others.iter().any(matches), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_contains_what_it_grants() {
        for (outer, contained, others) in [
            ("a.b", &["a.b"][..], &["a", "a.*", "a.#", "#"][..]),
            ("a.*", &["a.b", "a.*"], &["a.#", "*.a", "*.*", "a", "a.b.c"]),
            ("a.#", &["a", "a.b", "a.*", "a.#", "a.*.#.c"], &["#", "*.#", "#.a", "b"]),
            ("#", &["a", "#", "*", "a.#.b", "#.a.#"], &[]),
            ("*.#", &["#", "a", "#.b", "*.*"], &[]),
            ("#.*.a", &["b.a", "*.#.a", "#.b.a", "#.*.*.a"], &["a", "#.a"]),
            ("#.a", &["a", "b.a", "#.a", "*.#.a"], &["#", "a.#"]),
            ("*.*", &["a.b", "*.b"], &["*", "#", "*.#"]),
        ] {
            let contains = |inner: &&str| Pattern::parse(outer).unwrap().contains(&Pattern::parse(inner).unwrap());
            assert!(contained.iter().all(contains) && !others.iter().any(contains), "{outer}");
        }
    }

    /// Every topic of at most four words of two letters, and patterns over the same.
    #[test]
    fn what_is_contained_is_matched() {
        let letters = ["a", "b"];
        let mut topics: Vec<String> = letters.map(str::to_owned).to_vec();
        for _ in 0..3 {
            let longer = topics.iter().flat_map(|topic| letters.map(|letter| format!("{topic}.{letter}")));
            topics = letters.map(str::to_owned).into_iter().chain(longer).collect();
        }
        let topics: Vec<Topic> = topics.iter().map(|name| Topic::parse(name).unwrap()).collect();
        let word = proptest::sample::select(vec!["a", "b", "*", "#"]);
        let pattern = proptest::collection::vec(word, 1..5)
            .prop_filter_map("too many #", |words| Pattern::parse(&words.join(".")).ok());
        proptest!(|(outer in pattern.clone(), inner in pattern)| {
            if outer.contains(&inner) {
                for topic in topics.iter().filter(|topic| inner.matches(topic)) {
                    prop_assert!(outer.matches(topic), "{} in {}: {}", inner, outer, topic);
                }
            }
            prop_assert!(outer.contains(&outer));
            if let Some(topic) = inner.as_topic() {
                prop_assert_eq!(outer.contains(&inner), outer.matches(&topic));
            }
        });
    }

    #[test]
    fn only_patterns_have_wildcards() {
        let pattern = Pattern::parse("/orders/*/#").unwrap();
        assert_eq!(pattern.as_str(), "orders.*.#");
        assert!(pattern.words().eq([Word::Literal("orders"), Word::Any, Word::AnyNumber]));
        assert_eq!(pattern.as_topic(), None);
        assert_eq!(Pattern::parse("orders").unwrap().as_topic(), Topic::parse("/orders").ok());
    }
}
