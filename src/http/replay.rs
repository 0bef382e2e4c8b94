//! How much of the past a client asks for: `replay` or `since` in the query of `/message`.

use std::time::Duration;

use url::form_urlencoded;

use crate::cursor::{Cursor, NotACursor};
use crate::hub::{HistoryLimits, Replay};
use crate::session::NoResumption;

/// The parameter's name.
const PARAMETER: &str = "replay";
const SINCE: &str = "since";

/// Why an instance replays nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReplay {
    #[error(
        "this instance keeps nothing of the past: --history-messages-max, --history-age-s or --history-bytes-max is 0"
    )]
    SwitchedOff,
    #[error(
        "instances that hear RabbitMQ through a queue each (--delivery queue) have no past in common: each has heard only \
         what came since it attached, and in an order of its own"
    )]
    Queues,
}

/// Why a client is not given what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReplayed {
    #[error(
        "replay is a number of messages, such as replay=20, or of seconds, such as replay=30s; it is given once, and so is \
         since."
    )]
    Malformed,
    #[error("replay asks for more messages than are kept: at most replay={0} (--history-messages-max).")]
    TooMany(usize),
    #[error("replay asks for a longer time than is kept: at most replay={0}s (--history-age-s).")]
    TooLong(u64),
    #[error("replay is for /message without a topic.")]
    OfTopic,
    #[error("replay and since are for plain sessions; one of warren.v1.json says since in its requests.")]
    OfRequests,
    #[error("Either replay or since can be asked for, not both.")]
    Both,
    #[error("since is {0}.")]
    NotACursor(NotACursor),
    #[error("No session can go on where it was: {0}.")]
    NoResumption(NoResumption),
    #[error("No replay: {0}.")]
    Never(NoReplay),
}

/// What the query asks for; nothing if it does not.
pub fn asked(query: &str, offered: Result<HistoryLimits, NoReplay>) -> Result<Option<Replay>, NotReplayed> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == PARAMETER);
    let Some((_, value)) = values.next() else { return Ok(None) };
    let limits = offered.map_err(NotReplayed::Never)?;
    if values.next().is_some() {
        return Err(NotReplayed::Malformed);
    }
    match value.strip_suffix('s') {
        Some(seconds) => age(number(seconds)?, limits.age_max),
        None => messages(number(&value)?, limits.messages_max),
    }
    .map(Some)
}

/// From where the client wants to go on, if it does.
pub fn since(query: &str, offered: Result<(), NoResumption>) -> Result<Option<Cursor>, NotReplayed> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == SINCE);
    let Some((_, value)) = values.next() else { return Ok(None) };
    offered.map_err(NotReplayed::NoResumption)?;
    if values.next().is_some() {
        return Err(NotReplayed::Malformed);
    }
    Cursor::parse(&value).map(Some).map_err(NotReplayed::NotACursor)
}

fn messages(asked: u64, messages_max: usize) -> Result<Replay, NotReplayed> {
    let messages = usize::try_from(asked).ok().filter(|messages| *messages <= messages_max);
    messages.map(Replay::Messages).ok_or(NotReplayed::TooMany(messages_max))
}

fn age(asked_s: u64, age_max: Duration) -> Result<Replay, NotReplayed> {
    let age = Duration::from_secs(asked_s);
    if age <= age_max { Ok(Replay::Age(age)) } else { Err(NotReplayed::TooLong(age_max.as_secs())) }
}

/// Digits only. A number too large for any limit is as good as the largest.
fn number(text: &str) -> Result<u64, NotReplayed> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotReplayed::Malformed);
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HistoryLimits = HistoryLimits { bytes_max: 1, messages_max: 100, age_max: Duration::from_secs(60) };

    fn of(query: &str) -> Result<Option<Replay>, NotReplayed> {
        asked(query, Ok(LIMITS))
    }

    #[test]
    fn a_replay_is_asked_for_by_number_or_by_age() {
        assert_eq!(of("replay=20"), Ok(Some(Replay::Messages(20))));
        assert_eq!(of("a=b&replay=0&c"), Ok(Some(Replay::Messages(0))));
        assert_eq!(of("replay=30s"), Ok(Some(Replay::Age(Duration::from_secs(30)))));
        assert_eq!(of("%72eplay=%33%30%73"), Ok(Some(Replay::Age(Duration::from_secs(30)))));
        for without in ["", "a=1", "replays=20", "Replay=20"] {
            assert_eq!(of(without), Ok(None), "{without:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in [
            "replay",
            "replay=",
            "replay=s",
            "replay=-1",
            "replay=%2B1",
            "replay=1.5",
            "replay=20m",
            "replay=20ms",
            "replay=20S",
            "replay=20%20",
            "replay=all",
            "replay=%D9%A3",
            "replay=1&replay=1",
        ] {
            assert_eq!(of(nonsense), Err(NotReplayed::Malformed), "{nonsense:?}");
        }
    }

    #[test]
    fn the_limits_are_named_to_who_asks_for_more() {
        assert_eq!(of("replay=100"), Ok(Some(Replay::Messages(100))));
        assert_eq!(of("replay=60s"), Ok(Some(Replay::Age(Duration::from_secs(60)))));
        for (query, refusal) in [
            ("replay=101", NotReplayed::TooMany(100)),
            ("replay=99999999999999999999999", NotReplayed::TooMany(100)),
            ("replay=61s", NotReplayed::TooLong(60)),
            ("replay=99999999999999999999999s", NotReplayed::TooLong(60)),
        ] {
            assert_eq!(of(query), Err(refusal), "{query:?}");
        }
    }

    #[test]
    fn without_a_past_only_those_who_ask_for_it_are_refused() {
        for reason in [NoReplay::SwitchedOff, NoReplay::Queues] {
            assert_eq!(asked("a=1", Err(reason)), Ok(None));
            for query in ["replay=0", "replay=1", "replay=x"] {
                assert_eq!(asked(query, Err(reason)), Err(NotReplayed::Never(reason)));
            }
        }
    }
}
