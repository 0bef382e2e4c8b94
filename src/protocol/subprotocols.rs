//! The negotiation of a subprotocol (RFC 6455 §4.2.2 and §11.3.4): what the messages of a session mean.

use super::extensions::is_of_token;
use super::json;

/// What the messages of a session mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    /// Payloads, with nothing around them; what is spoken without a subprotocol, too.
    Plain,
    /// Requests and notices: see [`json`].
    Json,
}

impl Subprotocol {
    /// Best first.
    const ALL: [Subprotocol; 2] = [Subprotocol::Json, Subprotocol::Plain];

    /// As it stands in a handshake. Upper and lower case differ.
    pub fn name(self) -> &'static str {
        match self {
            Subprotocol::Plain => "warren.v1.plain",
            Subprotocol::Json => json::NAME,
        }
    }
}

/// The header is no list of subprotocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Sec-WebSocket-Protocol is not a list of subprotocols")]
pub struct Malformed;

/// What answers the lines of `Sec-WebSocket-Protocol` in a request: the best that they offer, in whatever order; `None` if
/// they offer nothing that is spoken.
pub fn negotiate<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Option<Subprotocol>, Malformed> {
    let mut offered = Vec::new();
    for line in lines {
        // Elements of a list may be empty (RFC 9110 §5.6.1.2).
        let names = line.split(',').map(|name| name.trim_matches([' ', '\t'])).filter(|name| !name.is_empty());
        for name in names {
            if !name.chars().all(is_of_token) {
                return Err(Malformed);
            }
            offered.push(name);
        }
    }
    Ok(Subprotocol::ALL.into_iter().find(|spoken| offered.contains(&spoken.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_is_offered_is_chosen() {
        use Subprotocol::{Json, Plain};
        for (lines, chosen) in [
            (&[][..], None),
            (&[""], None),
            (&[" , "], None),
            (&["mqtt, v12.stomp"], None),
            (&["Warren.v1.json"], None),
            (&["warren.v1.json"], Some(Json)),
            (&["warren.v1.plain"], Some(Plain)),
            (&["warren.v1.plain,\twarren.v1.json ,mqtt"], Some(Json)),
            (&["mqtt", "warren.v2.json", "warren.v1.plain"], Some(Plain)),
            (&["warren.v1.plain", ",warren.v1.json,"], Some(Json)),
        ] {
            assert_eq!(negotiate(lines.iter().copied()), Ok(chosen), "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused_wherever_it_stands() {
        for line in ["a b", "a;b", "a,\"b\"", "a/b", "ä", "{}", "a=b"] {
            assert_eq!(negotiate([line]), Err(Malformed), "{line}");
            assert_eq!(negotiate(["warren.v1.json", line]), Err(Malformed), "{line}");
        }
    }
}
