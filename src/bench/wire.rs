//! The client's half of RFC 6455, as far as a load generator needs it: masked frames out, plain frames in.
//!
//! Nothing here allocates for what is received: a frame is found where it lies in the read buffer.

use super::marker::{MARKER_BYTES, Marker};
use super::payload::Content;

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// The first reserved bit: of a message that is compressed, once both sides agreed to that (RFC 7692 §6).
const COMPRESSED: u8 = 0x40;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;

/// Constant, since nothing hostile sits between the generator and the server it measures; not zero, so that a server
/// unmasks as it does for any client.
const MASK: [u8; 4] = [0x57, 0x31, 0xC4, 0x6E];

/// A frame of the server, as it lies at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub opcode: u8,
    pub is_compressed: bool,
    pub payload: &'a [u8],
    /// Bytes of the frame, header and all.
    pub length: usize,
}

/// Bytes that are no frame of a server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a reserved bit is set")]
    Reserved,
    #[error("the server masks its frames")]
    Masked,
}

/// The frame at the front of `bytes`; `None` while it is not all there. A message may be compressed if `compression`
/// was agreed to.
#[inline]
pub fn decode(bytes: &[u8], compression: bool) -> Result<Option<Frame<'_>>, Violation> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let is_compressed = first & RESERVED == COMPRESSED && first & CONTROL == 0 && compression;
    if first & RESERVED != 0 && !is_compressed {
        return Err(Violation::Reserved);
    }
    if second & MASKED != 0 {
        return Err(Violation::Masked);
    }
    let (payload_len, header) = match second {
        126 => match rest.first_chunk() {
            Some(length) => (usize::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX), 10),
            None => return Ok(None),
        },
        short => (usize::from(*short), 2),
    };
    let length = payload_len.saturating_add(header);
    let frame = bytes.get(header..length);
    Ok(frame.map(|payload| Frame { opcode: first & 0x0F, is_compressed, payload, length }))
}

/// Appends a client's frame.
pub fn encode(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(FIN | opcode);
    match payload.len() {
        length @ 0..126 => out.push(MASKED | length as u8),
        length @ 126..65_536 => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A masked frame ready to be sent again and again with another marker.
pub struct Template {
    frame: Vec<u8>,
    payload_at: usize,
    /// Within the payload.
    marker_at: usize,
}

impl Template {
    /// For payloads of `size` bytes.
    pub fn new(content: Content, size: usize) -> Template {
        let payload = content.text(size);
        let mut frame = Vec::new();
        encode(TEXT, &payload, &mut frame);
        let payload_at = frame.len() - payload.len();
        Template { frame, payload_at, marker_at: content.marker_at() }
    }

    /// Appends the frame with this marker.
    pub fn append(&self, marker: Marker, out: &mut Vec<u8>) {
        let start = out.len() + self.payload_at + self.marker_at;
        out.extend_from_slice(&self.frame);
        let place = &mut out[start..start + MARKER_BYTES];
        for ((place, byte), mask) in place.iter_mut().zip(marker.encode()).zip(MASK.iter().cycle().skip(self.marker_at))
        {
            *place = byte ^ mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, Opcode, Parser};

    fn from_server(length: usize) -> Vec<u8> {
        let mut out = bytes::BytesMut::new();
        crate::protocol::encode(Opcode::Text, &vec![b'x'; length], &mut out);
        out.to_vec()
    }

    #[test]
    fn frames_of_the_server_are_found_whole_or_not_at_all() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let mut bytes = from_server(length);
            let whole = bytes.len();
            for cut in [1, 2, 3, 5, 9, whole - 1] {
                assert_eq!(decode(&bytes[..cut.min(whole - 1)], false), Ok(None), "{length} bytes cut at {cut}");
            }
            bytes.extend_from_slice(b"next");
            let frame = decode(&bytes, false).expect("a frame").expect("a whole frame");
            assert_eq!((frame.opcode, frame.payload.len(), frame.length), (TEXT, length, whole));
        }
    }

    #[test]
    fn frames_that_no_server_may_send_are_refused() {
        assert_eq!(decode(&[0xC1, 0], false), Err(Violation::Reserved));
        assert_eq!(decode(&[0x81, 0x80, 0, 0, 0, 0], false), Err(Violation::Masked));
    }

    #[test]
    fn only_messages_are_compressed_and_only_by_agreement() {
        let is_compressed = |first| decode(&[first, 0], true).map(|frame| frame.map(|frame| frame.is_compressed));
        assert_eq!([0xC1, 0xC2, 0x81].map(is_compressed), [Ok(Some(true)), Ok(Some(true)), Ok(Some(false))]);
        for first in [0xC8, 0xC9, 0xA1, 0x91, 0xE1, 0xD1] {
            assert_eq!(is_compressed(first), Err(Violation::Reserved), "{first:#x}");
        }
    }

    #[test]
    fn the_server_reads_what_the_template_writes() {
        let marker = Marker { run: 7, publisher: 1, sequence: 9, sent_ns: 5_000_000_000 };
        for content in [Content::Filler, Content::Json] {
            for size in [content.bytes_min(), 125, 126, 128, 1024, 65_536] {
                let mut out = Vec::new();
                Template::new(content, size).append(marker, &mut out);
                let event = Parser::new(1 << 20).next(&mut &out[..]);
                let Ok(Some(Event::Message { payload, .. })) = event else { panic!("no message: {event:?}") };
                assert_eq!(payload.len(), size);
                assert_eq!(Marker::decode(&payload[content.marker_at()..]), Some(marker));
            }
        }
    }
}
