//! What the claims of a token mean (RFC 7519 §4), and how an identity is written as claims.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Identity, Rights, Role, Topics, Unverified};
use crate::topic::Pattern;
use crate::user::{GroupName, UserName};

/// What stands for the broadcast among topics.
const BROADCAST: &str = "";

/// Those that count here; others may stand beside them, but none twice.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub sub: Claim<String>,
    /// Seconds of Unix time.
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub exp: Claim<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub iss: Claim<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub aud: Claim<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub jti: Claim<String>,
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub groups: Claim<Vec<String>>,
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub roles: Claim<Vec<String>>,
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub subscribe: Claim<Vec<String>>,
    #[serde(default, skip_serializing_if = "Claim::is_absent")]
    pub publish: Claim<Vec<String>>,
}

/// One claim. What is there and is not what it must be is told from what is not there: without `subscribe` everything may
/// be heard, while issuers in some languages write an empty list as `null`, and mean nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Claim<T> {
    #[default]
    Absent,
    Is(T),
    /// Of another type, `null` among them.
    Wrong,
}

impl<T> Claim<T> {
    fn is_absent(&self) -> bool {
        matches!(self, Claim::Absent)
    }

    /// What it is, if it is there. `name` is the claim's own.
    pub fn get(self, name: &'static str) -> Result<Option<T>, Unverified> {
        match self {
            Claim::Absent => Ok(None),
            Claim::Is(value) => Ok(Some(value)),
            Claim::Wrong => Err(Unverified::Claim(name)),
        }
    }
}

impl<T> From<Option<T>> for Claim<T> {
    fn from(value: Option<T>) -> Claim<T> {
        value.map_or(Claim::Absent, Claim::Is)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Claim<T> {
    /// Of all of the value: what was read half would leave the rest of the claims unread.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Claim<T>, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(T::deserialize(value).map_or(Claim::Wrong, Claim::Is))
    }
}

impl<T: Serialize> Serialize for Claim<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Claim::Is(value) => value.serialize(serializer),
            Claim::Absent | Claim::Wrong => serializer.serialize_none(),
        }
    }
}

impl Claims {
    /// Of whom they speak. With `leeway_s` `exp` says when the identity ends; whether it has by now is not looked at.
    pub fn into_identity(self, leeway_s: u64) -> Result<Identity, Unverified> {
        let sub = self.sub.get("sub")?;
        let user = sub.and_then(|sub| UserName::parse(&sub).ok()).ok_or(Unverified::Claim("sub"))?;
        let mut groups = Vec::new();
        for name in self.groups.get("groups")?.iter().flatten() {
            let group = GroupName::parse(name).map_err(|_| Unverified::Claim("groups"))?;
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let rights = Rights {
            subscribe: topics(self.subscribe, "subscribe")?,
            publish: topics(self.publish, "publish")?,
            // Issuers give roles to other services, too.
            roles: self.roles.get("roles")?.iter().flatten().filter_map(|name| Role::parse(name)).collect(),
        };
        let exp = self.exp.get("exp")?.and_then(|exp| exp.as_f64()).ok_or(Unverified::Claim("exp"))?;
        Ok(Identity { user, groups, rights, expires_s: Some((exp.round() as u64).saturating_add(leeway_s)) })
    }

    /// Those of an identity, without a time.
    pub fn of(identity: &Identity) -> Claims {
        let Rights { subscribe, publish, roles } = &identity.rights;
        let groups = identity.groups.iter().map(|group| group.as_str().to_owned());
        let roles = roles.iter().map(|role| role.name().to_owned());
        Claims {
            sub: Claim::Is(identity.user.as_str().to_owned()),
            groups: unless_empty(groups.collect()),
            roles: unless_empty(roles.collect()),
            subscribe: names(subscribe),
            publish: names(publish),
            ..Claims::default()
        }
    }
}

/// The topics of a claim; everything without one.
fn topics(claim: Claim<Vec<String>>, name: &'static str) -> Result<Topics, Unverified> {
    let Some(names) = claim.get(name)? else { return Ok(Topics::All) };
    let (broadcast, patterns): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| *name == BROADCAST);
    let patterns = patterns.into_iter().map(|name| Pattern::parse(name).ok()).collect::<Option<_>>();
    let patterns = patterns.ok_or(Unverified::Claim(name))?;
    Ok(Topics::Only { patterns, broadcast: !broadcast.is_empty() })
}

fn names(topics: &Topics) -> Claim<Vec<String>> {
    match topics {
        Topics::All => Claim::Absent,
        Topics::Only { patterns, broadcast } => {
            let patterns = patterns.iter().map(|pattern| pattern.as_str().to_owned());
            Claim::Is(patterns.chain(broadcast.then(|| BROADCAST.to_owned())).collect())
        }
    }
}

fn unless_empty(names: Vec<String>) -> Claim<Vec<String>> {
    if names.is_empty() { Claim::Absent } else { Claim::Is(names) }
}
