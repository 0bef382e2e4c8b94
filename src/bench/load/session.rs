//! One session of the generator: its socket, its handshake, and what was received or sent in part.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;

use crate::bench::wire;

/// The key of every handshake (16 bytes in base64): nothing depends on its being secret.
pub const ACCEPT_KEY: &str = "d2FycmVuIGJlbmNobWFyaw==";

/// Offered where compression is wanted. Without the takeover of contexts on either side every message stands by itself:
/// what one session hears is what all hear, and none needs a window of its own.
pub const COMPRESSION: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The longest answer to a handshake that is waited for.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    Handshaking,
    Open,
    Gone,
}

pub struct Session {
    pub stream: TcpStream,
    pub stage: Stage,
    pub started_ns: u64,
    /// Whether anything of this run was heard.
    pub heard: bool,
    /// The front of a frame whose end is still to come.
    pub rest: Vec<u8>,
    out: Vec<u8>,
}

impl Session {
    /// Begins to connect.
    pub fn connect(address: SocketAddr, started_ns: u64) -> io::Result<Session> {
        let stream = TcpStream::connect(address)?;
        Ok(Session { stream, stage: Stage::Connecting, started_ns, heard: false, rest: Vec::new(), out: Vec::new() })
    }

    /// What to send next is appended here, then [`Session::flush`]ed.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The socket is writable: the connection stands, or failed, or takes what waits.
    pub fn writable(&mut self, request: &[u8]) -> io::Result<()> {
        if self.stage == Stage::Connecting {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self.stream.peer_addr() {
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                other => other?,
            };
            self.stream.set_nodelay(true)?;
            self.stage = Stage::Handshaking;
            self.out.extend_from_slice(request);
        }
        self.flush()
    }

    /// Writes what waits as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) if written == self.out.len() => self.out.clear(),
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once, behind what was left of the last time; the length of both together. `None` when nothing is there.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let kept = self.rest.len();
        buffer[..kept].copy_from_slice(&self.rest);
        loop {
            return match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by the server")),
                Ok(read) => Ok(Some(kept + read)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Says goodbye, as far as the socket takes it at once.
    pub fn leave(&mut self) {
        if self.stage == Stage::Open {
            wire::encode(wire::CLOSE, &1000_u16.to_be_bytes(), &mut self.out);
            let _ = self.flush();
        }
    }
}

/// The length of the answer that agrees to the handshake, and to [`COMPRESSION`] where it was offered, once it is all
/// there.
pub fn handshake_answer(bytes: &[u8], accept: &str, compression: bool) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > ANSWER_BYTES_MAX { Err("the answer has no end".to_owned()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(format!("the handshake was refused: {status}"));
    }
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let values = |wanted: &'static str| {
        headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    if !values("sec-websocket-accept").any(|value| value == accept) {
        return Err("Sec-WebSocket-Accept is not the one for our key".to_owned());
    }
    if compression && !values("sec-websocket-extensions").any(agrees_to_compression) {
        return Err(format!("the server does not agree to {COMPRESSION}"));
    }
    Ok(Some(end + 4))
}

/// Whether the server will compress, each message by itself. The client's messages it may want as it likes: they are
/// sent plain.
fn agrees_to_compression(answer: &str) -> bool {
    let mut words = answer.split(';').map(str::trim);
    words.next() == Some("permessage-deflate") && words.any(|word| word == "server_no_context_takeover")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{accept_key, is_valid_key};

    #[test]
    fn the_key_is_one() {
        assert!(is_valid_key(ACCEPT_KEY));
    }

    #[test]
    fn only_a_whole_agreement_opens_a_session() {
        let accept = accept_key(ACCEPT_KEY);
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-ACCEPT:  {accept}\r\n\r\n");
        assert_eq!(handshake_answer(answer.as_bytes(), &accept, false), Ok(Some(answer.len())));
        assert_eq!(handshake_answer(&answer.as_bytes()[..answer.len() - 1], &accept, false), Ok(None));
        assert!(handshake_answer(answer.as_bytes(), "another", false).is_err());
        assert!(handshake_answer(answer.replace("101", "200").as_bytes(), &accept, false).is_err());
        assert!(handshake_answer(&[b'x'; ANSWER_BYTES_MAX + 1], &accept, false).is_err());
    }

    #[test]
    fn where_compression_is_wanted_a_plain_session_is_none() {
        let accept = accept_key(ACCEPT_KEY);
        let opens = |extensions: &str| {
            let answer = format!("HTTP/1.1 101 \r\n{extensions}Sec-WebSocket-Accept: {accept}\r\n\r\n");
            handshake_answer(answer.as_bytes(), &accept, true).is_ok()
        };
        assert!(!opens(""));
        assert!(!opens("Sec-WebSocket-Extensions: permessage-deflate\r\n"), "each message must stand by itself");
        assert!(!opens("Sec-WebSocket-Extensions: other; server_no_context_takeover\r\n"));
        assert!(opens("sec-websocket-extensions: permessage-deflate;server_no_context_takeover\r\n"));
        let own = crate::protocol::extensions::negotiate([COMPRESSION]).expect("a list").expect("an agreement");
        assert!(opens(&format!("Sec-WebSocket-Extensions: {own}\r\n")));
    }
}
