//! What clients say to backends: where it goes, and which session says it, so that a backend can answer that one alone.

use std::fmt;
use std::sync::Arc;

use crate::instance::Incarnation;
use crate::topic::{InvalidTopic, Topic};

/// The first word of every destination. The rest of it is what backends bind to.
const APPLICATION: &str = "app";

/// Where something goes that is for backends: written `/app/orders/new` or `app.orders.new`, by the rules of [`Topic`].
/// Inside and in RabbitMQ it is `orders.new`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination(Topic);

/// Why a text names no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDestination {
    #[error(transparent)]
    Name(#[from] InvalidTopic),
    #[error("a destination begins with /app/, and a name follows")]
    NotOfTheApplication,
}

impl Destination {
    pub fn parse(text: &str) -> Result<Destination, InvalidDestination> {
        let name = Topic::parse(text)?;
        let rest = name.as_str().strip_prefix(APPLICATION).and_then(|rest| rest.strip_prefix('.'));
        Ok(Destination(Topic::parse(rest.ok_or(InvalidDestination::NotOfTheApplication)?)?))
    }

    /// The routing key by which backends hear it.
    pub fn routing_key(&self) -> &str {
        self.0.as_str()
    }
}

/// One session of one run of one instance: `10.0.0.5_8080@643b1f2e5a1c0/17`. No other session ever has the same name, since
/// it holds when its instance began, in microseconds: who answers a session that is gone answers nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionName(Arc<str>);

impl SessionName {
    /// Of the session with this number of this run.
    pub fn new(incarnation: &Incarnation, number: u64) -> SessionName {
        SessionName(format!("{incarnation}/{number}").into())
    }

    /// Takes a name that somebody else wrote. It may be nobody's.
    pub fn from_publisher(text: &str) -> SessionName {
        SessionName(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The session's number, if it is one of this run.
    pub fn number_within(&self, incarnation: &Incarnation) -> Option<u64> {
        let number = self.0.strip_prefix(incarnation.as_str())?.strip_prefix('/')?;
        number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number)
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who says something to backends, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inbound {
    pub destination: Destination,
    pub session: SessionName,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::InstanceName;

    #[test]
    fn a_destination_has_one_form() {
        for (text, key) in [
            ("/app/test", "test"),
            ("app/test", "test"),
            ("app.test", "test"),
            ("/app/orders/new", "orders.new"),
            ("/app/orders.new", "orders.new"),
            ("/app/app", "app"),
            ("/app/Grüße", "Grüße"),
        ] {
            assert_eq!(Destination::parse(text).unwrap().routing_key(), key, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told_why() {
        use InvalidDestination::{Name, NotOfTheApplication};
        for (text, reason) in [
            ("", Name(InvalidTopic::Empty)),
            ("/app", NotOfTheApplication),
            ("/app/", Name(InvalidTopic::EmptyWord)),
            ("/topic/test", NotOfTheApplication),
            ("/apple/test", NotOfTheApplication),
            ("/App/test", NotOfTheApplication),
            ("test", NotOfTheApplication),
            ("/app/*", Name(InvalidTopic::Wildcard)),
            ("/app/a b", Name(InvalidTopic::Character(' '))),
        ] {
            assert_eq!(Destination::parse(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_name_is_one_sessions_of_one_run() {
        let own = Incarnation::begin(InstanceName::parse("10.0.0.5_8080").unwrap());
        std::thread::sleep(std::time::Duration::from_micros(10));
        let later = Incarnation::begin(own.name().clone());
        let name = SessionName::new(&own, 17);
        assert_eq!((name.number_within(&own), name.number_within(&later)), (Some(17), None));
        assert_eq!(SessionName::from_publisher(name.as_str()), name);
        for end in ["", "/", "/x", "/-1", "/+1", "/01", "1/17", "/17/", "/17 ", "/99999999999999999999"] {
            assert_eq!(SessionName::from_publisher(&format!("{own}{end}")).number_within(&own), None, "{end}");
        }
        assert_eq!(SessionName::from_publisher("17").number_within(&own), None);
    }
}
