//! A client that speaks bytes: handshakes and frames, right and wrong ones, and a strict reading of what comes back.
//! It reads only when told to, answers nothing by itself and closes nothing by itself.

#[path = "../../../src/protocol/tests/client.rs"]
pub mod wire;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::deflate::inflated;
use super::http::{Answer, head};
use super::within_deadline;
use wire::ServerFrame;

/// The key of RFC 6455 §1.3, and the answer to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A receive buffer that is full at once, so that a client that does not read is soon noticed.
const NARROW_BYTES: u32 = 4096;

/// The reserved bit that marks a compressed message (RFC 7692 §6), as a number of three bits.
pub const COMPRESSED: u8 = 4;

pub struct Raw {
    stream: TcpStream,
    input: BytesMut,
    /// Compression was negotiated.
    inflates: bool,
    /// Bytes of all frames that were looked at.
    received: usize,
}

/// How the server closes a session.
#[derive(Debug, PartialEq, Eq)]
pub struct Closing {
    pub code: Option<u16>,
    pub reason: String,
}

/// The opening handshake on `/message`.
pub fn handshake(address: SocketAddr) -> Vec<u8> {
    handshake_with(address, &[])
}

/// The same with headers behind those that it needs.
pub fn handshake_with(address: SocketAddr, headers: &[(&str, &str)]) -> Vec<u8> {
    handshake_at(address, "/message", headers)
}

/// The same on any path.
pub fn handshake_at(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let needed = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    head(address, &format!("GET {path}"), &[&needed, headers].concat()).into_bytes()
}

impl Raw {
    /// A TCP connection on which nothing was said yet.
    pub async fn tcp(address: SocketAddr) -> Raw {
        Self::try_tcp(address).await.expect("a connection")
    }

    pub async fn try_tcp(address: SocketAddr) -> io::Result<Raw> {
        Self::over(TcpSocket::new_v4()?, address).await
    }

    /// Connects from another address of loopback: each has its own ports.
    pub async fn tcp_from(source: [u8; 4], address: SocketAddr) -> Raw {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of loopback");
        Self::over(socket, address).await.expect("a connection")
    }

    /// A session that is open on the server's side, too.
    pub async fn connect(address: SocketAddr) -> Raw {
        Self::connect_with(address, &[]).await
    }

    /// The same with headers behind those that a handshake needs.
    pub async fn connect_with(address: SocketAddr, headers: &[(&str, &str)]) -> Raw {
        Self::tcp(address).await.upgraded(address, headers).await
    }

    /// A session that negotiates compression; what it receives is inflated.
    pub async fn connect_compressed(address: SocketAddr) -> Raw {
        Self::connect_compressed_with(address, &[]).await
    }

    /// The same with a subprotocol, which must be agreed to.
    pub async fn connect_compressed_speaking(address: SocketAddr, subprotocol: &str) -> Raw {
        Self::connect_compressed_with(address, &[("Sec-WebSocket-Protocol", subprotocol)]).await
    }

    async fn connect_compressed_with(address: SocketAddr, headers: &[(&str, &str)]) -> Raw {
        let mut client = Self::tcp(address).await;
        let offer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
        client.send(handshake_with(address, &[&offer, headers].concat())).await;
        let answer = client.answer().await;
        assert!(answer.header("sec-websocket-extensions").is_some_and(|value| value.starts_with("permessage-deflate")));
        for (name, value) in headers {
            assert_eq!(answer.header(&name.to_ascii_lowercase()), Some(*value));
        }
        client.inflates = true;
        client.is_open().await;
        client
    }

    /// A session whose client has hardly any room for what it does not read.
    pub async fn connect_narrow(address: SocketAddr) -> Raw {
        Self::connect_narrow_with(address, &[]).await
    }

    /// The same with headers behind those that a handshake needs.
    pub async fn connect_narrow_with(address: SocketAddr, headers: &[(&str, &str)]) -> Raw {
        Self::narrow(address).await.upgraded(address, headers).await
    }

    /// The same with some of the past, of which nothing was read yet.
    pub async fn connect_narrow_with_replay(address: SocketAddr, replay: &str) -> Raw {
        let mut client = Self::narrow(address).await;
        client.send(handshake_at(address, &format!("/message?replay={replay}"), &[])).await;
        assert_eq!(client.answer().await.status, 101);
        client
    }

    /// A connection whose client has hardly any room for what it does not read.
    pub async fn narrow(address: SocketAddr) -> Raw {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(NARROW_BYTES).expect("a small buffer");
        Self::over(socket, address).await.expect("a connection")
    }

    async fn over(socket: TcpSocket, address: SocketAddr) -> io::Result<Raw> {
        let stream = within_deadline("a connection", socket.connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Raw { stream, input: BytesMut::new(), inflates: false, received: 0 })
    }

    async fn upgraded(mut self, address: SocketAddr, headers: &[(&str, &str)]) -> Raw {
        self.send(handshake_with(address, headers)).await;
        assert_eq!(self.answer().await.status, 101);
        self.is_open().await;
        self
    }

    /// Proves the session open by a ping. Who has its pong also hears whatever is said from then on; what comes before
    /// it is passed over.
    pub async fn is_open(&mut self) {
        self.send(wire::ping(b"open?")).await;
        let pong = ServerFrame { opcode: wire::PONG, payload: b"open?".to_vec() };
        while self.frame().await != pong {}
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the server takes it");
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within_deadline("sending", self.stream.write_all(bytes.as_ref())).await
    }

    /// An HTTP answer with its body, of the length that it tells.
    pub async fn answer(&mut self) -> Answer {
        loop {
            if let Some((answer, length)) = Answer::take(&self.input) {
                self.input.advance(length);
                return answer;
            }
            assert!(self.read().await.expect("an answer") > 0, "the end instead of an answer");
        }
    }

    /// The answer to a HEAD, which has no body though it tells the length of one.
    pub async fn answer_to_head(&mut self) -> Answer {
        loop {
            if let Some((answer, length)) = Answer::take_head(&self.input) {
                self.input.advance(length);
                return answer;
            }
            assert!(self.read().await.expect("an answer") > 0, "the end instead of an answer");
        }
    }

    /// The next frame; `None` for the end of the stream, which must come at a frame's boundary and not as a reset.
    pub async fn next(&mut self) -> Option<ServerFrame> {
        Some(self.next_with_rsv().await?.1)
    }

    /// As [`Raw::next`], with the reserved bits that the frame had.
    pub async fn next_with_rsv(&mut self) -> Option<(u8, ServerFrame)> {
        loop {
            let mut rest = &self.input[..];
            if let Some((rsv, mut frame)) = ServerFrame::take_with_rsv(&mut rest) {
                let taken = self.input.len() - rest.len();
                self.input.advance(taken);
                self.received += taken;
                match rsv {
                    0 => {}
                    COMPRESSED if self.inflates => frame.payload = inflated(&frame.payload),
                    _ => panic!("reserved bits {rsv}"),
                }
                return Some((rsv, frame));
            }
            if self.read().await.expect("a frame or the end of the stream") == 0 {
                assert!(self.input.is_empty(), "the stream ends within a frame");
                return None;
            }
        }
    }

    /// The next line, without its end; `None` for the end of the stream.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line = self.input.split_to(end + 1);
                return Some(String::from_utf8(line[..end].to_vec()).expect("UTF-8"));
            }
            if self.read().await.expect("a line or the end of the stream") == 0 {
                assert!(self.input.is_empty(), "the stream ends within a line");
                return None;
            }
        }
    }

    /// Bytes on the wire of all frames so far.
    pub fn received_bytes(&self) -> usize {
        self.received
    }

    pub async fn frame(&mut self) -> ServerFrame {
        self.next().await.expect("a frame")
    }

    /// The very next frame is this one.
    pub async fn receives_frame(&mut self, opcode: u8, payload: &[u8]) {
        let frame = self.frame().await;
        let shown = String::from_utf8_lossy(&frame.payload);
        assert!(frame.opcode == opcode && frame.payload == payload, "opcode {} {shown:.80?}", frame.opcode);
    }

    /// The very next frames are these texts.
    pub async fn receives(&mut self, texts: &[&str]) {
        for text in texts {
            self.receives_frame(wire::TEXT, text.as_bytes()).await;
        }
    }

    /// The close frame, behind whatever comes before it, and behind it the end of the stream.
    pub async fn closed(&mut self) -> Closing {
        loop {
            let frame = self.frame().await;
            if let Some(closing) = Closing::of(&frame) {
                assert_eq!(self.next().await, None, "nothing follows a close frame");
                return closing;
            }
        }
    }

    /// What comes until the connection ends, in good order or by a reset.
    pub async fn rest(&mut self) -> Vec<u8> {
        while !matches!(self.read().await, Ok(0) | Err(_)) {}
        self.input.split().to_vec()
    }

    /// Sends nothing more, but goes on reading.
    pub fn end_writing(&self) {
        SockRef::from(&self.stream).shutdown(Shutdown::Write).expect("an open connection");
    }

    /// Breaks the connection by a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("an open connection");
    }

    async fn read(&mut self) -> io::Result<usize> {
        self.input.reserve(64 * 1024);
        within_deadline("something to read", self.stream.read_buf(&mut self.input)).await
    }
}

impl Closing {
    /// What a close frame says; `None` for another frame.
    pub fn of(frame: &ServerFrame) -> Option<Closing> {
        if frame.opcode != wire::CLOSE {
            return None;
        }
        let (code, reason) = match frame.payload.split_first_chunk() {
            Some((code, reason)) => (Some(u16::from_be_bytes(*code)), reason),
            None => (None, &frame.payload[..]),
        };
        Some(Closing { code, reason: String::from_utf8(reason.to_vec()).expect("a reason in UTF-8") })
    }
}
