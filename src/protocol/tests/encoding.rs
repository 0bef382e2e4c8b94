//! Server frames, read back by a client.

use bytes::BytesMut;

use super::client::{self, ServerFrame};
use crate::message::PayloadKind;
use crate::protocol::frame::CLOSE_REASON_BYTES_MAX;
use crate::protocol::{
    Opcode, close, close_without_code, encode, encoded_len, is_valid_close_code, message, ping, pong,
};

/// The only frame in `bytes`.
fn decode(mut bytes: &[u8]) -> ServerFrame {
    let frame = ServerFrame::take(&mut bytes).expect("a whole frame was encoded");
    assert!(bytes.is_empty(), "one frame was encoded");
    frame
}

fn close_parts(bytes: &[u8]) -> (u16, String) {
    let frame = decode(bytes);
    assert_eq!(frame.opcode, client::CLOSE);
    let (code, reason) = frame.payload.split_first_chunk().expect("a code");
    let reason = String::from_utf8(reason.to_vec()).expect("a reason in UTF-8");
    (u16::from_be_bytes(*code), reason)
}

/// RFC 6455 §5.7, the unmasked frames; the long ones by their headers.
#[test]
fn the_examples_of_the_rfc() {
    let hello = b"Hello";
    assert_eq!(message(PayloadKind::Text, hello)[..], *b"\x81\x05\x48\x65\x6c\x6c\x6f");
    assert_eq!(ping(hello)[..], *b"\x89\x05\x48\x65\x6c\x6c\x6f");
    let middle = message(PayloadKind::Binary, &[7; 256]);
    assert_eq!(middle[..4], *b"\x82\x7E\x01\x00");
    let long = message(PayloadKind::Binary, &[7; 65_536]);
    assert_eq!(long[..10], *b"\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00");
}

#[test]
fn every_length_is_read_back() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let bytes = message(PayloadKind::Binary, &payload);
        assert_eq!(bytes.len(), encoded_len(len));
        let frame = decode(&bytes);
        assert_eq!(frame.opcode, client::BINARY);
        assert_eq!(frame.payload, payload);
    }
}

#[test]
fn a_batch_is_one_buffer() {
    let mut out = BytesMut::new();
    encode(Opcode::Text, b"one", &mut out);
    encode(Opcode::Ping, b"two", &mut out);
    encode(Opcode::Binary, &[3; 300], &mut out);
    let mut rest = &out[..];
    let frames: Vec<_> = std::iter::from_fn(|| ServerFrame::take(&mut rest)).collect();
    assert!(rest.is_empty());
    let opcodes: Vec<_> = frames.iter().map(|frame| frame.opcode).collect();
    assert_eq!(opcodes, [client::TEXT, client::PING, client::BINARY]);
    assert_eq!(frames[2].payload, [3; 300]);
}

#[test]
fn control_frames_carry_what_they_are_given() {
    let payload = [9; 125];
    assert_eq!(decode(&ping(&payload)).payload, payload);
    assert_eq!(decode(&pong(&payload)).payload, payload);
    assert_eq!(decode(&pong(&payload)).opcode, client::PONG);
    assert_eq!(decode(&close_without_code()).opcode, client::CLOSE);
    assert!(decode(&close_without_code()).payload.is_empty());
    assert_eq!(close_parts(&close(1000, "")), (1000, String::new()));
    assert_eq!(close_parts(&close(4999, "gone fishing")), (4999, "gone fishing".to_owned()));
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    for character in ["a", "é", "€", "🦀"] {
        for lead in 0..4 {
            let reason = "-".repeat(lead) + &character.repeat(CLOSE_REASON_BYTES_MAX);
            let (code, sent) = close_parts(&close(1001, &reason));
            assert_eq!(code, 1001);
            assert!(reason.starts_with(&sent));
            let room = CLOSE_REASON_BYTES_MAX - sent.len();
            assert!(room < character.len(), "{room} bytes are left unused");
        }
    }
}

#[test]
fn the_codes_that_may_be_sent() {
    let valid: Vec<u16> = (0..=u16::MAX).filter(|&code| is_valid_close_code(code)).collect();
    let expected: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
    assert_eq!(valid, expected);
}
