//! Messages on their way to all listeners, encoded once, one behind the other in one buffer.

use bytes::{Bytes, BytesMut};

use crate::instance::InstanceName;
use crate::message::{Message, Target};
use crate::protocol::frame;

/// A batch this long is handed out before more is added: longer ones save no system calls, since a socket's send
/// buffer takes about this much at once, and they hold back who comes first.
const BATCH_BYTES: usize = 64 * 1024;

pub struct Batch {
    own: InstanceName,
    frames: BytesMut,
}

impl Batch {
    pub fn new(own: InstanceName) -> Batch {
        Batch { own, frames: BytesMut::new() }
    }

    /// Adds a message if it is meant for the plain sessions of this instance.
    pub fn add(&mut self, message: &Message) {
        let for_plain_sessions = match &message.target {
            Target::Broadcast => true,
            Target::Instance(name) => *name == self.own,
            Target::Topic(_) => false,
        };
        if for_plain_sessions {
            frame::encode(message.kind.into(), &message.payload, &mut self.frames);
        }
    }

    pub fn is_full(&self) -> bool {
        self.frames.len() >= BATCH_BYTES
    }

    /// What was added since the last time; empty if nothing was.
    pub fn take(&mut self) -> Bytes {
        self.frames.split().freeze()
    }
}
