//! One WebSocket connection, driven by tokio: for sessions that do more than listen and publish.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::load::{ACCEPT_KEY, handshake_answer};
use super::target::Target;
use super::wire;
use crate::protocol::accept_key;

/// Time for the server to agree to a connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes read at a time.
const READ_BYTES: usize = 8 * 1024;

/// Why a connection ended, or none came to be.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("{}", shown(*code, reason))]
    Closed { code: Option<u16>, reason: String },
    #[error("the connection was lost ({})", .0.kind())]
    Lost(#[from] io::Error),
    #[error("the server broke the protocol: {0}")]
    Violation(#[from] wire::Violation),
    #[error("{0}")]
    Refused(String),
}

pub struct Client {
    stream: TcpStream,
    /// What was read and is no whole frame yet.
    input: Vec<u8>,
    /// What is still to be written.
    out: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr, path: &str, subprotocol: Option<&str>) -> Result<Client, Ended> {
        let opening = tokio::time::timeout(HANDSHAKE_TIMEOUT, Client::open(address, path, subprotocol));
        opening.await.unwrap_or_else(|_| Err(Ended::Refused("no answer to the handshake".to_owned())))
    }

    async fn open(address: SocketAddr, path: &str, subprotocol: Option<&str>) -> Result<Client, Ended> {
        let target = Target::local(address.port(), path).map_err(|error| Ended::Refused(error.to_string()))?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let headers: Vec<_> = subprotocol.map(|name| ("Sec-WebSocket-Protocol", name)).into_iter().collect();
        let mut client = Client { stream, input: Vec::new(), out: target.request(ACCEPT_KEY, &headers) };
        let accept = accept_key(ACCEPT_KEY);
        loop {
            client.turn().await?;
            if let Some(length) = handshake_answer(&client.input, &accept, false).map_err(Ended::Refused)? {
                client.input.drain(..length);
                return Ok(client);
            }
        }
    }

    /// Whether all that was sent has been written.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Waits until something can be read, or written of what waits, and does it. Nothing is lost if it is dropped.
    pub async fn turn(&mut self) -> io::Result<()> {
        let interest = if self.out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let ready = self.stream.ready(interest).await?;
        if ready.is_writable() {
            self.flush()?;
        }
        if ready.is_readable() {
            self.read()?;
        }
        Ok(())
    }

    /// Appends a text that `append` writes as a frame, and writes what the socket takes.
    pub fn send(&mut self, append: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        append(&mut self.out);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        self.input.reserve(READ_BYTES);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Hands each message that has arrived to `hear`; answers pings, and a close, which is the end.
    pub fn take(&mut self, mut hear: impl FnMut(&[u8]) -> Result<(), Ended>) -> Result<(), Ended> {
        let mut used = 0;
        while let Some(frame) = wire::decode(&self.input[used..], false)? {
            used += frame.length;
            match frame.opcode {
                wire::TEXT | wire::BINARY => hear(frame.payload)?,
                wire::PING => wire::encode(wire::PONG, frame.payload, &mut self.out),
                wire::CLOSE => {
                    let ended = closed(frame.payload);
                    wire::encode(wire::CLOSE, frame.payload.get(..2).unwrap_or_default(), &mut self.out);
                    let _ = self.flush();
                    return Err(ended);
                }
                _ => {}
            }
        }
        self.input.drain(..used);
        Ok(())
    }
}

fn closed(payload: &[u8]) -> Ended {
    match payload {
        [high, low, reason @ ..] => Ended::Closed {
            code: Some(u16::from_be_bytes([*high, *low])),
            reason: String::from_utf8_lossy(reason).into_owned(),
        },
        _ => Ended::Closed { code: None, reason: String::new() },
    }
}

/// Without the numbers of a reason, which differ from session to session.
fn shown(code: Option<u16>, reason: &str) -> String {
    let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
    let reason: String = reason.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    let mut words: Vec<String> = vec![format!("closed with {code}")];
    words.extend(reason.split_whitespace().map(squeezed));
    words.join(" ")
}

fn squeezed(word: &str) -> String {
    let mut squeezed = String::new();
    word.chars().for_each(|c| {
        if c != '#' || !squeezed.ends_with('#') {
            squeezed.push(c)
        }
    });
    squeezed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_alone_are_one() {
        let one = Ended::Closed { code: Some(1001), reason: "stopping; retry-after-ms=1234".to_owned() };
        assert_eq!(one.to_string(), "closed with 1001 stopping; retry-after-ms=#");
        let none = Ended::Closed { code: None, reason: String::new() };
        assert_eq!(none.to_string(), "closed with no code");
    }

    #[test]
    fn the_reason_of_a_close_is_read() {
        let payload = [&1013_u16.to_be_bytes()[..], b"later"].concat();
        let Ended::Closed { code, reason } = closed(&payload) else { panic!("not closed") };
        assert_eq!((code, reason.as_str()), (Some(1013), "later"));
    }
}
