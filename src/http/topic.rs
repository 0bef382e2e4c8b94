//! Which topic a plain session asks for: `/message/orders.eu`, or `topic` in the query of `/message`.

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use crate::topic::{InvalidTopic, Pattern};

/// The parameter's name.
const PARAMETER: &str = "topic";

/// Why it gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATopic {
    #[error("The topic is not UTF-8.")]
    NotUtf8,
    #[error("A plain session has one topic: give it once, in the path or as topic=.")]
    Several,
    #[error("A session of warren.v1.json subscribes by requests: give it no topic here.")]
    OfRequests,
    #[error("No topic: {0}.")]
    Invalid(#[from] InvalidTopic),
}

/// What path and query ask for; `path` is what follows `/message/`, as it stands in the request.
pub fn asked(path: &str, query: &str) -> Result<Option<Pattern>, NotATopic> {
    let in_path = percent_decode_str(path).decode_utf8().map_err(|_| NotATopic::NotUtf8)?;
    let in_query = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == PARAMETER);
    let mut asked = Some(in_path).filter(|path| !path.is_empty()).into_iter().chain(in_query.map(|(_, value)| value));
    let Some(text) = asked.next() else { return Ok(None) };
    if asked.next().is_some() {
        return Err(NotATopic::Several);
    }
    parse(&text).map(Some)
}

fn parse(text: &str) -> Result<Pattern, NotATopic> {
    // What is not UTF-8 in a query has been replaced by now.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(NotATopic::NotUtf8);
    }
    Ok(Pattern::parse(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, query: &str) -> Result<Option<String>, NotATopic> {
        asked(path, query).map(|pattern| pattern.map(|pattern| pattern.to_string()))
    }

    #[test]
    fn a_topic_stands_in_the_path_or_in_the_query() {
        for (path, query, expected) in [
            ("", "", None),
            ("", "replay=2", None),
            ("orders.eu", "", Some("orders.eu")),
            ("orders/eu", "", Some("orders.eu")),
            ("gr%C3%BC%C3%9Fe", "", Some("grüße")),
            ("", "topic=orders.eu", Some("orders.eu")),
            ("", "topic=%2Ftopic%2Ffrontend", Some("topic.frontend")),
            ("", "a=b&topic=orders.%23", Some("orders.#")),
            ("orders.*", "a=b", Some("orders.*")),
        ] {
            assert_eq!(of(path, query), Ok(expected.map(str::to_owned)), "{path:?} {query:?}");
        }
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        for (path, query, reason) in [
            ("", "topic=", NotATopic::Invalid(InvalidTopic::Empty)),
            ("a b", "", NotATopic::Invalid(InvalidTopic::Character(' '))),
            ("a%20b", "", NotATopic::Invalid(InvalidTopic::Character(' '))),
            ("a//b", "", NotATopic::Invalid(InvalidTopic::EmptyWord)),
            ("a", "topic=b", NotATopic::Several),
            ("", "topic=a&topic=b", NotATopic::Several),
            ("%FF", "", NotATopic::NotUtf8),
            ("", "topic=%FF", NotATopic::NotUtf8),
        ] {
            assert_eq!(of(path, query), Err(reason), "{path:?} {query:?}");
        }
    }
}
