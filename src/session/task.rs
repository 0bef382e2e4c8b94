//! The task that owns one session's reading: socket → parser → broker.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use socket2::SockRef;

use super::Session;
use super::registry::Registration;
use crate::broker::Receipt;
use crate::close::CloseReason;
use crate::message::{Message, PayloadKind, Target};
use crate::outbox::Phase;
use crate::protocol::{Event, Parser, Violation, frame};

/// Bytes read at a time, into a buffer that all sessions of a thread share.
const READ_BYTES: usize = 64 * 1024;

/// The texts that a client sends to stay connected; they are never published.
const KEEP_ALIVES: [&[u8]; 2] = [b"ping", b"keep-alive"];

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Runs until the socket is done with. What it awaits while idle is kept small: this future exists once a session.
pub async fn run(session: Arc<Session>, registration: Registration, first: Bytes) {
    let mut parser = Parser::new(session.sessions.limits().message_bytes_max);
    if !first.is_empty() {
        session.act_and_drain(parse(&mut parser, &first)).await;
    }
    drop(first);
    let mut half_closed = false;
    while let Some(step) = poll_fn(|cx| session.poll_step(cx, half_closed)).await {
        match step {
            Step::Read => match session.read(&mut parser) {
                Ok(inputs) => session.act_and_drain(inputs).await,
                Err(_) => break,
            },
            // The client has the close frame before the end of the stream, and is read until its own end: closing a
            // socket with unread bytes would reset it, and the frame could be lost (RFC 6455 §7.1.1).
            Step::HalfClose => {
                half_closed = true;
                if SockRef::from(&session.socket.0).shutdown(std::net::Shutdown::Write).is_err() {
                    break;
                }
            }
        }
    }
    session.outbox.abort();
    drop(registration);
}

enum Step {
    Read,
    HalfClose,
}

enum Input {
    Event(Event),
    Violation(Violation),
}

impl Session {
    /// What the task does next; `None` when the session is over. While nothing is to be done the outbox is drained.
    fn poll_step(&self, cx: &mut Context<'_>, half_closed: bool) -> Poll<Option<Step>> {
        match self.outbox.poll_flush(cx, &self.socket) {
            Phase::Dead => return Poll::Ready(None),
            Phase::Closed if !half_closed => return Poll::Ready(Some(Step::HalfClose)),
            Phase::Open | Phase::Closing | Phase::Closed => {}
        }
        Poll::Ready(ready!(self.socket.0.poll_read_ready(cx)).ok().map(|()| Step::Read))
    }

    /// Reads once. An error is the end of the stream, too.
    fn read(&self, parser: &mut Parser) -> io::Result<Vec<Input>> {
        READ_BUFFER.with_borrow_mut(|buffer| match self.socket.0.try_read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if self.outbox.phase() != Phase::Open => Ok(Vec::new()),
            Ok(read) => {
                self.heard();
                Ok(parse(parser, &buffer[..read]))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        })
    }

    /// Acts on what was read. Meanwhile the outbox goes on being drained, or a sender whom the broker holds back would
    /// look like a reader who is too slow.
    fn act_and_drain(self: &Arc<Self>, inputs: Vec<Input>) -> impl Future<Output = ()> {
        // Boxed: publishing needs much, but only while it lasts.
        let mut acting = (!inputs.is_empty()).then(|| Box::pin(self.clone().act(inputs)));
        let session = self.clone();
        poll_fn(move |cx| match &mut acting {
            Some(acting) if session.outbox.poll_flush(cx, &session.socket) != Phase::Dead => acting.as_mut().poll(cx),
            _ => Poll::Ready(()),
        })
    }

    async fn act(self: Arc<Self>, inputs: Vec<Input>) {
        for input in inputs {
            match input {
                Input::Event(Event::Message { kind: PayloadKind::Text, payload }) if is_keep_alive(&payload) => {
                    if self.sessions.limits().answer_keep_alive {
                        self.send(&frame::message(PayloadKind::Text, b"pong"));
                    }
                }
                Input::Event(Event::Message { kind, payload }) => self.publish(kind, payload).await,
                Input::Event(Event::Ping(payload)) => self.send(&frame::pong(&payload)),
                Input::Event(Event::Pong(_)) => {}
                Input::Event(Event::Close { code, .. }) => self.close(CloseReason::ByClient(code)),
                Input::Violation(violation) => self.close(CloseReason::Violation(violation)),
            }
        }
    }

    async fn publish(self: &Arc<Self>, kind: PayloadKind, payload: Bytes) {
        let id = Some(self.sessions.message_ids().next());
        let message = Message { id, target: Target::Broadcast, kind, payload };
        self.sessions.broker().publish(message, Receipt::to(self.clone())).await;
    }
}

/// All that `input` completes; a violation or a close is the last.
fn parse(parser: &mut Parser, mut input: &[u8]) -> Vec<Input> {
    let mut inputs = Vec::new();
    loop {
        match parser.next(&mut input) {
            Ok(Some(event)) => {
                let last = matches!(event, Event::Close { .. });
                inputs.push(Input::Event(event));
                if last {
                    return inputs;
                }
            }
            Ok(None) => return inputs,
            Err(violation) => {
                inputs.push(Input::Violation(violation));
                return inputs;
            }
        }
    }
}

fn is_keep_alive(payload: &[u8]) -> bool {
    KEEP_ALIVES.contains(&payload)
}
