//! What listeners are handed: one encoding for all, or two.

use bytes::Bytes;

/// Encoded frames, shared by everyone who hears them. A cheap clone.
#[derive(Clone, Debug)]
pub struct Frames {
    plain: Bytes,
    /// Where a message was compressed, the same messages for those who can inflate it.
    deflated: Option<Bytes>,
}

impl Frames {
    pub fn new(plain: Bytes, deflated: Option<Bytes>) -> Frames {
        Frames { plain, deflated }
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
        Frames { plain: join(|part| part.plain()), deflated: is_deflated.then(|| join(|part| part.deflated())) }
    }
}
