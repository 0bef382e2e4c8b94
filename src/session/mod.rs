//! A session: one WebSocket or event stream that this instance accepted. A cheap handle outside, one task that owns the reading inside.
//!
//! The handle takes frames for the client (see [`Outbox`]) and may be closed by anyone; the task reads, answers control
//! frames, hands messages to the broker and drains the outbox. It holds no timer: `sweep` looks after all sessions
//! at once. What a client of `warren.v1.json` asks for is the `conversation`'s. How an event stream differs is in
//! `stream`: it says nothing, and is asked nothing.

mod addresses;
mod conversation;
mod drain;
mod holder;
mod letters;
mod limits;
mod rate;
mod registry;
mod resume;
mod stream;
mod sweep;
mod task;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use rustix::net::SendFlags;
use tokio::net::TcpStream;

pub use conversation::WILDCARDS_MAX;
use holder::Holder;
pub use limits::{Limits, NoResumption, SlowReader, UnknownSlowReader};
pub use rate::{BURST_MAX, Rate};
pub use registry::{NotAdmitted, OfUsers, Opening, Permit, Sessions};

use crate::broker::{NotAccepted, Settle};
use crate::close::CloseReason;
use crate::cursor::Cursor;
use crate::hub::{Format, Frames, Listener, Replay, Seat};
use crate::inbound::SessionName;
use crate::outbox::{FirstFrame, Outbox, Phase, Socket, Verdict};
use crate::protocol::{events, frame};
use crate::topic::Pattern;
use crate::user::UserName;

/// The bit of [`Session::unsettled`] that says that the session's task waits for the rest to become less.
const SETTLING_AWAITED: u32 = 1 << 31;

/// A session's number within its instance, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "session {}", self.0)
    }
}

/// What a session hears, and where what it says goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The broadcast; before that, the past that it asks for.
    Broadcast(Option<Replay>),
    /// The topics that a pattern matches. If it names one, that one hears what the session says.
    Topic(Pattern),
    /// Whatever the client asks for and says by requests ([`crate::protocol::json`]).
    Requests,
    /// The topics that any of the patterns matches, no pattern twice, and the broadcast if asked for, as server-sent events
    /// ([`crate::protocol::events`]).
    Events { patterns: Vec<Pattern>, broadcast: bool, start: Start },
    /// The topics that a pattern matches, or the broadcast, with what came behind a cursor first.
    Since(Option<Pattern>, Box<Cursor>),
}

/// Where an event stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Now, which is here.
    Now(Box<Cursor>),
    /// Now; the client was away, and may have missed something.
    AfterAbsence,
    /// Behind what the client has heard.
    Since(Box<Cursor>),
}

/// The handle of one session.
pub struct Session {
    id: SessionId,
    socket: Stream,
    outbox: Outbox,
    seat: Seat,
    /// When the client was last heard or pinged; once closing, when that began or last got on. By [`registry::Clock`].
    marked_ms: AtomicU32,
    /// A protocol ping is unanswered.
    pinged: AtomicBool,
    /// The server closes it: nothing that the client says counts any more.
    ended: AtomicBool,
    /// It is to close once what was read is settled.
    leaving: AtomicBool,
    /// Messages whose outcome is not known, and [`SETTLING_AWAITED`].
    unsettled: AtomicU32,
    format: Format,
    particulars: Option<Box<Particulars>>,
    sessions: Arc<Sessions>,
}

/// What a session has that is not anybody's on the broadcast. By itself, to keep those small.
struct Particulars {
    /// What it listens to, and says something to if that is one topic; the broadcast, if `None`.
    topic: Option<Pattern>,
    /// Whose it is, if that is known.
    holder: Option<Holder>,
}

impl Particulars {
    fn new(topic: Option<Pattern>, holder: Option<Holder>) -> Option<Box<Particulars>> {
        (topic.is_some() || holder.is_some()).then(|| Box::new(Particulars { topic, holder }))
    }
}

impl Session {
    fn topic(&self) -> Option<&Pattern> {
        self.particulars.as_ref()?.topic.as_ref()
    }

    fn holder(&self) -> Option<&Holder> {
        self.particulars.as_ref()?.holder.as_ref()
    }

    /// By which backends know it.
    fn name(&self) -> SessionName {
        SessionName::new(self.sessions.message_ids().incarnation(), self.id.0)
    }

    /// Takes encoded frames for the client. A client that reads too slowly is closed, or misses some.
    fn send(&self, frames: &Bytes) {
        let limits = self.sessions.limits();
        let verdict = match limits.slow_reader {
            SlowReader::Disconnect => self.outbox.send(&self.socket, frames, limits.outbox_bytes_max),
            SlowReader::DropOldest => {
                let first: FirstFrame = if self.format.is_events() { events::first } else { frame::first };
                let bytes_max = limits.outbox_bytes_max;
                let (verdict, missed) = self.outbox.send_over_oldest(&self.socket, frames, bytes_max, first);
                if missed > 0 {
                    self.sessions.metrics().missed(missed);
                }
                verdict
            }
        };
        match verdict {
            Verdict::Taken | Verdict::Closed => {}
            Verdict::Full => self.close(CloseReason::TooSlow),
        }
    }

    /// Takes the answer to a request, to be sent behind what waits.
    fn post(&self, frame: &Bytes) {
        match self.outbox.post(frame, self.sessions.limits().outbox_bytes_max) {
            Verdict::Taken | Verdict::Closed => {}
            // Something waits already, so this only does what is to be done with who reads too slowly.
            Verdict::Full => self.send(frame),
        }
    }

    /// Begins to close; the first reason counts.
    pub fn close(&self, reason: CloseReason) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.sessions.metrics().closed(&reason);
        // Before the phase changes, or the sweep could take the last time heard for the begin of the close.
        self.mark_now();
        let last = match reason.code() {
            _ if self.format.is_events() => self.farewell(&reason),
            Some(code) => frame::close(code, &reason.to_string()),
            None => frame::close_without_code(),
        };
        if self.outbox.close(&self.socket, last, reason.flushes()) {
            log::debug!("{}: closing with {:?}: {reason}", self.id, reason.code());
        }
    }

    /// Whether the outcome of every message is known.
    fn is_settled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) & !SETTLING_AWAITED == 0
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether it has ended, or is to.
    fn is_over(&self) -> bool {
        self.has_ended() || self.is_leaving() || self.outbox.phase() == Phase::Dead
    }

    /// Waits, within the session's task, until the outcome of every message is known.
    async fn all_settled(&self) {
        poll_fn(|_| self.poll_settled()).await;
    }

    /// Ready when the outcome of every message is known; else the session's task is woken then.
    fn poll_settled(&self) -> Poll<()> {
        self.poll_unsettled_below(1)
    }

    /// Ready when the outcome of fewer messages than that is not known; else the session's task is woken when one more
    /// is, in which case it looks again.
    fn poll_unsettled_below(&self, bound: u32) -> Poll<()> {
        if self.unsettled.fetch_or(SETTLING_AWAITED, Ordering::AcqRel) & !SETTLING_AWAITED >= bound {
            return Poll::Pending;
        }
        self.unsettled.fetch_and(!SETTLING_AWAITED, Ordering::AcqRel);
        Poll::Ready(())
    }

    /// The outcome of one more message is known, and told to whom it concerns.
    fn note_settled(&self) {
        self.sessions.unsettled.fetch_sub(1, Ordering::AcqRel);
        let before = self.unsettled.fetch_sub(1, Ordering::AcqRel);
        // A plain session only ever waits for all of them.
        if before & SETTLING_AWAITED != 0 && (self.format.is_json() || before == SETTLING_AWAITED + 1) {
            self.outbox.wake();
        }
    }

    /// Notes that the client was heard.
    fn heard(&self) {
        self.pinged.store(false, Ordering::Relaxed);
        self.mark_now();
    }

    fn mark_now(&self) {
        self.marked_ms.store(self.sessions.clock().now_ms(), Ordering::Relaxed);
    }

    /// Whether [`Session::tick`] has something to do.
    fn is_due(&self, now_ms: u32) -> bool {
        let limits = self.sessions.limits();
        self.waited_ms(now_ms) >= limits.ping_interval_ms.min(limits.answer_timeout_ms()).min(limits.close_timeout_ms)
    }

    /// Time since the client was heard, or since closing began. The clock wraps; a mark that another thread set since
    /// `now_ms` was read is no wait at all.
    fn waited_ms(&self, now_ms: u32) -> u32 {
        let waited_ms = now_ms.wrapping_sub(self.marked_ms.load(Ordering::Relaxed));
        if waited_ms > u32::MAX / 2 { 0 } else { waited_ms }
    }

    /// What time alone brings about: pings, the end of the idle, the end of those that do not finish closing.
    fn tick(&self, now_ms: u32) {
        let limits = self.sessions.limits();
        // The phase first: whoever changes it has set the mark before.
        let phase = self.outbox.phase();
        let waited_ms = self.waited_ms(now_ms);
        let pinged = self.pinged.load(Ordering::Relaxed);
        match phase {
            Phase::Open if self.format.is_events() => self.keep_streaming(waited_ms),
            // Only who was asked and did not answer: after a stall of our own nobody's answers have been read.
            // And only who is read: while messages wait for the broker, a session that may have no more of them is not,
            // and has its time anew.
            Phase::Open if pinged && waited_ms >= limits.answer_timeout_ms() => {
                if self.is_settled() {
                    self.close(CloseReason::Idle)
                } else {
                    self.mark_now()
                }
            }
            Phase::Open if !pinged && waited_ms >= limits.ping_interval_ms => {
                self.pinged.store(true, Ordering::Relaxed);
                self.mark_now();
                self.send(&frame::ping(&[]));
            }
            Phase::Closing | Phase::Closed if waited_ms >= limits.close_timeout_ms => self.outbox.abort(),
            Phase::Open | Phase::Closing | Phase::Closed | Phase::Dead => {}
        }
    }
}

impl Listener for Session {
    fn deliver(&self, frames: &Frames) {
        let frames = frames.of(self.format);
        // Encoded before anybody wanted them so, hence before this session did.
        if !frames.is_empty() {
            self.send(frames);
        }
    }

    fn replay(&self, past: &[Bytes]) {
        self.outbox.replay(past);
    }

    fn format(&self) -> Format {
        self.format
    }

    fn user(&self) -> Option<UserName> {
        self.identity().map(|identity| identity.user.clone())
    }

    fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Settle for Session {
    /// A plain session cannot be told of one message, so a refusal ends it: never silence.
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        if let Err(reason) = outcome {
            log::debug!("{}: message not accepted: {reason}", self.id);
            self.close(CloseReason::NotAccepted);
            self.sessions.note_refused();
        }
        self.note_settled();
    }
}

/// A client's TCP stream, as the outbox sees it: until it has arrived, a socket that takes nothing.
#[derive(Default)]
struct Stream(OnceLock<TcpStream>);

impl Stream {
    fn arrived(&self, stream: TcpStream) {
        // There is one upgrade per session, so it arrives once.
        let _ = self.0.set(stream);
    }
}

impl Socket for Stream {
    /// Past tokio's record of what is writable, whose look-up would cost a cache miss per session (measured: 4 % of a
    /// fan-out). A refusal here tells tokio nothing; the task's vectored write that follows does.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let stream = self.0.get().ok_or(io::ErrorKind::WouldBlock)?;
        // Without NOSIGNAL, which not every Unix has: Rust's runtime ignores SIGPIPE.
        Ok(rustix::net::send(stream, bytes, SendFlags::empty())?)
    }

    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get().ok_or(io::ErrorKind::WouldBlock)?.try_write_vectored(buffers)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.get().map_or(Poll::Pending, |stream| stream.poll_write_ready(cx))
    }
}
