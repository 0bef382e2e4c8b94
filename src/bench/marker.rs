//! The numbers inside each payload, by which every session tells what it lost, got twice or got out of order.
//!
//! A marker is text, since a broadcast server may take nothing else, and stands at a fixed place of the payload in a
//! fixed shape of six words of eight characters, so that reading one costs a few instructions:
//!
//! ```text
//! #warren# 5f3a90c1 00000002 000004d2 00000000 0bebc200
//! tag      run      publisher sequence sent, ns since the run's epoch (high and low word), all without blanks
//! ```

/// Bytes of a marker.
pub const MARKER_BYTES: usize = 48;

/// In the place of a publisher: a message that only asks who hears, and counts nowhere.
pub const PROBE: u32 = u32::MAX;

const TAG: [u8; 8] = *b"#warren#";

/// What one payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Tells this run's messages from those of others on the same server.
    pub run: u32,
    pub publisher: u32,
    /// Counts each publisher's messages from 0.
    pub sequence: u32,
    /// When the message was to be sent, in nanoseconds of the run's clock.
    pub sent_ns: u64,
}

impl Marker {
    pub fn encode(self) -> [u8; MARKER_BYTES] {
        let low = self.sent_ns as u32;
        let high = (self.sent_ns >> 32) as u32;
        let mut out = [0; MARKER_BYTES];
        let words = [self.run, self.publisher, self.sequence, high, low].map(to_hex);
        for (place, word) in out.chunks_exact_mut(8).zip([TAG].iter().chain(&words)) {
            place.copy_from_slice(word);
        }
        out
    }

    /// The marker that `text` starts with.
    #[inline]
    pub fn decode(text: &[u8]) -> Option<Marker> {
        let (words, _) = text.first_chunk::<MARKER_BYTES>()?.as_chunks::<8>();
        let [tag, run, publisher, sequence, high, low] = words else { return None };
        if *tag != TAG {
            return None;
        }
        let sent_ns = u64::from(from_hex(high)?) << 32 | u64::from(from_hex(low)?);
        Some(Marker { run: from_hex(run)?, publisher: from_hex(publisher)?, sequence: from_hex(sequence)?, sent_ns })
    }
}

fn to_hex(value: u32) -> [u8; 8] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    std::array::from_fn(|place| DIGITS[(value >> (28 - 4 * place) & 0xF) as usize])
}

/// A digit's value by its character; [`NO_DIGIT`] for any other. A table, because five of these are read per delivery.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
        values[digit as usize] = value;
        value += 1;
    }
    values
};

const NO_DIGIT: u8 = 0x10;

#[inline]
fn from_hex(digits: &[u8; 8]) -> Option<u32> {
    let values = digits.map(|digit| VALUES[usize::from(digit)]);
    let all = values.iter().fold(0, |all, value| all | value);
    let number = values.iter().fold(0, |number, value| number << 4 | u32::from(*value));
    (all & NO_DIGIT == 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(run: u32, publisher: u32, sequence: u32, sent_ns: u64) {
            let marker = Marker { run, publisher, sequence, sent_ns };
            prop_assert_eq!(Marker::decode(&marker.encode()), Some(marker));
        }

        #[test]
        fn eight_digits_are_read_as_the_standard_library_reads_them(digits: [u8; 8]) {
            let strict = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            let expected = std::str::from_utf8(&digits).ok().and_then(|text| u32::from_str_radix(text, 16).ok());
            prop_assert_eq!(from_hex(&digits), expected.filter(|_| strict));
        }
    }

    #[test]
    fn every_byte_in_every_place_is_judged() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut digits = *b"0a9f5c3e";
                digits[place] = byte;
                let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                assert_eq!(from_hex(&digits).is_some(), is_digit, "byte {byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn others_and_cut_payloads_have_none() {
        let whole = Marker { run: 1, publisher: 2, sequence: 3, sent_ns: 4 }.encode();
        assert_eq!(Marker::decode(&whole[..MARKER_BYTES - 1]), None);
        assert_eq!(Marker::decode(b"Hello, this is somebody else's text and none of ours"), None);
        let longer = [&whole[..], b"filler"].concat();
        assert!(Marker::decode(&longer).is_some());
    }
}
