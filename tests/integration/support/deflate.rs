//! What a client with permessage-deflate does to payloads (RFC 7692 §7.2), by an implementation that is not Warren's.

use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::decompress_to_vec;
use miniz_oxide::{DataFormat, MZFlush};

/// The payload of a message's compressed frame.
pub fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut compressor = CompressorOxide::default();
    compressor.set_format_and_level(DataFormat::Raw, 6);
    let mut out = vec![0; payload.len() * 2 + 100];
    let written = deflate(&mut compressor, payload, &mut out, MZFlush::Sync).bytes_written;
    out.truncate(written);
    out.strip_suffix(&[0, 0, 0xFF, 0xFF]).expect("the end of a flush").to_vec()
}

/// The payload of a message from that of its compressed frame.
pub fn inflated(deflated: &[u8]) -> Vec<u8> {
    // What the sender left away, and a final block, so that there is an end to find.
    let stream = [deflated, &[0, 0, 0xFF, 0xFF, 1, 0, 0, 0xFF, 0xFF]].concat();
    decompress_to_vec(&stream).expect("a whole stream")
}
