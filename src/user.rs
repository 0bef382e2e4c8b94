//! Who is meant by name: users, and groups of them. Names come from tokens, paths and programs, and stand in routing keys.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Bytes of a name: with what Warren puts before it, it fits an AMQP short string.
pub const NAME_BYTES_MAX: usize = 128;

/// A text that names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters, and neither begins nor ends with white space"
)]
pub struct InvalidName;

/// A user, as tokens name them (`sub`, RFC 7519 §4.1.2). Upper and lower case differ, and so do different encodings of
/// what looks the same. A clone shares the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(Arc<str>);

/// A group of users. The same rules as for users.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(Arc<str>);

fn check(name: &str) -> Result<Arc<str>, InvalidName> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    let is_name = fits && name.trim() == name && !name.chars().any(char::is_control);
    is_name.then(|| name.into()).ok_or(InvalidName)
}

macro_rules! name {
    ($name:ident) => {
        impl $name {
            pub fn parse(name: &str) -> Result<$name, InvalidName> {
                check(name).map($name)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<$name, InvalidName> {
                $name::parse(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
    };
}

name!(UserName);
name!(GroupName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_visible() {
        for name in ["alice", "42", "Zoë van Dijk", "a/b.c#*", &"x".repeat(128)] {
            assert_eq!(UserName::parse(name).map(String::from), Ok(name.to_owned()));
        }
        for name in ["", " alice", "alice\n", "a\0b", "\u{a0}x", &"x".repeat(129)] {
            assert_eq!(GroupName::parse(name), Err(InvalidName), "{name:?}");
        }
    }
}
