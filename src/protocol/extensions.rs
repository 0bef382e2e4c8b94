//! The negotiation of `permessage-deflate` (RFC 6455 §9.1, RFC 7692 §5 and §7.1), the one extension that is spoken.
//!
//! A message is compressed once for all who hear it. So the server never refers to an earlier message and always uses
//! the largest window: whatever a client could ask for beyond that is declined, and it gets a plain session.

use std::borrow::Cow;

const PERMESSAGE_DEFLATE: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// The answer that accepts an offer. Neither side refers to earlier messages: the server, because the bytes are shared;
/// the client, so that no window is kept for it.
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The answer to a client that names the window of the server: it must hear of it (RFC 7692 §7.1.2.1).
const ANSWER_WITH_WINDOW: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";

/// The header is no list of extensions. RFC 6455 §9.1 lets no such handshake succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Sec-WebSocket-Extensions is not a list of extensions")]
pub struct Malformed;

/// The value of `Sec-WebSocket-Extensions` that answers the lines of that header in a request; `None` if nothing that
/// they offer is accepted. Of several offers the first acceptable one counts.
pub fn negotiate<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Option<&'static str>, Malformed> {
    let mut answer = None;
    for line in lines {
        for offer in offers(line)? {
            answer = answer.or_else(|| offer.answer());
        }
    }
    Ok(answer)
}

/// One extension with its parameters, as a client offers it.
struct Offer<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

impl Offer<'_> {
    /// The answer if it is acceptable. One with a parameter that is unknown, doubled or ill-valued is declined (RFC 7692
    /// §7.1).
    fn answer(&self) -> Option<&'static str> {
        if self.name != PERMESSAGE_DEFLATE {
            return None;
        }
        let mut answer = ANSWER;
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            if self.parameters[..index].iter().any(|(other, _)| other == name) {
                return None;
            }
            match (*name, value.as_deref()) {
                (SERVER_NO_CONTEXT_TAKEOVER | CLIENT_NO_CONTEXT_TAKEOVER | CLIENT_MAX_WINDOW_BITS, None) => {}
                (CLIENT_MAX_WINDOW_BITS, Some("8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")) => {}
                // A smaller one would take an encoding of its own.
                (SERVER_MAX_WINDOW_BITS, Some("15")) => answer = ANSWER_WITH_WINDOW,
                _ => return None,
            }
        }
        Some(answer)
    }
}

/// The offers of one header line. Elements of a list may be empty (RFC 9110 §5.6.1.2).
fn offers(line: &str) -> Result<Vec<Offer<'_>>, Malformed> {
    let mut rest = Rest(line);
    let mut offers = Vec::new();
    loop {
        if !rest.is_at_end_of_element() {
            offers.push(rest.take_offer()?);
        }
        match rest.take_char(',') {
            true => {}
            false if rest.0.is_empty() => return Ok(offers),
            false => return Err(Malformed),
        }
    }
}

/// What is left of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn is_at_end_of_element(&mut self) -> bool {
        self.skip_blanks();
        self.0.is_empty() || self.0.starts_with(',')
    }

    fn take_offer(&mut self) -> Result<Offer<'a>, Malformed> {
        let name = self.take_token()?;
        let mut parameters = Vec::new();
        while self.take_char(';') {
            let name = self.take_token()?;
            let value = if self.take_char('=') { Some(self.take_value()?) } else { None };
            parameters.push((name, value));
        }
        Ok(Offer { name, parameters })
    }

    /// A token, or a quoted one, which may have any of its characters escaped.
    fn take_value(&mut self) -> Result<Cow<'a, str>, Malformed> {
        if !self.take_char('"') {
            return self.take_token().map(Cow::Borrowed);
        }
        let mut value = String::new();
        let mut chars = self.0.chars();
        loop {
            let next = match chars.next() {
                Some('"') if !value.is_empty() => break,
                Some('\\') => chars.next(),
                next => next,
            };
            value.push(next.filter(|c| is_of_token(*c)).ok_or(Malformed)?);
        }
        self.0 = chars.as_str();
        Ok(Cow::Owned(value))
    }

    fn take_token(&mut self) -> Result<&'a str, Malformed> {
        self.skip_blanks();
        let end = self.0.find(|c| !is_of_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    fn take_char(&mut self, wanted: char) -> bool {
        self.skip_blanks();
        let rest = self.0.strip_prefix(wanted);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }
}

/// Whether a token may contain it (RFC 9110 §5.6.2).
pub(super) fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a header with these lines is answered.
    #[track_caller]
    fn assert_answers(lines: &[&str], answer: Option<&str>) {
        assert_eq!(negotiate(lines.iter().copied()), Ok(answer), "{lines:?}");
    }

    #[test]
    fn offers_that_are_accepted() {
        for offer in [
            "permessage-deflate",
            " permessage-deflate\t",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits = 15",
            "permessage-deflate; client_max_window_bits=\"12\"",
            "permessage-deflate; client_max_window_bits=\"\\1\\2\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover;client_max_window_bits; server_no_context_takeover",
            ",, permessage-deflate ,",
            "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits",
            "unknown; a=b; c=\"d\"; e, permessage-deflate",
        ] {
            assert_answers(&[offer], Some(ANSWER));
        }
        for offer in
            ["permessage-deflate; server_max_window_bits=15", "permessage-deflate;server_max_window_bits=\"15\""]
        {
            assert_answers(&[offer], Some(ANSWER_WITH_WINDOW));
        }
    }

    #[test]
    fn offers_that_are_declined() {
        for offer in [
            "",
            " , ",
            "unknown",
            "Permessage-Deflate2",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=14",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=015",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=9; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        ] {
            assert_answers(&[offer], None);
        }
        assert_answers(&[], None);
    }

    #[test]
    fn the_first_acceptable_offer_counts_over_all_lines() {
        let small = "permessage-deflate; server_max_window_bits=10";
        let large = "permessage-deflate; server_max_window_bits=15";
        assert_answers(&[&format!("{small}, {large}, permessage-deflate")], Some(ANSWER_WITH_WINDOW));
        assert_answers(&[small, "permessage-deflate", large], Some(ANSWER));
        assert_answers(&["", "unknown", large], Some(ANSWER_WITH_WINDOW));
        assert_answers(&[small, "unknown"], None);
    }

    #[test]
    fn what_is_no_list_of_extensions_is_refused_wherever_it_stands() {
        for line in [
            ";",
            "a b",
            "a;",
            "a; ;b",
            "a; b=",
            "a; b=,",
            "a; b=\"",
            "a; b=\"\"",
            "a; b=\"c",
            "a; b=\"c d\"",
            "a; b=\"c\\ d\"",
            "a; b=\"c\\",
            "a; b=\"c\"d",
            "a; =b",
            "a=b",
            "a; b=c=d",
            "ä",
            "\"a\"",
        ] {
            assert_eq!(negotiate([line]), Err(Malformed), "{line}");
            assert_eq!(negotiate(["permessage-deflate", line]), Err(Malformed), "{line}");
        }
    }
}
