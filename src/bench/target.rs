//! Where sessions are opened: a `ws://` URL and the address it resolves to.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

use url::Url;

/// A WebSocket server's address.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    url: Url,
}

/// A URL that is not plain WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("not a URL: {0}")]
    Syntax(#[from] url::ParseError),
    #[error("only ws:// is measured (put TLS's cost beside it with a proxy)")]
    Scheme,
    #[error("names no host")]
    Host,
}

impl std::str::FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Target, InvalidTarget> {
        let url = Url::parse(text)?;
        if url.scheme() != "ws" {
            return Err(InvalidTarget::Scheme);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidTarget::Host);
        }
        Ok(Target { url })
    }
}

impl Target {
    /// A server on loopback.
    pub fn local(port: u16, path: &str) -> Result<Target, InvalidTarget> {
        format!("ws://127.0.0.1:{port}{path}").parse()
    }

    /// Asks the resolver; IPv4 first, as a server on `0.0.0.0` hears nothing else.
    pub fn resolve(&self) -> std::io::Result<SocketAddr> {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let mut addresses: Vec<_> = (host, self.url.port_or_known_default().unwrap_or(80)).to_socket_addrs()?.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.first().copied().ok_or_else(|| std::io::Error::other("the name has no address"))
    }

    /// The opening handshake of RFC 6455 §4.1, with the same key for every session: the answer to it is a constant.
    /// `headers` are added, each a name and a value.
    pub fn request(&self, key: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let offer: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let path = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let authority = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offer}\r\n"
        )
        .into_bytes()
    }
}

impl fmt::Display for Target {
    /// Without a password, should somebody have put one there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        write!(f, "ws://{authority}{}", self.url.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_address_and_request() {
        let target: Target = "ws://127.0.0.1:9002/message?topic=a".parse().expect("a target");
        assert_eq!(target.resolve().expect("an address"), "127.0.0.1:9002".parse().expect("an address"));
        let request = String::from_utf8(target.request("KEY", &[])).expect("text");
        assert!(request.starts_with("GET /message?topic=a HTTP/1.1\r\nHost: 127.0.0.1:9002\r\n"), "{request}");
        assert!(request.ends_with("Sec-WebSocket-Key: KEY\r\n\r\n"), "{request}");
        let request = String::from_utf8(target.request("KEY", &[("Sec-WebSocket-Extensions", "a; b")])).expect("text");
        assert!(request.ends_with("Sec-WebSocket-Key: KEY\r\nSec-WebSocket-Extensions: a; b\r\n\r\n"), "{request}");
        assert_eq!(target.to_string(), "ws://127.0.0.1:9002/message");
    }

    #[test]
    fn a_url_may_leave_out_port_and_path() {
        let target: Target = "ws://[::1]".parse().expect("a target");
        assert_eq!(target.resolve().expect("an address"), "[::1]:80".parse().expect("an address"));
        assert!(target.request("KEY", &[]).starts_with(b"GET / HTTP/1.1\r\nHost: [::1]\r\n"));
    }

    #[test]
    fn what_is_not_plain_websocket_is_refused() {
        assert!(matches!("localhost".parse::<Target>(), Err(InvalidTarget::Syntax(_))));
        for text in ["wss://host/", "http://host/", "localhost:80"] {
            assert_eq!(text.parse::<Target>(), Err(InvalidTarget::Scheme), "{text}");
        }
    }
}
