//! The parser against tungstenite, on the same streams: the same events, and the same verdict.
//!
//! The deliberate differences:
//!
//! 1. Tungstenite takes lengths that are not in their shortest form; RFC 6455 §5.2 forbids them. So it takes a control
//!    frame, too, that tells a short length in a long form.
//! 2. Tungstenite judges a frame when all of it has arrived, Warren as soon as the deciding byte has. When a stream
//!    ends in between, the rest of the frame makes tungstenite refuse it too.
//! 3. Tungstenite refuses close code 1014, which IANA's registry has (bad gateway).
//! 4. Tungstenite reports a forbidden close code as a close event with 1002; for Warren it is a violation.
//! 5. Where a stream breaks two rules at once the close codes may differ: Warren goes by the order on the wire. Only
//!    that the stream is refused is compared.

use std::io::{self, Read, Write};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use super::properties::{conversation, mutation};
use super::{AMPLE, Outcome, client, parse};
use crate::message::PayloadKind;
use crate::protocol::{Event, Violation};

const LIMIT: usize = 400;

/// What tungstenite said about a stream.
#[derive(Debug, PartialEq)]
struct Reference {
    events: Vec<Event>,
    is_refused: bool,
}

/// A socket that has received these bytes and waits for more; what is written to it is lost.
struct Received<'a>(&'a [u8]);

impl Read for Received<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Received<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reference(bytes: &[u8], message_bytes_max: usize) -> Reference {
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let mut socket = WebSocket::from_raw_socket(Received(bytes), Role::Server, Some(config));
    let mut events = Vec::new();
    let is_refused = loop {
        match socket.read() {
            Ok(Message::Close(Some(close)))
                if close.code == CloseCode::Protocol && close.reason == "Protocol violation" =>
            {
                break true;
            }
            Ok(message) => events.push(event(message)),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break false,
            Err(Error::ConnectionClosed) => break false,
            Err(_) => break true,
        }
    };
    Reference { events, is_refused }
}

fn event(message: Message) -> Event {
    match message {
        Message::Text(text) => Event::Message { kind: PayloadKind::Text, payload: Bytes::from(text) },
        Message::Binary(payload) => Event::Message { kind: PayloadKind::Binary, payload },
        Message::Ping(payload) => Event::Ping(payload),
        Message::Pong(payload) => Event::Pong(payload),
        Message::Close(None) => Event::Close { code: None, reason: String::new() },
        Message::Close(Some(close)) => Event::Close { code: Some(close.code.into()), reason: close.reason.to_string() },
        Message::Frame(_) => unreachable!("raw frames are never read"),
    }
}

/// Asserts that both say the same, but for the differences that this module lists.
#[track_caller]
pub(super) fn assert_agreement(bytes: &[u8], message_bytes_max: usize) {
    let ours = parse(bytes, message_bytes_max);
    let theirs = reference(bytes, message_bytes_max);
    if is_length_in_long_form(&ours) {
        assert!(theirs.events.starts_with(&ours.events), "{ours:?} {theirs:?}");
        return;
    }
    if let Some((Event::Close { code: Some(1014), .. }, before)) = ours.events.split_last() {
        assert!(theirs.is_refused);
        assert_eq!(theirs.events, before);
        return;
    }
    if ours.violation.is_some() && !theirs.is_refused {
        let rest = vec![0; message_bytes_max + 32];
        let completed = reference(&[bytes, &rest].concat(), message_bytes_max);
        assert!(completed.is_refused, "{ours:?} {theirs:?}");
        assert_eq!(completed.events, ours.events);
        return;
    }
    assert_eq!(theirs.is_refused, ours.violation.is_some(), "{ours:?}");
    assert_eq!(theirs.events, ours.events);
}

/// Whether the verdict may rest on a length that is longer than its shortest form.
fn is_length_in_long_form(outcome: &Outcome) -> bool {
    matches!(
        outcome.violation,
        Some(Violation::Protocol("length is not in its shortest form" | "control frame is longer than 125 bytes"))
    )
}

/// Every first byte with the second bytes around each of the length's forms, between messages and inside a fragmented
/// one, with a frame's worth of bytes after them.
#[test]
fn every_head_is_judged_alike() {
    let open = client::ClientFrame::new(client::TEXT, *b"open").not_final().bytes();
    let tail: Vec<u8> = [&[0, 126, 0, 0], &[b'a'; 140][..]].concat();
    for first in 0..=u8::MAX {
        for second in (0..=2).chain(124..=130).chain(250..=255) {
            let frame = [&[first, second], &tail[..]].concat();
            assert_agreement(&frame, LIMIT);
            assert_agreement(&[&open, &frame[..]].concat(), LIMIT);
        }
    }
}

#[test]
fn every_close_code_is_judged_alike() {
    for code in 0..=u16::MAX {
        assert_agreement(&client::close(code, b"reason"), LIMIT);
    }
}

#[test]
fn the_limit_is_the_same() {
    for len in LIMIT - 2..=LIMIT + 2 {
        assert_agreement(&client::binary(&vec![1; len]), LIMIT);
        for first in [0, 1, len / 2, len] {
            let parts = [&vec![1; first][..], &vec![2; len - first]];
            let frames = client::fragments(client::BINARY, &parts);
            assert_agreement(&client::stream(&frames), LIMIT);
        }
    }
}

proptest! {
    #[test]
    fn conversations_are_read_alike(conversation in conversation()) {
        assert_agreement(&conversation.bytes, AMPLE);
        assert_agreement(&conversation.bytes, LIMIT);
    }

    #[test]
    fn damaged_conversations_are_judged_alike(
        conversation in conversation(),
        mutations in vec(mutation(), 1..4),
    ) {
        let mut bytes = conversation.bytes;
        for mutation in mutations {
            mutation.apply(&mut bytes);
        }
        assert_agreement(&bytes, LIMIT);
    }

    #[test]
    fn arbitrary_bytes_are_judged_alike(
        first in prop::sample::select(vec![0x01_u8, 0x02, 0x81, 0x82, 0x88, 0x89, 0x8A]),
        second in 0x80_u8..,
        rest in vec(any::<u8>(), 0..300),
    ) {
        assert_agreement(&[&[first, second], &rest[..]].concat(), LIMIT);
    }
}
