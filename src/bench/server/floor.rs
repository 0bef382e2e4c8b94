//! The floor of this machine: a broadcast server that does what no server can leave out, and nothing else.
//!
//! It accepts, agrees to the handshake, and for each message makes one `send` system call per session with one frame
//! that is ready, in a plain loop on one thread. There is no queue, no runtime, no limit and no rule of the protocol
//! that the generator does not need. mio is a thin cover of `epoll`; a write goes to the kernel as it is. What a real
//! server's delivery costs beyond this one's is its own.
//!
//! With more than one frame for each write it stands for a server that joins messages perfectly: it waits until so
//! many are there (or nothing more comes), then writes them as one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::bench::load::ACCEPT_KEY;
use crate::bench::process::stop_with_stdin;
use crate::protocol::{Event as Received, Opcode, Parser, accept_key, encode};

/// The hidden subcommand that runs this.
pub const COMMAND: &str = "floor-server";

const LISTENER: Token = Token(usize::MAX);

/// The same backlog as Warren's.
const BACKLOG: i32 = 4096;

/// Frames that were not enough for a whole write leave when nothing has come for this long.
const STRAGGLERS: Duration = Duration::from_millis(5);

const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

struct Session {
    stream: TcpStream,
    /// Whether the handshake is done.
    open: bool,
    parser: Parser,
    /// What the socket did not take; empty but for payloads that fill its buffer.
    waiting: Vec<u8>,
}

struct Floor {
    sessions: Vec<Option<Session>>,
    free: Vec<usize>,
    answer: Vec<u8>,
    frames: usize,
    batch: bytes::BytesMut,
    in_batch: usize,
}

/// Serves until the process is ended. Prints where.
pub fn run(frames: usize) -> anyhow::Result<()> {
    crate::open_files::raise();
    stop_with_stdin();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(BACKLOG)?;
    let mut listener = TcpListener::from_std(socket.into());
    println!("The floor is at ws://{}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(ACCEPT_KEY)
    );
    let batch = bytes::BytesMut::new();
    let (sessions, free) = (Vec::new(), Vec::new());
    let mut floor = Floor { sessions, free, answer: answer.into_bytes(), frames: frames.max(1), batch, in_batch: 0 };
    floor.serve(&mut poll, &listener)
}

impl Floor {
    fn serve(&mut self, poll: &mut Poll, listener: &TcpListener) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let wait = (self.in_batch > 0).then_some(STRAGGLERS);
            match poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            if events.is_empty() {
                self.broadcast();
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(listener, poll.registry())?,
                    Token(index) => self.ready(index, &mut buffer),
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> anyhow::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or(self.sessions.len());
            registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            let parser = Parser::new(MESSAGE_BYTES_MAX);
            let session = Some(Session { stream, open: false, parser, waiting: Vec::new() });
            match self.sessions.get_mut(index) {
                Some(place) => *place = session,
                None => self.sessions.push(session),
            }
        }
    }

    fn ready(&mut self, index: usize, buffer: &mut [u8]) {
        loop {
            let Some(session) = self.sessions.get_mut(index).and_then(Option::as_mut) else { return };
            if session.flush().is_err() {
                return self.remove(index);
            }
            match session.stream.read(buffer) {
                Ok(0) => return self.remove(index),
                Ok(read) => {
                    let drained = read < buffer.len();
                    if self.take(index, &buffer[..read]).is_err() {
                        return self.remove(index);
                    }
                    if drained {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.remove(index),
            }
        }
    }

    fn remove(&mut self, index: usize) {
        self.sessions[index] = None;
        self.free.push(index);
    }

    /// The generator's request comes in one piece, and nothing before it is answered.
    fn take(&mut self, index: usize, mut bytes: &[u8]) -> io::Result<()> {
        let Some(session) = &mut self.sessions[index] else { return Ok(()) };
        if !session.open {
            session.open = true;
            return session.stream.write_all(&self.answer);
        }
        // Lent out, as a broadcast goes to this session too.
        let mut parser = std::mem::replace(&mut session.parser, Parser::new(MESSAGE_BYTES_MAX));
        let outcome = loop {
            match parser.next(&mut bytes) {
                Ok(Some(Received::Message { payload, .. })) => {
                    encode(Opcode::Text, &payload, &mut self.batch);
                    self.in_batch += 1;
                    if self.in_batch >= self.frames {
                        self.broadcast();
                    }
                }
                Ok(Some(Received::Close { .. })) | Err(_) => break Err(ErrorKind::ConnectionReset.into()),
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
            }
        };
        if let Some(session) = &mut self.sessions[index] {
            session.parser = parser;
        }
        outcome
    }

    /// The loop that everything here is for.
    fn broadcast(&mut self) {
        let frames = self.batch.split();
        self.in_batch = 0;
        for session in self.sessions.iter_mut().flatten().filter(|session| session.open) {
            session.send(&frames);
        }
    }
}

impl Session {
    fn send(&mut self, frames: &[u8]) {
        let written = if self.waiting.is_empty() { self.stream.write(frames).unwrap_or(0) } else { 0 };
        self.waiting.extend_from_slice(&frames[written..]);
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
