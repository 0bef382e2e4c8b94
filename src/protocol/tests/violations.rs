//! What a server must refuse, with the code it must refuse it with, and at which byte.

use super::client::{self, ClientFrame, Length};
use super::{AMPLE, Outcome, parse, parse_chunks, text};
use crate::protocol::Parser;
use crate::protocol::{Event, Violation};

/// Asserts that a stream is refused with this code after a first good message, however reads cut it.
#[track_caller]
fn assert_refused(bad: &[u8], close_code: u16) {
    assert_refused_after(&client::text("good"), &[text("good")], bad, close_code);
}

#[track_caller]
fn assert_refused_after(good: &[u8], events: &[Event], bad: &[u8], close_code: u16) {
    let stream = [good, bad, &client::text("late")].concat();
    let whole = parse(&stream, AMPLE);
    assert_eq!(whole.events, events);
    assert_eq!(whole.violation.map(|violation| violation.close_code()), Some(close_code));
    assert_eq!(parse_chunks(stream.chunks(1), AMPLE), whole, "in bytes");
    for cut in 0..stream.len() {
        let (head, tail) = stream.split_at(cut);
        assert_eq!(parse_chunks([head, tail], AMPLE), whole, "cut at {cut}");
    }
}

/// How many of the stream's bytes a parser needs to see for its verdict.
fn refused_at(stream: &[u8], message_bytes_max: usize) -> Option<usize> {
    let mut parser = Parser::new(message_bytes_max);
    stream.iter().position(|byte| parser.next(&mut &[*byte][..]).is_err()).map(|index| index + 1)
}

#[test]
fn unmasked_frames() {
    for opcode in [client::TEXT, client::BINARY, client::PING, client::CLOSE] {
        let frame = ClientFrame::new(opcode, []).mask(None).bytes();
        assert_refused(&frame, 1002);
        assert_eq!(refused_at(&frame, AMPLE), Some(2));
    }
}

#[test]
fn reserved_bits() {
    for rsv in 1..8 {
        for opcode in [client::TEXT, client::BINARY, client::PING, client::CLOSE] {
            let frame = ClientFrame::new(opcode, []).rsv(rsv).bytes();
            assert_refused(&frame, 1002);
            assert_eq!(refused_at(&frame, AMPLE), Some(1));
        }
    }
}

#[test]
fn reserved_opcodes() {
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        let frame = ClientFrame::new(opcode, []);
        assert_refused(&frame.bytes(), 1002);
        assert_refused(&frame.clone().not_final().bytes(), 1002);
        assert_eq!(refused_at(&frame.bytes(), AMPLE), Some(1));
    }
}

#[test]
fn control_frames_that_are_fragmented_or_long() {
    for opcode in [client::PING, client::PONG, client::CLOSE] {
        let payload = [3, 232].repeat(63);
        let fragmented = ClientFrame::new(opcode, &payload[..2]).not_final().bytes();
        assert_refused(&fragmented, 1002);
        assert_eq!(refused_at(&fragmented, AMPLE), Some(1));
        let long = ClientFrame::new(opcode, payload).bytes();
        assert_refused(&long, 1002);
        assert_eq!(refused_at(&long, AMPLE), Some(2));
        let longer = ClientFrame::new(opcode, vec![b'x'; 65_536]).bytes();
        assert_eq!(refused_at(&longer, AMPLE), Some(2));
    }
}

#[test]
fn fragments_out_of_order() {
    let continuation = ClientFrame::new(client::CONTINUATION, *b"x");
    assert_refused(&continuation.bytes(), 1002);
    assert_refused(&continuation.clone().not_final().bytes(), 1002);
    for opcode in [client::TEXT, client::BINARY] {
        let start = ClientFrame::new(opcode, *b"x").not_final();
        assert_refused(&[start.bytes(), client::text("y")].concat(), 1002);
        assert_refused(&[start.bytes(), client::binary(b"y")].concat(), 1002);
        assert_refused(&[start.bytes(), start.bytes()].concat(), 1002);
        let ended = [start.bytes(), continuation.bytes(), continuation.bytes()].concat();
        let message = parse(&ended, AMPLE).events;
        let events = [&[text("good")], &message[..]].concat();
        assert_eq!(events.len(), 2);
        assert_refused_after(&client::text("good"), &events, &ended, 1002);
    }
}

#[test]
fn lengths_that_are_not_in_the_shortest_form() {
    for len in [0_u8, 1, 125] {
        let frame = ClientFrame::new(client::BINARY, vec![0; len.into()]);
        assert_refused(&frame.clone().length(Length::Bits16(len.into())).bytes(), 1002);
        assert_refused(&frame.length(Length::Bits64(len.into())).bytes(), 1002);
    }
    for len in [126_u16, 127, 65_535] {
        let frame = ClientFrame::new(client::BINARY, []).length(Length::Bits64(len.into()));
        assert_refused(&frame.bytes(), 1002);
    }
}

#[test]
fn lengths_with_the_highest_bit() {
    for length in [1 << 63, u64::MAX] {
        let frame = ClientFrame::new(client::BINARY, []).length(Length::Bits64(length)).bytes();
        assert_refused(&frame, 1002);
        assert_eq!(refused_at(&frame, AMPLE), Some(10));
    }
}

#[test]
fn close_payloads_that_make_no_sense() {
    assert_refused(&ClientFrame::new(client::CLOSE, [3]).bytes(), 1002);
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535] {
        assert_refused(&client::close(code, b""), 1002);
        assert_refused(&client::close(code, b"reason"), 1002);
    }
    for reason in [&b"\xFF"[..], b"ok\xC3", b"\xED\xA0\x80"] {
        assert_refused(&client::close(1000, reason), 1007);
    }
}

#[test]
fn close_codes_that_are_defined() {
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        let event = Event::Close { code: Some(code), reason: "why".to_owned() };
        assert_eq!(parse(&client::close(code, b"why"), AMPLE).events, [event]);
    }
}

#[test]
fn a_violation_inside_a_fragmented_message() {
    let start = ClientFrame::new(client::TEXT, *b"x").not_final().bytes();
    let ping = ClientFrame::new(client::PING, []).mask(None).bytes();
    assert_refused(&[start.clone(), ping].concat(), 1002);
    let close = client::close(1005, b"");
    assert_refused(&[start, close].concat(), 1002);
}

#[test]
fn one_byte_over_the_limit() {
    for limit in [0, 1, 125, 126, 65_535, 65_536] {
        let at = client::binary(&vec![1; limit]);
        assert_eq!(parse(&at, limit).violation, None);
        assert_eq!(parse(&at, limit).events.len(), 1);

        let over = client::binary(&vec![1; limit + 1]);
        let refused = Outcome { events: Vec::new(), violation: Some(Violation::TooLarge { bytes_max: limit }) };
        assert_eq!(parse(&over, limit), refused);
        // Before the mask and the payload.
        let header = over.len() - limit - 1;
        assert_eq!(refused_at(&over, limit), Some(header - 4));
    }
    let huge = ClientFrame::new(client::TEXT, []).length(Length::Bits64(i64::MAX as u64)).bytes();
    assert_eq!(refused_at(&huge, AMPLE), Some(10));
    assert_eq!(parse(&huge, AMPLE).violation.map(|violation| violation.close_code()), Some(1009));
}

#[test]
fn the_limit_counts_all_fragments() {
    let parts = client::fragments(client::BINARY, &[&[1; 4], &[], &[2; 5], &[3; 1]]);
    let stream = client::stream(&parts);
    assert_eq!(parse(&stream, 10).events.len(), 1);
    assert_eq!(parse(&stream, 9).violation, Some(Violation::TooLarge { bytes_max: 9 }));
    // The third fragment's length decides, not its payload.
    let decided = client::stream(&parts[..2]).len() + 2;
    assert_eq!(refused_at(&stream, 8), Some(decided));
}

#[test]
fn control_frames_have_their_own_limit() {
    assert_eq!(parse(&client::ping(&[0; 125]), 0).events.len(), 1);
    assert_eq!(parse(&client::close(1000, &[b'r'; 123]), 0).events.len(), 1);
}

#[test]
fn reasons_are_fit_for_a_close_frame() {
    let violations = [
        Violation::Protocol("client frame is not masked"),
        Violation::InvalidUtf8,
        Violation::TooLarge { bytes_max: usize::MAX },
        Violation::Corrupt,
    ];
    let codes = violations.map(|violation| violation.close_code());
    assert_eq!(codes, [1002, 1007, 1009, 1007]);
    assert!(violations.iter().all(|violation| violation.to_string().len() <= 123));
}
