//! The bytes that wait for one socket, their limit, and the verdict when it is passed.
//!
//! Write first, queue second: while nothing waits, bytes go straight to the socket from whoever sends them, and no
//! task is woken. What does not fit waits here; the session's task drains it when the socket is writable again.
//! Invariant: bytes leave in the order in which they were sent, and nothing follows a close frame.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

/// Buffers handed to one vectored write; more than that wait for the next.
const SLICES_MAX: usize = 32;

/// What is no longer than this is copied behind what waits. Kept by itself it would cost some 100 bytes more, so that
/// many small frames, pongs above all, would cost a multiple of the limit (measured: 22 times).
const COPIED_BYTES_MAX: usize = 1024;

/// What the outbox needs of a socket: tests and benchmarks bring their own.
pub trait Socket: Send + Sync {
    /// Writes what the socket takes at once; `WouldBlock` if it takes nothing. The fan-out's way, so it should be no
    /// more than the system call.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// The same for several buffers. When it would block, [`Socket::poll_writable`] must see that.
    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ready when a vectored write may succeed; else `cx` is woken when that changes.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// What became of bytes given to [`Outbox::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Written, or waiting within the limit.
    Taken,
    /// They would pass the limit; nothing of them was kept.
    Full,
    /// The outbox is closing or dead.
    Closed,
}

/// How far the outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// The close frame waits, or parts of it.
    Closing,
    /// The close frame is written.
    Closed,
    /// The socket failed, or was given up.
    Dead,
}

/// The bytes waiting for one socket.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
}

/// Small, since it exists once a session, and most of them have nothing waiting.
#[derive(Debug)]
struct State {
    phase: Phase,
    backlog: Option<Box<Backlog>>,
    /// The session's task, which drains.
    task: Option<Waker>,
}

/// What waits; never empty.
#[derive(Debug, Default)]
struct Backlog {
    chunks: VecDeque<Bytes>,
    /// Small pieces, one after the other, behind all chunks.
    tail: BytesMut,
    /// Of chunks and tail together.
    bytes: usize,
    /// How many of them do not count towards the limit: what is left of a replay, which stands in front.
    exempt_bytes: usize,
    /// What stands in front is partly written: it must be finished or the frame boundary is lost.
    front_begun: bool,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox { state: Mutex::new(State { phase: Phase::Open, backlog: None, task: None }) }
    }
}

impl Outbox {
    /// Keeps frames of the past, whatever their size, for the session's task to write. They do not count towards the
    /// limit: asking for a replay must not make a client too slow, and they cost little, since all share them.
    pub fn replay(&self, past: &[Bytes]) {
        let mut state = self.lock();
        if state.phase != Phase::Open || past.is_empty() {
            return;
        }
        let backlog = state.backlog.get_or_insert_default();
        for frames in past {
            backlog.push(frames.clone());
            backlog.exempt_bytes += frames.len();
        }
        state.wake();
    }

    /// Writes `frames`, or keeps them while no more than `bytes_max` wait. The first bytes that wait are kept whatever
    /// their size: a limit below one batch must not cut a session that reads.
    pub fn send(&self, socket: &impl Socket, frames: &Bytes, bytes_max: usize) -> Verdict {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Verdict::Closed;
        }
        if let Some(backlog) = &mut state.backlog {
            if backlog.bytes - backlog.exempt_bytes + frames.len() > bytes_max {
                return Verdict::Full;
            }
            backlog.push(frames.clone());
            return Verdict::Taken;
        }
        let written = match socket.try_write(frames) {
            Ok(written) if written == frames.len() => return Verdict::Taken,
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                state.die();
                return Verdict::Closed;
            }
        };
        let rest = frames.slice(written..);
        let (bytes, chunks, front_begun) = (rest.len(), VecDeque::from([rest]), written > 0);
        state.backlog = Some(Box::new(Backlog { chunks, bytes, front_begun, ..Backlog::default() }));
        state.wake();
        Verdict::Taken
    }

    /// Puts the close frame behind what waits (or, unless `flush`, in its place) and takes nothing more.
    /// False if the outbox was closing already.
    pub fn close(&self, socket: &impl Socket, frame: Bytes, flush: bool) -> bool {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return false;
        }
        state.phase = Phase::Closing;
        let mut backlog = state.backlog.take().unwrap_or_default();
        if !flush {
            backlog.cut();
        }
        backlog.push(frame);
        state.backlog = Some(backlog);
        // What does not go out now is the task's to drain, and the task alone knows what follows a close.
        state.write_some(socket);
        state.wake();
        true
    }

    /// Gives the socket up: what waits is dropped and the session's task ends.
    pub fn abort(&self) {
        self.lock().die();
    }

    /// Wakes the session's task: something that it waits for beside the socket has happened.
    pub fn wake(&self) {
        self.lock().wake();
    }

    /// Writes what waits as far as the socket takes it, and remembers `cx` as the task to wake when something is
    /// left to do: when more waits, when the phase changes, when the socket is writable again. Beside the phase it says
    /// whether anything was written.
    pub fn poll_flush(&self, cx: &mut Context<'_>, socket: &impl Socket) -> (Phase, bool) {
        let mut state = self.lock();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            state.task = Some(cx.waker().clone());
        }
        let mut progressed = false;
        loop {
            progressed |= state.write_some(socket);
            if state.backlog.is_none() {
                return (state.phase, progressed);
            }
            match socket.poll_writable(cx) {
                Poll::Pending => return (state.phase, progressed),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => state.die(),
            }
        }
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.lock().backlog.as_ref().map_or(0, |backlog| backlog.bytes)
    }

    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// A panic under this lock leaves no broken invariant worth dying for: each change is made in one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes what waits as far as the socket takes it; says whether it took anything.
    fn write_some(&mut self, socket: &impl Socket) -> bool {
        let mut progressed = false;
        while let Some(backlog) = &mut self.backlog {
            let (slices, used) = backlog.slices();
            match socket.try_write_vectored(&slices[..used]) {
                Ok(0) => self.die(),
                Ok(written) => {
                    progressed = true;
                    backlog.advance(written);
                    if backlog.bytes == 0 {
                        self.emptied();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.die(),
            }
        }
        progressed
    }

    fn emptied(&mut self) {
        self.backlog = None;
        if self.phase == Phase::Closing {
            self.phase = Phase::Closed;
        }
    }

    fn die(&mut self) {
        self.phase = Phase::Dead;
        self.backlog = None;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl Backlog {
    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        if bytes.len() <= COPIED_BYTES_MAX {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
        self.chunks.push_back(bytes);
    }

    /// Drops all but what must be finished.
    fn cut(&mut self) {
        if !(self.front_begun && self.chunks.is_empty()) {
            self.tail.clear();
        }
        self.chunks.truncate(usize::from(self.front_begun));
        self.bytes = self.chunks.iter().map(Bytes::len).sum::<usize>() + self.tail.len();
        self.exempt_bytes = self.exempt_bytes.min(self.bytes);
    }

    /// What goes into the next vectored write.
    fn slices(&self) -> ([IoSlice<'_>; SLICES_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        for (slice, bytes) in slices.iter_mut().zip(self.chunks.iter().map(|chunk| &chunk[..]).chain(tail)) {
            *slice = IoSlice::new(bytes);
            used += 1;
        }
        (slices, used)
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.exempt_bytes = self.exempt_bytes.saturating_sub(written);
        while let Some(front) = self.chunks.front_mut() {
            if written < front.len() {
                self.front_begun |= written > 0;
                front.advance(written);
                return;
            }
            written -= front.len();
            self.chunks.pop_front();
            self.front_begun = false;
        }
        self.front_begun |= written > 0;
        self.tail.advance(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes and keeps them.
    #[derive(Default)]
    struct Stub {
        inner: Mutex<StubState>,
    }

    #[derive(Default)]
    struct StubState {
        room: usize,
        taken: Vec<u8>,
        writes: usize,
        broken: bool,
    }

    impl Stub {
        fn with_room(room: usize) -> Stub {
            let stub = Stub::default();
            stub.inner.lock().unwrap().room = room;
            stub
        }

        fn taken(&self) -> String {
            String::from_utf8(self.inner.lock().unwrap().taken.clone()).unwrap()
        }
    }

    impl Socket for Stub {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            self.try_write_vectored(&[IoSlice::new(bytes)])
        }

        fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut stub = self.inner.lock().unwrap();
            stub.writes += 1;
            if stub.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if stub.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut written = 0;
            for buffer in buffers {
                let part = buffer.len().min(stub.room);
                stub.taken.extend_from_slice(&buffer[..part]);
                stub.room -= part;
                written += part;
            }
            Ok(written)
        }

        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.inner.lock().unwrap().room > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }

    fn flush(outbox: &Outbox, stub: &Stub) -> Phase {
        outbox.poll_flush(&mut Context::from_waker(Waker::noop()), stub).0
    }

    fn send(outbox: &Outbox, stub: &Stub, text: &'static str) -> Verdict {
        outbox.send(stub, &Bytes::from_static(text.as_bytes()), 8)
    }

    #[test]
    fn an_empty_outbox_writes_straight_through_and_keeps_nothing() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(100));
        assert_eq!(send(&outbox, &stub, "hello"), Verdict::Taken);
        assert_eq!((stub.taken().as_str(), outbox.waiting_bytes()), ("hello", 0));
    }

    #[test]
    fn what_does_not_fit_waits_and_leaves_in_order() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(2));
        for text in ["abc", "de", "fg"] {
            assert_eq!(send(&outbox, &stub, text), Verdict::Taken);
        }
        assert_eq!(outbox.waiting_bytes(), 5);
        stub.inner.lock().unwrap().room = 3;
        assert_eq!(flush(&outbox, &stub), Phase::Open);
        assert_eq!(stub.taken(), "abcde");
        stub.inner.lock().unwrap().room = 100;
        flush(&outbox, &stub);
        assert_eq!((stub.taken().as_str(), outbox.waiting_bytes()), ("abcdefg", 0));
    }

    #[test]
    fn waiting_chunks_leave_in_one_vectored_write() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        for text in ["a", "b", "c"] {
            send(&outbox, &stub, text);
        }
        let before = stub.inner.lock().unwrap().writes;
        stub.inner.lock().unwrap().room = 100;
        flush(&outbox, &stub);
        assert_eq!(stub.inner.lock().unwrap().writes - before, 1);
    }

    #[test]
    fn small_chunks_and_large_ones_leave_in_order() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        let mut expected = String::new();
        for (index, length) in [1, 3, 2000, 2, 1, 3000, 1025, 1024, 1].into_iter().enumerate() {
            let chunk = index.to_string().repeat(length);
            expected += &chunk;
            assert_eq!(outbox.send(&stub, &Bytes::from(chunk), usize::MAX), Verdict::Taken);
        }
        assert_eq!(outbox.waiting_bytes(), expected.len());
        while outbox.waiting_bytes() > 0 {
            stub.inner.lock().unwrap().room = 7;
            flush(&outbox, &stub);
        }
        assert!(stub.taken() == expected);
    }

    #[test]
    fn a_close_without_flush_finishes_small_chunks_that_were_begun() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        for text in ["a", "bc", "de"] {
            send(&outbox, &stub, text);
        }
        stub.inner.lock().unwrap().room = 2;
        flush(&outbox, &stub);
        outbox.close(&stub, Bytes::from_static(b"!"), false);
        stub.inner.lock().unwrap().room = 100;
        flush(&outbox, &stub);
        assert_eq!(stub.taken(), "abcde!");
    }

    #[test]
    fn past_the_limit_nothing_is_kept() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        assert_eq!(send(&outbox, &stub, "12345678"), Verdict::Taken);
        assert_eq!(send(&outbox, &stub, "9"), Verdict::Full);
        assert_eq!(outbox.waiting_bytes(), 8);
    }

    #[test]
    fn the_first_bytes_wait_whole_even_past_the_limit() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(1));
        assert_eq!(send(&outbox, &stub, "longer than eight"), Verdict::Taken);
        stub.inner.lock().unwrap().room = 100;
        flush(&outbox, &stub);
        assert_eq!(stub.taken(), "longer than eight");
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        send(&outbox, &stub, "abc");
        assert!(outbox.close(&stub, Bytes::from_static(b"!"), true));
        assert!(!outbox.close(&stub, Bytes::from_static(b"?"), true));
        assert_eq!(send(&outbox, &stub, "late"), Verdict::Closed);
        assert_eq!(outbox.phase(), Phase::Closing);
        stub.inner.lock().unwrap().room = 100;
        assert_eq!(flush(&outbox, &stub), Phase::Closed);
        assert_eq!(stub.taken(), "abc!");
    }

    #[test]
    fn a_close_without_flush_finishes_only_the_chunk_that_was_begun() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(1));
        send(&outbox, &stub, "abc");
        send(&outbox, &stub, "def");
        outbox.close(&stub, Bytes::from_static(b"!"), false);
        stub.inner.lock().unwrap().room = 100;
        flush(&outbox, &stub);
        assert_eq!(stub.taken(), "abc!");

        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        send(&outbox, &stub, "abc");
        outbox.close(&stub, Bytes::from_static(b"!"), false);
        stub.inner.lock().unwrap().room = 100;
        flush(&outbox, &stub);
        assert_eq!(stub.taken(), "!");
    }

    #[test]
    fn a_broken_socket_ends_it() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        send(&outbox, &stub, "abc");
        stub.inner.lock().unwrap().broken = true;
        stub.inner.lock().unwrap().room = 1;
        assert_eq!(flush(&outbox, &stub), Phase::Dead);
        assert_eq!(send(&outbox, &stub, "more"), Verdict::Closed);
        assert_eq!(outbox.waiting_bytes(), 0);
    }

    #[test]
    fn a_replay_counts_towards_no_limit_and_leaves_before_the_rest() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        outbox.replay(&[]);
        assert_eq!(outbox.waiting_bytes(), 0);
        outbox.replay(&[Bytes::from_static(b"past one, "), Bytes::from_static(b"past two, ")]);
        for text in ["live", "more"] {
            assert_eq!(send(&outbox, &stub, text), Verdict::Taken);
        }
        assert_eq!(send(&outbox, &stub, "!"), Verdict::Full);
        stub.inner.lock().unwrap().room = 15;
        flush(&outbox, &stub);
        assert_eq!(send(&outbox, &stub, "!"), Verdict::Full, "what is left of the past counts as little");
        stub.inner.lock().unwrap().room = 7;
        flush(&outbox, &stub);
        assert_eq!(send(&outbox, &stub, "ab"), Verdict::Taken);
        assert_eq!(send(&outbox, &stub, "c"), Verdict::Full, "the limit holds again for all that waits");
        stub.inner.lock().unwrap().room = 100;
        flush(&outbox, &stub);
        assert_eq!((stub.taken().as_str(), outbox.waiting_bytes()), ("past one, past two, livemoreab", 0));
    }

    #[test]
    fn a_replay_is_cut_by_a_close_and_not_begun_after_one() {
        let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
        outbox.replay(&[Bytes::from(vec![b'x'; 2000]), Bytes::from(vec![b'y'; 2000])]);
        stub.inner.lock().unwrap().room = 1;
        flush(&outbox, &stub);
        outbox.close(&stub, Bytes::from_static(b"!"), false);
        outbox.replay(&[Bytes::from_static(b"late")]);
        stub.inner.lock().unwrap().room = 5000;
        assert_eq!(flush(&outbox, &stub), Phase::Closed);
        assert_eq!(stub.taken(), "x".repeat(2000) + "!");
    }
}
