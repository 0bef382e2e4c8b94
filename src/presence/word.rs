//! What instances tell each other about who is there, as JSON in the payload of a message. No I/O.
//!
//! Other programs may publish where these words travel: whatever is not exactly one of them is refused. Each is bounded in
//! entries, and so in bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::roll::{Count, SinceMs};
use crate::broker::WORD_BYTES_MAX;
use crate::hub::{NAMES_MAX, Question};
use crate::instance::{Incarnation, InstanceName};
use crate::topic::TOPIC_BYTES_MAX;
use crate::user::{NAME_BYTES_MAX, UserName};

/// Of this way to speak. Who speaks another is not understood, and counts as absent.
const VERSION: u32 = 1;

/// Sessions in one word.
pub const ENTRIES_MAX: usize = 400;

/// A name whose every character has to be escaped, two numbers of 20 digits, and what is around them.
const ENTRY_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 48;

/// Everything else in a word.
const FRAME_BYTES_MAX: usize = 1024;

/// A topic's name so escaped, a number, and what is around them.
const COUNTED_BYTES_MAX: usize = 2 * TOPIC_BYTES_MAX + 28;

const _: () = assert!(NAMES_MAX * COUNTED_BYTES_MAX + FRAME_BYTES_MAX <= WORD_BYTES_MAX);
const _: () = assert!(ENTRIES_MAX * ENTRY_BYTES_MAX + FRAME_BYTES_MAX <= WORD_BYTES_MAX);

/// A text that nobody here says.
#[derive(Debug, thiserror::Error)]
pub enum NotAWord {
    #[error("it has more than {WORD_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is of version {0}; this is {VERSION}")]
    Version(u32),
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooMany,
    #[error("it is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Who says something: one run of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Speaker {
    pub name: InstanceName,
    /// Microseconds of Unix time: the later run of one name counts.
    pub began: u64,
}

/// A text that is no run of an instance.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no instance's run")]
pub struct NotASpeaker(String);

/// What is said, and who says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    pub from: Speaker,
    pub word: Word,
}

/// How an instance stands after the change of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    pub sequence: u64,
    pub count: Count,
    pub digest: u64,
    /// Whether it knows who is on all others, too.
    pub knows_all: bool,
    /// By how many milliseconds it is behind with telling of users, if it is the one that tells; at most a minute counts.
    pub untold_ms: u64,
}

/// A session of a user: name, number, since when.
pub type Entry = (UserName, u64, SinceMs);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Word {
    /// To all, at the beginning: who hears it sends a snapshot.
    Hello(Standing),
    /// To all, every second.
    Beat(Standing),
    /// To all: what has changed. Nobody is gone before it is here, so the order among them does not count.
    Changes { sequence: u64, here: Vec<Entry>, gone: Vec<(UserName, u64)> },
    /// To one: send me a snapshot.
    Ask,
    /// To one: a piece of a snapshot, everything between the last entry of the piece before and its own last entry; or to
    /// the end. It is as after the change of that number, to which the changes said since the piece before have led.
    Piece { sequence: u64, index: u64, entries: Vec<Entry>, is_last: bool },
    /// To all: by these patterns sessions here ask to hear of comings and goings.
    Watch { patterns: Vec<String> },
    /// To all: answer this question. The ticket is the asker's.
    Count { ticket: u64, question: Question },
    /// To who asked.
    Counted { ticket: u64, total: usize, names: Vec<(String, usize)> },
    /// To all, at the end.
    Goodbye,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole<W> {
    version: u32,
    from: Speaker,
    word: W,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Spoken {
    pub fn parse(text: &[u8]) -> Result<Spoken, NotAWord> {
        if text.len() > WORD_BYTES_MAX {
            return Err(NotAWord::TooLong);
        }
        let whole: Whole<Word> = serde_json::from_slice(text).map_err(|error| {
            let version = serde_json::from_slice(text).map_or(VERSION, |Version { version }| version);
            if version == VERSION { error.into() } else { NotAWord::Version(version) }
        })?;
        if whole.version != VERSION {
            return Err(NotAWord::Version(whole.version));
        }
        if whole.word.entries() > ENTRIES_MAX {
            return Err(NotAWord::TooMany);
        }
        Ok(Spoken { from: whole.from, word: whole.word })
    }
}

impl Word {
    /// As `from` says it.
    pub fn encode(&self, from: &Speaker) -> Vec<u8> {
        let whole = Whole { version: VERSION, from: from.clone(), word: self };
        serde_json::to_vec(&whole).expect("numbers and texts, and no map")
    }

    fn entries(&self) -> usize {
        match self {
            Word::Changes { here, gone, .. } => here.len() + gone.len(),
            Word::Piece { entries, .. } => entries.len(),
            Word::Counted { names, .. } => names.len(),
            Word::Watch { patterns } => patterns.len(),
            Word::Hello(_) | Word::Beat(_) | Word::Ask | Word::Count { .. } | Word::Goodbye => 0,
        }
    }
}

impl Speaker {
    pub fn of(incarnation: &Incarnation) -> Speaker {
        Speaker::try_from(incarnation.as_str().to_owned()).expect("what an incarnation is written as")
    }
}

impl TryFrom<String> for Speaker {
    type Error = NotASpeaker;

    fn try_from(text: String) -> Result<Speaker, NotASpeaker> {
        let read = || {
            let (name, began) = text.rsplit_once('@')?;
            let speaker =
                Speaker { name: InstanceName::parse(name).ok()?, began: u64::from_str_radix(began, 16).ok()? };
            // In its one form.
            (speaker.to_string() == text).then_some(speaker)
        };
        read().ok_or_else(|| NotASpeaker(text.clone()))
    }
}

impl From<Speaker> for String {
    fn from(speaker: Speaker) -> String {
        speaker.to_string()
    }
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:x}", self.name, self.began)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::fuzz;

    fn user(name: &str) -> UserName {
        UserName::parse(name).unwrap()
    }

    fn speaker() -> Speaker {
        Speaker { name: InstanceName::parse("10.0.0.5_8080").unwrap(), began: 0x5f }
    }

    fn examples() -> Vec<Word> {
        let standing = Standing {
            sequence: 7,
            count: Count { users: 1, sessions: 2 },
            digest: u64::MAX,
            knows_all: true,
            untold_ms: 3,
        };
        let here = vec![(user("alice"), 1, 2), (user("Zoë \"van\" Dijk"), 3, 4)];
        vec![
            Word::Hello(standing),
            Word::Beat(standing),
            Word::Changes { sequence: 1, here: here.clone(), gone: vec![(user("bob"), 9)] },
            Word::Ask,
            Word::Watch { patterns: vec!["warren.presence.users".into()] },
            Word::Piece { sequence: 3, index: 0, entries: here, is_last: true },
            Word::Count { ticket: 4, question: Question { topic: Some("a".into()), after: None, limit: 9 } },
            Word::Counted { ticket: 4, total: 2, names: vec![("alice".into(), 2)] },
            Word::Goodbye,
        ]
    }

    #[test]
    fn what_is_said_is_understood() {
        for word in examples() {
            let text = word.encode(&speaker());
            assert_eq!(Spoken::parse(&text).unwrap(), Spoken { from: speaker(), word });
        }
        let from = Incarnation::begin(speaker().name);
        assert_eq!(Speaker::of(&from).to_string(), from.as_str());
    }

    #[test]
    fn the_longest_word_fits() {
        let name = user(&"\"".repeat(NAME_BYTES_MAX));
        let entries = vec![(name, u64::MAX, u64::MAX); ENTRIES_MAX];
        let word = Word::Piece { sequence: u64::MAX, index: u64::MAX, entries, is_last: false };
        let text = word.encode(&speaker());
        assert!(text.len() <= WORD_BYTES_MAX, "{}", text.len());
        Spoken::parse(&text).unwrap();
    }

    #[test]
    fn what_nobody_says_is_refused() {
        let from = "10.0.0.5_8080@5f";
        let whole = |version: u32, from: &str, word: &str| {
            Spoken::parse(format!(r#"{{"version":{version},"from":"{from}","word":{word}}}"#).as_bytes())
        };
        assert!(whole(1, from, r#""ask""#).is_ok());
        assert!(matches!(whole(2, from, r#""ask""#), Err(NotAWord::Version(2))));
        assert!(matches!(whole(2, from, r#"{"sing":1}"#), Err(NotAWord::Version(2))));
        let entry = r#"["a",1,2],"#.repeat(ENTRIES_MAX);
        for (from, word) in [
            ("", r#""ask""#),
            ("a@", r#""ask""#),
            ("a@05f", r#""ask""#),
            ("a@5F", r#""ask""#),
            ("a b@5f", r#""ask""#),
            (from, r#""sing""#),
            (from, r#"{"beat":{}}"#),
            (from, r#"{"changes":{"sequence":-1,"here":[],"gone":[]}}"#),
            (from, r#"{"changes":{"sequence":1,"here":[["",1,1]],"gone":[]}}"#),
            (from, r#"{"changes":{"sequence":1,"here":[],"gone":[],"more":1}}"#),
            (from, &format!(r#"{{"changes":{{"sequence":1,"here":[{entry}["a",1,2]],"gone":[]}}}}"#)),
        ] {
            assert!(whole(1, from, word).is_err(), "{from} {word}");
        }
        assert!(matches!(Spoken::parse(&vec![b' '; WORD_BYTES_MAX + 1]), Err(NotAWord::TooLong)));
        assert!(Spoken::parse(b"").is_err());
    }

    #[test]
    fn fuzz_words() {
        let texts: Vec<Vec<u8>> = examples().iter().map(|word| word.encode(&speaker())).collect();
        let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        fuzz("words", (prop::sample::select(texts), damage), |(mut text, damage)| {
            for (at, byte) in damage {
                let at = at.index(text.len());
                text[at] = byte;
            }
            if let Ok(spoken) = Spoken::parse(&text) {
                assert_eq!(Spoken::parse(&spoken.word.encode(&spoken.from)).unwrap(), spoken);
            }
        });
    }
}
