//! Who somebody is, and what they may: what a token says once it was found to be true.

use crate::topic::Pattern;
use crate::user::{GroupName, UserName};

/// Somebody whose token was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: UserName,
    /// Whose messages reach this user as well.
    pub groups: Vec<GroupName>,
    pub rights: Rights,
    /// When the token ends, in seconds of Unix time; `None` if it never does.
    pub expires_s: Option<u64>,
}

/// What somebody may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub subscribe: Topics,
    pub publish: Topics,
    pub roles: Vec<Role>,
}

impl Rights {
    /// Whether somebody has a role, or that of who may do everything.
    pub fn has(&self, role: Role) -> bool {
        self.roles.iter().any(|one| *one == role || *one == Role::Admin)
    }
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
