//! Valid streams: what they mean, however reads cut them.

use bytes::Bytes;

use super::client::{self, ClientFrame};
use super::{AMPLE, Outcome, binary, parse, parse_chunks, text};
use crate::protocol::{Event, Parser};

/// Asserts what a stream means: whole, byte by byte, and cut in two and in three at every point.
#[track_caller]
fn assert_events(stream: &[u8], expected: &[Event]) {
    let expected = Outcome { events: expected.to_vec(), violation: None };
    assert_eq!(parse(stream, AMPLE), expected, "in one piece");
    assert_eq!(parse_chunks(stream.chunks(1), AMPLE), expected, "in bytes");
    for first in 0..=stream.len() {
        let (head, rest) = stream.split_at(first);
        assert_eq!(parse_chunks([head, rest], AMPLE), expected, "at {first}");
        for second in (0..=rest.len()).step_by(7) {
            let (middle, tail) = rest.split_at(second);
            assert_eq!(parse_chunks([head, middle, tail], AMPLE), expected, "at {first} and {second} after it");
        }
    }
}

/// RFC 6455 §5.7, the masked frames, and the unmasked ones masked.
#[test]
fn the_examples_of_the_rfc() {
    assert_events(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[text("Hello")]);
    assert_events(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[Event::Pong(Bytes::from_static(b"Hello"))]);
    let fragmented = client::fragments(client::TEXT, &[b"Hel", b"lo"]);
    assert_events(&client::stream(&fragmented), &[text("Hello")]);
    let ping = client::ping(b"Hello");
    assert_events(&ping, &[Event::Ping(Bytes::from_static(b"Hello"))]);
}

#[test]
fn control_frames_between_fragments_come_first() {
    let parts = client::fragments(client::TEXT, &["Zwölf ".as_bytes(), b"", "Boxkämpfer".as_bytes()]);
    let stream = [
        client::ping(b"a").as_slice(),
        &parts[0].bytes(),
        &client::ping(b""),
        &client::pong(b"c"),
        &parts[1].bytes(),
        &client::ping(&[b'd'; 125]),
        &parts[2].bytes(),
        &client::text(""),
        &client::binary(&[0, 1, 2]),
        &client::close(4000, "tschüß".as_bytes()),
    ]
    .concat();
    assert_events(
        &stream,
        &[
            Event::Ping(Bytes::from_static(b"a")),
            Event::Ping(Bytes::new()),
            Event::Pong(Bytes::from_static(b"c")),
            Event::Ping(Bytes::from_static(&[b'd'; 125])),
            text("Zwölf Boxkämpfer"),
            text(""),
            binary(&[0, 1, 2]),
            Event::Close { code: Some(4000), reason: "tschüß".to_owned() },
        ],
    );
}

#[test]
fn fragments_may_be_empty() {
    for parts in [&[&b""[..], b""] as &[&[u8]], &[b"", b"x"], &[b"x", b""], &[b"", b"", b"x", b"", b""]] {
        let stream = client::stream(&client::fragments(client::BINARY, parts));
        assert_events(&stream, &[binary(&parts.concat())]);
    }
}

#[test]
fn lengths_in_all_three_forms() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let stream = [client::binary(&payload), client::text("next")].concat();
        let expected = Outcome { events: vec![binary(&payload), text("next")], violation: None };
        assert_eq!(parse(&stream, AMPLE), expected, "{len} bytes");
        let header = stream.len() - len - client::text("next").len();
        for cut in [1, header - 1, header, header + 1, header + len / 2, header + len] {
            let (head, tail) = stream.split_at(cut);
            assert_eq!(parse_chunks([head, tail], AMPLE), expected, "{len} at {cut}");
        }
        for size in [1, 3, 1000, 4096] {
            assert_eq!(parse_chunks(stream.chunks(size), AMPLE), expected, "{len} bytes by {size}");
        }
    }
}

#[test]
fn every_mask_is_taken_off() {
    let payload: Vec<u8> = (0..=70).collect();
    for mask in [[0; 4], [0xFF; 4], [1, 2, 3, 4], [0x80, 0, 0, 1]] {
        let frame = ClientFrame::new(client::BINARY, payload.clone()).mask(Some(mask));
        assert_events(&frame.bytes(), &[binary(&payload)]);
    }
}

#[test]
fn a_close_frame_may_be_without_code_or_reason() {
    let close = |code, reason: &str| Event::Close { code, reason: reason.to_owned() };
    assert_events(&client::close_without_code(), &[close(None, "")]);
    assert_events(&client::close(1000, b""), &[close(Some(1000), "")]);
    let reason = "r".repeat(123);
    assert_events(&client::close(3000, reason.as_bytes()), &[close(Some(3000), &reason)]);
}

#[test]
fn nothing_comes_after_a_close() {
    let stream = [client::close(1000, b""), client::text("late"), vec![0xFF; 20]].concat();
    assert_events(&stream, &[Event::Close { code: Some(1000), reason: String::new() }]);
}

#[test]
fn an_event_leaves_the_next_frame_in_the_input() {
    let stream = [client::text("one"), client::text("two")].concat();
    let mut input = &stream[..];
    let mut parser = Parser::new(AMPLE);
    assert_eq!(parser.next(&mut input), Ok(Some(text("one"))));
    assert_eq!(input, client::text("two"));
    assert_eq!(parser.next(&mut input), Ok(Some(text("two"))));
    assert_eq!(parser.next(&mut input), Ok(None));
}
