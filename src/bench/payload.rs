//! What messages are made of around their marker: filler, or JSON as an application would send it.

use super::marker::{MARKER_BYTES, Marker};

/// What stands before the marker in JSON.
const JSON_HEAD: &str = r#"{"id":""#;

/// What stands behind it, as long as nothing else has room.
const JSON_TAIL: &str = r#"","text":""}"#;

/// What comes between the marker and the list that fills the message.
const JSON_SUBJECT: &str = r#"","type":"orders.changed","version":3,"region":"eu-central-1","orders":["#;

const FIRST_NAMES: [&str; 8] = ["Amira", "Jonas", "Chiara", "Tomasz", "Yuki", "Fatou", "Diego", "Signe"];
const STATES: [&str; 5] = ["placed", "paid", "packed", "shipped", "returned"];
const WORDS: [&str; 12] =
    ["left", "with", "the", "neighbour", "please", "ring", "twice", "before", "noon", "parcel", "fragile", "gift"];

/// What kind of text a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The alphabet over and over, which compresses as no real message does.
    Filler,
    /// A notification: names that come again, values that do not.
    Json,
}

impl Content {
    /// Where the marker stands: always at the same place, so that it is read without looking for it.
    pub fn marker_at(self) -> usize {
        match self {
            Content::Filler => 0,
            Content::Json => JSON_HEAD.len(),
        }
    }

    /// Bytes of the smallest message.
    pub fn bytes_min(self) -> usize {
        match self {
            Content::Filler => MARKER_BYTES,
            Content::Json => JSON_HEAD.len() + MARKER_BYTES + JSON_TAIL.len(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Content::Filler => "filler",
            Content::Json => "JSON",
        }
    }

    /// A message of `size` bytes, or of the least, with a marker to be written over.
    pub fn text(self, size: usize) -> Vec<u8> {
        let size = size.max(self.bytes_min());
        match self {
            Content::Filler => (0..size).map(|index| b'a' + (index % 26) as u8).collect(),
            Content::Json => json(size).into_bytes(),
        }
    }
}

/// As many orders as have room, and a text that takes the rest.
fn json(size: usize) -> String {
    // The same for every run and server.
    let mut chance = fastrand::Rng::with_seed(6455);
    let marker = Marker { run: 0, publisher: 0, sequence: 0, sent_ns: 0 }.encode();
    let mut out = JSON_HEAD.to_owned() + &String::from_utf8_lossy(&marker);
    let list_end = "],\"text\":\"\"}";
    if out.len() + JSON_SUBJECT.len() + list_end.len() > size {
        out += &JSON_TAIL[..JSON_TAIL.len() - 2];
    } else {
        out += JSON_SUBJECT;
        let mut separator = "";
        loop {
            let order = order(&mut chance);
            if out.len() + separator.len() + order.len() + list_end.len() > size {
                break;
            }
            out += separator;
            out += &order;
            separator = ",";
        }
        out += &list_end[..list_end.len() - 2];
    }
    while out.len() + 2 < size {
        let word = WORDS[chance.usize(..WORDS.len())];
        let room = size - 2 - out.len();
        out += &word[..word.len().min(room)];
        if out.len() + 2 < size {
            out.push(' ');
        }
    }
    out + "\"}"
}

fn order(chance: &mut fastrand::Rng) -> String {
    let (id, euros, cents) = (chance.u32(10_000_000..), chance.u32(1..400), chance.u32(..100));
    let (name, state) = (FIRST_NAMES[chance.usize(..8)], STATES[chance.usize(..5)]);
    let (hour, minute, second) = (chance.u32(..24), chance.u32(..60), chance.u32(..60));
    format!(
        r#"{{"order":{id},"customer":"{name}","state":"{state}","total":{euros}.{cents:02},"at":"2026-05-04T{hour:02}:{minute:02}:{second:02}Z"}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deflate::Deflater;

    #[test]
    fn json_of_any_size_is_json_of_that_size() {
        for size in (Content::Json.bytes_min()..2_000).chain([16 * 1024, 65_536]) {
            let text = Content::Json.text(size);
            assert_eq!(text.len(), size);
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{size}: {e}"));
            assert!(value["id"].as_str().is_some_and(|id| id.len() == MARKER_BYTES), "{size}");
        }
    }

    #[test]
    fn the_marker_stands_where_it_is_looked_for() {
        for content in [Content::Filler, Content::Json] {
            let text = content.text(0);
            assert_eq!(text.len(), content.bytes_min());
            assert!(content.marker_at() + MARKER_BYTES <= text.len());
        }
        let json = Content::Json.text(1024);
        assert!(Marker::decode(&json[Content::Json.marker_at()..]).is_some());
    }

    #[test]
    fn json_compresses_as_an_application_s_does() {
        let share = |content: Content| {
            let text = content.text(1024);
            Deflater::default().deflate(&text).map_or(1.0, |deflated| deflated.len() as f64 / text.len() as f64)
        };
        assert!((0.25..0.55).contains(&share(Content::Json)), "{}", share(Content::Json));
        assert!(share(Content::Filler) < 0.15, "{}", share(Content::Filler));
    }
}
