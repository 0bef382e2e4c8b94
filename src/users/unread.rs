//! What is done with what users missed.

use std::fmt;
use std::str::FromStr;

/// What is done with what a user missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It comes first on the next connection.
    Push,
    /// It waits until it is asked for.
    Pull,
}

/// A text that names neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are only push and pull")]
pub struct UnknownUnread;

impl FromStr for Unread {
    type Err = UnknownUnread;

    fn from_str(text: &str) -> Result<Unread, UnknownUnread> {
        match text {
            "push" => Ok(Unread::Push),
            "pull" => Ok(Unread::Pull),
            _ => Err(UnknownUnread),
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unread::Push => "push",
            Unread::Pull => "pull",
        })
    }
}
