//! The head of a client's frame (RFC 6455 §5.2) and every rule that can be judged before its payload is seen.

use super::event::Violation;
use super::frame::{
    CONTROL_PAYLOAD_BYTES_MAX, FIN, LENGTH_16, LENGTH_16_FROM, LENGTH_64, LENGTH_64_FROM, Opcode, RSV1,
};
use super::inflate::compressed_bytes_max;
use super::mask::Mask;

/// The longest head of a client's frame: two bytes, a 64-bit length, a mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

const RSV: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;

/// What a frame's head says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) fin: bool,
    /// The frame begins a compressed message.
    pub(super) deflated: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Mask,
    pub(super) payload_len: usize,
}

/// What was settled for the whole connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) message_bytes_max: usize,
    /// Messages may come compressed.
    pub(super) inflates: bool,
}

/// What the rules for a frame's head depend on beside its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// The bytes so far of the message whose fragments are arriving; `None` between messages.
    pub(super) fragmented_len: Option<usize>,
    /// Whether that message is compressed.
    pub(super) fragmented_deflated: bool,
    pub(super) limits: Limits,
}

impl Header {
    /// The head at the front of `bytes` and its length, or `None` if it goes on past the end of `bytes`.
    ///
    /// Each field is judged as soon as it is there, in wire order, so that the verdict does not depend on how much came
    /// with it, and a length over the limit is refused before a byte of the payload.
    // Every frame passes here: inlined, a message of 128 bytes takes 37 ns instead of 45.
    #[inline]
    pub(super) fn decode(bytes: &[u8], situation: Situation) -> Result<Option<(Self, usize)>, Violation> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let fin = first & FIN != 0;
        let opcode = opcode(first, situation)?;
        let deflated = first & RSV != 0;

        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        if second & MASKED == 0 {
            return Err(Violation::Protocol("client frame is not masked"));
        }
        let length = second & !MASKED;
        if opcode.is_control() && usize::from(length) > CONTROL_PAYLOAD_BYTES_MAX {
            return Err(Violation::Protocol("control frame is longer than 125 bytes"));
        }

        let Some((length, rest)) = extended_length(length, rest)? else {
            return Ok(None);
        };
        let payload_len = within_limit(opcode, length, deflated, situation)?;

        let Some((key, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let header = Self { fin, deflated, opcode, mask: Mask::new(*key), payload_len };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

/// Judges the first byte.
fn opcode(first: u8, situation: Situation) -> Result<Opcode, Violation> {
    let in_message = situation.fragmented_len.is_some();
    if first & RSV != 0
        && let Some(misuse) = misuse_of_reserved_bits(first, situation.limits.inflates)
    {
        return Err(Violation::Protocol(misuse));
    }
    let opcode = Opcode::from_bits(first & OPCODE).ok_or(Violation::Protocol("opcode is reserved"))?;
    match opcode {
        Opcode::Continuation if !in_message => Err(Violation::Protocol("continuation without a message")),
        Opcode::Text | Opcode::Binary if in_message => Err(Violation::Protocol("new message inside a fragmented one")),
        _ if opcode.is_control() && first & FIN == 0 => Err(Violation::Protocol("control frame is fragmented")),
        _ => Ok(opcode),
    }
}

/// What is wrong with a first byte that has reserved bits; RFC 7692 §6 has a use for one of them.
#[cold]
fn misuse_of_reserved_bits(first: u8, inflates: bool) -> Option<&'static str> {
    if !inflates || first & RSV != RSV1 {
        return Some("reserved bit is set");
    }
    match Opcode::from_bits(first & OPCODE) {
        Some(Opcode::Text | Opcode::Binary) => None,
        _ => Some("only a message's first frame says that it is compressed"),
    }
}

/// The payload's length and what follows it, given the 7-bit length; `None` if its bytes are not all there.
fn extended_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (length, from, rest) = match short {
        LENGTH_16 => match rest.split_first_chunk() {
            Some((length, rest)) => (u16::from_be_bytes(*length).into(), LENGTH_16_FROM, rest),
            None => return Ok(None),
        },
        LENGTH_64 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), LENGTH_64_FROM, rest),
            None => return Ok(None),
        },
        short => (short.into(), 0, rest),
    };
    if length > i64::MAX as u64 {
        return Err(Violation::Protocol("length has its highest bit set"));
    }
    if length < from as u64 {
        return Err(Violation::Protocol("length is not in its shortest form"));
    }
    Ok(Some((length, rest)))
}

/// The payload's length, if the message stays within its limit with it. Control frames have a limit of their own.
fn within_limit(opcode: Opcode, length: u64, deflated: bool, situation: Situation) -> Result<usize, Violation> {
    let bytes_max = situation.limits.message_bytes_max;
    let is_deflated = deflated || situation.fragmented_deflated;
    let arriving_max = if is_deflated { compressed_bytes_max(bytes_max) } else { bytes_max };
    let room = arriving_max.saturating_sub(situation.fragmented_len.unwrap_or(0));
    match usize::try_from(length) {
        Ok(length) if opcode.is_control() || length <= room => Ok(length),
        _ => Err(Violation::TooLarge { bytes_max }),
    }
}
