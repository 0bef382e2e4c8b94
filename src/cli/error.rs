//! What can go wrong for a client, each told in one line.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;

use crate::identity::InvalidSigningKey;

/// Why a command ends without having done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error("standard input: {0}")]
    Input(io::Error),
    #[error("standard output: {0}")]
    Output(io::Error),
    #[error("a message has at most {0} bytes")]
    TooLarge(usize),
    #[error("cannot connect to {address}: {reason}")]
    Unreachable { address: String, reason: io::Error },
    #[error("no connection to {address} within {} s", .timeout.as_secs_f64())]
    NoConnection { address: String, timeout: Duration },
    #[error("no answer within {} s: it is not known whether the message was published", .0.as_secs_f64())]
    NoAnswer(Duration),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The server says why.
    #[error("{status}: {reason}")]
    Refused { status: StatusCode, reason: String },
    #[error("{0} is not what Warren answers")]
    NotWarren(String),
    #[error("--jwt-key-file {}: {reason}", .path.display())]
    Key { path: PathBuf, reason: InvalidSigningKey },
    #[error("line {number}: {reason}")]
    Line { number: u64, reason: Box<Error> },
}

impl Error {
    /// Whether it may go better later, without anybody's doing.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::NoConnection { .. } | Error::NoAnswer(_) | Error::Broken(_) => true,
            Error::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}
