//! What listeners are handed: one encoding for all, or two.

use std::time::Instant;

use bytes::Bytes;

/// Encoded frames, shared by everyone who hears them. A cheap clone.
#[derive(Clone, Debug)]
pub struct Frames {
    plain: Bytes,
    /// Where a message was compressed, the same messages for those who can inflate it.
    deflated: Option<Bytes>,
    about: About,
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
    pub fn new(plain: Bytes, deflated: Option<Bytes>, about: About) -> Frames {
        Frames { plain, deflated, about }
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    /// For clients without compression.
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// For clients that negotiated compression: what gained by it is compressed, the rest is plain here too.
    pub fn deflated(&self) -> &Bytes {
        self.deflated.as_ref().unwrap_or(&self.plain)
    }

    /// One behind the other.
    pub fn join(parts: &[Frames]) -> Frames {
        let join = |part: fn(&Frames) -> &[u8]| Bytes::from(parts.iter().map(part).collect::<Vec<_>>().concat());
        let is_deflated = parts.iter().any(|part| part.deflated.is_some());
        let deflated = is_deflated.then(|| join(|part| part.deflated()));
        let about = parts.iter().map(|part| part.about).reduce(About::then).unwrap_or_else(About::nothing);
        Frames { plain: join(|part| part.plain()), deflated, about }
    }
}
