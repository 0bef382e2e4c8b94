//! Properties over random conversations, and over bytes that are none.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::client::{self, ClientFrame, ServerFrame};
use super::{AMPLE, Outcome, parse, parse_chunks};
use crate::message::PayloadKind;
use crate::protocol::{Event, Opcode, Parser, encoded_len, message};

/// One message of a conversation, with how it is cut into fragments and what comes in between.
#[derive(Debug, Clone)]
struct Turn {
    kind: PayloadKind,
    payload: Vec<u8>,
    cuts: Vec<Index>,
    mask: [u8; 4],
    /// Control frames, each before the fragment of its index.
    controls: Vec<(Index, bool, Vec<u8>)>,
}

impl Turn {
    fn parts(&self) -> Vec<&[u8]> {
        split(&self.payload, &self.cuts)
    }

    /// The frames of this turn and the events they mean.
    fn play(&self, frames: &mut Vec<ClientFrame>, events: &mut Vec<Event>) {
        let opcode = Opcode::from(self.kind) as u8;
        let fragments = client::fragments(opcode, &self.parts());
        let count = fragments.len();
        for (index, fragment) in fragments.into_iter().enumerate() {
            for (before, is_ping, payload) in &self.controls {
                if before.index(count) == index {
                    let payload = payload.clone();
                    let bytes = Bytes::from(payload.clone());
                    if *is_ping {
                        frames.push(ClientFrame::new(client::PING, payload));
                        events.push(Event::Ping(bytes));
                    } else {
                        frames.push(ClientFrame::new(client::PONG, payload));
                        events.push(Event::Pong(bytes));
                    }
                }
            }
            frames.push(fragment.mask(Some(self.mask)));
        }
        events.push(Event::Message { kind: self.kind, payload: Bytes::from(self.payload.clone()) });
    }
}

/// A client's stream and what it means.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) bytes: Vec<u8>,
    pub(super) events: Vec<Event>,
}

pub(super) fn conversation() -> impl Strategy<Value = Conversation> {
    (vec(turn(), 0..5), prop::option::of(ending())).prop_map(|(turns, ending)| {
        let mut frames = Vec::new();
        let mut events = Vec::new();
        for turn in turns {
            turn.play(&mut frames, &mut events);
        }
        let mut bytes = client::stream(&frames);
        if let Some((code, reason)) = ending {
            bytes.extend(client::close(code, reason.as_bytes()));
            let code = Some(code);
            events.push(Event::Close { code, reason });
        }
        Conversation { bytes, events }
    })
}

fn turn() -> impl Strategy<Value = Turn> {
    let text = "(\\PC|[\u{0}-\u{7F}]){0,60}".prop_map(|text| (PayloadKind::Text, text.into_bytes()));
    let short = vec(any::<u8>(), 0..300).prop_map(|bytes| (PayloadKind::Binary, bytes));
    let long = (any::<u8>(), 65_000_usize..66_500).prop_map(|(byte, len)| (PayloadKind::Binary, vec![byte; len]));
    (
        prop_oneof![20 => text, 20 => short, 1 => long],
        vec(any::<Index>(), 0..4),
        any::<[u8; 4]>(),
        vec((any::<Index>(), any::<bool>(), vec(any::<u8>(), 0..=125)), 0..3),
    )
        .prop_map(|((kind, payload), cuts, mask, controls)| Turn { kind, payload, cuts, mask, controls })
}

fn ending() -> impl Strategy<Value = (u16, String)> {
    let code = prop_oneof![1000_u16..=1003, 1007_u16..=1014, 3000_u16..=4999];
    (code, "\\PC{0,30}")
}

/// The pieces between these cuts; some may be empty.
pub(super) fn split<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(bytes.len());
    let starts = std::iter::once(0).chain(ends.clone());
    starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect()
}

/// A change to a stream, as a mistaken or hostile client might make it.
#[derive(Debug, Clone)]
pub(super) enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
}

impl Mutation {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        match self {
            Self::Set(at, byte) => bytes[at.index(len)] = *byte,
            Self::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Self::Insert(at, byte) => bytes.insert(at.index(len), *byte),
            Self::Remove(at) => {
                bytes.remove(at.index(len));
            }
            Self::Truncate(at) => bytes.truncate(at.index(len)),
        }
    }
}

pub(super) fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        3 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => any::<Index>().prop_map(Mutation::Truncate),
    ]
}

/// Parses in pieces and asserts after each that the memory owned is within the bounds.
pub(super) fn parse_watching_memory(chunks: &[&[u8]], message_bytes_max: usize) -> Outcome {
    let mut parser = Parser::new(message_bytes_max);
    let mut outcome = Outcome { events: Vec::new(), violation: None };
    let mut received = 0;
    for mut chunk in chunks.iter().copied() {
        received += chunk.len();
        loop {
            match parser.next(&mut chunk) {
                Ok(Some(event)) => outcome.events.push(event),
                Ok(None) => break,
                Err(violation) => outcome.violation = Some(violation),
            }
            let owned = parser.buffer_bytes().unwrap_or(0);
            assert!(owned <= (2 * received).min(message_bytes_max + 125));
        }
        let owned = parser.buffer_bytes().unwrap_or(0);
        assert!(owned <= (2 * received).min(message_bytes_max + 125));
        if outcome.violation.is_some() {
            assert_eq!(parser.buffer_bytes(), None);
        }
    }
    outcome
}

proptest! {
    #[test]
    fn a_conversation_is_understood_however_it_is_cut(
        conversation in conversation(),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let expected = Outcome { events: conversation.events, violation: None };
        prop_assert_eq!(&parse(&conversation.bytes, AMPLE), &expected);
        let chunks = split(&conversation.bytes, &cuts);
        prop_assert_eq!(parse_chunks(chunks, AMPLE), expected);
    }

    #[test]
    fn a_damaged_conversation_means_the_same_however_it_is_cut(
        conversation in conversation(),
        mutations in vec(mutation(), 1..4),
        cuts in vec(any::<Index>(), 0..12),
        message_bytes_max in 0_usize..1000,
    ) {
        let mut bytes = conversation.bytes;
        for mutation in mutations {
            mutation.apply(&mut bytes);
        }
        let whole = parse_watching_memory(&[&bytes], message_bytes_max);
        let cut = parse_watching_memory(&split(&bytes, &cuts), message_bytes_max);
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        bytes in vec(any::<u8>(), 0..200),
        is_plausible in any::<bool>(),
        cuts in vec(any::<Index>(), 0..6),
        message_bytes_max in 0_usize..300,
    ) {
        let mut bytes = bytes;
        if is_plausible && bytes.len() >= 2 {
            // A head that passes, so that what follows it is looked at.
            bytes[0] = [0x01, 0x02, 0x81, 0x82, 0x88, 0x89][usize::from(bytes[0] % 6)];
            bytes[1] |= 0x80;
        }
        let whole = parse_watching_memory(&[&bytes], message_bytes_max);
        let cut = parse_watching_memory(&split(&bytes, &cuts), message_bytes_max);
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn what_the_server_encodes_a_client_reads(
        payload in prop_oneof![vec(any::<u8>(), 0..300), vec(any::<u8>(), 65_000..66_000)],
        is_text in any::<bool>(),
    ) {
        let kind = if is_text { PayloadKind::Text } else { PayloadKind::Binary };
        let bytes = message(kind, &payload);
        prop_assert_eq!(bytes.len(), encoded_len(payload.len()));
        let mut rest = &bytes[..];
        let frame = ServerFrame { opcode: Opcode::from(kind) as u8, payload };
        prop_assert_eq!(ServerFrame::take(&mut rest), Some(frame));
        prop_assert!(rest.is_empty());
    }
}
