//! Who by name is written to, and what is waiting for them: `/api/users/{user}/messages`, `/api/groups/{group}/…`,
//! `POST /api/unread`.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use warp::http::Method;

use super::Api;
use super::problem::{Kind, Problem};
use crate::broker::NotAccepted;
use crate::cursor::Cursor;
use crate::identity::Identity;
use crate::message::{Message, Target};
use crate::protocol::json::encode_message;
use crate::user::{GroupName, InvalidName, UserName};
use crate::users::Users;

/// Messages that one request may take.
const TAKEN_MAX: usize = 1000;

/// Whom a path beneath `/api/` is for, if it is to somebody by name.
pub fn addressee(path: &str) -> Result<Option<Target>, Problem> {
    let mut parts = path.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("users"), Some(user), Some("messages"), None) => Ok(Some(Target::User(named(user, UserName::parse)?))),
        (Some("groups"), Some(group), Some("messages"), None) => {
            Ok(Some(Target::Group(named(group, GroupName::parse)?)))
        }
        _ => Ok(None),
    }
}

fn named<T>(part: &str, parse: impl Fn(&str) -> Result<T, InvalidName>) -> Result<T, Problem> {
    let name =
        percent_decode_str(part).decode_utf8().map_err(|_| Problem::new(Kind::BadName, "The name is not UTF-8."))?;
    parse(&name).map_err(|reason| Problem::new(Kind::BadName, format!("{reason}.")))
}

/// Begins a membership (`PUT`) or ends it (`DELETE`): `{group}/members/{user}`.
pub async fn change_member(users: &Users, method: &Method, group: &str, user: &str) -> Result<Value, Problem> {
    let (group, user) = (named(group, GroupName::parse)?, named(user, UserName::parse)?);
    let is_member = method == Method::PUT;
    let changed = if is_member {
        users.mailboxes().join(user.clone(), group.clone()).await
    } else {
        users.leave_group(&user, &group).await
    };
    changed.map_err(|_| Problem::new(Kind::NotKept, "The broker cannot be reached now. Send it again."))?;
    Ok(json!({ "group": group, "user": user, "member": is_member }))
}

impl Api {
    /// What waits for somebody, at most once: what is answered is kept no more.
    pub async fn take_unread(&self, identity: &Identity) -> Result<Value, Problem> {
        // For as long as what is answered may take memory.
        let _turn = self.begin()?;
        let taken = self.users.take_unread(&identity.user, TAKEN_MAX, Box::new(|_| true)).await.map_err(not_reached)?;
        let messages: Vec<Value> = taken.iter().map(described).collect();
        Ok(json!({ "messages": messages }))
    }
}

pub fn not_reached(_: NotAccepted) -> Problem {
    Problem::new(Kind::NotKept, "The mailbox cannot be reached now. Ask again.")
}

/// A message as JSON sessions are told it.
fn described(message: &Message) -> Value {
    let mut text = Vec::new();
    encode_message(message, &Cursor::default(), &mut text);
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_somebody() {
        let user = |name: &str| Target::User(UserName::parse(name).unwrap());
        let group = |name: &str| Target::Group(GroupName::parse(name).unwrap());
        for (path, target) in [
            ("users/alice/messages", Some(user("alice"))),
            ("users/a%2Fb%20c/messages", Some(user("a/b c"))),
            ("groups/class-7/messages", Some(group("class-7"))),
            ("users/alice", None),
            ("users/alice/messages/", None),
            ("topics/users/alice/messages", None),
        ] {
            assert_eq!(addressee(path).unwrap(), target, "{path}");
        }
        for path in ["users//messages", "users/%20/messages", "users/%ff/messages", "groups/%00/messages"] {
            assert!(addressee(path).is_err(), "{path}");
        }
    }
}
