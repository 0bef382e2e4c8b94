//! Frames from the server to a client: final and unmasked, as RFC 6455 §5.1 asks of a server.
//!
//! Owns the opcodes and the lengths of §5.2, which the parser shares. It never fragments: the length of whatever is
//! sent is known when it is encoded.

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::PayloadKind;

/// The most a control frame may carry (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// The most a close frame's reason may have: the code takes two bytes of the payload.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

/// The bit of a frame's first byte that marks the last frame of a message.
pub(super) const FIN: u8 = 0x80;

/// The bit of a frame's first byte that marks a compressed message (RFC 7692 §6).
pub(super) const RSV1: u8 = 0x40;

/// The bit of an opcode that marks a control frame.
const CONTROL: u8 = 0x8;

/// The value of the 7-bit length that announces a 16-bit one.
pub(super) const LENGTH_16: u8 = 126;

/// The value of the 7-bit length that announces a 64-bit one.
pub(super) const LENGTH_64: u8 = 127;

/// The shortest payload whose length needs 16 bits.
pub(super) const LENGTH_16_FROM: usize = 126;

/// The shortest payload whose length needs 64 bits.
pub(super) const LENGTH_64_FROM: usize = 65_536;

/// The frame types that RFC 6455 §5.2 defines; all other values are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    /// The opcode of a frame's low four bits, or `None` for a reserved one.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// Whether frames of this type are control frames: short, whole, and allowed between fragments.
    pub fn is_control(self) -> bool {
        self as u8 & CONTROL != 0
    }
}

impl From<PayloadKind> for Opcode {
    fn from(kind: PayloadKind) -> Self {
        match kind {
            PayloadKind::Text => Self::Text,
            PayloadKind::Binary => Self::Binary,
        }
    }
}

/// Appends one frame to `out`, so that a batch of frames becomes one buffer and one write.
///
/// A control frame's payload past [`CONTROL_PAYLOAD_BYTES_MAX`] is a mistake of the caller; it is cut, because a client
/// must fail the connection of a server that sends more.
pub fn encode(opcode: Opcode, payload: &[u8], out: &mut BytesMut) {
    let payload = if opcode.is_control() {
        debug_assert!(payload.len() <= CONTROL_PAYLOAD_BYTES_MAX);
        &payload[..payload.len().min(CONTROL_PAYLOAD_BYTES_MAX)]
    } else {
        payload
    };
    encode_after(FIN | opcode as u8, payload, out);
}

/// Appends the frame of a compressed message, whose payload [`Deflater`](super::deflate::Deflater) has made.
pub fn encode_deflated(kind: PayloadKind, deflated: &[u8], out: &mut BytesMut) {
    encode_after(FIN | RSV1 | Opcode::from(kind) as u8, deflated, out);
}

/// Appends a frame that begins with this byte.
fn encode_after(first: u8, payload: &[u8], out: &mut BytesMut) {
    out.reserve(encoded_len(payload.len()));
    out.put_u8(first);
    match payload.len() {
        length if length < LENGTH_16_FROM => out.put_u8(length as u8),
        length if length < LENGTH_64_FROM => {
            out.put_u8(LENGTH_16);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(LENGTH_64);
            out.put_u64(length as u64);
        }
    }
    out.put_slice(payload);
}

/// How many bytes [`encode`] appends for a payload of this many bytes.
pub const fn encoded_len(payload_len: usize) -> usize {
    let header = if payload_len < LENGTH_16_FROM {
        2
    } else if payload_len < LENGTH_64_FROM {
        4
    } else {
        10
    };
    header + payload_len
}

/// Where the first of several encoded frames ends, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub is_control: bool,
    /// Header and payload.
    pub bytes: usize,
}

/// The first frame of what [`encode`] has made. Of anything else the answer means nothing, but is never longer than
/// `frames`.
pub fn first(frames: &[u8]) -> Span {
    let is_control = frames.first().is_some_and(|first| first & CONTROL != 0);
    let payload_len = match frames {
        [_, LENGTH_16, high, low, ..] => u16::from_be_bytes([*high, *low]).into(),
        [_, LENGTH_64, rest @ ..] => match rest.first_chunk() {
            Some(length) => usize::try_from(u64::from_be_bytes(*length)).unwrap_or(frames.len()),
            None => frames.len(),
        },
        [_, length, ..] => usize::from(*length),
        _ => 0,
    };
    Span { is_control, bytes: encoded_len(payload_len.min(frames.len())).min(frames.len()) }
}

/// A whole message in one frame. For [`PayloadKind::Text`] the payload must be UTF-8.
pub fn message(kind: PayloadKind, payload: &[u8]) -> Bytes {
    single(kind.into(), payload)
}

/// A ping; the client answers with a pong of the same payload, at most [`CONTROL_PAYLOAD_BYTES_MAX`] bytes.
pub fn ping(payload: &[u8]) -> Bytes {
    single(Opcode::Ping, payload)
}

/// A pong: the answer to a ping carries the ping's payload (RFC 6455 §5.5.3).
pub fn pong(payload: &[u8]) -> Bytes {
    single(Opcode::Pong, payload)
}

/// A close frame with a code that may be sent ([`is_valid_close_code`]) and a reason, which is cut at a character's
/// boundary to [`CLOSE_REASON_BYTES_MAX`].
pub fn close(code: u16, reason: &str) -> Bytes {
    debug_assert!(is_valid_close_code(code), "{code} must not stand in a close frame");
    let reason = cut_at_char(reason, CLOSE_REASON_BYTES_MAX);
    let mut payload = [0; CONTROL_PAYLOAD_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    single(Opcode::Close, &payload[..2 + reason.len()])
}

/// A close frame without code and reason: the answer to a client's close frame that has none.
pub fn close_without_code() -> Bytes {
    Bytes::from_static(&[FIN | Opcode::Close as u8, 0])
}

/// Whether a close frame may carry this code: the registered codes that are meant for the wire, those of libraries and
/// frameworks, and those of applications (RFC 6455 §7.4.1 and §7.4.2; 1012 to 1014 are in IANA's registry).
///
/// 1004 has no meaning yet; 1005, 1006 and 1015 only ever name what was *not* received.
pub fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The longest start of `text` that has at most `bytes_max` bytes and whole characters.
fn cut_at_char(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn single(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_len(payload.len()));
    encode(opcode, payload, &mut out);
    out.freeze()
}
