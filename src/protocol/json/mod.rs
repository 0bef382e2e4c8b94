//! The subprotocol `warren.v1.json`: one JSON object in each text message, both ways. `docs/protocol.md` describes it.
//!
//! Only the texts and what they mean; what a session does with them is the session's. It refuses whatever is not exactly a
//! request: a field too many may be a slip of the pen that the client should hear of. Memory follows what a client sent,
//! however it is nested.

mod notice;
mod request;

#[cfg(test)]
mod documentation;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

pub use notice::{Notice, SessionLimits, encode_event, encode_message};
pub use request::{
    Addressee, ErrorCode, REQUEST_ID_BYTES_MAX, Refusal, Request, RequestId, Selection, TOPICS_PER_REQUEST_MAX,
};

/// The subprotocol's name in the opening handshake.
pub const NAME: &str = "warren.v1.json";
