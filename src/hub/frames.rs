//! What listeners are handed: one encoding for all who want the same format.

use std::time::Instant;

use bytes::Bytes;

use super::Format;

/// Encoded frames (or events), shared by everyone who hears them. A cheap clone.
#[derive(Clone, Debug)]
pub struct Frames {
    plain: Encoded,
    json: Encoded,
    events: Encoded,
    about: About,
    /// In the forms that say how far everything was heard, or in the others. They do not go together: those have one order,
    /// whatever they are of, while of these, those for the same listeners do.
    is_placed: bool,
}

/// Messages in one form: all of a batch, or the last of it if nobody wanted them so at first.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    pub frames: Bytes,
    /// Where a message was compressed, the same messages for those who can inflate it.
    pub deflated: Option<Bytes>,
    /// Not all of the batch: whoever wants this form came when the batch had begun.
    pub is_late: bool,
}

/// What the metrics want to know of the messages in frames.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub messages: u64,
    pub payload_bytes: u64,
    /// When the hub took the first of them.
    pub taken: Instant,
    /// When the first of those that this instance's own clients sent was read.
    pub read: Option<Instant>,
}

impl About {
    /// No message yet.
    pub fn nothing() -> About {
        About { messages: 0, payload_bytes: 0, taken: Instant::now(), read: None }
    }

    fn then(self, later: About) -> About {
        About {
            messages: self.messages + later.messages,
            payload_bytes: self.payload_bytes + later.payload_bytes,
            taken: self.taken,
            read: self.read.or(later.read),
        }
    }
}

impl Frames {
    /// In the forms that tell nobody's place.
    pub fn unplaced(plain: Encoded, about: About) -> Frames {
        Frames { plain, json: Encoded::default(), events: Encoded::default(), about, is_placed: false }
    }

    /// In those that do.
    pub fn placed(json: Encoded, events: Encoded, about: About) -> Frames {
        Frames { plain: Encoded::default(), json, events, about, is_placed: true }
    }

    pub fn is_placed(&self) -> bool {
        self.is_placed
    }

    /// Something that is no message, for those who can be told.
    pub fn notice(json: Bytes, event: Bytes) -> Frames {
        let encoded = |frames| Encoded { frames, ..Encoded::default() };
        Frames::placed(encoded(json), encoded(event), About::nothing())
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    /// The messages as a listener wants them; empty if nobody wanted them so when they were encoded.
    pub fn of(&self, format: Format) -> &Bytes {
        match format {
            Format::Plain => &self.plain.frames,
            Format::PlainDeflated => self.plain.deflated(),
            Format::Json => &self.json.frames,
            Format::JsonDeflated => self.json.deflated(),
            Format::Events => &self.events.frames,
        }
    }

    /// One behind the other; all of them placed, or none.
    pub fn join(parts: &[Frames]) -> Frames {
        let about = parts.iter().map(|part| part.about).reduce(About::then).unwrap_or_else(About::nothing);
        let join = |form: fn(&Frames) -> &Encoded| Encoded::join(&parts.iter().map(form).collect::<Vec<_>>());
        Frames {
            plain: join(|part| &part.plain),
            json: join(|part| &part.json),
            events: join(|part| &part.events),
            about,
            is_placed: parts.iter().any(Frames::is_placed),
        }
    }
}

impl Encoded {
    /// What gained by it is compressed, the rest is as for everyone.
    fn deflated(&self) -> &Bytes {
        self.deflated.as_ref().unwrap_or(&self.frames)
    }

    /// From the last part on that began without anybody who wants this form: who does now has come since.
    fn join(parts: &[&Encoded]) -> Encoded {
        let late = parts.iter().rposition(|part| part.is_late);
        let parts = &parts[late.unwrap_or(0)..];
        let join = |frames: fn(&Encoded) -> &Bytes| {
            Bytes::from(parts.iter().map(|part| &frames(part)[..]).collect::<Vec<_>>().concat())
        };
        let is_deflated = parts.iter().any(|part| part.deflated.is_some());
        Encoded {
            frames: join(|part| &part.frames),
            deflated: is_deflated.then(|| join(Encoded::deflated)),
            is_late: late.is_some(),
        }
    }
}
