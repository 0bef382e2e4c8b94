//! Compressed messages of clients (RFC 7692 §7.2.2): inflated whole when they have arrived, within the message limit.
//!
//! Without context takeover no message needs anything of the one before it, so all sessions of a thread share one
//! inflater, and a session that waits owns none. What comes out is counted piece by piece: a message that grows past the
//! limit is refused there, however much more its few bytes would become.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::assembly::make_room;
use super::event::Violation;

/// Bytes inflated at a time: most messages are done with one piece, which is then copied to a buffer of their size.
const PIECE_BYTES: usize = 16 * 1024;

/// What a sender leaves away, and after it an empty final block: a message that ends where a block ends makes the
/// stream end exactly here, and one that was cut short does not.
pub(super) const ENDING: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];

thread_local! {
    static INFLATER: RefCell<Inflater> = RefCell::new(Inflater {
        stream: Decompress::new(false),
        piece: vec![0; PIECE_BYTES].into_boxed_slice(),
    });
}

/// The most bytes in which a message of at most `message_bytes_max` may arrive.
///
/// Compression can lengthen: the fixed codes of deflate take nine bits for many bytes (RFC 1951 §3.2.6), and every flush
/// takes some. No compressor makes more than this of a message in one piece.
pub(super) fn compressed_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 8).saturating_add(64)
}

/// The message that was compressed to this, in a buffer of exactly its size.
///
/// No bytes at all are taken for an empty message, for which RFC 7692 §7.2.3.6 asks one byte: some clients send none.
pub(super) fn inflate(compressed: &[u8], message_bytes_max: usize) -> Result<Vec<u8>, Violation> {
    if compressed.is_empty() {
        return Ok(Vec::new());
    }
    INFLATER.with_borrow_mut(|inflater| {
        inflater.stream.reset(false);
        let mut message = Vec::new();
        let ended = inflater.feed(compressed, &mut message, message_bytes_max)?
            || inflater.feed(&ENDING, &mut message, message_bytes_max)?;
        if ended { Ok(message.into_boxed_slice().into_vec()) } else { Err(Violation::Corrupt) }
    })
}

struct Inflater {
    stream: Decompress,
    piece: Box<[u8]>,
}

impl Inflater {
    /// Inflates all of `input` to the end of `message`. True if it ends with a final block; behind one inside of it a
    /// new stream begins (RFC 7692 §7.2.3.4 and §7.2.3.5 let a message have several).
    fn feed(&mut self, mut input: &[u8], message: &mut Vec<u8>, message_bytes_max: usize) -> Result<bool, Violation> {
        loop {
            let (in_before, out_before) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(input, &mut self.piece, FlushDecompress::Sync)
                .map_err(|_| Violation::Corrupt)?;
            // Neither is more than the slices given.
            let taken = (self.stream.total_in() - in_before) as usize;
            let given = (self.stream.total_out() - out_before) as usize;
            if message.len() + given > message_bytes_max {
                return Err(Violation::TooLarge { bytes_max: message_bytes_max });
            }
            make_room(message, given, message_bytes_max);
            message.extend_from_slice(&self.piece[..given]);
            input = &input[taken..];
            match status {
                Status::StreamEnd if input.is_empty() => return Ok(true),
                Status::StreamEnd => self.stream.reset(false),
                // A full piece may not be the last.
                Status::Ok | Status::BufError if given == self.piece.len() => {}
                Status::Ok | Status::BufError if input.is_empty() => return Ok(false),
                Status::Ok | Status::BufError if taken == 0 => return Err(Violation::Corrupt),
                Status::Ok | Status::BufError => {}
            }
        }
    }
}
