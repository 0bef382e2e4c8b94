//! What waits for one socket: encoded frames, the oldest in front.
//!
//! Invariant: every chunk begins and ends with a frame, and only the one in front may be partly written. So it can be
//! told at any time which frame is begun and must be finished, and which may still be left out.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

use super::FirstFrame;

/// Buffers handed to one vectored write; more than that wait for the next.
const SLICES_MAX: usize = 32;

/// What is no longer than this is copied behind what waits. Kept by itself it would cost some 100 bytes more, so that
/// many small frames, pongs above all, would cost a multiple of the limit (measured: 22 times).
const COPIED_BYTES_MAX: usize = 1024;

/// Small pieces are copied into buffers of this size: large enough to be few, small enough that what is written or left
/// out frees its memory soon.
const TAIL_BYTES_MAX: usize = 32 * 1024;

/// Control frames that are kept while older messages are left out. Who pings more than this without reading one answer
/// is no slow reader, and looking through its pongs at each delivery would cost the others.
const CONTROL_BYTES_KEPT_MAX: usize = 16 * 1024;

/// What waits; never empty between calls of the outbox.
#[derive(Debug, Default)]
pub struct Backlog {
    chunks: VecDeque<Bytes>,
    /// Small pieces, one after the other, behind all chunks; no part of it is written.
    tail: BytesMut,
    /// Of chunks and tail together that are still to be written.
    bytes: usize,
    /// How many of them do not count towards the limit: what is left of a replay, which stands in front.
    uncounted_bytes: usize,
    /// How much of the chunk in front is written.
    front_written: usize,
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
        Backlog { chunks: VecDeque::from([frames]), bytes, front_written: written, ..Backlog::default() }
    }

    /// Bytes still to be written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of them count towards the limit.
    pub fn counted_bytes(&self) -> usize {
        self.bytes - self.uncounted_bytes
    }

    /// Adds whole frames that do not count. Only such may wait already.
    pub fn push_uncounted(&mut self, frames: Bytes) {
        self.uncounted_bytes += frames.len();
        self.push(frames);
    }

    /// Adds whole frames.
    pub fn push(&mut self, frames: Bytes) {
        self.bytes += frames.len();
        let is_copied = frames.len() <= COPIED_BYTES_MAX;
        if !is_copied || self.tail.len() + frames.len() > TAIL_BYTES_MAX {
            self.end_tail();
        }
        if is_copied {
            self.tail.extend_from_slice(&frames);
        } else {
            self.chunks.push_back(frames);
        }
    }

    /// Drops all but the chunk that was begun.
    pub fn cut(&mut self) {
        self.tail.clear();
        self.chunks.truncate(usize::from(self.front_written > 0));
        self.bytes = self.chunks.iter().map(Bytes::len).sum::<usize>() - self.front_written;
        self.uncounted_bytes = self.uncounted_bytes.min(self.bytes);
    }

    /// Leaves out the oldest messages until no more than `bytes_max` count. A frame that was begun is finished, a replay
    /// stays whole since leaving it out would make no room, and control frames stay where they were among the rest.
    pub fn leave_out_oldest(&mut self, bytes_max: usize, first_frame: FirstFrame) -> LeftOut {
        let mut kept = VecDeque::new();
        let mut controls = BytesMut::new();
        let mut messages = 0;
        if self.front_written > 0 {
            self.split_begun(&mut kept, first_frame);
        }
        self.split_uncounted(&mut kept);
        while self.counted_bytes() > bytes_max && controls.len() <= CONTROL_BYTES_KEPT_MAX {
            if self.chunks.is_empty() {
                self.end_tail();
            }
            let Some(front) = self.chunks.front_mut() else { break };
            let span = first_frame(front);
            let first = front.split_to(span.bytes);
            if front.is_empty() {
                self.chunks.pop_front();
            }
            if span.is_control {
                controls.extend_from_slice(&first);
            } else {
                self.bytes -= first.len();
                messages += 1;
            }
        }
        if !controls.is_empty() {
            kept.push_back(controls.freeze());
        }
        while let Some(chunk) = kept.pop_back() {
            self.chunks.push_front(chunk);
        }
        LeftOut { messages, fits: self.counted_bytes() <= bytes_max }
    }

    /// Moves the frame that was begun, which is in the chunk in front, to `kept`; what is written before it goes.
    fn split_begun(&mut self, kept: &mut VecDeque<Bytes>, first_frame: FirstFrame) {
        let Some(mut front) = self.chunks.pop_front() else { return };
        while self.front_written > 0 {
            let first = front.split_to(first_frame(&front).bytes);
            if self.front_written < first.len() {
                // By itself: a slice would hold its whole batch for as long as the socket takes nothing.
                kept.push_back(if front.is_empty() { first } else { Bytes::copy_from_slice(&first) });
                break;
            }
            self.front_written -= first.len();
        }
        if !front.is_empty() {
            self.chunks.push_front(front);
        }
    }

    /// Moves what is left of a replay to `kept`, in which the frame that was begun may be already.
    fn split_uncounted(&mut self, kept: &mut VecDeque<Bytes>) {
        let begun = kept.iter().map(Bytes::len).sum::<usize>() - self.front_written;
        let mut left = self.uncounted_bytes.saturating_sub(begun);
        while left > 0 {
            if self.chunks.is_empty() {
                self.end_tail();
            }
            let Some(front) = self.chunks.front_mut() else { return };
            let part = front.split_to(left.min(front.len()));
            if front.is_empty() {
                self.chunks.pop_front();
            }
            left -= part.len();
            kept.push_back(part);
        }
    }

    /// What goes into the next vectored write.
    pub fn slices(&self) -> ([IoSlice<'_>; SLICES_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let mut written = self.front_written;
        for (slice, bytes) in slices.iter_mut().zip(self.chunks.iter().map(|chunk| &chunk[..]).chain(tail)) {
            *slice = IoSlice::new(&bytes[std::mem::take(&mut written)..]);
            used += 1;
        }
        (slices, used)
    }

    /// Notes that so many bytes from the front are written.
    pub fn advance(&mut self, written: usize) {
        self.bytes -= written;
        self.uncounted_bytes = self.uncounted_bytes.saturating_sub(written);
        self.front_written += written;
        while self.front_written > 0 {
            if self.chunks.is_empty() {
                self.end_tail();
            }
            let Some(front) = self.chunks.front() else { return };
            if self.front_written < front.len() {
                return;
            }
            self.front_written -= front.len();
            self.chunks.pop_front();
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}
