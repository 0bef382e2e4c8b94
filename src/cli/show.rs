//! Messages as lines for a person.
//!
//! Whatever somebody published is shown, never obeyed: a terminal takes control characters for commands.

use serde::Deserialize;

/// How a terminal is told to change colours (ECMA-48 §8.3.117).
const FAINT: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// What a person is shown of a notice.
#[derive(Debug, Deserialize)]
pub struct Notice {
    #[serde(rename = "type")]
    kind: String,
    topic: Option<String>,
    time: Option<String>,
    text: Option<String>,
    base64: Option<String>,
    scope: Option<String>,
    missing: Option<u64>,
}

impl Notice {
    pub fn is_message(&self) -> bool {
        self.kind == "message"
    }

    /// What is missing, if it tells of that.
    pub fn gap(&self) -> Option<String> {
        if self.kind != "gap" {
            return None;
        }
        let of = match self.scope.as_deref() {
            Some("broadcast") => " of the broadcast",
            Some("topics") => " of these topics",
            _ => "",
        };
        Some(match self.missing {
            Some(1) => format!("1 message{of} is missing here"),
            Some(number) => format!("{number} messages{of} are missing here"),
            None => format!("messages{of} may be missing here"),
        })
    }

    /// A message as a line without its end: when, where, what.
    pub fn line(&self, with_colours: bool) -> String {
        let time = printable(self.time.as_deref().unwrap_or("-"));
        let topic = self.topic.as_deref().map_or_else(|| "(broadcast)".to_owned(), printable);
        let (said, colour) = match (&self.text, &self.base64) {
            (Some(text), _) => (printable(text), ""),
            (None, Some(encoded)) => (format!("base64:{}", printable(encoded)), YELLOW),
            (None, None) => (String::new(), ""),
        };
        if !with_colours {
            return format!("{time} {topic} {said}");
        }
        let end = if colour.is_empty() { "" } else { PLAIN };
        format!("{FAINT}{time}{PLAIN} {CYAN}{topic}{PLAIN} {colour}{said}{end}")
    }
}

/// The text in one line, with escapes where it would do something to a terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || turns_around(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether it changes the direction in which the rest of the line is shown (Unicode UAX #9 §2).
fn turns_around(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: &str, with_colours: bool) -> String {
        serde_json::from_str::<Notice>(json).unwrap().line(with_colours)
    }

    #[test]
    fn a_message_is_one_line() {
        let message =
            r#"{"type":"message","topic":"a.b","id":"1","time":"2026-07-25T16:26:04.113Z","text":"grüße\nhier"}"#;
        assert_eq!(line(message, false), "2026-07-25T16:26:04.113Z a.b grüße\\nhier");
        let broadcast = r#"{"type":"message","broadcast":true,"time":"T","base64":"AP8="}"#;
        assert_eq!(line(broadcast, false), "T (broadcast) base64:AP8=");
        assert_eq!(line(broadcast, true), "\x1b[2mT\x1b[0m \x1b[36m(broadcast)\x1b[0m \x1b[33mbase64:AP8=\x1b[0m");
    }

    #[test]
    fn what_is_missing_is_told_in_words() {
        let told = |json: &str| serde_json::from_str::<Notice>(json).unwrap().gap();
        for (gap, words) in [
            (r#"{"type":"gap","scope":"everything"}"#, "messages may be missing here"),
            (r#"{"type":"gap","scope":"topics","missing":1}"#, "1 message of these topics is missing here"),
            (r#"{"type":"gap","scope":"broadcast","missing":5}"#, "5 messages of the broadcast are missing here"),
        ] {
            assert_eq!(told(gap).as_deref(), Some(words));
        }
        assert_eq!(told(r#"{"type":"message","topic":"a","text":"gap"}"#), None);
    }

    #[test]
    fn nothing_that_was_published_commands_the_terminal() {
        let text = "\u{1b}]0;title\u{7}\u{9b}2J\r\t\u{7f}\u{202e}end";
        let shown = printable(text);
        assert!(!shown.chars().any(|character| character.is_control() || turns_around(character)), "{shown}");
        assert!(shown.ends_with("end"));
        assert_eq!(printable("日本 – ok"), "日本 – ok");
    }
}
