//! Whose a request is: which part of it is a token or a ticket, and what that comes to.
//!
//! A token comes in one of these ways: `Authorization: Bearer`, `Sec-WebSocket-Protocol: bearer.TOKEN` (a browser's
//! WebSocket has no other header to set), a ticket in the URL, or where that is switched on, a token there. Two at once are
//! refused, as it would be chance which counts. A cookie counts only where none of these is brought, and only from a page
//! that may connect: browsers send it whosever page asks.

use std::borrow::Cow;
use std::sync::Arc;

use url::form_urlencoded;
use warp::http::header::{AUTHORIZATION, COOKIE, HeaderMap, ORIGIN, SEC_WEBSOCKET_PROTOCOL};

use super::origin;
use crate::config::{AllowedOrigins, CookieName};
use crate::identity::{Identity, NoTicket, Redeeming, Tickets, Unverified, Verifier};

/// What stands before a token among the subprotocols.
const OFFERED: &[u8] = b"bearer.";

/// Parameters of the query.
const TICKET: &str = "ticket";
const TOKEN: &str = "token";

/// Finds out whose requests are.
pub struct Identities {
    /// Without one nobody has a token, and whatever is brought says nothing.
    pub verifier: Option<Verifier>,
    pub tickets: Tickets,
    pub cookie: CookieName,
    /// Whether tokens in the URL count.
    pub in_query: bool,
    /// Whether who brings nothing may connect.
    pub anonymous: bool,
    pub allowed_origins: AllowedOrigins,
}

/// Why a request is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("no token was brought")]
    Missing,
    #[error("more than one token was brought")]
    Several,
    #[error("{0}")]
    Token(#[from] Unverified),
    #[error("{0}")]
    Ticket(#[from] NoTicket),
}

impl Unauthorized {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Unauthorized::Missing => "missing",
            Unauthorized::Several => "several",
            Unauthorized::Token(reason) => reason.name(),
            Unauthorized::Ticket(NoTicket::Expired) => "expired",
            Unauthorized::Ticket(NoTicket::TooMany) => "too_many_tickets",
            Unauthorized::Ticket(_) => "ticket",
        }
    }

    /// Whether what was brought may well be good, and is to be brought again: no fault of who brought it.
    pub fn may_pass(self) -> bool {
        matches!(self, Unauthorized::Token(Unverified::NoKeys) | Unauthorized::Ticket(NoTicket::TooMany))
    }
}

/// What somebody brings. Not to be shown anywhere.
enum Brought<'a> {
    Token(Cow<'a, str>),
    Ticket(Cow<'a, str>),
}

impl Identities {
    /// Whose request for a session this is; `None` if it is anybody's, which is allowed. A ticket is spent by that if the
    /// session is to be opened.
    pub async fn of_session(
        &self,
        headers: &HeaderMap,
        query: &str,
        redeeming: Redeeming,
    ) -> Result<Option<Arc<Identity>>, Unauthorized> {
        let mut all: Vec<Brought<'_>> = bearers(headers).map(Brought::Token).collect();
        all.extend(offered(headers).map(Brought::Token));
        all.extend(in_query(query, self.in_query));
        self.of_brought(all, headers, redeeming).await
    }

    /// Whose any other request is: by its header or its cookie. What a token costs is paid each time.
    pub async fn of(&self, headers: &HeaderMap) -> Result<Option<Arc<Identity>>, Unauthorized> {
        self.of_brought(bearers(headers).map(Brought::Token).collect(), headers, Redeeming::Looks).await
    }

    /// Whether tokens can be told from others, if they count at all.
    pub fn are_ready(&self) -> bool {
        self.verifier.as_ref().is_none_or(Verifier::has_keys)
    }

    /// What else the query says.
    pub fn without_credentials(&self, query: &str) -> String {
        let is_other = |pair: &&str| match form_urlencoded::parse(pair.as_bytes()).next() {
            Some((name, _)) => !is_credential(&name, self.in_query),
            None => true,
        };
        query.split('&').filter(is_other).collect::<Vec<_>>().join("&")
    }

    async fn of_brought(
        &self,
        mut all: Vec<Brought<'_>>,
        headers: &HeaderMap,
        redeeming: Redeeming,
    ) -> Result<Option<Arc<Identity>>, Unauthorized> {
        let Some(verifier) = &self.verifier else { return Ok(None) };
        if all.is_empty() && self.is_own_page(headers) {
            all.extend(cookies(headers, self.cookie.as_str()).map(Brought::Token));
        }
        let only = all.pop();
        if !all.is_empty() {
            return Err(Unauthorized::Several);
        }
        Ok(match only {
            Some(Brought::Token(token)) => Some(Arc::new(verifier.verify(&token).await?)),
            Some(Brought::Ticket(ticket)) => Some(Arc::new(self.tickets.redeem(&ticket, redeeming)?)),
            None if self.anonymous => None,
            None => return Err(Unauthorized::Missing),
        })
    }

    /// Whether a page asks that may use its visitor's cookies: of this server, or of an origin that is listed by name. Pages
    /// of the server's own send no `Origin` with a GET; then browsers say themselves whose page it is (Fetch Metadata).
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(ORIGIN) {
            return origin::is_of_same_origin(headers);
        }
        match &self.allowed_origins {
            AllowedOrigins::Any => origin::may_connect(&AllowedOrigins::SameOrigin, headers),
            named => origin::may_connect(named, headers),
        }
    }
}

/// The tokens of all `Authorization` headers (RFC 6750 §2.1); the scheme in any case. Other schemes say nothing here. What is
/// not ASCII is a token, too, and one that does not count: whoever brings one is not taken for somebody who brings none.
pub fn bearers(headers: &HeaderMap) -> impl Iterator<Item = Cow<'_, str>> {
    headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let value = value.as_bytes().trim_ascii();
        let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
        let (scheme, token) = value.split_at(end);
        scheme.eq_ignore_ascii_case(b"bearer").then(|| String::from_utf8_lossy(token.trim_ascii()))
    })
}

/// Those among the subprotocols.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = Cow<'_, str>> {
    let names =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| Some(String::from_utf8_lossy(name.trim_ascii().strip_prefix(OFFERED)?)))
}

/// The cookies of this name (RFC 6265 §4.2.1, §5.4), with or without double quotes. Others beside them may hold anything.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some(String::from_utf8_lossy(bare))
    })
}

fn in_query(query: &str, tokens: bool) -> impl Iterator<Item = Brought<'_>> {
    form_urlencoded::parse(query.as_bytes()).filter(move |(name, _)| is_credential(name, tokens)).map(
        |(name, value)| {
            if name == TICKET { Brought::Ticket(value) } else { Brought::Token(value) }
        },
    )
}

fn is_credential(name: &str, tokens: bool) -> bool {
    name == TICKET || (tokens && name == TOKEN)
}

#[cfg(test)]
mod tests;
