//! What a session may cost. Defaults and reasons stand with the options.

use std::fmt;
use std::str::FromStr;

use super::rate::Rate;

/// What a session may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Payload of one message, fragments together.
    pub message_bytes_max: usize,
    /// How much a client may say; `None`: as much as it can.
    pub rate: Option<Rate>,
    /// Bytes that wait for one slow client.
    pub outbox_bytes_max: usize,
    /// What happens past that.
    pub slow_reader: SlowReader,
    pub sessions_max: usize,
    /// Sessions of one client address; 0: no limit.
    pub sessions_per_address_max: u32,
    /// Silence after which the server pings.
    pub ping_interval_ms: u32,
    /// Silence after which a session is closed.
    pub idle_timeout_ms: u32,
    /// Topics and patterns that one session may subscribe to.
    pub topics_per_session_max: usize,
    /// Messages of one session that speaks JSON whose outcome may be unknown before it is read further.
    pub pending_requests_max: u32,
    /// Time for the closing handshake.
    pub close_timeout_ms: u32,
    /// The longest time after which a client is told to come back when the instance stops.
    pub retry_after_max_ms: u32,
    /// Whether sessions can go on where they were.
    pub resumption: Result<(), NoResumption>,
    /// Whether keep-alive texts are answered with the text `pong`.
    pub answer_keep_alive: bool,
}

impl Limits {
    /// Silence after a ping that ends a session.
    pub(super) fn answer_timeout_ms(&self) -> u32 {
        self.idle_timeout_ms.saturating_sub(self.ping_interval_ms)
    }
}

/// Why no session can go on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoResumption {
    #[error("this instance keeps nothing for those who were away: --resume-bytes-max is 0")]
    SwitchedOff,
    #[error("instances that hear RabbitMQ through a queue each (--delivery queue) have no past in common")]
    Queues,
}

/// What happens to a client for which more waits than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowReader {
    /// It is closed, and knows that it missed something.
    Disconnect,
    /// It stays, and misses the oldest messages that it was not sent yet; they are counted.
    DropOldest,
}

/// A text that names no [`SlowReader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither disconnect nor drop-oldest")]
pub struct UnknownSlowReader;

impl FromStr for SlowReader {
    type Err = UnknownSlowReader;

    fn from_str(text: &str) -> Result<SlowReader, UnknownSlowReader> {
        match text {
            "disconnect" => Ok(SlowReader::Disconnect),
            "drop-oldest" => Ok(SlowReader::DropOldest),
            _ => Err(UnknownSlowReader),
        }
    }
}

impl fmt::Display for SlowReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SlowReader::Disconnect => "disconnect",
            SlowReader::DropOldest => "drop-oldest",
        })
    }
}
