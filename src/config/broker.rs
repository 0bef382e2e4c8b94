//! Which broker carries the messages. A broker's URI holds a password: [`BrokerUri`] shows it to nobody who does not
//! ask for it by name.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

use super::format::Refusal;

/// What carries messages between instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChoice {
    /// This process alone; nothing else has to run.
    Memory,
    /// RabbitMQ: the nodes of one cluster, at least one, tried in turn.
    Amqp(Vec<BrokerUri>),
}

/// An `amqp://` or `amqps://` URI. `Display` and `Debug` put `***` for its password.
///
/// A lone `/` after the host is dropped: taken by the letter it would name the virtual host of the empty name, which
/// nobody has, where people mean the default one.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUri(Url);

/// Why a text is no URI of a broker. Repeats no part of the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBrokerUri {
    /// Not a URI at all.
    #[error("not a URI: {0}")]
    Syntax(#[from] url::ParseError),
    /// Another protocol.
    #[error("the scheme is neither amqp nor amqps")]
    Scheme,
    /// No host to connect to.
    #[error("it names no host")]
    Host,
    /// lapin reads hosts as names only, and would connect to localhost instead of such an address.
    #[error("its host is an IPv6 address; write a host name")]
    Ipv6,
    /// Port 0 reaches nobody.
    #[error("port 0 cannot be connected to")]
    Port,
    /// A virtual host is one path segment; a `/` within its name is written `%2F`.
    #[error("its path is more than a virtual host (a / within the name is written %2F)")]
    Path,
    /// A parameter of the connection that has to be a number.
    #[error("{0} in its query is not a number in range")]
    Query(&'static str),
    /// A misspelt parameter would be without effect, in silence.
    #[error("of parameters it takes heartbeat, channel_max, frame_max, connection_timeout and auth_mechanism")]
    UnknownParameter,
    /// `#`, mostly within a password.
    #[error("it has a fragment (a # within a password is written %23)")]
    Fragment,
}

impl BrokerChoice {
    /// Reads `memory`, or one URI or more.
    pub(super) fn from_items(items: &[String]) -> Result<BrokerChoice, Refusal> {
        match items {
            [] => Err(Some("it is empty".to_owned())),
            [item] if item == "memory" => Ok(BrokerChoice::Memory),
            items if items.iter().any(|item| item == "memory") => Err(Some("memory stands alone".to_owned())),
            [item] => {
                BrokerUri::from_str(item).map(|uri| BrokerChoice::Amqp(vec![uri])).map_err(|e| Some(e.to_string()))
            }
            items => {
                let count = items.len();
                let numbered = |(index, item): (usize, &String)| {
                    item.parse().map_err(|error| Some(format!("URI {} of {count}: {error}", index + 1)))
                };
                items.iter().enumerate().map(numbered).collect::<Result<_, _>>().map(BrokerChoice::Amqp)
            }
        }
    }
}

impl fmt::Display for BrokerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerChoice::Memory => f.write_str("in process"),
            BrokerChoice::Amqp(uris) => {
                let shown: Vec<String> = uris.iter().map(BrokerUri::to_string).collect();
                f.write_str(&shown.join(", "))
            }
        }
    }
}

impl BrokerUri {
    /// The whole URI, password included: for connecting, never for logs.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Host, port and virtual host, for whom user names are no business.
    pub fn address(&self) -> String {
        let default_port = if self.is_tls() { 5671 } else { 5672 };
        let (host, port) = (self.0.host_str().unwrap_or_default(), self.0.port().unwrap_or(default_port));
        format!("{host}:{port}{}", self.0.path())
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "amqps"
    }
}

impl FromStr for BrokerUri {
    type Err = InvalidBrokerUri;

    fn from_str(text: &str) -> Result<BrokerUri, InvalidBrokerUri> {
        let mut url = Url::parse(text)?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            return Err(InvalidBrokerUri::Scheme);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidBrokerUri::Host);
        }
        if matches!(url.host(), Some(Host::Ipv6(_))) {
            return Err(InvalidBrokerUri::Ipv6);
        }
        if url.port() == Some(0) {
            return Err(InvalidBrokerUri::Port);
        }
        if url.path_segments().is_some_and(|segments| segments.count() > 1) {
            return Err(InvalidBrokerUri::Path);
        }
        if url.fragment().is_some() {
            return Err(InvalidBrokerUri::Fragment);
        }
        check_query(&url)?;
        if url.path() == "/" {
            url.set_path("");
        }
        Ok(BrokerUri(url))
    }
}

/// The parameters that the AMQP URI specification and lapin know, with the widths they have in the protocol.
fn check_query(url: &Url) -> Result<(), InvalidBrokerUri> {
    for (key, value) in url.query_pairs() {
        match &*key {
            "heartbeat" if value.parse::<u16>().is_err() => return Err(InvalidBrokerUri::Query("heartbeat")),
            "channel_max" if value.parse::<u16>().is_err() => return Err(InvalidBrokerUri::Query("channel_max")),
            "frame_max" if value.parse::<u32>().is_err() => return Err(InvalidBrokerUri::Query("frame_max")),
            "connection_timeout" if value.parse::<u64>().is_err() => {
                return Err(InvalidBrokerUri::Query("connection_timeout"));
            }
            "heartbeat" | "channel_max" | "frame_max" | "connection_timeout" | "auth_mechanism" => {}
            _ => return Err(InvalidBrokerUri::UnknownParameter),
        }
    }
    Ok(())
}

impl fmt::Display for BrokerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.password().is_none() {
            return f.write_str(self.0.as_str());
        }
        let mut shown = self.0.clone();
        match shown.set_password(Some("***")) {
            Ok(()) => f.write_str(shown.as_str()),
            Err(()) => f.write_str("***"),
        }
    }
}

impl fmt::Debug for BrokerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_kept_whole_and_shown_without_its_password() {
        let text = "amqps://ann:s%2Fecret@mq.example:5671/shop?heartbeat=5&frame_max=8192";
        let uri: BrokerUri = text.parse().expect("a valid URI");
        assert_eq!(uri.expose(), text);
        assert!(uri.is_tls());
        let shown = "amqps://ann:***@mq.example:5671/shop?heartbeat=5&frame_max=8192";
        assert_eq!((uri.to_string().as_str(), format!("{uri:?}").as_str()), (shown, shown));
    }

    #[test]
    fn a_uri_without_a_password_is_shown_as_it_is() {
        for text in ["amqp://localhost", "amqp://ann@mq:5672/%2F", "amqp://10.0.0.1?heartbeat=5"] {
            assert_eq!(text.parse::<BrokerUri>().map(|uri| uri.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_lone_slash_means_the_default_virtual_host() {
        for (text, exposed) in
            [("amqp://mq/", "amqp://mq"), ("amqp://mq:5672/?heartbeat=5", "amqp://mq:5672?heartbeat=5")]
        {
            assert_eq!(text.parse::<BrokerUri>().as_ref().map(BrokerUri::expose), Ok(exposed));
        }
    }

    #[test]
    fn a_uri_that_cannot_work_is_refused() {
        let cases = [
            ("", "not a URI: relative URL without a base"),
            ("localhost", "not a URI: relative URL without a base"),
            ("localhost:5672", "the scheme is neither amqp nor amqps"),
            ("http://localhost", "the scheme is neither amqp nor amqps"),
            ("amqp:localhost", "it names no host"),
            ("amqp:///vhost", "it names no host"),
            ("amqp://ann:pw@", "not a URI: empty host"),
            ("amqp://mq:99999", "not a URI: invalid port number"),
            ("amqp://ann:p/w@mq", "not a URI: invalid port number"),
            ("amqp://[::1]:5672", "its host is an IPv6 address; write a host name"),
            ("amqp://mq?heartbeat=soon", "heartbeat in its query is not a number in range"),
            ("amqp://mq:0", "port 0 cannot be connected to"),
            ("amqp://mq/a/b", "its path is more than a virtual host (a / within the name is written %2F)"),
            (
                "amqp://mq?hartbeat=5",
                "of parameters it takes heartbeat, channel_max, frame_max, connection_timeout and auth_mechanism",
            ),
            ("amqp://mq/a#b", "it has a fragment (a # within a password is written %23)"),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<BrokerUri>().map_err(|error| error.to_string()), Err(why.to_owned()), "{text}");
        }
    }
}
