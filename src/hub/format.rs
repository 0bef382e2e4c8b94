//! The forms in which listeners want messages, and who counts how many want each.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How a listener wants its messages. Each is one encoding for all who want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Frames of the payloads themselves.
    #[default]
    Plain,
    /// The same for those who inflate: what gains by it is compressed.
    PlainDeflated,
    /// Frames of JSON around the payloads ([`crate::protocol::json`]).
    Json,
    /// The same for those who inflate.
    JsonDeflated,
    /// Server-sent events of the same JSON ([`crate::protocol::events`]).
    Events,
}

impl Format {
    pub const ALL: [Format; 5] =
        [Format::Plain, Format::PlainDeflated, Format::Json, Format::JsonDeflated, Format::Events];

    /// Whether messages may come compressed.
    pub fn inflates(self) -> bool {
        matches!(self, Format::PlainDeflated | Format::JsonDeflated)
    }

    /// Whether it is JSON in frames, as clients with requests of their own hear it.
    pub fn is_json(self) -> bool {
        matches!(self, Format::Json | Format::JsonDeflated)
    }

    /// Whether it is no WebSocket but an event stream.
    pub fn is_events(self) -> bool {
        self == Format::Events
    }
}

/// A number for each format.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByFormat([usize; Format::ALL.len()]);

impl ByFormat {
    pub fn add(&mut self, format: Format) {
        self.0[format as usize] += 1;
    }

    pub fn remove(&mut self, format: Format) {
        self.0[format as usize] -= 1;
    }

    pub fn of(&self, format: Format) -> usize {
        self.0[format as usize]
    }
}

/// How many listeners want each format.
///
/// A listener counts before it hears anything, and until it hears nothing any more. So a message that was encoded without
/// a format was here before whoever wants that format now.
#[derive(Debug, Default)]
pub(super) struct Demand([AtomicUsize; Format::ALL.len()]);

impl Demand {
    pub fn add(&self, format: Format) {
        self.0[format as usize].fetch_add(1, Ordering::SeqCst);
    }

    pub fn remove(&self, format: Format) {
        self.0[format as usize].fetch_sub(1, Ordering::SeqCst);
    }

    pub fn now(&self) -> Wanted {
        let is_wanted = |format: Format| self.0[format as usize].load(Ordering::SeqCst) > 0;
        Wanted {
            plain: is_wanted(Format::Plain) || is_wanted(Format::PlainDeflated),
            plain_deflated: is_wanted(Format::PlainDeflated),
            json: is_wanted(Format::Json) || is_wanted(Format::JsonDeflated),
            json_deflated: is_wanted(Format::JsonDeflated),
            events: is_wanted(Format::Events),
        }
    }
}

impl Wanted {
    /// The forms in which a message says how far everything was heard with it.
    pub fn placed(self) -> Wanted {
        Wanted { plain: false, plain_deflated: false, ..self }
    }

    pub fn unplaced(self) -> Wanted {
        Wanted { plain: self.plain, plain_deflated: self.plain_deflated, ..Wanted::default() }
    }

    /// Whether some of those are wanted that say it.
    pub fn some_placed(self) -> bool {
        self.json || self.events
    }
}

/// What a message is encoded as. Who inflates needs the other form, too: not every message gains by compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub plain: bool,
    pub plain_deflated: bool,
    pub json: bool,
    pub json_deflated: bool,
    pub events: bool,
}

impl Wanted {
    /// What a listener of this format can be given.
    pub fn by(format: Format) -> Wanted {
        Wanted {
            plain: matches!(format, Format::Plain | Format::PlainDeflated),
            plain_deflated: format == Format::PlainDeflated,
            json: format.is_json(),
            json_deflated: format == Format::JsonDeflated,
            events: format == Format::Events,
        }
    }
}
