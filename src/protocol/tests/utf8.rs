//! Text is UTF-8: wherever it is cut, and no later than the byte that shows that it is not.

use super::client::{self, ClientFrame};
use super::{AMPLE, parse, parse_chunks, text};
use crate::protocol::{Parser, Violation};

/// Characters of one to four bytes, the first and last of each length, and those around the surrogates.
const SAMPLE: &str = "a\u{0}\u{7F}\u{80}é\u{7FF}\u{800}€\u{D7FF}\u{E000}\u{FFFF}\u{10000}🦀\u{10FFFF}z";

#[test]
fn a_character_may_be_split_across_fragments() {
    let bytes = SAMPLE.as_bytes();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            let frames = client::fragments(client::TEXT, &parts);
            let stream = [frames[0].bytes(), client::ping(&[]), frames[1].bytes(), frames[2].bytes()].concat();
            let outcome = parse(&stream, AMPLE);
            assert_eq!(outcome.events.last(), Some(&text(SAMPLE)));
            assert_eq!(parse_chunks(stream.chunks(1), AMPLE), outcome);
        }
    }
}

#[test]
fn a_character_may_be_split_across_reads() {
    let stream = client::text(SAMPLE);
    for cut in 0..=stream.len() {
        let (head, tail) = stream.split_at(cut);
        assert_eq!(parse_chunks([head, tail], AMPLE).events, [text(SAMPLE)]);
    }
}

/// Ill-formed sequences, and how many of their bytes show it.
const ILL_FORMED: &[(&[u8], usize)] = &[
    (b"\x80", 1),
    (b"\xBF", 1),
    (b"\xC0\x80", 1),
    (b"\xC1\xBF", 1),
    (b"\xC2\x20", 2),
    (b"\xC3\xC3", 2),
    (b"\xE0\x80\x80", 2),
    (b"\xE0\x9F\xBF", 2),
    (b"\xE2\x82\x20", 3),
    (b"\xED\xA0\x80", 2),
    (b"\xED\xBF\xBF", 2),
    (b"\xF0\x80\x80\x80", 2),
    (b"\xF0\x8F\xBF\xBF", 2),
    (b"\xF0\x9F\xA6\x20", 4),
    (b"\xF4\x90\x80\x80", 2),
    (b"\xF5\x80\x80\x80", 1),
    (b"\xFE", 1),
    (b"\xFF", 1),
];

#[test]
fn an_ill_formed_byte_is_refused_when_it_arrives() {
    for (ill_formed, shown_by) in ILL_FORMED {
        for lead in ["", "ab", "é🦀"] {
            // Enough follows that neither the frame nor the message is complete when the byte arrives.
            let payload = [lead.as_bytes(), ill_formed, b"more"].concat();
            let stream = ClientFrame::new(client::TEXT, payload).not_final().bytes();
            let mut parser = Parser::new(AMPLE);
            let refused_at =
                stream.iter().position(|byte| parser.next(&mut &[*byte][..]) == Err(Violation::InvalidUtf8));
            let header = 6;
            assert_eq!(refused_at, Some(header + lead.len() + shown_by - 1), "{ill_formed:x?} after {lead:?}");
        }
    }
}

#[test]
fn ill_formed_text_is_refused_however_it_is_cut() {
    let unfinished: [&[u8]; 4] = [b"\xC3", b"\xE2\x82", b"\xF0\x9F", b"\xF0\x9F\xA6"];
    let ill_formed = ILL_FORMED.iter().map(|(bytes, _)| *bytes);
    for bytes in ill_formed.chain(unfinished) {
        let payload = ["é".as_bytes(), bytes].concat();
        for fragment in 0..=payload.len() {
            let (first, second) = payload.split_at(fragment);
            let stream = client::stream(&client::fragments(client::TEXT, &[first, second]));
            for cut in 0..=stream.len() {
                let (head, tail) = stream.split_at(cut);
                let outcome = parse_chunks([head, tail], AMPLE);
                assert_eq!(outcome.events, []);
                assert_eq!(outcome.violation, Some(Violation::InvalidUtf8));
            }
        }
        let whole = ClientFrame::new(client::TEXT, payload).bytes();
        assert_eq!(parse(&whole, AMPLE).violation, Some(Violation::InvalidUtf8));
    }
}

#[test]
fn binary_is_not_judged() {
    for (bytes, _) in ILL_FORMED {
        let stream = client::stream(&client::fragments(client::BINARY, &[bytes, b"\xFF"]));
        assert_eq!(parse(&stream, AMPLE).violation, None);
        assert_eq!(parse(&client::binary(bytes), AMPLE).violation, None);
    }
}
