//! Tests of the codecs as a peer sees them: bytes in, events out.

mod client;
mod deflate;
mod encoding;
mod fuzz;
mod memory;
mod properties;
mod reference;
mod streams;
mod utf8;
mod violations;

use bytes::Bytes;

use super::{Event, Parser, Violation};
use crate::message::PayloadKind;

/// A limit that the tests which are not about limits never reach.
const AMPLE: usize = 1 << 20;

/// All that a parser said about a stream.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    violation: Option<Violation>,
}

/// Parses a stream that arrives in one piece.
fn parse(bytes: &[u8], message_bytes_max: usize) -> Outcome {
    parse_chunks([bytes], message_bytes_max)
}

/// Parses a stream that arrives in these pieces.
fn parse_chunks<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, message_bytes_max: usize) -> Outcome {
    parse_all(Parser::new(message_bytes_max), chunks)
}

fn parse_all<'a>(mut parser: Parser, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut outcome = Outcome { events: Vec::new(), violation: None };
    for mut chunk in chunks {
        loop {
            match parser.next(&mut chunk) {
                Ok(Some(event)) => outcome.events.push(event),
                Ok(None) => break,
                Err(violation) => {
                    assert_eq!(outcome.violation, None, "a violation is reported once");
                    outcome.violation = Some(violation);
                }
            }
        }
        assert!(chunk.is_empty(), "`None` means that all is consumed");
    }
    outcome
}

fn text(payload: &str) -> Event {
    Event::Message { kind: PayloadKind::Text, payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

fn binary(payload: &[u8]) -> Event {
    Event::Message { kind: PayloadKind::Binary, payload: Bytes::copy_from_slice(payload) }
}

/// A session's task has room for this much in the block that it takes anyhow.
#[test]
fn an_idle_parser_is_small() {
    assert!(size_of::<Parser>() <= 32);
}
