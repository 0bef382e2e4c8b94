//! The task that owns one session's reading: socket → parser → broker.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::Session;
use super::conversation::Conversation;
use super::rate::Allowance;
use super::registry::{Hearing, Registration};
use super::resume::{NotNow, Returning};
use crate::broker::Receipt;
use crate::close::CloseReason;
use crate::hub::Membership;
use crate::message::{Message, MessageId, PayloadKind, Target, now_unix_ms};
use crate::outbox::Phase;
use crate::protocol::{Event, Parser, frame};

/// Bytes read at a time, into a buffer that all sessions of a thread share.
const READ_BYTES: usize = 64 * 1024;

/// Events acted on before more of the same input is parsed: 64 KiB of one-byte messages would else take 450 KiB at once.
/// Payloads together end a turn at [`READ_BYTES`], since compressed ones are a multiple of what was read.
const EVENTS_PER_TURN: usize = 64;

/// The texts that a client sends to stay connected; they are never published.
const KEEP_ALIVES: [&[u8]; 2] = [b"ping", b"keep-alive"];

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// What is moved along with what a session does: all that it hears by, if that changes.
type Spoken = Option<Box<Talk>>;

enum Talk {
    Conversation(Conversation),
    /// It has come back, and hears for as long as this is kept.
    Silent {
        _membership: Membership,
    },
}

enum Work {
    None(Spoken),
    /// Something is being done with the last input. Boxed: publishing needs much, but only while it lasts.
    Acting(Pin<Box<dyn Future<Output = Spoken> + Send>>),
}

/// Written out by hand rather than as an `async fn`, since it exists once a session: what it holds while idle is what a
/// session costs.
pub(super) struct SessionTask {
    registration: Registration,
    parser: Parser,
    /// Input that was read and is to be parsed when what came before it is done.
    unparsed: Bytes,
    work: Work,
    /// What the client may still say, if that is limited.
    allowance: Allowance,
    /// The sending side of the socket is shut.
    half_closed: bool,
}

impl SessionTask {
    /// `first` is what the client sent behind its handshake.
    pub fn new(mut registration: Registration, first: &[u8]) -> SessionTask {
        let session = registration.session.clone();
        let work = match registration.take_hearing() {
            Hearing::Here(membership) => Work::None(Some(Box::new(Talk::Conversation(Conversation::new(membership))))),
            Hearing::Returns(returning) => Work::Acting(Box::pin(session.clone().come_back(*returning))),
            Hearing::Taken => Work::None(None),
        };
        let (limits, now_ms) = (session.sessions.limits(), session.sessions.clock().now_ms());
        let parser = Parser::new(limits.message_bytes_max).inflating(session.format.inflates());
        let allowance = limits.rate.map_or_else(Allowance::default, |rate| Allowance::full(&rate, now_ms));
        let unparsed = if session.format.is_events() { Bytes::new() } else { Bytes::copy_from_slice(first) };
        SessionTask { registration, parser, unparsed, work, allowance, half_closed: false }
    }

    fn session(&self) -> &Arc<Session> {
        &self.registration.session
    }

    /// One thing at a time, until nothing can be done; `Break` when the session is over.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<ControlFlow<()>> {
        // First of all, and even while acting: a sender whom the broker holds back would else look like a reader who
        // is too slow.
        let (phase, progressed) = self.session().outbox.poll_flush(cx, &self.session().socket);
        if progressed && phase == Phase::Closing {
            // Who still reads gets all that waits; the close timeout is for who does not.
            self.session().mark_now();
        }
        if phase == Phase::Closed && !self.half_closed {
            return Poll::Ready(self.half_close());
        }
        // What was read is acted on to its end, though the client be gone by now.
        if let Work::Acting(acting) = &mut self.work {
            self.work = Work::None(ready!(acting.as_mut().poll(cx)));
        }
        if !self.unparsed.is_empty() {
            let unparsed = std::mem::take(&mut self.unparsed);
            self.begin(&unparsed);
            return Poll::Ready(ControlFlow::Continue(()));
        }
        if phase == Phase::Dead {
            return Poll::Ready(ControlFlow::Break(()));
        }
        if phase == Phase::Open && self.session().is_leaving() {
            ready!(self.session().poll_settled());
            self.session().close(self.session().going_away());
            return Poll::Ready(ControlFlow::Continue(()));
        }
        let session = self.session().clone();
        let Some(stream) = session.socket.0.get() else { return Poll::Ready(ControlFlow::Break(())) };
        let readable = ready!(stream.poll_read_ready(cx));
        if readable.is_err() {
            return Poll::Ready(ControlFlow::Break(()));
        }
        let read = READ_BUFFER.with_borrow_mut(|buffer| {
            let read = session.read(stream, buffer)?;
            self.begin(&buffer[..read]);
            Ok::<(), io::Error>(())
        });
        Poll::Ready(if read.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    /// Parses some of `input` and begins to act on it; the rest waits.
    fn begin(&mut self, mut input: &[u8]) {
        let mut inputs = parse(&mut self.parser, &mut input);
        if let Some(rate) = self.session().sessions.limits().rate {
            let now_ms = self.session().sessions.clock().now_ms();
            let session = self.session();
            let said = inputs.iter().filter(|input| input.is_said(session)).count();
            let granted = self.allowance.take(&rate, now_ms, said as u32) as usize;
            if granted < said {
                // Closes come last, so what is said are the first.
                inputs.truncate(granted);
                inputs.push(Input::Offence(CloseReason::TooManyMessages { per_second: rate.per_second }));
            }
        }
        self.unparsed = Bytes::copy_from_slice(input);
        if let Work::None(conversation) = &mut self.work
            && !inputs.is_empty()
        {
            let conversation = conversation.take();
            self.work = Work::Acting(Box::pin(self.session().clone().act(inputs, conversation)));
        }
    }

    /// The client has the close frame before the end of the stream, and is read until its own end: closing a socket
    /// with unread bytes would reset it, and the frame could be lost (RFC 6455 §7.1.1).
    fn half_close(&mut self) -> ControlFlow<()> {
        self.half_closed = true;
        self.session().mark_now();
        match self.session().socket.0.get().map(|stream| SockRef::from(stream).shutdown(Shutdown::Write)) {
            Some(Ok(())) => ControlFlow::Continue(()),
            Some(Err(_)) | None => ControlFlow::Break(()),
        }
    }
}

impl Future for SessionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        while ready!(this.poll_step(cx)).is_continue() {}
        this.session().outbox.abort();
        Poll::Ready(())
    }
}

enum Input {
    Event(Event),
    /// What the session is closed for.
    Offence(CloseReason),
}

impl Input {
    /// Whether it counts towards the rate: all that makes the server work, and what costs as much to read.
    fn is_said(&self, session: &Session) -> bool {
        match self {
            Input::Event(Event::Pong(payload)) => !session.may_be_proof(payload),
            Input::Event(Event::Message { .. } | Event::Ping(_)) => true,
            Input::Event(Event::Close { .. }) | Input::Offence(_) => false,
        }
    }
}

impl Session {
    /// Reads once; the answer is how many bytes are to be parsed. An error is the end of the stream, too.
    fn read(&self, stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        match stream.try_read(buffer) {
            Ok(0) => {
                self.note_end();
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            // Read only to see the client's end.
            Ok(_) if self.has_ended() || self.format.is_events() => Ok(0),
            Ok(read) => {
                self.heard();
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionReset {
                    self.note_end();
                }
                Err(error)
            }
        }
    }

    async fn act(self: Arc<Self>, inputs: Vec<Input>, mut conversation: Spoken) -> Spoken {
        for input in inputs {
            // Answering pings alone would never give way: a read holds ten thousand of them.
            tokio::task::coop::consume_budget().await;
            // Nothing more is handed over once a refusal is known.
            if self.has_ended() {
                break;
            }
            match input {
                Input::Event(Event::Message { kind: PayloadKind::Text, payload }) if is_keep_alive(&payload) => {
                    if self.sessions.limits().answer_keep_alive {
                        self.send(&frame::message(PayloadKind::Text, b"pong"));
                    }
                }
                Input::Event(Event::Message { kind, payload }) => match conversation.as_deref_mut() {
                    Some(Talk::Conversation(conversation)) => conversation.hear(&self, kind, &payload).await,
                    Some(Talk::Silent { .. }) | None => self.publish(kind, payload).await,
                },
                Input::Event(Event::Ping(payload)) => self.send(&frame::pong(&payload)),
                Input::Event(Event::Pong(payload)) => self.heed_proof(&payload),
                Input::Event(Event::Close { code, .. }) => {
                    // Not before it is known what became of its messages: a refusal is told instead.
                    self.all_settled().await;
                    self.close(CloseReason::ByClient(code));
                }
                Input::Offence(reason) => self.close(reason),
            }
        }
        conversation
    }

    /// Gives a client what it missed, and has it hear what comes.
    async fn come_back(self: Arc<Self>, mut returning: Returning) -> Spoken {
        match self.return_to(&mut returning).await {
            Ok(()) | Err(NotNow::Over) => {}
            Err(NotNow::Unread) => self.close(CloseReason::Unread),
        }
        Some(Box::new(Talk::Silent { _membership: returning.membership }))
    }

    async fn publish(self: &Arc<Self>, kind: PayloadKind, payload: Bytes) {
        let Some(target) = self.target() else { return self.close(CloseReason::ListensOnly) };
        if !self.may(|rights| rights.may_publish_to(&target)) {
            return self.close(CloseReason::NotAllowed);
        }
        let id = self.sessions.message_ids().next();
        self.hand_over(id, target, kind, payload, Receipt::to(self.clone())).await;
    }

    /// Publishes; the receipt must come to [`Session::note_settled`].
    pub(super) async fn hand_over(
        &self,
        id: MessageId,
        target: Target,
        kind: PayloadKind,
        payload: Bytes,
        receipt: Receipt,
    ) {
        self.note_unsettled(payload.len());
        let message = Message { id: Some(id), target, kind, published_ms: now_unix_ms(), terms: None, payload };
        self.sessions.broker().publish(message, receipt).await;
    }

    /// The client has said something of which it is to hear what became of it.
    pub(super) fn note_unsettled(&self, payload_bytes: usize) {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
        self.sessions.metrics().received(payload_bytes);
        self.sessions.unsettled.fetch_add(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Where what the client says goes, if there is such a place.
    fn target(&self) -> Option<Target> {
        match self.topic() {
            None => Some(Target::Broadcast),
            Some(pattern) => pattern.as_topic().filter(|topic| !topic.is_reserved()).map(Target::Topic),
        }
    }
}

/// What the front of `input` completes, up to [`EVENTS_PER_TURN`]; a violation or a close is the last.
fn parse(parser: &mut Parser, input: &mut &[u8]) -> Vec<Input> {
    let mut inputs = Vec::new();
    let mut bytes = 0;
    while inputs.len() < EVENTS_PER_TURN && bytes < READ_BYTES {
        match parser.next(input) {
            Ok(Some(event)) => {
                let last = matches!(event, Event::Close { .. });
                if let Event::Message { payload, .. } = &event {
                    bytes += payload.len();
                }
                inputs.push(Input::Event(event));
                if last {
                    return inputs;
                }
            }
            Ok(None) => return inputs,
            Err(violation) => {
                inputs.push(Input::Offence(CloseReason::Violation(violation)));
                return inputs;
            }
        }
    }
    inputs
}

fn is_keep_alive(payload: &[u8]) -> bool {
    KEEP_ALIVES.contains(&payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With tokio's own 96 bytes a task takes the next multiple of 128; a session's handle with its `Arc`'s 16 is in the
    /// allocator's class of 160. More would show in the memory of every idle session.
    #[test]
    fn an_idle_session_is_small() {
        assert!(size_of::<SessionTask>() <= 152, "{}", size_of::<SessionTask>());
        assert!(size_of::<Session>() <= 144, "{}", size_of::<Session>());
    }
}
