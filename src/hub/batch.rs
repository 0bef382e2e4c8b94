//! Messages on their way to those who hear them, encoded once, one behind the other in one buffer.
//!
//! While someone listens who negotiated compression there may be a second buffer with the same messages, in which those
//! are compressed that gain by it. It begins with the first of them: batches without any are not kept twice.

use bytes::BytesMut;

use super::frames::{About, Frames};
use crate::instance::Incarnation;
use crate::message::Message;
use crate::protocol::deflate::Deflater;
use crate::protocol::frame;

/// What encoding takes beside the message.
pub struct Encoder {
    own: Incarnation,
    /// The smallest payload that is compressed.
    compression_bytes_min: usize,
    deflater: Deflater,
}

impl Encoder {
    /// For an instance that recognises its own messages by `own`.
    pub fn new(own: Incarnation, compression_bytes_min: usize) -> Encoder {
        Encoder { own, compression_bytes_min, deflater: Deflater::default() }
    }
}

/// Messages that the same listeners hear.
pub struct Batch {
    plain: BytesMut,
    deflated: Option<BytesMut>,
    about: About,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { plain: BytesMut::new(), deflated: None, about: About::nothing() }
    }
}

impl Batch {
    /// Adds a message; compressed, too, if `deflates`. The answer is its plain frame.
    pub fn add(&mut self, encoder: &mut Encoder, message: &Message, deflates: bool) -> &[u8] {
        self.note(message, &encoder.own);
        let deflates = deflates && message.payload.len() >= encoder.compression_bytes_min;
        self.encode(message, if deflates { encoder.deflater.deflate(&message.payload) } else { None })
    }

    fn note(&mut self, message: &Message, own: &Incarnation) {
        let about = &mut self.about;
        if about.messages == 0 {
            *about = About::nothing();
        }
        about.messages += 1;
        about.payload_bytes += message.payload.len() as u64;
        // Only the first that is our own, which has waited longest: no reading of ids for each.
        if about.read.is_none() {
            about.read = message.id.as_ref().and_then(|id| id.given_at(own));
        }
    }

    fn encode(&mut self, message: &Message, deflated: Option<&[u8]>) -> &[u8] {
        let before = self.plain.len();
        frame::encode(message.kind.into(), &message.payload, &mut self.plain);
        match (deflated, &mut self.deflated) {
            (Some(deflated), frames) => {
                let frames = frames.get_or_insert_with(|| BytesMut::from(&self.plain[..before]));
                frame::encode_deflated(message.kind, deflated, frames);
            }
            (None, Some(frames)) => frames.extend_from_slice(&self.plain[before..]),
            (None, None) => {}
        }
        &self.plain[before..]
    }

    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// What was added since the last time.
    pub fn take(&mut self) -> Frames {
        let about = std::mem::replace(&mut self.about, About::nothing());
        Frames::new(self.plain.split().freeze(), self.deflated.take().map(BytesMut::freeze), about)
    }
}
