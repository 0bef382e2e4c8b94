//! What a client's bytes turn out to mean: an event, or a violation that ends the connection.

use bytes::Bytes;

use super::frame::{Opcode, is_valid_close_code};
use crate::message::PayloadKind;

/// Something complete that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole message, its fragments put together. A text's payload is valid UTF-8.
    Message { kind: PayloadKind, payload: Bytes },
    /// A ping, at most 125 bytes; to be answered by a pong of the same payload.
    Ping(Bytes),
    /// A pong, at most 125 bytes.
    Pong(Bytes),
    /// The close frame: nothing that follows it is looked at. A code is one that may stand in a close frame; without a
    /// code the reason is empty.
    Close { code: Option<u16>, reason: String },
}

/// Why the connection must be failed (RFC 6455 §7.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The framing rules were broken. The text is short enough for a close frame's reason.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message or a close reason is not UTF-8 (RFC 6455 §8.1).
    #[error("text is not valid UTF-8")]
    InvalidUtf8,
    /// The message, over all its fragments, has or announces more bytes than the limit, or inflates to more.
    #[error("message is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    /// A compressed message cannot be inflated. RFC 7692 names no code; 1007 is for payloads that are not what their
    /// message's type says, and is what other servers use.
    #[error("compressed message is corrupt")]
    Corrupt,
}

impl Violation {
    /// The code to close with (RFC 6455 §7.4.1): 1002, 1007 or 1009.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::InvalidUtf8 | Self::Corrupt => 1007,
            Self::TooLarge { .. } => 1009,
        }
    }
}

impl Event {
    /// The ping, pong or close of a control frame.
    pub(super) fn control(opcode: Opcode, payload: Vec<u8>) -> Result<Self, Violation> {
        match opcode {
            Opcode::Ping => Ok(Self::Ping(payload.into())),
            Opcode::Pong => Ok(Self::Pong(payload.into())),
            _ => Self::close(&payload),
        }
    }

    fn close(payload: &[u8]) -> Result<Self, Violation> {
        let (code, reason) = match payload {
            [] => (None, payload),
            [_] => return Err(Violation::Protocol("close frame with half a code")),
            [high, low, reason @ ..] => (Some(u16::from_be_bytes([*high, *low])), reason),
        };
        if code.is_some_and(|code| !is_valid_close_code(code)) {
            return Err(Violation::Protocol("close code that must not stand in a close frame"));
        }
        let reason = std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
        Ok(Self::Close { code, reason: reason.to_owned() })
    }
}
