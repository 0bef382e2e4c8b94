//! Tickets: for some seconds one stands for a token where a URL is all that a client can say.
//!
//! A ticket says itself for whom it is, under a key of its own: no instance has to ask another. Where all instances have the
//! same key it is good on each of them; that it is good only once each instance sees to by itself, so within its time a
//! ticket could be used once on every one of them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Identity;
use super::claims::{Claim, Claims};
use crate::message::now_unix_ms;
use crate::user::UserName;

/// So that no ticket is ever a token, though both be made from one secret.
const DERIVATION: &[u8] = b"warren tickets\0";

/// Of all spent tickets that are remembered, one user's are at most one in so many: else one user, who may get as many as
/// there are, could keep all others out.
const USERS_SHARE: usize = 10;

/// Gives tickets and takes them.
pub struct Tickets {
    encoding: EncodingKey,
    decoding: DecodingKey,
    lifetime_s: u64,
    spent: Mutex<Spent>,
    spent_max: usize,
}

/// Tickets that were used and could still be.
#[derive(Default)]
struct Spent {
    /// By the second in which they end, so that those are forgotten together: their numbers, and whose they were.
    ending: BTreeMap<u64, HashMap<u128, UserName>>,
    /// How many are each user's.
    of_users: HashMap<UserName, usize>,
    count: usize,
}

/// Whether a ticket is to be good once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeeming {
    /// It is spent.
    Spends,
    /// It stays as it is: nothing is opened for it.
    Looks,
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
    /// The ticket may well be good.
    #[error("too many tickets were used just now")]
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
    /// With a key made from `secret`, which all instances share, or else by chance.
    pub fn new(secret: Option<&[u8]>, lifetime_s: u64, spent_max: usize) -> Result<Tickets, getrandom::Error> {
        let mut chance = [0; 32];
        getrandom::fill(&mut chance)?;
        let key = Sha256::new().chain_update(DERIVATION).chain_update(secret.unwrap_or(&chance)).finalize();
        Ok(Tickets {
            encoding: EncodingKey::from_secret(&key),
            decoding: DecodingKey::from_secret(&key),
            lifetime_s,
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

    /// For whom a ticket was given. Its seconds are told to whoever gets it, so no clock is given any leeway.
    pub fn redeem(&self, ticket: &str, redeeming: Redeeming) -> Result<Identity, NoTicket> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        let said = decode::<Said>(ticket, &self.decoding, &validation).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => NoTicket::Expired,
            _ => NoTicket::Unknown,
        })?;
        let Said { claims, until } = said.claims;
        let number = claims.jti.clone().get("jti").map_err(|_| NoTicket::Unknown)?;
        let number = number.and_then(|number| u128::from_str_radix(&number, 16).ok());
        let identity = claims.into_identity(0).map_err(|_| NoTicket::Unknown)?;
        let (ends_s, now_s) = (identity.expires_s.unwrap_or(u64::MAX), now_s());
        if ends_s <= now_s || until.is_some_and(|until| until <= now_s) {
            return Err(NoTicket::Expired);
        }
        let number = number.ok_or(NoTicket::Unknown)?;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.forget_until(now_s);
        spent.check(number, ends_s, &identity.user, self.spent_max)?;
        if redeeming == Redeeming::Spends {
            spent.remember(number, ends_s, identity.user.clone());
        }
        drop(spent);
        Ok(Identity { expires_s: until, ..identity })
    }
}

impl Spent {
    /// Forgets those that have ended by then.
    fn forget_until(&mut self, now_s: u64) {
        while let Some(first) = self.ending.first_entry().filter(|first| *first.key() <= now_s) {
            for user in first.remove().into_values() {
                self.count -= 1;
                if let Entry::Occupied(mut count) = self.of_users.entry(user) {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
        }
    }

    /// Whether a ticket is not among them, and there is room for it.
    fn check(&self, number: u128, ends_s: u64, user: &UserName, spent_max: usize) -> Result<(), NoTicket> {
        if self.ending.get(&ends_s).is_some_and(|spent| spent.contains_key(&number)) {
            return Err(NoTicket::Spent);
        }
        let of_user = self.of_users.get(user).copied().unwrap_or(0);
        let has_room = self.count < spent_max && of_user < spent_max.div_ceil(USERS_SHARE);
        if has_room { Ok(()) } else { Err(NoTicket::TooMany) }
    }

    fn remember(&mut self, number: u128, ends_s: u64, user: UserName) {
        *self.of_users.entry(user.clone()).or_default() += 1;
        self.ending.entry(ends_s).or_default().insert(number, user);
        self.count += 1;
    }
}

fn now_s() -> u64 {
    now_unix_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::Redeeming::{Looks, Spends};
    use super::*;
    use crate::identity::{Rights, Role, Topics};
    use crate::topic::Pattern;
    use crate::user::GroupName;

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
        Tickets::new(secret, 30, spent_max).unwrap()
    }

    #[test]
    fn a_ticket_stands_for_somebody_once() {
        let tickets = tickets(None, 10);
        let ticket = tickets.give(&alice()).unwrap();
        assert_ne!(tickets.give(&alice()).unwrap(), ticket);
        assert_eq!(tickets.redeem(&ticket, Spends), Ok(alice()));
        assert_eq!(tickets.redeem(&ticket, Spends), Err(NoTicket::Spent));
    }

    #[test]
    fn it_is_good_where_the_secret_is_known() {
        let secret = [7; 32];
        let (one, other) = (tickets(Some(&secret), 10), tickets(Some(&secret), 10));
        assert_eq!(other.redeem(&one.give(&alice()).unwrap(), Spends), Ok(alice()));
        let ticket = tickets(None, 10).give(&alice()).unwrap();
        assert_eq!(one.redeem(&ticket, Spends), Err(NoTicket::Unknown));
        for wrong in ["", "a", "a.b.c", &ticket[1..]] {
            assert_eq!(one.redeem(wrong, Spends), Err(NoTicket::Unknown));
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
        assert_eq!(tickets.redeem(&tickets.give(&past).unwrap(), Spends), Err(NoTicket::Expired));
        let claims =
            Claims { exp: Claim::Is((now_s() - 1).into()), jti: Claim::Is("1".into()), ..Claims::of(&alice()) };
        let late = encode(&Header::default(), &Said { claims, until: None }, &tickets.encoding).unwrap();
        assert_eq!(tickets.redeem(&late, Spends), Err(NoTicket::Expired));
    }

    #[test]
    fn it_is_good_for_its_seconds_and_none_longer() {
        let tickets = Tickets::new(None, 0, 10).unwrap();
        assert_eq!(tickets.redeem(&tickets.give(&alice()).unwrap(), Spends), Err(NoTicket::Expired));
    }

    #[test]
    fn who_only_looks_spends_nothing() {
        let tickets = tickets(None, 10);
        let ticket = tickets.give(&alice()).unwrap();
        assert_eq!([(); 2].map(|()| tickets.redeem(&ticket, Looks)), [Ok(alice()), Ok(alice())]);
        assert_eq!(tickets.redeem(&ticket, Spends), Ok(alice()));
        assert_eq!(tickets.redeem(&ticket, Looks), Err(NoTicket::Spent));
    }

    fn user(number: usize) -> UserName {
        UserName::parse(&format!("user{number}")).unwrap()
    }

    #[test]
    fn only_so_many_are_remembered_and_for_as_long_as_they_could_be_used() {
        let mut spent = Spent::default();
        for number in 0..3 {
            assert_eq!(spent.check(number as u128, 5, &user(number), 3), Ok(()));
            spent.remember(number as u128, 5, user(number));
        }
        assert_eq!(spent.check(0, 5, &user(0), 3), Err(NoTicket::Spent));
        assert_eq!(spent.check(9, 6, &user(9), 3), Err(NoTicket::TooMany));
        spent.forget_until(4);
        assert_eq!(spent.check(9, 6, &user(9), 3), Err(NoTicket::TooMany));
        spent.forget_until(5);
        assert_eq!(spent.check(9, 6, &user(9), 3), Ok(()));
        assert!(spent.count == 0 && spent.of_users.is_empty() && spent.ending.is_empty());
    }

    #[test]
    fn one_user_takes_no_more_than_a_share() {
        let mut spent = Spent::default();
        for number in 0..10 {
            assert_eq!(spent.check(number, 5 + number as u64, &user(0), 100), Ok(()));
            spent.remember(number, 5 + number as u64, user(0));
        }
        assert_eq!(spent.check(10, 20, &user(0), 100), Err(NoTicket::TooMany));
        assert_eq!(spent.check(10, 20, &user(1), 100), Ok(()));
        spent.forget_until(5);
        assert_eq!(spent.check(10, 20, &user(0), 100), Ok(()));
    }
}
