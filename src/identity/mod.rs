//! Who somebody is, and what they may: what a token says once it was found to be true.
//!
//! Owns tokens from their text to an [`Identity`]: the keys (`key_file`, `keys`, `jwks`), the check (`verifier`), what the claims mean
//! (`claims`), tickets that stand for a token for some seconds (`tickets`), and making tokens to try things out (`signer`).
//! Refuses to look at a request: which part of it is a token is the HTTP side's. Invariant: the algorithm is the key's, never
//! what a token says of itself.

mod claims;
mod fetch;
mod jwks;
mod key_file;
mod keys;
mod signer;
mod tickets;
mod verifier;

pub use jwks::{JwksSource, Place};
pub use key_file::{InvalidKeyFile, read_secret};
pub use keys::{InvalidKeys, Key, KeySet};
pub use signer::{InvalidSigningKey, Signer};
pub use tickets::{NoTicket, Redeeming, Tickets};
pub use verifier::{Rules, Unverified, Verifier};

use crate::message::Target;
use crate::topic::{Pattern, Topic};
use crate::user::{GroupName, UserName};

/// Somebody whose token was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: UserName,
    /// Whose messages reach this user as well.
    pub groups: Vec<GroupName>,
    pub rights: Rights,
    /// From when it counts no more, in seconds of Unix time: the token's end and the leeway. `None` if it never ends.
    pub expires_s: Option<u64>,
}

/// What somebody may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub subscribe: Topics,
    pub publish: Topics,
    pub roles: Vec<Role>,
}

/// Which topics somebody may subscribe to, or publish to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topics {
    /// Every one, and the broadcast: what a token that does not say grants.
    #[default]
    All,
    /// These.
    Only { patterns: Vec<Pattern>, broadcast: bool },
}

/// What beyond topics somebody may ask of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To publish over HTTP.
    Publish,
    /// To write to users and groups.
    Send,
    /// To see who is here.
    Presence,
    /// To say who belongs to a group.
    Groups,
    /// All of these.
    Admin,
}

impl Role {
    pub const ALL: [Role; 5] = [Role::Publish, Role::Send, Role::Presence, Role::Groups, Role::Admin];

    /// As tokens have it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Publish => "publish",
            Role::Send => "send",
            Role::Presence => "presence",
            Role::Groups => "groups",
            Role::Admin => "admin",
        }
    }

    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl Rights {
    /// Whether everything that the pattern can match may be heard.
    pub fn may_subscribe(&self, pattern: &Pattern) -> bool {
        if pattern.is_reserved() {
            // There the server tells who is here.
            return self.has(Role::Presence);
        }
        self.subscribe.grants(pattern)
    }

    /// Whether all of these may be heard, and the broadcast if that is asked for.
    pub fn may_hear(&self, patterns: &[Pattern], broadcast: bool) -> bool {
        patterns.iter().all(|pattern| self.may_subscribe(pattern)) && (!broadcast || self.may_hear_broadcast())
    }

    pub fn may_hear_broadcast(&self) -> bool {
        self.subscribe.grants_broadcast()
    }

    pub fn may_publish(&self, topic: &Topic) -> bool {
        match &self.publish {
            Topics::All => true,
            Topics::Only { patterns, .. } => patterns.iter().any(|granted| granted.matches(topic)),
        }
    }

    /// The same of whatever a client may say something to.
    pub fn may_publish_to(&self, target: &Target) -> bool {
        match target {
            Target::Broadcast => self.may_broadcast(),
            Target::Topic(topic) => self.may_publish(topic),
            // What is not published has other rules.
            _ => true,
        }
    }

    pub fn may_broadcast(&self) -> bool {
        self.publish.grants_broadcast()
    }

    /// Whether somebody has a role, or that of who may do everything.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.roles.contains(&Role::Admin)
    }
}

impl Topics {
    /// Whether one of those that are granted contains the pattern: several together are not considered.
    fn grants(&self, pattern: &Pattern) -> bool {
        match self {
            Topics::All => true,
            Topics::Only { patterns, .. } => patterns.iter().any(|granted| granted.contains(pattern)),
        }
    }

    fn grants_broadcast(&self) -> bool {
        match self {
            Topics::All => true,
            Topics::Only { broadcast, .. } => *broadcast,
        }
    }
}

#[cfg(test)]
mod tests;

/// Whether a session may hear all of these, and the broadcast if that is asked for. Who is nobody may hear everything but
/// who is here, and that too where nobody has a token.
pub fn may_hear(identity: Option<&Identity>, there_are_tokens: bool, patterns: &[Pattern], broadcast: bool) -> bool {
    match identity {
        Some(identity) => identity.rights.may_hear(patterns, broadcast),
        None => !there_are_tokens || !patterns.iter().any(Pattern::is_reserved),
    }
}
