//! What clients send, at volume: see [`crate::fuzzing`].

use std::borrow::Cow;

use bytes::Bytes;
use miniz_oxide::MZFlush;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::client::{self, ClientFrame, Length};
use super::properties::{Mutation, conversation, mutation, parse_watching_memory, split};
use super::{deflate, reference};
use crate::fuzzing::fuzz;
use crate::message::PayloadKind;
use crate::protocol::extensions::{Malformed, negotiate};
use crate::protocol::inflate::{ENDING, inflate};
use crate::protocol::{Event, Violation};

// --- frames -------------------------------------------------------------------------------------------------------

/// However reads cut a stream, it means the same; and it means what tungstenite takes it for.
#[test]
fn fuzz_frames() {
    let inputs = (stream(), vec(any::<Index>(), 0..12), 125_usize..2000);
    fuzz("frames", inputs, |(bytes, cuts, message_bytes_max)| {
        let whole = parse_watching_memory(&[&bytes], message_bytes_max);
        assert_eq!(parse_watching_memory(&split(&bytes, &cuts), message_bytes_max), whole);
        reference::assert_agreement(&bytes, message_bytes_max);
    });
}

/// A good conversation that was damaged, or not; frames of all kinds without much sense; noise.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let conversations =
        (conversation(), vec(mutation(), 0..5)).prop_map(|(talk, changes)| damaged(talk.bytes, &changes));
    let frames = (vec(frame(), 0..8), vec(mutation(), 0..2))
        .prop_map(|(frames, changes)| damaged(client::stream(&frames), &changes));
    prop_oneof![3 => conversations, 5 => frames, 1 => vec(any::<u8>(), 0..300)]
}

fn damaged(mut bytes: Vec<u8>, changes: &[Mutation]) -> Vec<u8> {
    changes.iter().for_each(|change| change.apply(&mut bytes));
    bytes
}

/// A frame that is mostly right.
fn frame() -> impl Strategy<Value = ClientFrame> {
    let opcode = prop_oneof![
        8 => select(vec![client::TEXT, client::BINARY, client::CONTINUATION]),
        3 => select(vec![client::PING, client::PONG]),
        1 => Just(client::CLOSE),
        1 => 0_u8..16,
    ];
    let rsv = prop_oneof![40 => Just(0), 1 => 0_u8..8];
    let mask = prop_oneof![40 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let length = prop_oneof![
        40 => Just(Length::Shortest),
        1 => any::<u16>().prop_map(Length::Bits16),
        1 => any::<u64>().prop_map(Length::Bits64),
        1 => (0_u64..300).prop_map(Length::Bits64),
    ];
    (any::<bool>(), rsv, opcode, mask, length, payload())
        .prop_map(|(fin, rsv, opcode, mask, length, payload)| ClientFrame { fin, rsv, opcode, mask, length, payload })
}

/// Text that may be broken, close codes, and sizes where the form of the length changes.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let characters: Vec<&[u8]> =
        vec![b"a", "é".as_bytes(), "€".as_bytes(), "🦀".as_bytes(), b"\xE2\x82", b"\xED\xA0\x80", b"\xF4\x90", b"\xC0"];
    let text = vec(prop_oneof![9 => select(characters[..4].to_vec()), 1 => select(characters)], 0..12);
    let close =
        (any::<u16>(), "\\PC{0,10}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat());
    let round = (any::<u8>(), prop_oneof![20 => 120_usize..130, 1 => 65_530_usize..65_540])
        .prop_map(|(byte, length)| vec![byte & 0x7F; length]);
    prop_oneof![6 => text.prop_map(|parts| parts.concat()), 2 => close, 2 => round, 2 => vec(any::<u8>(), 0..200)]
}

// --- compressed messages ------------------------------------------------------------------------------------------

/// What is inflated is what another inflater makes of it, and never more than the limit.
#[test]
fn fuzz_compressed_messages() {
    let limit = prop_oneof![9 => 0_usize..3000, 1 => 0_usize..100_000];
    let inputs = (compressed(), vec(any::<Index>(), 0..8), limit);
    fuzz("compressed messages", inputs, |(bytes, cuts, message_bytes_max)| {
        let outcome = inflate(&bytes, message_bytes_max);
        let other = inflated_elsewhere(&bytes, message_bytes_max);
        match &outcome {
            Ok(message) => assert_eq!(other, Elsewhere::Message(message.clone())),
            Err(Violation::TooLarge { bytes_max }) => {
                assert_eq!(*bytes_max, message_bytes_max);
                assert_eq!(other, Elsewhere::More);
            }
            // zlib's rules for the code tables are the stricter ones: the other may go on where it stops.
            Err(violation) => assert_eq!(*violation, Violation::Corrupt),
        }

        let stream = deflate::frame(client::BINARY, &bytes);
        let whole = deflate::parse_chunks([&stream[..]], message_bytes_max);
        assert_eq!(deflate::parse_chunks(split(&stream, &cuts), message_bytes_max), whole);
        if let Ok(message) = outcome
            && whole.violation.is_none()
        {
            let payload = Bytes::from(message);
            assert_eq!(whole.events, [Event::Message { kind: PayloadKind::Binary, payload }]);
        }
    });
}

/// What a compressor made, one message or several behind one another, damaged or not; and noise.
fn compressed() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![9 => 0_usize..5000, 1 => 0_usize..200_000];
    let same = (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length]);
    let payload = prop_oneof![8 => deflate::compressible(), 1 => same];
    let flush = select(vec![MZFlush::Sync, MZFlush::Full, MZFlush::Finish]);
    let part = (payload, flush).prop_map(|(payload, flush)| deflate::flushed(&payload, flush));
    let whole = (vec(part, 1..4), any::<bool>()).prop_map(|(parts, is_cut)| {
        let mut bytes = parts.concat();
        // As RFC 7692 §7.2.1 has it; a reader takes the message with its end, too.
        if is_cut && bytes.ends_with(&ENDING[..4]) {
            bytes.truncate(bytes.len() - 4);
        }
        bytes
    });
    let damaged = (whole, vec(mutation(), 0..4)).prop_map(|(bytes, changes)| damaged(bytes, &changes));
    prop_oneof![6 => damaged, 1 => vec(any::<u8>(), 0..200)]
}

/// What miniz_oxide makes of a compressed message.
#[derive(Debug, PartialEq)]
enum Elsewhere {
    Message(Vec<u8>),
    Corrupt,
    /// More bytes than the limit, whatever follows them.
    More,
}

fn inflated_elsewhere(compressed: &[u8], message_bytes_max: usize) -> Elsewhere {
    if compressed.is_empty() {
        return Elsewhere::Message(Vec::new());
    }
    let input = [compressed, &ENDING].concat();
    let mut out = vec![0; message_bytes_max + 1];
    let (mut taken, mut given) = (0, 0);
    // One turn for each final block: behind it nothing refers to what was before.
    loop {
        let mut stream = DecompressorOxide::new();
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, read, written) = decompress(&mut stream, &input[taken..], &mut out[given..], 0, flags);
        (taken, given) = (taken + read, given + written);
        if given > message_bytes_max {
            return Elsewhere::More;
        }
        if status != TINFLStatus::Done {
            return Elsewhere::Corrupt;
        }
        if taken == compressed.len() || taken == input.len() {
            out.truncate(given);
            return Elsewhere::Message(out);
        }
    }
}

// --- offers of extensions -----------------------------------------------------------------------------------------

/// A list means the same in one header line as in several, however it is spelled, and only what is good is accepted.
#[test]
fn fuzz_extension_offers() {
    let inputs = prop_oneof![
        vec(soup(), 0..4).prop_map(|lines| (lines, None)),
        vec(offer(), 0..4).prop_map(|offers| {
            let answer = offers.iter().find_map(Offer::answer);
            (offers.into_iter().map(|offer| offer.spelled).collect(), Some(answer))
        }),
    ];
    fuzz("extension offers", inputs, |(lines, expected): (Vec<String>, Option<Option<Answer>>)| {
        let answer = negotiate(lines.iter().map(String::as_str));
        assert_eq!(negotiate([lines.join(",").as_str()]), answer, "in one line");
        match expected {
            Some(expected) => assert_eq!(answer.map(|answer| answer.map(Answer::of)), Ok(expected)),
            None => {
                assert!(matches!(answer, Ok(None) | Err(Malformed)) || lines.concat().contains("permessage-deflate"))
            }
        }
    });
}

/// What was accepted, by what it says of the server's window.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Plain,
    WithWindow,
}

impl Answer {
    fn of(header: &str) -> Answer {
        assert!(header.starts_with("permessage-deflate; server_no_context_takeover; client_no_context_takeover"));
        if header.ends_with("; server_max_window_bits=15") { Answer::WithWindow } else { Answer::Plain }
    }
}

/// Pieces of which offers consist, in any order.
fn soup() -> impl Strategy<Value = String> {
    let pieces = vec![
        "permessage-deflate",
        "client_max_window_bits",
        "server_max_window_bits",
        "server_no_context_takeover",
        "=",
        "=",
        ";",
        ";",
        ",",
        " ",
        "\t",
        "\"",
        "\\",
        "15",
        "8",
        "x",
        "é",
    ];
    let piece = prop_oneof![12 => select(pieces).prop_map(str::to_owned), 1 => "\\PC"];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// A well-formed offer, and how it is spelled.
#[derive(Debug, Clone)]
struct Offer {
    name: &'static str,
    parameters: Vec<(&'static str, Option<&'static str>)>,
    spelled: String,
}

impl Offer {
    fn answer(&self) -> Option<Answer> {
        let names: Vec<_> = self.parameters.iter().map(|(name, _)| *name).collect();
        let is_doubled = (1..names.len()).any(|index| names[..index].contains(&names[index]));
        if self.name != "permessage-deflate" || is_doubled {
            return None;
        }
        let is_good = |(name, value): &(&str, Option<&str>)| match (*name, *value) {
            ("client_max_window_bits", Some(bits)) => {
                bits.len() <= 2 && ("8"..="9").contains(&bits) || ("10"..="15").contains(&bits)
            }
            ("server_max_window_bits", value) => value == Some("15"),
            (name, value) => name != "unknown" && value.is_none(),
        };
        let answer = if names.contains(&"server_max_window_bits") { Answer::WithWindow } else { Answer::Plain };
        self.parameters.iter().all(is_good).then_some(answer)
    }
}

fn offer() -> impl Strategy<Value = Offer> {
    let name = prop_oneof![6 => Just("permessage-deflate"), 1 => select(vec!["x-webkit-deflate-frame", "permessage"])];
    let parameter = select(vec![
        "client_max_window_bits",
        "server_max_window_bits",
        "client_no_context_takeover",
        "server_no_context_takeover",
        "unknown",
    ]);
    let value = prop_oneof![
        3 => Just(None),
        3 => select(vec!["7", "8", "9", "10", "12", "15", "16", "08", "1", "150"]).prop_map(Some),
    ];
    let spelling = (select(vec!["", " ", "\t "]), any::<bool>(), any::<bool>());
    (name, vec((parameter, value, spelling), 0..3)).prop_map(|(name, parameters)| {
        let mut spelled = name.to_owned();
        for (parameter, value, (blank, is_quoted, is_escaped)) in &parameters {
            spelled += &format!("{blank};{blank}{parameter}");
            let Some(value) = value else { continue };
            let value =
                if *is_quoted && *is_escaped { Cow::Owned(format!("\\{value}")) } else { Cow::Borrowed(*value) };
            spelled += &if *is_quoted { format!("={blank}\"{value}\"") } else { format!("{blank}={value}") };
        }
        let parameters = parameters.into_iter().map(|(name, value, _)| (name, value)).collect();
        Offer { name, parameters, spelled }
    })
}
