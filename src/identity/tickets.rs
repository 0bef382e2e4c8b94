//! Tickets: for some seconds one stands for a token where a URL is all that a client can say.
//!
//! A ticket says itself for whom it is, under a key of its own: no instance has to ask another. Where all instances have the
//! same key it is good on each of them; that it is good only once each instance sees to by itself, so within its time a
//! ticket could be used once on every one of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Identity;
use super::claims::{Claim, Claims};
use crate::message::now_unix_ms;

/// So that no ticket is ever a token, though both be made from one secret.
const DERIVATION: &[u8] = b"warren tickets\0";

/// Gives tickets and takes them.
pub struct Tickets {
    encoding: EncodingKey,
    decoding: DecodingKey,
    lifetime_s: u64,
    leeway_s: u64,
    /// Tickets that were used and could still be: their number, and when they end.
    spent: Mutex<HashMap<u128, u64>>,
    spent_max: usize,
}

/// Why a ticket does not count, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTicket {
    #[error("this ticket was not given here, or is damaged")]
    Unknown,
    #[error("the ticket has expired")]
    Expired,
    #[error("the ticket was used before")]
    Spent,
    #[error("too many tickets are in use")]
    TooMany,
    #[error("there is no chance to be had from the operating system")]
    NoChance,
}

/// What a ticket says.
#[derive(Serialize, Deserialize)]
struct Said {
    #[serde(flatten)]
    claims: Claims,
    /// When the identity ends.
    until: Option<u64>,
}

impl Tickets {
    /// With a key made from `secret`, which all instances share, or else by chance. `leeway_s`: by how much their clocks may
    /// differ.
    pub fn new(
        secret: Option<&[u8]>,
        lifetime_s: u64,
        leeway_s: u64,
        spent_max: usize,
    ) -> Result<Tickets, getrandom::Error> {
        let mut chance = [0; 32];
        getrandom::fill(&mut chance)?;
        let key = Sha256::new().chain_update(DERIVATION).chain_update(secret.unwrap_or(&chance)).finalize();
        Ok(Tickets {
            encoding: EncodingKey::from_secret(&key),
            decoding: DecodingKey::from_secret(&key),
            lifetime_s,
            leeway_s,
            spent: Mutex::default(),
            spent_max,
        })
    }

    /// How long a ticket is good, in seconds.
    pub fn lifetime_s(&self) -> u64 {
        self.lifetime_s
    }

    /// A ticket for somebody.
    pub fn give(&self, identity: &Identity) -> Result<String, NoTicket> {
        let mut number = [0; 16];
        getrandom::fill(&mut number).map_err(|_| NoTicket::NoChance)?;
        let claims = Claims {
            exp: Claim::Is((now_s() + self.lifetime_s).into()),
            jti: Claim::Is(format!("{:x}", u128::from_ne_bytes(number))),
            ..Claims::of(identity)
        };
        let said = Said { claims, until: identity.expires_s };
        encode(&Header::new(Algorithm::HS256), &said, &self.encoding).map_err(|_| NoTicket::Unknown)
    }

    /// For whom a ticket was given. It is spent then.
    pub fn redeem(&self, ticket: &str) -> Result<Identity, NoTicket> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = self.leeway_s;
        let said = decode::<Said>(ticket, &self.decoding, &validation).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => NoTicket::Expired,
            _ => NoTicket::Unknown,
        })?;
        let Said { claims, until } = said.claims;
        let number = claims.jti.clone().get("jti").map_err(|_| NoTicket::Unknown)?;
        let number = number.and_then(|number| u128::from_str_radix(&number, 16).ok());
        let identity = claims.into_identity(self.leeway_s).map_err(|_| NoTicket::Unknown)?;
        let ends_s = identity.expires_s.unwrap_or(u64::MAX);
        if until.is_some_and(|until| until <= now_s()) {
            return Err(NoTicket::Expired);
        }
        self.spend(number.ok_or(NoTicket::Unknown)?, ends_s)?;
        Ok(Identity { expires_s: until, ..identity })
    }

    fn spend(&self, number: u128, ends_s: u64) -> Result<(), NoTicket> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= self.spent_max {
            let now_s = now_s();
            spent.retain(|_, ends_s| *ends_s >= now_s);
        }
        if spent.contains_key(&number) {
            return Err(NoTicket::Spent);
        }
        if spent.len() >= self.spent_max {
            return Err(NoTicket::TooMany);
        }
        spent.insert(number, ends_s);
        Ok(())
    }
}

fn now_s() -> u64 {
    now_unix_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Rights, Role, Topics};
    use crate::topic::Pattern;
    use crate::user::{GroupName, UserName};

    fn alice() -> Identity {
        let subscribe = Topics::Only { patterns: vec![Pattern::parse("orders.*").unwrap()], broadcast: true };
        Identity {
            user: UserName::parse("alice").unwrap(),
            groups: vec![GroupName::parse("class").unwrap()],
            rights: Rights { subscribe, publish: Topics::All, roles: vec![Role::Send] },
            expires_s: Some(now_s() + 1000),
        }
    }

    fn tickets(secret: Option<&[u8]>, spent_max: usize) -> Tickets {
        Tickets::new(secret, 30, 0, spent_max).unwrap()
    }

    #[test]
    fn a_ticket_stands_for_somebody_once() {
        let tickets = tickets(None, 10);
        let ticket = tickets.give(&alice()).unwrap();
        assert_ne!(tickets.give(&alice()).unwrap(), ticket);
        assert_eq!(tickets.redeem(&ticket), Ok(alice()));
        assert_eq!(tickets.redeem(&ticket), Err(NoTicket::Spent));
    }

    #[test]
    fn it_is_good_where_the_secret_is_known() {
        let secret = [7; 32];
        let (one, other) = (tickets(Some(&secret), 10), tickets(Some(&secret), 10));
        assert_eq!(other.redeem(&one.give(&alice()).unwrap()), Ok(alice()));
        let ticket = tickets(None, 10).give(&alice()).unwrap();
        assert_eq!(one.redeem(&ticket), Err(NoTicket::Unknown));
        for wrong in ["", "a", "a.b.c", &ticket[1..]] {
            assert_eq!(one.redeem(wrong), Err(NoTicket::Unknown));
        }
    }

    #[test]
    fn a_secret_signs_no_ticket_itself() {
        let (secret, one) = ([7; 32], tickets(Some(&[7; 32]), 10));
        let ticket = one.give(&alice()).unwrap();
        let claims = decode::<Claims>(&ticket, &DecodingKey::from_secret(&secret), &Validation::default());
        assert!(claims.is_err(), "a ticket is no token");
    }

    #[test]
    fn it_ends_with_its_time_and_with_the_token() {
        let past = Identity { expires_s: Some(now_s() - 1), ..alice() };
        let tickets = tickets(None, 10);
        assert_eq!(tickets.redeem(&tickets.give(&past).unwrap()), Err(NoTicket::Expired));
        let claims =
            Claims { exp: Claim::Is((now_s() - 1).into()), jti: Claim::Is("1".into()), ..Claims::of(&alice()) };
        let late = encode(&Header::default(), &Said { claims, until: None }, &tickets.encoding).unwrap();
        assert_eq!(tickets.redeem(&late), Err(NoTicket::Expired));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let tickets = tickets(None, 1);
        tickets.spend(1, now_s() - 1).unwrap();
        tickets.redeem(&tickets.give(&alice()).unwrap()).unwrap();
        assert_eq!(tickets.redeem(&tickets.give(&alice()).unwrap()), Err(NoTicket::TooMany));
    }
}
