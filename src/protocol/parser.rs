//! The incremental parser of what a client sends.
//!
//! Owns the way from reads of any size to [`Event`]s. A frame that lies whole in the input, which nearly every frame
//! does, is unmasked straight into the payload's own buffer; only what a read has cut, and messages in fragments, take
//! the longer way through an `Assembly`, which exists no longer than they do.

use super::assembly::Assembly;
use super::event::{Event, Violation};
use super::frame::Opcode;
use super::header::{Header, Limits, Situation};
use crate::message::PayloadKind;

/// The parser of one connection. Small, and without heap memory while nothing is half received.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The next byte starts a message or a control frame.
    Boundary,
    /// Something has arrived in part.
    Partial(Box<Assembly>),
    /// A close frame or a violation came: the rest is discarded unseen (RFC 6455 §1.4 and §7.1.7).
    Ended,
}

impl Parser {
    /// A parser for a fresh connection that refuses messages of more than `message_bytes_max` bytes of payload, counted
    /// over all fragments. Control frames do not count; they have at most 125 bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { limits: Limits { message_bytes_max, inflates: false }, state: State::Boundary }
    }

    /// The same for a connection on which compression was negotiated, if `inflates`. The limit is that of a message's
    /// inflated bytes.
    pub fn inflating(self, inflates: bool) -> Self {
        Self { limits: Limits { inflates, ..self.limits }, ..self }
    }

    /// Consumes from the front of `input` up to the end of the next event.
    ///
    /// `Ok(Some(event))`: more may follow in what is left of `input`. `Ok(None)`: all of `input` is consumed, and more
    /// is needed. After a violation or [`Event::Close`] everything is consumed and nothing comes any more.
    ///
    /// # Errors
    ///
    /// The [`Violation`] for which the connection must be failed. It is reported once.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        let next = self.advance(input);
        if matches!(next, Err(_) | Ok(Some(Event::Close { .. }))) {
            self.state = State::Ended;
        }
        next
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        match &mut self.state {
            State::Boundary => {
                if let Some(event) = take_whole(input, self.limits)? {
                    return Ok(Some(event));
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let mut assembly = Box::<Assembly>::default();
                let next = assembly.advance(input, self.limits)?;
                if !assembly.is_empty() {
                    self.state = State::Partial(assembly);
                }
                Ok(next)
            }
            State::Partial(assembly) => {
                let next = assembly.advance(input, self.limits)?;
                if assembly.is_empty() {
                    self.state = State::Boundary;
                }
                Ok(next)
            }
            State::Ended => {
                *input = &[];
                Ok(None)
            }
        }
    }

    /// The capacity of all buffers, or `None` while no heap memory is owned at all.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> Option<usize> {
        match &self.state {
            State::Partial(assembly) => Some(assembly.buffer_bytes()),
            State::Boundary | State::Ended => None,
        }
    }
}

/// The event of a frame that lies whole in `input` and is a whole event by itself; else takes nothing. A compressed
/// message takes the longer way, which costs nothing next to inflating it.
fn take_whole(input: &mut &[u8], limits: Limits) -> Result<Option<Event>, Violation> {
    let situation = Situation { fragmented_len: None, fragmented_deflated: false, limits };
    let Some((header, header_len)) = Header::decode(input, situation)? else {
        return Ok(None);
    };
    let Some((masked, rest)) = input[header_len..].split_at_checked(header.payload_len) else {
        return Ok(None);
    };
    if !header.fin || header.deflated {
        return Ok(None);
    }
    *input = rest;
    let payload = header.mask.unmasked(masked);
    let kind = match header.opcode {
        Opcode::Text if std::str::from_utf8(&payload).is_err() => {
            return Err(Violation::InvalidUtf8);
        }
        Opcode::Text => PayloadKind::Text,
        Opcode::Binary => PayloadKind::Binary,
        control => return Event::control(control, payload).map(Some),
    };
    // Made in its final place: each `Result` that an event is moved through costs a few ns of stalled loads.
    Ok(Some(Event::Message { kind, payload: payload.into() }))
}
