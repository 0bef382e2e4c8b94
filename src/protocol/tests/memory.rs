//! What a parser holds on to, against what a client has sent.

use super::AMPLE;
use super::client::{self, ClientFrame, Length};
use crate::protocol::{Event, Parser, Violation};

/// Feeds bytes that complete nothing.
#[track_caller]
fn feed(parser: &mut Parser, mut bytes: &[u8]) {
    assert_eq!(parser.next(&mut bytes), Ok(None));
    assert!(bytes.is_empty());
}

#[test]
fn nothing_is_owned_between_messages() {
    let mut parser = Parser::new(AMPLE);
    assert_eq!(parser.buffer_bytes(), None);
    feed(&mut parser, &[]);
    assert_eq!(parser.buffer_bytes(), None, "no input, no memory");

    let fragmented = client::stream(&client::fragments(client::TEXT, &[b"one", b"two"]));
    for stream in [client::text("hello"), client::ping(b"hello"), client::binary(&[1; 70_000]), fragmented] {
        for cut in [0, 1, 2, 5, 7, stream.len() - 1] {
            let (head, mut tail) = stream.split_at(cut);
            feed(&mut parser, head);
            assert_eq!(parser.buffer_bytes().is_some(), cut > 0);
            let event = parser.next(&mut tail);
            assert!(matches!(event, Ok(Some(_))), "{event:?}");
            assert_eq!(parser.buffer_bytes(), None, "{} bytes", stream.len());
        }
    }
}

#[test]
fn nothing_is_owned_after_the_end() {
    let start = ClientFrame::new(client::BINARY, [1; 100]).not_final().bytes();
    let end = [client::close(1000, b""), vec![0xFF; 10]];
    for end in end {
        let mut parser = Parser::new(AMPLE);
        feed(&mut parser, &start);
        assert!(parser.buffer_bytes().is_some());
        let event = parser.next(&mut &end[..]);
        assert!(!matches!(event, Ok(None)), "{event:?}");
        assert_eq!(parser.buffer_bytes(), None);
        feed(&mut parser, &client::text("late"));
        assert_eq!(parser.buffer_bytes(), None);
    }
}

#[test]
fn a_promised_length_allocates_nothing() {
    let limit = 1 << 40;
    let promise = ClientFrame::new(client::BINARY, [7; 10]).length(Length::Bits64(limit));
    let mut parser = Parser::new(limit as usize);
    feed(&mut parser, &promise.bytes());
    assert_eq!(parser.buffer_bytes(), Some(10));
}

#[test]
fn buffers_at_most_double_and_end_with_the_frame() {
    let len = 100_000;
    let stream = client::binary(&vec![5; len]);
    let (last, most) = stream.split_last().expect("a frame has bytes");
    for read in [1, 999, 4096, 60_000] {
        let mut parser = Parser::new(AMPLE);
        let mut received = 0;
        for chunk in most.chunks(read) {
            feed(&mut parser, chunk);
            received += chunk.len();
            let owned = parser.buffer_bytes().unwrap_or(0);
            assert!(owned <= (2 * received).min(len), "{owned} for {received}");
        }
        let event = parser.next(&mut &[*last][..]);
        assert!(matches!(event, Ok(Some(Event::Message { .. }))));
    }
}

#[test]
fn empty_fragments_leave_nothing() {
    let mut parser = Parser::new(AMPLE);
    feed(&mut parser, &ClientFrame::new(client::TEXT, []).not_final().bytes());
    let empty = ClientFrame::new(client::CONTINUATION, []).not_final().bytes();
    let many = empty.repeat(1000);
    for _ in 0..100 {
        feed(&mut parser, &many);
    }
    assert_eq!(parser.buffer_bytes(), Some(0));
}

#[test]
fn small_fragments_cost_their_bytes() {
    let limit = 50_000;
    let mut parser = Parser::new(limit);
    feed(&mut parser, &ClientFrame::new(client::TEXT, []).not_final().bytes());
    let small = ClientFrame::new(client::CONTINUATION, *b"x").not_final().bytes();
    for received in 1..=limit {
        feed(&mut parser, &small);
        let owned = parser.buffer_bytes().unwrap_or(0);
        assert!(owned <= (2 * received).min(limit), "{owned} for {received}");
    }
    assert_eq!(parser.next(&mut &small[..]), Err(Violation::TooLarge { bytes_max: limit }));
    assert_eq!(parser.buffer_bytes(), None);
}

#[test]
fn a_message_in_fragments_has_no_spare_room() {
    let parts = [&[1; 100][..], &[2; 1], &[3; 1], &[]];
    let stream = client::stream(&client::fragments(client::BINARY, &parts));
    let event = Parser::new(AMPLE).next(&mut &stream[..]);
    let Ok(Some(Event::Message { payload, .. })) = event else {
        panic!("{event:?} is not a message");
    };
    let payload = payload.try_into_mut().expect("nobody else holds it");
    assert_eq!((payload.len(), payload.capacity()), (102, 102));
}
