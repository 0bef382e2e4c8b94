//! Messages on their way to all listeners, encoded once, one behind the other in one buffer.
//!
//! While someone listens who negotiated compression there may be a second buffer with the same messages, in which those
//! are compressed that gain by it. It begins with the first of them: batches without any are not kept twice.

use bytes::BytesMut;

use super::frames::Frames;
use crate::instance::InstanceName;
use crate::message::{Message, Target};
use crate::protocol::deflate::Deflater;
use crate::protocol::frame;

/// A batch this long is handed out before more is added: longer ones save no system calls, since a socket's send
/// buffer takes about this much at once, and they hold back who comes first.
const BATCH_BYTES: usize = 64 * 1024;

pub struct Batch {
    own: InstanceName,
    compression_bytes_min: usize,
    deflater: Deflater,
    plain: BytesMut,
    deflated: Option<BytesMut>,
}

impl Batch {
    /// Payloads below `compression_bytes_min` are not compressed.
    pub fn new(own: InstanceName, compression_bytes_min: usize) -> Batch {
        Batch { own, compression_bytes_min, deflater: Deflater::default(), plain: BytesMut::new(), deflated: None }
    }

    /// Adds a message if it is meant for the plain sessions of this instance; compressed, too, if `deflates`.
    pub fn add(&mut self, message: &Message, deflates: bool) {
        let for_plain_sessions = match &message.target {
            Target::Broadcast => true,
            Target::Instance(name) => *name == self.own,
            Target::Topic(_) => false,
        };
        if for_plain_sessions {
            self.encode(message, deflates && message.payload.len() >= self.compression_bytes_min);
        }
    }

    fn encode(&mut self, message: &Message, deflates: bool) {
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
    }

    pub fn is_full(&self) -> bool {
        self.plain.len() >= BATCH_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// What was added since the last time.
    pub fn take(&mut self) -> Frames {
        Frames::new(self.plain.split().freeze(), self.deflated.take().map(BytesMut::freeze))
    }
}
