//! Where a client is in what it hears: how far each partition had got when it was given a message.
//!
//! Whoever was given everything that it asked for up to a cursor, and asks on any instance for what came behind it, misses
//! nothing and hears nothing twice. For clients it is a text without a meaning. Inside: a format's number, when it was
//! given, and for each partition the position of the last entry, in as few bytes as there are.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::place::{Partition, Position};

/// What the first byte is.
const FORMAT: u8 = 1;

/// Characters of a cursor: of all partitions with the largest numbers.
pub const CURSOR_CHARS_MAX: usize = (1 + 10 + 3 + Partition::COUNT * 12) * 4 / 3 + 2;

/// How far each partition was heard. One that is not there was not listened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Seconds of Unix time, by the clock of who gave it.
    pub given_s: u64,
    positions: [Option<Position>; Partition::COUNT],
}

/// A text that is no cursor of this server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor: give back, unchanged, what came with a message")]
pub struct NotACursor;

impl Cursor {
    /// The same, as given at this time.
    pub fn at(self, unix_ms: u64) -> Cursor {
        Cursor { given_s: unix_ms / 1000, ..self }
    }

    pub fn is_empty(&self) -> bool {
        self.positions.iter().all(Option::is_none)
    }

    pub fn position(&self, partition: Partition) -> Option<Position> {
        self.positions[partition.index()]
    }

    pub fn set(&mut self, partition: Partition, position: Position) {
        self.positions[partition.index()] = Some(position);
    }

    pub fn unset(&mut self, partition: Partition) {
        self.positions[partition.index()] = None;
    }

    /// When it was given, before now; zero if by somebody whose clock is ahead.
    pub fn age(&self, now_s: u64) -> Duration {
        Duration::from_secs(now_s.saturating_sub(self.given_s))
    }

    pub fn parse(text: &str) -> Result<Cursor, NotACursor> {
        if text.len() > CURSOR_CHARS_MAX {
            return Err(NotACursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotACursor)?;
        let mut rest = &bytes[..];
        let cursor = read(&mut rest).filter(|_| rest.is_empty());
        cursor.ok_or(NotACursor)
    }
}

fn read(bytes: &mut &[u8]) -> Option<Cursor> {
    if take(bytes, 1)? != [FORMAT] {
        return None;
    }
    let mut cursor = Cursor { given_s: number(bytes)?, ..Cursor::default() };
    let present = number(bytes)?;
    if present >> Partition::COUNT != 0 {
        return None;
    }
    for partition in Partition::all().filter(|partition| present >> partition.index() & 1 == 1) {
        let offset = number(bytes)?;
        let check = u16::from_be_bytes(take(bytes, 2)?.try_into().ok()?);
        cursor.set(partition, Position { offset, check });
    }
    Some(cursor)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Seven bits a byte, the lowest first; all bytes but the last have their highest bit set.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        let bits = u64::from(byte & 0x7F);
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            // One number, one text.
            return (byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

fn write_number(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![FORMAT];
        write_number(self.given_s, &mut bytes);
        let present = Partition::all().filter(|partition| self.position(*partition).is_some());
        write_number(present.fold(0, |bits, partition| bits | 1 << partition.index()), &mut bytes);
        for position in self.positions.iter().flatten() {
            write_number(position.offset, &mut bytes);
            bytes.extend_from_slice(&position.check.to_be_bytes());
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::array::uniform17;
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::fuzz;

    fn cursors() -> impl Strategy<Value = Cursor> {
        let position = (any::<u64>(), any::<u16>()).prop_map(|(offset, check)| Position { offset, check });
        let positions = uniform17(proptest::option::of(position));
        (any::<u64>(), positions).prop_map(|(given_s, positions)| Cursor { given_s, positions })
    }

    proptest! {
        #[test]
        fn a_cursor_survives_being_a_text(cursor in cursors()) {
            let text = cursor.to_string();
            prop_assert!(text.len() <= CURSOR_CHARS_MAX);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert_eq!(Cursor::parse(&text), Ok(cursor));
        }
    }

    #[test]
    fn what_is_no_cursor_is_none() {
        let whole = Cursor { given_s: 1_800_000_000, ..Cursor::default() }.to_string();
        assert!(Cursor::parse(&whole).is_ok_and(|cursor| cursor.is_empty()));
        for text in ["", "A", "AQ", "!", "AgAA", "AQAAAA", &"A".repeat(CURSOR_CHARS_MAX + 1), &whole[..4]] {
            assert_eq!(Cursor::parse(text), Err(NotACursor), "{text}");
        }
    }

    #[test]
    fn a_quiet_instance_gives_short_ones() {
        let mut cursor = Cursor { given_s: 1_800_000_000, ..Cursor::default() };
        cursor.set(Partition::BROADCAST, Position { offset: 100_000, check: 7 });
        assert!(cursor.to_string().len() <= 16, "{cursor}");
    }

    #[test]
    fn fuzz_cursors() {
        let damaged = (cursors(), any::<prop::sample::Index>(), any::<char>()).prop_map(|(cursor, index, other)| {
            let mut text: Vec<char> = cursor.to_string().chars().collect();
            let index = index.index(text.len());
            text[index] = other;
            text.into_iter().collect::<String>()
        });
        fuzz("cursors", prop_oneof![damaged, "[A-Za-z0-9_-]{0,60}"], |text| {
            if let Ok(cursor) = Cursor::parse(&text) {
                assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
            }
        });
    }
}
