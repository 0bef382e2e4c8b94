//! What the claims of a token mean (RFC 7519 §4), and how an identity is written as claims.

use serde::{Deserialize, Serialize};

use super::{Identity, Rights, Role, Topics, Unverified};
use crate::topic::Pattern;
use crate::user::{GroupName, UserName};

/// What stands for the broadcast among topics.
const BROADCAST: &str = "";

/// Those that count here; others may stand beside them, but none twice.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
}

impl Claims {
    /// Of whom they speak. `exp` was checked by now; with `leeway_s` it says when the identity ends.
    pub fn into_identity(self, leeway_s: u64) -> Result<Identity, Unverified> {
        let user = self.sub.as_deref().and_then(|sub| UserName::parse(sub).ok()).ok_or(Unverified::Claim("sub"))?;
        let mut groups = Vec::new();
        for name in self.groups.iter().flatten() {
            let group = GroupName::parse(name).map_err(|_| Unverified::Claim("groups"))?;
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let rights = Rights {
            subscribe: topics(self.subscribe.as_deref()).ok_or(Unverified::Claim("subscribe"))?,
            publish: topics(self.publish.as_deref()).ok_or(Unverified::Claim("publish"))?,
            // Issuers give roles to other services, too.
            roles: self.roles.iter().flatten().filter_map(|name| Role::parse(name)).collect(),
        };
        let exp = self.exp.and_then(|exp| exp.as_f64()).ok_or(Unverified::Claim("exp"))?;
        Ok(Identity { user, groups, rights, expires_s: Some((exp.round() as u64).saturating_add(leeway_s)) })
    }

    /// Those of an identity, without a time.
    pub fn of(identity: &Identity) -> Claims {
        let Rights { subscribe, publish, roles } = &identity.rights;
        let groups = identity.groups.iter().map(|group| group.as_str().to_owned());
        let roles = roles.iter().map(|role| role.name().to_owned());
        Claims {
            sub: Some(identity.user.as_str().to_owned()),
            groups: some_unless_empty(groups.collect()),
            roles: some_unless_empty(roles.collect()),
            subscribe: names(subscribe),
            publish: names(publish),
            ..Claims::default()
        }
    }
}

/// The topics of a claim; everything without one. `None` if one of them is no pattern.
fn topics(claim: Option<&[String]>) -> Option<Topics> {
    let Some(names) = claim else { return Some(Topics::All) };
    let (broadcast, patterns): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| *name == BROADCAST);
    let patterns = patterns.into_iter().map(|name| Pattern::parse(name).ok()).collect::<Option<_>>()?;
    Some(Topics::Only { patterns, broadcast: !broadcast.is_empty() })
}

fn names(topics: &Topics) -> Option<Vec<String>> {
    match topics {
        Topics::All => None,
        Topics::Only { patterns, broadcast } => {
            let patterns = patterns.iter().map(|pattern| pattern.as_str().to_owned());
            Some(patterns.chain(broadcast.then(|| BROADCAST.to_owned())).collect())
        }
    }
}

fn some_unless_empty(names: Vec<String>) -> Option<Vec<String>> {
    (!names.is_empty()).then_some(names)
}
