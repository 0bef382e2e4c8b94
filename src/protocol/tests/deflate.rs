//! Compression: what comes compressed from a client, and what is compressed for it. miniz_oxide, an implementation of
//! deflate that shares nothing with the one in use, plays the client.

use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::deflate::stream::deflate as miniz;
use miniz_oxide::inflate::decompress_to_vec_with_limit;
use miniz_oxide::{DataFormat, MZFlush};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::client::{self, ClientFrame};
use super::properties::{Mutation, mutation, split};
use super::{AMPLE, Outcome, binary, text};
use crate::message::PayloadKind;
use crate::protocol::deflate::Deflater;
use crate::protocol::frame::encode_deflated;
use crate::protocol::{Event, Parser, Violation};

const RSV1: u8 = 4;

/// The payload of a compressed message (RFC 7692 §7.2.1), as a client makes it.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut bytes = flushed(payload, MZFlush::Sync);
    assert!(bytes.ends_with(&[0, 0, 0xFF, 0xFF]));
    bytes.truncate(bytes.len() - 4);
    bytes
}

pub(super) fn flushed(payload: &[u8], flush: MZFlush) -> Vec<u8> {
    let mut compressor = CompressorOxide::default();
    compressor.set_format_and_level(DataFormat::Raw, 6);
    let mut out = vec![0; payload.len() * 2 + 100];
    let result = miniz(&mut compressor, payload, &mut out, flush);
    assert_eq!(result.bytes_consumed, payload.len());
    out.truncate(result.bytes_written);
    out
}

pub(super) fn frame(opcode: u8, deflated: &[u8]) -> Vec<u8> {
    ClientFrame::new(opcode, deflated).rsv(RSV1).bytes()
}

/// What a parser says on a connection with compression.
pub(super) fn parse_chunks<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, message_bytes_max: usize) -> Outcome {
    super::parse_all(Parser::new(message_bytes_max).inflating(true), chunks)
}

/// Asserts what one stream comes to, whole, in bytes and cut in two at every point.
#[track_caller]
fn assert_outcome(stream: &[u8], message_bytes_max: usize, events: &[Event], violation: Option<Violation>) {
    let expected = Outcome { events: events.to_vec(), violation };
    assert_eq!(parse_chunks([stream], message_bytes_max), expected, "in one piece");
    assert_eq!(parse_chunks(stream.chunks(1), message_bytes_max), expected, "in bytes");
    for cut in 0..stream.len().min(2000) {
        let (head, tail) = stream.split_at(cut);
        assert_eq!(parse_chunks([head, tail], message_bytes_max), expected, "cut at {cut}");
    }
}

#[track_caller]
fn assert_means(stream: &[u8], event: Event) {
    assert_outcome(&[stream, &client::text("next")].concat(), AMPLE, &[event, text("next")], None);
}

#[track_caller]
fn assert_refused(stream: &[u8], violation: Violation) {
    assert_outcome(&[stream, &client::text("late")].concat(), AMPLE, &[], Some(violation));
}

/// RFC 7692 §7.2.3.
#[test]
fn the_examples_of_the_rfc() {
    let hello: [&[u8]; 4] = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        // A final block, and padding behind it.
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        // Two blocks.
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
    ];
    for payload in hello {
        assert_means(&frame(client::TEXT, payload), text("Hello"));
    }
    let first = ClientFrame::new(client::TEXT, [0xf2, 0x48, 0xcd]).rsv(RSV1).not_final();
    let second = ClientFrame::new(client::CONTINUATION, [0xc9, 0xc9, 0x07, 0x00]);
    assert_means(&client::stream(&[first, second]), text("Hello"));
    assert_means(&frame(client::TEXT, &[0x00]), text(""));
    // What refers to the message before it: no window is kept for it.
    let again = [frame(client::TEXT, hello[0]), frame(client::TEXT, &[0xf2, 0x00, 0x11, 0x00, 0x00])].concat();
    assert_outcome(&again, AMPLE, &[text("Hello")], Some(Violation::Corrupt));
}

#[test]
fn a_message_in_fragments_cut_at_every_byte() {
    let payload = "Wo ein Wolf ist, da ist auch ein Weg. Wo ein Weg ist, da ist auch ein Wölfchen.";
    let deflated = deflated(payload.as_bytes());
    for cut in 0..=deflated.len() {
        let (head, tail) = deflated.split_at(cut);
        let mut frames = client::fragments(client::TEXT, &[head, b"", tail]);
        frames[0].rsv = RSV1;
        frames.insert(1, ClientFrame::new(client::PING, *b"between"));
        let events = [Event::Ping("between".into()), text(payload)];
        let outcome = parse_chunks(client::stream(&frames).chunks(3), AMPLE);
        assert_eq!(outcome, Outcome { events: events.to_vec(), violation: None });
    }
}

#[test]
fn final_blocks_may_stand_anywhere() {
    let (one, two) = (flushed(b"one one one one ", MZFlush::Finish), flushed(b"two two two two", MZFlush::Finish));
    assert_means(&frame(client::BINARY, &one), binary(b"one one one one "));
    assert_means(&frame(client::BINARY, &[&one[..], &two].concat()), binary(b"one one one one two two two two"));
    let open = deflated(b"two");
    assert_means(&frame(client::BINARY, &[&one[..], &open].concat()), binary(b"one one one one two"));
}

#[test]
fn an_empty_message_may_be_no_bytes_at_all() {
    assert_means(&frame(client::TEXT, b""), text(""));
    assert_means(&frame(client::BINARY, &deflated(b"")), binary(b""));
}

#[test]
fn plain_messages_pass_as_before() {
    let stream = [client::text("plain"), frame(client::TEXT, &deflated(b"deflated")), client::text("plain")].concat();
    assert_outcome(&stream, AMPLE, &[text("plain"), text("deflated"), text("plain")], None);
}

#[test]
fn the_bit_is_for_the_first_frame_of_a_message_alone() {
    let reserved = Violation::Protocol("reserved bit is set");
    let misplaced = Violation::Protocol("only a message's first frame says that it is compressed");
    for opcode in [client::PING, client::PONG, client::CLOSE] {
        assert_refused(&frame(opcode, b""), misplaced);
    }
    for first_rsv in [0, RSV1] {
        let mut frames = client::fragments(client::BINARY, &[&[0xf2, 0x48, 0xcd], &[0xc9, 0xc9, 0x07, 0x00]]);
        frames[0].rsv = first_rsv;
        frames[1].rsv = RSV1;
        assert_refused(&client::stream(&frames), misplaced);
    }
    for rsv in [1, 2, 3, 5, 6, 7] {
        assert_refused(&ClientFrame::new(client::TEXT, [0]).rsv(rsv).bytes(), reserved);
    }
}

#[test]
fn damaged_data_is_refused_with_1007() {
    let whole = deflated("Whatever is whatever was.".as_bytes());
    let cut_short = &whole[..whole.len() - 3];
    let unfinished_copy: &[u8] = &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65];
    // The third type of block, a length that is not its complement, a distance beyond the beginning.
    for damaged in [cut_short, unfinished_copy, &[0x06], &[0, 1, 2, 3, 4, 5], &[0xf2, 0x00, 0x11, 0x00, 0x00]] {
        assert_refused(&frame(client::BINARY, damaged), Violation::Corrupt);
    }
    assert_eq!(Violation::Corrupt.close_code(), 1007);
}

#[test]
fn text_is_judged_when_it_is_inflated() {
    // Compressed bytes are hardly ever UTF-8: the message above all is not taken for what it looks like.
    assert_means(&frame(client::TEXT, &deflated("Größe".as_bytes())), text("Größe"));
    for bad in [&b"\xFF"[..], b"ok\xC3", b"\xED\xA0\x80"] {
        assert_refused(&frame(client::TEXT, &deflated(bad)), Violation::InvalidUtf8);
        assert_means(&frame(client::BINARY, &deflated(bad)), binary(bad));
    }
}

#[test]
fn a_bomb_is_refused_at_the_limit() {
    const MIB: usize = 1024 * 1024;
    let bomb = frame(client::BINARY, &deflated(&vec![0; 10 * MIB]));
    assert!(bomb.len() < 12 * 1024, "{}", bomb.len());
    for limit in [0, 1, 1000, 16 * 1024, 64 * 1024, MIB, 10 * MIB - 1] {
        let refused = Outcome { events: Vec::new(), violation: Some(Violation::TooLarge { bytes_max: limit }) };
        assert_eq!(parse_chunks([&bomb[..]], limit), refused);
    }
    let whole = parse_chunks([&bomb[..]], 10 * MIB);
    let [Event::Message { payload, .. }] = &whole.events[..] else { panic!("not one message") };
    assert_eq!(payload.len(), 10 * MIB);
}

#[test]
fn the_limit_is_that_of_the_inflated_message() {
    let noise: Vec<u8> = std::iter::repeat_with({
        let mut random = fastrand::Rng::with_seed(7);
        move || random.u8(..)
    })
    .take(5000)
    .collect();
    for len in [0, 1, 100, 125, 126, 1000, 5000] {
        let payload = &noise[..len];
        let compressed = deflated(payload);
        assert!(compressed.len() >= len, "noise does not get shorter");
        let stream = frame(client::BINARY, &compressed);
        assert_outcome(&stream, len, &[binary(payload)], None);
        if len > 0 {
            assert_outcome(&stream, len - 1, &[], Some(Violation::TooLarge { bytes_max: len - 1 }));
        }
    }
    // What no message within the limit needs is refused by its announced length.
    let announced = ClientFrame::new(client::BINARY, []).rsv(RSV1).length(client::Length::Bits16(1200)).bytes();
    assert_eq!(parse_chunks([&announced[..]], 1000).violation, Some(Violation::TooLarge { bytes_max: 1000 }));
    assert_eq!(parse_chunks([&announced[..]], 1050).violation, None);
}

#[test]
fn no_memory_is_kept_for_what_was_inflated() {
    let mut parser = Parser::new(AMPLE).inflating(true);
    let stream = frame(client::BINARY, &deflated(&[7; 100_000]));
    let event = parser.next(&mut &stream[..]);
    let Ok(Some(Event::Message { payload, .. })) = event else { panic!("{event:?}") };
    assert_eq!(parser.buffer_bytes(), None);
    let payload = payload.try_into_mut().expect("nobody else holds it");
    assert_eq!((payload.len(), payload.capacity()), (100_000, 100_000));
}

/// What a client makes of a compressed frame's payload, with an implementation of its own.
fn client_inflates(deflated: &[u8]) -> Vec<u8> {
    // A final block, so that there is an end to find.
    let whole = [deflated, &[0, 0, 0xFF, 0xFF, 1, 0, 0, 0xFF, 0xFF]].concat();
    decompress_to_vec_with_limit(&whole, AMPLE).expect("a whole stream")
}

#[test]
fn only_what_gets_shorter_is_compressed() {
    let mut deflater = Deflater::default();
    for short in [&b""[..], b"a", b"abc", b"\x00\xFF\x80"] {
        assert_eq!(deflater.deflate(short), None);
    }
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(100_000).collect();
    for len in [10, 1000, 16_383, 65_536, 100_000] {
        assert_eq!(deflater.deflate(&noise[..len]), None);
        let same = vec![b'x'; len];
        let deflated = deflater.deflate(&same).expect("much shorter").to_vec();
        assert!(deflated.len() < len);
        assert_eq!(client_inflates(&deflated), same);
    }
}

#[test]
fn a_compressed_frame_has_the_bit_and_is_the_same_each_time() {
    let mut deflater = Deflater::default();
    let payload = "again ".repeat(50);
    let frames = [(); 2].map(|()| {
        let mut out = bytes::BytesMut::new();
        encode_deflated(PayloadKind::Text, deflater.deflate(payload.as_bytes()).expect("shorter"), &mut out);
        out
    });
    assert_eq!(frames[0], frames[1], "nothing is taken over from the message before");
    assert_eq!(frames[0][0], 0xC1);
    assert_eq!(usize::from(frames[0][1]), frames[0].len() - 2);
    assert_eq!(client_inflates(&frames[0][2..]), payload.as_bytes());
}

/// Bytes that compress: a few words over and over, with noise in between.
pub(super) fn compressible() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(b"warren".to_vec()), Just(b"\"id\":".to_vec()), vec(any::<u8>(), 0..20)], 0..200)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn what_a_client_compresses_is_read_however_it_is_cut(
        payloads in vec(compressible(), 1..4),
        fragment_cuts in vec(any::<Index>(), 0..4),
        cuts in vec(any::<Index>(), 0..8),
    ) {
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| {
            let deflated = deflated(payload);
            let mut frames = client::fragments(client::BINARY, &split(&deflated, &fragment_cuts));
            frames[0].rsv = RSV1;
            client::stream(&frames)
        }).collect();
        let events = payloads.iter().map(|payload| binary(payload)).collect();
        prop_assert_eq!(parse_chunks(split(&stream, &cuts), AMPLE), Outcome { events, violation: None });
    }

    #[test]
    fn damage_is_judged_the_same_however_it_is_cut_and_never_passes_the_limit(
        payload in compressible(),
        mutations in vec(mutation(), 1..4),
        cuts in vec(any::<Index>(), 0..8),
        message_bytes_max in 0_usize..3000,
    ) {
        let mut compressed = deflated(&payload);
        mutations.iter().for_each(|mutation: &Mutation| mutation.apply(&mut compressed));
        let stream = frame(client::BINARY, &compressed);
        let whole = parse_chunks([&stream[..]], message_bytes_max);
        let is_within = |event: &Event| matches!(event, Event::Message { payload, .. } if payload.len() <= message_bytes_max);
        prop_assert!(whole.events.iter().all(is_within));
        prop_assert_eq!(parse_chunks(split(&stream, &cuts), message_bytes_max), whole);
    }

    #[test]
    fn what_the_server_compresses_a_client_reads(payloads in vec(compressible(), 1..4)) {
        let mut deflater = Deflater::default();
        for payload in payloads {
            if let Some(deflated) = deflater.deflate(&payload) {
                prop_assert!(deflated.len() < payload.len());
                prop_assert_eq!(client_inflates(deflated), payload);
            }
        }
    }
}
