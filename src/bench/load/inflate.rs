//! Compressed messages (RFC 7692 §7.2.2) back to what they were.
//!
//! A server that compresses a message once sends the same bytes to every session. So what was inflated lately is kept
//! and known again by comparing all of its bytes: the generator shares its cores with the server that it measures, and
//! inflating costs ten times what comparing does.

use flate2::{Decompress, DecompressError, FlushDecompress};

/// Messages kept: more than are on their way to one session while another has read them already, in most runs. Others
/// are inflated again.
const KEPT: usize = 64;

/// The end of a flush, which the sender leaves away.
const FLUSH_END: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

pub struct Inflater {
    stream: Decompress,
    kept: Vec<Message>,
    /// Where the next message is likely to be: sessions hear the same in the same order.
    next: usize,
    /// What goes first when there is no room.
    oldest: usize,
    bytes_max: usize,
}

#[derive(Default)]
struct Message {
    compressed: Vec<u8>,
    text: Vec<u8>,
}

impl Inflater {
    /// Of messages beyond `bytes_max` it gives the front.
    pub fn new(bytes_max: usize) -> Inflater {
        Inflater { stream: Decompress::new(false), kept: Vec::new(), next: 0, oldest: 0, bytes_max }
    }

    pub fn inflate(&mut self, compressed: &[u8]) -> Result<&[u8], DecompressError> {
        let count = self.kept.len();
        let mut places = (0..count).map(|step| (self.next + step) % count);
        let place = match places.find(|place| self.kept[*place].compressed == compressed) {
            Some(place) => place,
            None => self.add(compressed)?,
        };
        self.next = place + 1;
        Ok(&self.kept[place].text)
    }

    #[cold]
    fn add(&mut self, compressed: &[u8]) -> Result<usize, DecompressError> {
        let place = self.oldest;
        if place == self.kept.len() {
            self.kept.push(Message::default());
        }
        let message = &mut self.kept[place];
        // Not known by these bytes before it is inflated without error.
        message.compressed.clear();
        message.text.clear();
        message.text.reserve_exact(self.bytes_max);
        self.stream.reset(false);
        for input in [compressed, &FLUSH_END] {
            self.stream.decompress_vec(input, &mut message.text, FlushDecompress::Sync)?;
        }
        message.compressed.extend_from_slice(compressed);
        self.oldest = (place + 1) % KEPT;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deflate::Deflater;

    fn deflated(text: &str) -> Vec<u8> {
        Deflater::default().deflate(text.as_bytes()).expect("it gets shorter").to_vec()
    }

    fn text(number: usize) -> String {
        format!("{{\"number\":{number},\"again and again\":\"again and again, again and again\"}}")
    }

    #[test]
    fn every_message_is_its_own_text_whether_kept_or_not() {
        let messages: Vec<_> = (0..KEPT * 2 + 3).map(|number| (text(number), deflated(&text(number)))).collect();
        let mut inflater = Inflater::new(200);
        for window in messages.chunks(7) {
            for _session in 0..3 {
                for (text, compressed) in window {
                    assert_eq!(inflater.inflate(compressed).expect("sound"), text.as_bytes());
                }
            }
        }
        assert_eq!(inflater.kept.len(), KEPT);
        let (text, compressed) = &messages[0];
        assert_eq!(inflater.inflate(compressed).expect("sound"), text.as_bytes());
    }

    #[test]
    fn what_is_corrupt_is_an_error_every_time() {
        let mut inflater = Inflater::new(200);
        for _ in 0..3 {
            assert!(inflater.inflate(b"\x06 damaged").is_err());
            assert_eq!(inflater.inflate(&deflated(&text(1))).expect("sound"), text(1).as_bytes());
        }
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let mut inflater = Inflater::new(200);
        let long = "long ".repeat(10_000);
        let front = inflater.inflate(&deflated(&long)).expect("sound");
        assert!(front.len() >= 200 && front.len() < 1_000 && long.as_bytes().starts_with(front), "{}", front.len());
    }
}
