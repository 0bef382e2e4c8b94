//! What waits for one socket: encoded frames, the oldest in front.
//!
//! Invariant: every chunk begins and ends with a frame and is of one kind, and only the one in front may be partly written.
//! So it can be told at any time which frame is begun and must be finished, and which may still be left out.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::FirstFrame;

/// Buffers handed to one vectored write; more than that wait for the next.
const SLICES_MAX: usize = 32;

/// What is no longer than this is copied behind what waits. Kept by itself it would cost some 100 bytes more, so that
/// many small frames, pongs above all, would cost a multiple of the limit (measured: 22 times).
const COPIED_BYTES_MAX: usize = 1024;

/// Small pieces are copied into buffers of this size: large enough to be few, small enough that what is written or left
/// out frees its memory soon.
const TAIL_BYTES_MAX: usize = 32 * 1024;

/// As how much a letter counts at least. Each is a chunk, which costs some 100 bytes beside, and is passed by whenever others
/// are left out.
const LETTER_BYTES_MIN: usize = 1024;

/// Control frames that are kept while older messages are left out. Who pings more than this without reading one answer
/// is no slow reader, and looking through its pongs at each delivery would cost the others.
const CONTROL_BYTES_KEPT_MAX: usize = 16 * 1024;

/// What waits; never empty between calls of the outbox.
#[derive(Debug, Default)]
pub struct Backlog {
    chunks: VecDeque<Chunk>,
    /// Small pieces of one kind, one after the other, behind all chunks; no part of it is written.
    tail: BytesMut,
    tail_is: Kind,
    /// Of chunks and tail together that are still to be written.
    bytes: usize,
    /// How many of them count towards the limit.
    counted_bytes: usize,
    /// Letters that are not wholly written.
    letters: usize,
    /// As how much they count.
    letters_bytes: usize,
    /// How much of the chunk in front is written.
    front_written: usize,
}

/// Whole frames of one kind.
#[derive(Debug)]
struct Chunk {
    frames: Bytes,
    kind: Kind,
}

/// What may become of frames that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// They count towards the limit, and messages among them may be left out.
    #[default]
    Counted,
    /// What is replayed: it stays whole where it is, and does not count.
    Past,
    /// One message to the client's user: so does it, and such messages have a limit of their own.
    Letter,
}

impl Chunk {
    /// As how much it counts among letters.
    fn letter_bytes(&self) -> usize {
        self.frames.len().max(LETTER_BYTES_MIN)
    }
}

/// What [`Backlog::leave_out_oldest`] came to.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub messages: u32,
    /// What remains is within the limit.
    pub fits: bool,
}

impl Backlog {
    /// Frames of which so many bytes are written already.
    pub fn begun(frames: Bytes, written: usize) -> Backlog {
        let bytes = frames.len() - written;
        let chunks = VecDeque::from([Chunk { frames, kind: Kind::Counted }]);
        Backlog { chunks, bytes, counted_bytes: bytes, front_written: written, ..Backlog::default() }
    }

    /// Bytes still to be written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of them count towards the limit.
    pub fn counted_bytes(&self) -> usize {
        self.counted_bytes
    }

    /// Adds whole frames of the past, which do not count, and are never left out.
    pub fn push_past(&mut self, frames: Bytes) {
        self.add(frames, Kind::Past);
    }

    /// Whether there is room for one more letter: some have it whatever their size, more only while all are within `bytes_max`.
    pub fn has_room_for_letter(&self, frame_bytes: usize, of_any_size: usize, bytes_max: usize) -> bool {
        self.letters < of_any_size || self.letters_bytes + frame_bytes.max(LETTER_BYTES_MIN) <= bytes_max
    }

    /// Adds a letter, which does not count among the rest, and is never left out.
    pub fn push_letter(&mut self, frame: Bytes) {
        self.end_tail();
        self.bytes += frame.len();
        let letter = Chunk { frames: frame, kind: Kind::Letter };
        self.letters += 1;
        self.letters_bytes += letter.letter_bytes();
        self.chunks.push_back(letter);
    }

    /// Adds whole frames.
    pub fn push(&mut self, frames: Bytes) {
        self.counted_bytes += frames.len();
        self.add(frames, Kind::Counted);
    }

    /// Adds what small pieces are put together of.
    fn add(&mut self, frames: Bytes, kind: Kind) {
        self.bytes += frames.len();
        let is_copied = frames.len() <= COPIED_BYTES_MAX;
        if !is_copied || self.tail_is != kind || self.tail.len() + frames.len() > TAIL_BYTES_MAX {
            self.end_tail();
        }
        if is_copied {
            self.tail_is = kind;
            self.tail.extend_from_slice(&frames);
        } else {
            self.chunks.push_back(Chunk { frames, kind });
        }
    }

    /// Drops all but the chunk that was begun.
    pub fn cut(&mut self) {
        self.tail.clear();
        self.chunks.truncate(usize::from(self.front_written > 0));
        self.bytes = self.chunks.iter().map(|chunk| chunk.frames.len()).sum::<usize>() - self.front_written;
        let front = self.chunks.front();
        self.counted_bytes = front.filter(|front| front.kind == Kind::Counted).map_or(0, |_| self.bytes);
        let letter = front.filter(|front| front.kind == Kind::Letter);
        (self.letters, self.letters_bytes) = letter.map_or((0, 0), |letter| (1, letter.letter_bytes()));
    }

    /// Leaves out the oldest messages until no more than `bytes_max` count. A frame that was begun is finished, what does
    /// not count stays since leaving it out would make no room, and control frames stay where they were among the rest.
    pub fn leave_out_oldest(&mut self, bytes_max: usize, first_frame: FirstFrame) -> LeftOut {
        let mut stays = VecDeque::new();
        if self.part_begun(first_frame) {
            stays.extend(self.chunks.pop_front());
        }
        let mut controls = BytesMut::new();
        let (mut messages, mut controls_bytes) = (0, 0);
        while self.counted_bytes > bytes_max && controls_bytes <= CONTROL_BYTES_KEPT_MAX {
            if self.chunks.is_empty() {
                self.end_tail();
            }
            let Some(front) = self.chunks.front_mut() else { break };
            if front.kind != Kind::Counted {
                // What is before a letter stays before it, and the ping behind it behind: its pong shows that it arrived.
                stays.extend(chunk_of(&mut controls));
                stays.extend(self.chunks.pop_front());
                continue;
            }
            let span = first_frame(&front.frames);
            let first = front.frames.split_to(span.bytes);
            if front.frames.is_empty() {
                self.chunks.pop_front();
            }
            if span.is_control {
                controls_bytes += first.len();
                controls.extend_from_slice(&first);
            } else {
                self.bytes -= first.len();
                self.counted_bytes -= first.len();
                messages += 1;
            }
        }
        stays.extend(chunk_of(&mut controls));
        while let Some(chunk) = stays.pop_back() {
            self.chunks.push_front(chunk);
        }
        LeftOut { messages, fits: self.counted_bytes <= bytes_max }
    }

    /// Has the frame that was begun be a chunk of its own, unless all of its chunk stays, and drops what is written before
    /// it. False if none is begun.
    fn part_begun(&mut self, first_frame: FirstFrame) -> bool {
        while self.front_written > 0 {
            let Some(front) = self.chunks.front_mut() else { break };
            if front.kind != Kind::Counted {
                return true;
            }
            let first_bytes = first_frame(&front.frames).bytes;
            if self.front_written >= first_bytes {
                self.front_written -= first_bytes;
                front.frames.advance(first_bytes);
                continue;
            }
            let first = front.frames.split_to(first_bytes);
            if front.frames.is_empty() {
                front.frames = first;
            } else {
                // By itself: a slice would hold its whole batch for as long as the socket takes nothing.
                let frames = Bytes::copy_from_slice(&first);
                self.chunks.push_front(Chunk { frames, kind: Kind::Counted });
            }
            return true;
        }
        false
    }

    /// What goes into the next vectored write.
    pub fn slices(&self) -> ([IoSlice<'_>; SLICES_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let mut written = self.front_written;
        let chunks = self.chunks.iter().map(|chunk| &chunk.frames[..]);
        for (slice, bytes) in slices.iter_mut().zip(chunks.chain(tail)) {
            *slice = IoSlice::new(&bytes[std::mem::take(&mut written)..]);
            used += 1;
        }
        (slices, used)
    }

    /// Notes that so many bytes from the front are written.
    pub fn advance(&mut self, written: usize) {
        self.bytes -= written;
        let mut left = written;
        while left > 0 {
            if self.chunks.is_empty() {
                self.end_tail();
            }
            let Some(front) = self.chunks.front() else { return };
            let part = left.min(front.frames.len() - self.front_written);
            left -= part;
            if front.kind == Kind::Counted {
                self.counted_bytes -= part;
            }
            self.front_written += part;
            if self.front_written == front.frames.len() {
                self.front_written = 0;
                if front.kind == Kind::Letter {
                    self.letters -= 1;
                    self.letters_bytes -= front.letter_bytes();
                }
                self.chunks.pop_front();
            }
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(Chunk { frames: self.tail.split().freeze(), kind: self.tail_is });
        }
    }

    /// Whether what is counted along the way is what is there.
    #[cfg(test)]
    pub fn is_counted_right(&self) -> bool {
        let tail = std::iter::once((self.tail.len(), self.tail_is));
        let all = self.chunks.iter().map(|chunk| (chunk.frames.len(), chunk.kind)).chain(tail);
        let (mut bytes, mut counted_bytes, mut written) = (0, 0, self.front_written);
        for (len, kind) in all {
            let left = len - std::mem::take(&mut written);
            bytes += left;
            counted_bytes += if kind == Kind::Counted { left } else { 0 };
        }
        let letters = self.chunks.iter().filter(|chunk| chunk.kind == Kind::Letter);
        let (letters, letters_bytes) = (letters.clone().count(), letters.map(Chunk::letter_bytes).sum());
        (bytes, counted_bytes, letters, letters_bytes)
            == (self.bytes, self.counted_bytes, self.letters, self.letters_bytes)
    }
}

/// What control frames were gathered, as a chunk.
fn chunk_of(controls: &mut BytesMut) -> Option<Chunk> {
    (!controls.is_empty()).then(|| Chunk { frames: controls.split().freeze(), kind: Kind::Counted })
}
