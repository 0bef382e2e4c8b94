//! WebSocket on the wire, the server's side of RFC 6455: bytes in, events out, and back.
//!
//! Owns the framing rules and nothing else: there is no I/O here, no timer and no policy. It refuses whatever the
//! RFC says a server must refuse, and says with which close code. Two properties hold for every part of it:
//!
//! - **Chunks do not matter.** Events and violations are a function of the bytes received, never of how reads cut
//!   them. A violation is reported at the first byte that decides it wherever that is cheap to know.
//! - **Memory follows what arrived**, not what a header promises: an idle [`Parser`] owns no heap, an unfinished
//!   message at most twice the bytes received for it, and never more than the message limit (or an eighth more while it
//!   is compressed).
//!
//! One extension may be negotiated, compression ([`extensions`]). No message refers to an earlier one, so a frame of the
//! server is the same for every client: it is encoded once per broadcast, and once more if it is worth compressing, and
//! its bytes are shared.
//!
//! What is no WebSocket stands beside it: JSON around messages ([`json`]), and server-sent events ([`events`]).

pub mod deflate;
pub mod events;
pub mod extensions;
pub mod frame;
pub mod handshake;
pub mod json;
pub mod parser;
pub mod subprotocols;

mod assembly;
mod event;
mod header;
mod inflate;
mod mask;

#[cfg(test)]
mod tests;

pub use event::{Event, Violation};
pub use frame::{Opcode, close, close_without_code, encode, encoded_len, is_valid_close_code, message, ping, pong};
pub use handshake::{accept_key, is_valid_key};
pub use parser::Parser;
