//! Messages on their way to all listeners, encoded once, one behind the other in one buffer.
//!
//! While someone listens who negotiated compression there may be a second buffer with the same messages, in which those
//! are compressed that gain by it. It begins with the first of them: batches without any are not kept twice.

use bytes::BytesMut;

use super::frames::{About, Frames};
use crate::instance::Incarnation;
use crate::message::{Message, Target};
use crate::protocol::deflate::Deflater;
use crate::protocol::frame;

/// A batch this long is handed out before more is added: longer ones save no system calls, since a socket's send
/// buffer takes about this much at once, and they hold back who comes first.
const BATCH_BYTES: usize = 64 * 1024;

pub struct Batch {
    own: Incarnation,
    compression_bytes_min: usize,
    deflater: Deflater,
    plain: BytesMut,
    deflated: Option<BytesMut>,
    about: About,
}

impl Batch {
    /// Payloads below `compression_bytes_min` are not compressed.
    pub fn new(own: Incarnation, compression_bytes_min: usize) -> Batch {
        let (deflater, plain, about) = (Deflater::default(), BytesMut::new(), About::nothing());
        Batch { own, compression_bytes_min, deflater, plain, deflated: None, about }
    }

    /// Adds a message if it is meant for the plain sessions of this instance; compressed, too, if `deflates`. The answer
    /// is its plain frame.
    pub fn add(&mut self, message: &Message, deflates: bool) -> Option<&[u8]> {
        let for_plain_sessions = match &message.target {
            Target::Broadcast => true,
            Target::Instance(name) => name == self.own.name(),
            Target::Topic(_) => false,
        };
        if !for_plain_sessions {
            return None;
        }
        self.note(message);
        Some(self.encode(message, deflates && message.payload.len() >= self.compression_bytes_min))
    }

    fn note(&mut self, message: &Message) {
        let about = &mut self.about;
        if about.messages == 0 {
            *about = About::nothing();
        }
        about.messages += 1;
        about.payload_bytes += message.payload.len() as u64;
        // Only the first that is our own, which has waited longest: no reading of ids for each.
        if about.read.is_none() {
            about.read = message.id.as_ref().and_then(|id| id.given_at(&self.own));
        }
    }

    fn encode(&mut self, message: &Message, deflates: bool) -> &[u8] {
        let before = self.plain.len();
        frame::encode(message.kind.into(), &message.payload, &mut self.plain);
        let deflated = if deflates { self.deflater.deflate(&message.payload) } else { None };
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

    pub fn is_full(&self) -> bool {
        self.plain.len() >= BATCH_BYTES
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
