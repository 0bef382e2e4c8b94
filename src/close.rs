//! Why a session is closed: one catalogue of numbered reasons. No I/O.
//!
//! Codes below 4000 are registered (RFC 6455 §7.4.1 and IANA's registry); 4000 and above are Warren's own
//! (RFC 6455 §7.4.2). A client finds the same table in the README.

use std::fmt;

use crate::protocol::Violation;

/// Why the server closes a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client began the closing handshake with this code (`None`: it gave none); it is echoed (RFC 6455 §5.5.1).
    ByClient(Option<u16>),
    /// The instance stops. The client is asked to come back, here or elsewhere, after this time: each after its own, so
    /// that they do not come all at once.
    GoingAway { retry_after_ms: u32 },
    /// The client broke the WebSocket protocol or a limit of it.
    Violation(Violation),
    /// The client said more than it may.
    TooManyMessages { per_second: u32 },
    /// The client sent a message on a session that listens to a pattern: there is no one topic for it.
    ListensOnly,
    /// The client's token does not allow to send messages there.
    NotAllowed,
    /// The client's token has ended.
    Expired,
    /// The broker did not confirm the client's message: send it again later.
    NotAccepted,
    /// The client did not read what was sent, up to the limit of its outbox.
    TooSlow,
    /// Nothing was heard of the client for the idle timeout, not even a pong.
    Idle,
    /// The client wanted to go on where it was, and something that came since is not kept any more.
    Gone,
    /// The same, and what came since cannot be read just now.
    Unread,
    /// The user has more sessions in the cluster than it may have, and this is the youngest.
    TooManySessions,
}

impl CloseReason {
    /// All that [`CloseReason::name`] may say.
    pub const NAMES: [&'static str; 15] = [
        "by_client",
        "going_away",
        "protocol_error",
        "invalid_data",
        "too_large",
        "too_many_messages",
        "listens_only",
        "not_allowed",
        "expired",
        "not_accepted",
        "too_slow",
        "idle",
        "gone",
        "unread",
        "too_many_sessions",
    ];

    /// The reason as metrics name it.
    pub fn name(&self) -> &'static str {
        match self {
            CloseReason::ByClient(_) => "by_client",
            CloseReason::GoingAway { .. } => "going_away",
            CloseReason::Violation(Violation::Protocol(_)) => "protocol_error",
            CloseReason::Violation(Violation::InvalidUtf8 | Violation::Corrupt) => "invalid_data",
            CloseReason::Violation(Violation::TooLarge { .. }) => "too_large",
            CloseReason::TooManyMessages { .. } => "too_many_messages",
            CloseReason::ListensOnly => "listens_only",
            CloseReason::NotAllowed => "not_allowed",
            CloseReason::Expired => "expired",
            CloseReason::NotAccepted => "not_accepted",
            CloseReason::TooSlow => "too_slow",
            CloseReason::Idle => "idle",
            CloseReason::Gone => "gone",
            CloseReason::Unread => "unread",
            CloseReason::TooManySessions => "too_many_sessions",
        }
    }

    /// The status code of the close frame; `None` sends a close frame without one.
    pub fn code(&self) -> Option<u16> {
        match self {
            CloseReason::ByClient(code) => *code,
            CloseReason::GoingAway { .. } => Some(1001),
            CloseReason::Violation(violation) => Some(violation.close_code()),
            CloseReason::TooManyMessages { .. } | CloseReason::ListensOnly | CloseReason::NotAllowed => Some(1008),
            CloseReason::NotAccepted | CloseReason::Unread => Some(1013),
            CloseReason::TooSlow => Some(4001),
            CloseReason::Idle => Some(4002),
            CloseReason::Gone => Some(4003),
            CloseReason::Expired => Some(4004),
            CloseReason::TooManySessions => Some(4005),
        }
    }

    /// Whether what still waits in the outbox is worth sending before the close frame.
    pub fn flushes(&self) -> bool {
        !matches!(self, CloseReason::TooSlow | CloseReason::Idle)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::ByClient(_) => Ok(()),
            // Clients look for the last part: it is machine-readable.
            CloseReason::GoingAway { retry_after_ms } => {
                write!(f, "the server is stopping; retry-after-ms={retry_after_ms}")
            }
            CloseReason::Violation(violation) => write!(f, "{violation}"),
            CloseReason::TooManyMessages { per_second } => {
                write!(f, "too many messages: more than {per_second} a second")
            }
            CloseReason::ListensOnly => {
                f.write_str("this session listens to a pattern: there is no one topic to send to")
            }
            CloseReason::NotAllowed => f.write_str("the token does not allow to send messages here"),
            CloseReason::Expired => f.write_str("expired: the token has ended"),
            CloseReason::NotAccepted => f.write_str("the broker did not confirm the message; try again later"),
            CloseReason::TooSlow => f.write_str("too slow: the outbox is full"),
            CloseReason::Idle => f.write_str("idle: no pong"),
            CloseReason::Gone => f.write_str("gone: some of what came meanwhile is not kept any more"),
            CloseReason::Unread => f.write_str("what came meanwhile cannot be read now; try again later"),
            CloseReason::TooManySessions => f.write_str("too many sessions of this user"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::CLOSE_REASON_BYTES_MAX;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        use Violation::{Corrupt, InvalidUtf8, Protocol, TooLarge};
        let violations = [Protocol(""), InvalidUtf8, Corrupt, TooLarge { bytes_max: 1 }].map(CloseReason::Violation);
        let first = [CloseReason::ByClient(None), CloseReason::GoingAway { retry_after_ms: 1 }];
        let last = [
            CloseReason::TooManyMessages { per_second: 1 },
            CloseReason::ListensOnly,
            CloseReason::NotAllowed,
            CloseReason::Expired,
            CloseReason::NotAccepted,
            CloseReason::TooSlow,
            CloseReason::Idle,
            CloseReason::Gone,
            CloseReason::Unread,
            CloseReason::TooManySessions,
        ];
        let mut names: Vec<_> = first.iter().chain(&violations).chain(&last).map(CloseReason::name).collect();
        // Two violations are one for metrics.
        names.dedup();
        assert_eq!(names, CloseReason::NAMES);
    }

    #[test]
    fn every_reason_fits_a_close_frame() {
        let reasons = [
            CloseReason::GoingAway { retry_after_ms: u32::MAX },
            CloseReason::TooManyMessages { per_second: u32::MAX },
            CloseReason::ListensOnly,
            CloseReason::NotAllowed,
            CloseReason::Expired,
            CloseReason::NotAccepted,
            CloseReason::TooSlow,
            CloseReason::Idle,
            CloseReason::Gone,
            CloseReason::Unread,
            CloseReason::TooManySessions,
        ];
        for reason in reasons {
            assert!(reason.to_string().len() <= CLOSE_REASON_BYTES_MAX, "{reason}");
        }
    }
}
