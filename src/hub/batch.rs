//! Messages on their way to those who hear them, encoded once for each form that somebody wants, one behind the other in
//! one buffer.
//!
//! While someone listens who negotiated compression there may be a second buffer with the same messages, in which those
//! are compressed that gain by it. It begins with the first of them: batches without any are not kept twice.

use bytes::BytesMut;

use super::format::Wanted;
use super::frames::{About, Encoded, Frames};
use crate::cursor::Cursor;
use crate::instance::Incarnation;
use crate::message::{Message, PayloadKind, now_unix_ms};
use crate::protocol::deflate::Deflater;
use crate::protocol::{frame, json};

/// What encoding takes beside the message.
pub struct Encoder {
    own: Incarnation,
    /// The smallest payload that is compressed.
    compression_bytes_min: usize,
    deflater: Deflater,
    /// A message as JSON, kept for its memory.
    json: Vec<u8>,
}

impl Encoder {
    /// For an instance that recognises its own messages by `own`.
    pub fn new(own: Incarnation, compression_bytes_min: usize) -> Encoder {
        Encoder { own, compression_bytes_min, deflater: Deflater::default(), json: Vec::new() }
    }
}

/// Messages that the same listeners hear.
pub struct Batch {
    plain: Encoding,
    json: Encoding,
    events: Encoding,
    about: About,
    /// In the forms that say how far everything was heard, or in the others; see [`Frames`].
    is_placed: bool,
}

impl Batch {
    pub fn unplaced() -> Batch {
        let empty = Encoding::default;
        Batch { plain: empty(), json: empty(), events: empty(), about: About::nothing(), is_placed: false }
    }

    pub fn placed() -> Batch {
        Batch { is_placed: true, ..Batch::unplaced() }
    }

    /// What was added is wanted in these forms alone by now: who wanted it in others has gone.
    pub(super) fn forget_unless(&mut self, wanted: Wanted) {
        if !wanted.json {
            self.json.skip();
        }
        if !wanted.events {
            self.events.skip();
        }
    }

    /// Adds a message in those of its forms that are wanted; `at` is how far everything was heard with it. The answer is its
    /// plain frame, empty if that is not wanted.
    pub(super) fn add(&mut self, encoder: &mut Encoder, message: &Message, at: &Cursor, wanted: Wanted) -> &[u8] {
        self.note(message, &encoder.own);
        let Encoder { compression_bytes_min, deflater, json, .. } = encoder;
        let mut encode = |payload: &[u8], is_wanted: bool, kind, encoding: &mut Encoding| {
            let deflates = is_wanted && payload.len() >= *compression_bytes_min;
            encoding.add(kind, payload, if deflates { deflater.deflate(payload) } else { None });
        };
        let wanted = if self.is_placed { wanted.placed() } else { wanted.unplaced() };
        // One text in all forms.
        let stamped = wanted.some_placed().then(|| at.at(now_unix_ms()));
        let at = stamped.as_ref().unwrap_or(at);
        if wanted.json || wanted.events {
            json::encode_message(message, at, json);
        }
        if wanted.json {
            encode(json, wanted.json_deflated, PayloadKind::Text, &mut self.json);
        } else {
            self.json.skip();
        }
        if wanted.events {
            self.events.add_event(message, at, json);
        } else {
            self.events.skip();
        }
        let before = self.plain.frames.len();
        if wanted.plain {
            encode(&message.payload, wanted.plain_deflated, message.kind, &mut self.plain);
            &self.plain.frames[before..]
        } else {
            self.plain.skip();
            &[]
        }
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

    pub fn is_empty(&self) -> bool {
        self.about.messages == 0
    }

    /// What was added since the last time.
    pub fn take(&mut self) -> Frames {
        let about = std::mem::replace(&mut self.about, About::nothing());
        if self.is_placed {
            return Frames::placed(self.json.take(), self.events.take(), about);
        }
        Frames::unplaced(self.plain.take(), about)
    }
}

/// A batch in one form: an unbroken run of messages up to the last.
#[derive(Default)]
struct Encoding {
    frames: BytesMut,
    deflated: Option<BytesMut>,
    /// See [`Encoded::is_late`].
    is_late: bool,
}

impl Encoding {
    fn add(&mut self, kind: PayloadKind, payload: &[u8], deflated: Option<&[u8]>) {
        let before = self.frames.len();
        frame::encode(kind.into(), payload, &mut self.frames);
        match (deflated, &mut self.deflated) {
            (Some(deflated), frames) => {
                let frames = frames.get_or_insert_with(|| BytesMut::from(&self.frames[..before]));
                frame::encode_deflated(kind, deflated, frames);
            }
            (None, Some(frames)) => frames.extend_from_slice(&self.frames[before..]),
            (None, None) => {}
        }
    }

    /// A message as an event, of which `data` is what the client is given. Its id is what a client has heard last when it
    /// comes again.
    fn add_event(&mut self, message: &Message, at: &Cursor, data: &[u8]) {
        json::encode_event(message, at, data, &mut self.frames);
    }

    /// A message that nobody wants so. Who wanted those before it has gone; who wants a later one must not hear them
    /// without this one.
    fn skip(&mut self) {
        self.frames.clear();
        self.deflated = None;
        self.is_late = true;
    }

    fn take(&mut self) -> Encoded {
        Encoded {
            frames: self.frames.split().freeze(),
            deflated: self.deflated.take().map(BytesMut::freeze),
            is_late: std::mem::take(&mut self.is_late),
        }
    }
}
