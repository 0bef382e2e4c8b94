//! What became of messages, and how that is answered.

use serde::Serialize;
use serde_json::json;
use warp::Reply;
use warp::http::header::CACHE_CONTROL;
use warp::reply::{Response, with_header};

use super::problem::{Kind, Problem};
use crate::message::MessageId;

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has confirmed it.
    Published(MessageId),
    /// It was never taken, and nobody gets it.
    NotSpooled(MessageId),
    /// The same, for the instance is stopping.
    Stopping(MessageId),
    /// It was taken, and is not confirmed so far; mostly it will be.
    Unknown(MessageId),
    /// It was for users, and could not be kept or heard.
    Refused(MessageId, Why),
}

/// Why a message to users was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    MailboxFull,
    NoMailbox,
    NoMembers,
    NotConnected,
}

/// The same as a batch's answer tells it.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    id: String,
    /// `published`, `not_spooled`, or `unknown`.
    outcome: &'static str,
}

impl Outcome {
    fn id(&self) -> &MessageId {
        match self {
            Outcome::Published(id)
            | Outcome::NotSpooled(id)
            | Outcome::Stopping(id)
            | Outcome::Unknown(id)
            | Outcome::Refused(id, _) => id,
        }
    }

    fn told(&self) -> Told {
        let outcome = match self {
            Outcome::Published(_) => "published",
            Outcome::NotSpooled(_) | Outcome::Stopping(_) => "not_spooled",
            Outcome::Unknown(_) => "unknown",
            Outcome::Refused(..) => "refused",
        };
        Told { id: self.id().to_string(), outcome }
    }

    pub fn problem(&self) -> Option<Problem> {
        match self {
            Outcome::Published(_) => None,
            Outcome::NotSpooled(_) => Some(Problem::new(
                Kind::NotSpooled,
                "The broker has taken nothing for so long that the spool is full: nobody gets this message. Send it again.",
            )),
            Outcome::Stopping(_) => Some(Problem::new(
                Kind::Stopping,
                "The instance is stopping, and nobody gets this message. Send it to another one.",
            )),
            Outcome::Refused(_, Why::MailboxFull) => Some(Problem::new(
                Kind::MailboxFull,
                "The user has as many unread messages as may wait, or some member of the group has; other members have it.",
            )),
            Outcome::Refused(_, Why::NoMailbox) => {
                Some(Problem::new(Kind::NotKept, "The user's mailbox cannot be reached now. Send it again."))
            }
            Outcome::Refused(_, Why::NoMembers) => Some(Problem::new(Kind::NoMembers, "Nobody belongs to the group.")),
            Outcome::Refused(_, Why::NotConnected) => {
                Some(Problem::new(Kind::NotConnected, "The user has no session, and it was not to be kept."))
            }
            Outcome::Unknown(_) => Some(Problem::new(
                Kind::OutcomeUnknown,
                "The message was taken, but the broker has not confirmed it so far. Send it again with the same \
                 idempotency key: then it counts once.",
            )),
        }
    }
}

/// The answer to a request with one message.
pub fn answer_one(outcome: &Outcome) -> Response {
    match outcome.problem() {
        None => succeed(&json!({ "id": outcome.id().as_str() })),
        Some(problem) => problem.into_response(),
    }
}

/// The answer to a batch: 200 only if all were published; 503 only if none was taken; else 504.
pub fn answer_all(outcomes: &[Outcome]) -> Response {
    let results: Vec<Told> = outcomes.iter().map(Outcome::told).collect();
    if outcomes.iter().all(|outcome| matches!(outcome, Outcome::Published(_))) {
        return succeed(&json!({ "results": results }));
    }
    let first = outcomes.iter().find_map(Outcome::problem);
    let none_taken = |outcome: &Outcome| matches!(outcome, Outcome::NotSpooled(_) | Outcome::Stopping(_));
    let problem = first.filter(|_| outcomes.iter().all(none_taken)).unwrap_or_else(|| {
        Problem::new(
            Kind::OutcomeUnknown,
            "Not all messages are confirmed; results tells of each. Send the whole request again, unchanged and with the same \
             idempotency keys: then each counts once.",
        )
    });
    problem.with_results(results).into_response()
}

fn succeed(body: &serde_json::Value) -> Response {
    with_header(warp::reply::json(body), CACHE_CONTROL, "no-store").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_answered_by_what_must_be_done_next() {
        let id = || MessageId::from_publisher("1").unwrap();
        let (published, full) = (Outcome::Published(id()), Outcome::NotSpooled(id()));
        let (stopping, unknown) = (Outcome::Stopping(id()), Outcome::Unknown(id()));
        for (outcomes, status) in [
            (vec![], 200),
            (vec![published.clone(), published.clone()], 200),
            (vec![full.clone(), stopping.clone()], 503),
            (vec![published.clone(), full.clone()], 504),
            (vec![unknown.clone(), full], 504),
            (vec![published, stopping, unknown], 504),
        ] {
            assert_eq!(answer_all(&outcomes).status(), status, "{outcomes:?}");
        }
    }
}
