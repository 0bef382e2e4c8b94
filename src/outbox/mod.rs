//! The bytes that wait for one socket, their limit, and the verdict when it is passed.
//!
//! Write first, queue second: while nothing waits, bytes go straight to the socket from whoever sends them, and no
//! task is woken. What does not fit waits here; the session's task drains it when the socket is writable again.
//! Invariant: bytes leave in the order in which they were sent, and nothing follows a close frame.

mod backlog;

use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use backlog::Backlog;
use bytes::Bytes;

use crate::protocol::frame::Span;

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

/// The first frame of several, in the form in which a client is sent them.
pub type FirstFrame = fn(&[u8]) -> Span;

/// What became of bytes given to [`Outbox::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Written, or waiting within the limit.
    Taken,
    /// They would pass the limit: the session is to be given up.
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
    /// Messages that were left out for want of room, ever.
    missed: u32,
    backlog: Option<Box<Backlog>>,
    /// The session's task, which drains.
    task: Option<Waker>,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox { state: Mutex::new(State { phase: Phase::Open, missed: 0, backlog: None, task: None }) }
    }
}

impl Outbox {
    /// Keeps whole frames of the past, whatever their size, for the session's task to write. They do not count towards
    /// the limit, and are never left out: asking for a replay must not make a client too slow, and they cost little, since
    /// all share them.
    pub fn replay(&self, past: &[Bytes]) {
        let mut state = self.lock();
        if state.phase != Phase::Open || past.is_empty() {
            return;
        }
        let backlog = state.backlog.get_or_insert_default();
        for frames in past {
            backlog.push_past(frames.clone());
        }
        state.wake();
    }

    /// Keeps a letter, a whole frame, for the session's task to write. It is never left out: a ping behind it would show what
    /// is not so. So that nobody is too slow for what a mailbox gives at once, `of_any_size` letters may wait whatever
    /// their size; more only while all letters are within `bytes_max`.
    pub fn send_letter(&self, letter: Bytes, of_any_size: usize, bytes_max: usize) -> Verdict {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Verdict::Closed;
        }
        let backlog = state.backlog.get_or_insert_default();
        if backlog.bytes() > 0 && !backlog.has_room_for_letter(letter.len(), of_any_size, bytes_max) {
            return Verdict::Full;
        }
        backlog.push_letter(letter);
        state.wake();
        Verdict::Taken
    }

    /// Writes `frames`, or keeps them while no more than `bytes_max` wait. The first bytes that wait are kept whatever
    /// their size: a limit below one batch must not cut a session that reads.
    pub fn send(&self, socket: &impl Socket, frames: &Bytes, bytes_max: usize) -> Verdict {
        self.lock().send(socket, frames, bytes_max)
    }

    /// The same, but past the limit the oldest messages are left out: whole frames of what counts, and none that was begun.
    /// Beside the verdict it says how many. Full it is only if control frames take the room, which are never left out.
    /// `first` finds a frame's end among those of this outbox.
    pub fn send_over_oldest(
        &self,
        socket: &impl Socket,
        frames: &Bytes,
        bytes_max: usize,
        first: FirstFrame,
    ) -> (Verdict, u32) {
        let mut state = self.lock();
        match state.send(socket, frames, bytes_max) {
            Verdict::Full => state.leave_out_oldest(frames, bytes_max, first),
            verdict => (verdict, 0),
        }
    }

    /// Keeps `frames` for the session's task to write with whatever else there is: for whoever has better things to do than
    /// a system call for each of many small answers. The limit is that of [`Outbox::send`].
    pub fn post(&self, frames: &Bytes, bytes_max: usize) -> Verdict {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Verdict::Closed;
        }
        let backlog = state.backlog.get_or_insert_default();
        if backlog.bytes() > 0 && backlog.counted_bytes() + frames.len() > bytes_max {
            return Verdict::Full;
        }
        backlog.push(frames.clone());
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

    /// Messages that the client missed because it read too slowly.
    pub fn missed(&self) -> u32 {
        self.lock().missed
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.lock().backlog.as_ref().map_or(0, |backlog| backlog.bytes())
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
    fn send(&mut self, socket: &impl Socket, frames: &Bytes, bytes_max: usize) -> Verdict {
        if self.phase != Phase::Open {
            return Verdict::Closed;
        }
        if let Some(backlog) = &mut self.backlog {
            if backlog.counted_bytes() + frames.len() > bytes_max {
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
                self.die();
                return Verdict::Closed;
            }
        };
        self.backlog = Some(Box::new(Backlog::begun(frames.clone(), written)));
        self.wake();
        Verdict::Taken
    }

    fn leave_out_oldest(&mut self, frames: &Bytes, bytes_max: usize, first: FirstFrame) -> (Verdict, u32) {
        let backlog = self.backlog.get_or_insert_default();
        backlog.push(frames.clone());
        let left_out = backlog.leave_out_oldest(bytes_max, first);
        if backlog.bytes() == 0 {
            self.backlog = None;
        }
        self.missed = self.missed.saturating_add(left_out.messages);
        (if left_out.fits { Verdict::Taken } else { Verdict::Full }, left_out.messages)
    }

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
                    if backlog.bytes() == 0 {
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

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
