//! Who may connect: origins of web pages, and proxies whose word is taken.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use url::Url;

use super::format::Refusal;

/// Which pages' scripts may connect. Programs that are no browsers send no `Origin` and are not concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Pages that came from the host they connect to.
    SameOrigin,
    /// Every page of the web.
    Any,
    /// Pages of these origins, at least one, besides those that came from the host they connect to.
    Listed(Vec<Origin>),
}

/// Scheme, host and port of a page (RFC 6454), in the form in which browsers send it: lower case, no default port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin(String);

/// Why a text is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not scheme://host[:port]")]
pub struct InvalidOrigin(String);

impl AllowedOrigins {
    /// Reads nothing, `*`, or origins.
    pub(super) fn from_items(items: &[String]) -> Result<AllowedOrigins, Refusal> {
        match items {
            [] => Ok(AllowedOrigins::SameOrigin),
            [item] if item == "*" => Ok(AllowedOrigins::Any),
            items if items.iter().any(|item| item == "*") => Err(Some("* stands alone".to_owned())),
            items => each(items).map(AllowedOrigins::Listed),
        }
    }
}

impl Origin {
    /// As in the `Origin` header of a browser: `https://example.com`, `http://localhost:3000`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Origin, InvalidOrigin> {
        let invalid = || InvalidOrigin(text.to_owned());
        // The parser adds or forgives a path of "/" and an empty user name: look at the text itself for those.
        let (scheme, authority) = text.split_once("://").ok_or_else(invalid)?;
        if authority.contains(['/', '\\', '?', '#', '@']) || scheme == "file" {
            return Err(invalid());
        }
        let url = Url::parse(text).map_err(|_| invalid())?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(invalid)?.to_ascii_lowercase();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Origin(format!("{}://{host}{port}", url.scheme())))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads addresses and networks; an address is a network of one.
pub fn networks(items: &[String]) -> Result<Vec<IpNet>, Refusal> {
    let network = |item: &String| {
        let address = item.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| item.parse::<IpNet>().map(|network| network.trunc()));
        network.map_err(|_| Some(format!("{item:?} is neither an address nor a network")))
    };
    items.iter().map(network).collect()
}

fn each<T: FromStr<Err: fmt::Display>>(items: &[String]) -> Result<Vec<T>, Refusal> {
    items.iter().map(|item| item.parse().map_err(|error: T::Err| Some(error.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_browsers_send_it() {
        let cases = [
            ("https://example.com", "https://example.com"),
            ("HTTPS://Example.COM:443", "https://example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
            ("capacitor://LocalHost", "capacitor://localhost"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ];
        for (text, origin) in cases {
            assert_eq!(text.parse::<Origin>().as_ref().map(Origin::as_str), Ok(origin));
        }
    }

    #[test]
    fn what_is_not_an_origin_is_refused() {
        let bad = ["", "null", "example.com", "https://", "https://a/", "https://a/b", "https://u@a", "file:///x"];
        for text in bad.into_iter().chain(["https://a?b", "https://a#b", "https://a b", "https://a:99999", "x://"]) {
            assert_eq!(text.parse::<Origin>(), Err(InvalidOrigin(text.to_owned())));
        }
    }

    #[test]
    fn an_address_is_a_network_of_one_and_host_bits_are_dropped() {
        let items = ["10.1.2.3", "10.1.2.3/8", "fd00::1"].map(str::to_owned);
        let shown = networks(&items).map(|networks| networks.iter().map(IpNet::to_string).collect::<Vec<_>>());
        assert_eq!(shown, Ok(vec!["10.1.2.3/32".to_owned(), "10.0.0.0/8".to_owned(), "fd00::1/128".to_owned()]));
    }
}
