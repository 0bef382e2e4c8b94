//! What has arrived of something that is not complete: a frame cut by a read, a message sent in fragments.
//!
//! Invariant: a buffer's capacity is at most twice the bytes it holds, and never past what the frame's header or the
//! message limit allow. Fragments leave no trace but their bytes, so a flood of empty ones costs nothing.

use super::event::{Event, Violation};
use super::frame::Opcode;
use super::header::{HEADER_BYTES_MAX, Header, Limits, Situation};
use super::inflate::{compressed_bytes_max, inflate};
use super::mask::Mask;
use crate::message::PayloadKind;

/// The state between two reads that do not meet at the end of a message.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    frame: Frame,
    message: Option<Message>,
}

/// How far the current frame is.
#[derive(Debug)]
enum Frame {
    /// Its first bytes, none at all between two fragments.
    Head { bytes: [u8; HEADER_BYTES_MAX], len: usize },
    /// Its head is known; `header.mask` and `header.payload_len` tell of what is still to come.
    Payload {
        header: Header,
        /// The payload so far of a control frame, which may come between the fragments of a message.
        control: Vec<u8>,
    },
}

/// A message up to where it has arrived.
#[derive(Debug)]
struct Message {
    kind: PayloadKind,
    deflated: bool,
    /// As it arrives: compressed, if it is.
    payload: Vec<u8>,
    /// How much of a text is known to be UTF-8: all of it but for a character whose end has not arrived. Of compressed
    /// text nothing is known until it is inflated.
    utf8_len: usize,
}

impl Assembly {
    /// Consumes from the front of `input` up to the end of the next event, or all of it.
    pub(super) fn advance(&mut self, input: &mut &[u8], limits: Limits) -> Result<Option<Event>, Violation> {
        loop {
            if let Frame::Head { bytes, len } = &mut self.frame {
                let situation = Situation {
                    fragmented_len: self.message.as_ref().map(|message| message.payload.len()),
                    fragmented_deflated: self.message.as_ref().is_some_and(|message| message.deflated),
                    limits,
                };
                let Some(header) = take_header(bytes, len, input, situation)? else {
                    return Ok(None);
                };
                self.begin(header);
            }
            self.take_payload(input, limits)?;
            if self.is_mid_payload() {
                return Ok(None);
            }
            if let Some(event) = self.end_frame(limits)? {
                return Ok(Some(event));
            }
        }
    }

    /// Whether nothing is pending, so that the next byte starts a message or control frame.
    pub(super) fn is_empty(&self) -> bool {
        self.message.is_none() && matches!(self.frame, Frame::Head { len: 0, .. })
    }

    /// The capacity of all buffers.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        let control = match &self.frame {
            Frame::Payload { control, .. } => control.capacity(),
            Frame::Head { .. } => 0,
        };
        let message = self.message.as_ref();
        control + message.map_or(0, |message| message.payload.capacity())
    }

    fn begin(&mut self, header: Header) {
        match header.opcode {
            Opcode::Text => self.message = Some(Message::new(PayloadKind::Text, header.deflated)),
            Opcode::Binary => self.message = Some(Message::new(PayloadKind::Binary, header.deflated)),
            _ => {}
        }
        self.frame = Frame::Payload { header, control: Vec::new() };
    }

    fn take_payload(&mut self, input: &mut &[u8], limits: Limits) -> Result<(), Violation> {
        let Frame::Payload { header, control } = &mut self.frame else {
            return Ok(());
        };
        let (masked, rest) = input.split_at(header.payload_len.min(input.len()));
        *input = rest;
        let to_come = header.payload_len;
        let mask = header.mask;
        header.payload_len -= masked.len();
        header.mask = mask.after(masked.len());

        match &mut self.message {
            Some(message) if !header.opcode.is_control() => {
                // The last fragment tells where the message ends; before it, growth must be geometric, or a
                // message in many small fragments would be copied once for each.
                let end = match header.fin {
                    true => message.payload.len() + to_come,
                    false if message.deflated => compressed_bytes_max(limits.message_bytes_max),
                    false => limits.message_bytes_max,
                };
                append(&mut message.payload, masked, mask, end);
                message.check_text()
            }
            _ => {
                append(control, masked, mask, control.len() + to_come);
                Ok(())
            }
        }
    }

    fn is_mid_payload(&self) -> bool {
        matches!(self.frame, Frame::Payload { header, .. } if header.payload_len > 0)
    }

    /// Leaves the current frame, whose payload is complete, with the event it completes.
    fn end_frame(&mut self, limits: Limits) -> Result<Option<Event>, Violation> {
        let Frame::Payload { header, control } = std::mem::take(&mut self.frame) else {
            return Ok(None);
        };
        if header.opcode.is_control() {
            return Event::control(header.opcode, control).map(Some);
        }
        if !header.fin {
            return Ok(None);
        }
        self.message.take().map(|message| message.finish(limits)).transpose()
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::Head { bytes: [0; HEADER_BYTES_MAX], len: 0 }
    }
}

impl Message {
    fn new(kind: PayloadKind, deflated: bool) -> Self {
        Self { kind, deflated, payload: Vec::new(), utf8_len: 0 }
    }

    /// Judges what arrived since the last call, and again the at most three bytes of an unfinished character before it.
    fn check_text(&mut self) -> Result<(), Violation> {
        if self.kind == PayloadKind::Binary || self.deflated {
            return Ok(());
        }
        match std::str::from_utf8(&self.payload[self.utf8_len..]) {
            Ok(_) => self.utf8_len = self.payload.len(),
            Err(error) if error.error_len().is_none() => self.utf8_len += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }

    /// The message as an event, in a buffer of exactly its size.
    fn finish(mut self, limits: Limits) -> Result<Event, Violation> {
        if self.deflated {
            self.payload = inflate(&self.payload, limits.message_bytes_max)?;
            self.deflated = false;
            self.check_text()?;
        }
        if self.kind == PayloadKind::Text && self.utf8_len < self.payload.len() {
            return Err(Violation::InvalidUtf8);
        }
        Ok(Event::Message { kind: self.kind, payload: self.payload.into_boxed_slice().into() })
    }
}

/// Moves bytes of a frame's head from `input` to `bytes`, until it is complete or `input` is empty.
fn take_header(
    bytes: &mut [u8; HEADER_BYTES_MAX],
    len: &mut usize,
    input: &mut &[u8],
    situation: Situation,
) -> Result<Option<Header>, Violation> {
    let taken = input.len().min(HEADER_BYTES_MAX - *len);
    let filled = *len + taken;
    bytes[*len..filled].copy_from_slice(&input[..taken]);
    match Header::decode(&bytes[..filled], situation)? {
        Some((header, header_len)) => {
            *input = &input[header_len - *len..];
            Ok(Some(header))
        }
        None => {
            *len = filled;
            *input = &input[taken..];
            Ok(None)
        }
    }
}

/// Appends unmasked bytes, with room for more but not past `end`.
fn append(out: &mut Vec<u8>, masked: &[u8], mask: Mask, end: usize) {
    make_room(out, masked.len(), end);
    mask.append_unmasked(masked, out);
}

/// Makes room for so many more bytes; if that takes more of it, at most doubles it, and goes past `end` for nothing.
pub(super) fn make_room(out: &mut Vec<u8>, bytes: usize, end: usize) {
    let needed = out.len() + bytes;
    if needed > out.capacity() {
        let capacity = out.capacity().saturating_mul(2).min(end).max(needed);
        out.reserve_exact(capacity - out.len());
    }
}
