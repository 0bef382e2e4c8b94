//! Every route of the public port, and what it requires. Nothing that does not stand here is answered: the gate in front
//! of the routes goes by this table, `docs/http.md` shows it, and tests walk it.

use std::fmt;

use warp::http::Method;

use crate::identity::Role;

/// What somebody must bring to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requires {
    /// Nothing.
    Nothing,
    /// Nothing, but of a page an allowed origin, which the route itself checks.
    Origin,
    /// A WebSocket handshake, which the route itself checks; pages of an allowed origin only.
    Handshake,
    /// An API key, or a token with this role; where neither is configured, to be a program on this host.
    Right(Role),
    /// Any token that counts.
    User,
    /// Any token that counts, of which the route itself tells.
    OwnToken,
    /// To be a program on this host, and a server for development.
    Development,
}

/// A path with its methods.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// What stands in it for `{topic}` may have slashes, for any other name in braces not.
    pub path: &'static str,
    pub methods: &'static [Method],
    pub requires: Requires,
}

const READING: &[Method] = &[Method::GET, Method::HEAD];
const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const CHANGING: &[Method] = &[Method::DELETE, Method::PUT];

/// The table.
pub static ROUTES: [Route; 23] = [
    Route { path: "/", methods: READING, requires: Requires::Nothing },
    Route { path: "/index.html", methods: READING, requires: Requires::Nothing },
    Route { path: "/healthz", methods: READING, requires: Requires::Nothing },
    Route { path: "/readyz", methods: READING, requires: Requires::Nothing },
    Route { path: "/message", methods: READING, requires: Requires::Handshake },
    Route { path: "/message/{topic}", methods: READING, requires: Requires::Handshake },
    Route { path: "/events", methods: READING, requires: Requires::Origin },
    Route { path: "/api/notification", methods: POST, requires: Requires::Right(Role::Publish) },
    Route { path: "/api/publish", methods: POST, requires: Requires::Right(Role::Publish) },
    Route { path: "/api/whoami", methods: READING, requires: Requires::Origin },
    Route { path: "/api/ticket", methods: POST, requires: Requires::User },
    Route { path: "/api/sign-in", methods: POST, requires: Requires::Development },
    Route { path: "/api/users/{user}/messages", methods: POST, requires: Requires::Right(Role::Send) },
    Route { path: "/api/groups/{group}/members/{user}", methods: CHANGING, requires: Requires::Right(Role::Groups) },
    Route { path: "/api/groups/{group}/messages", methods: POST, requires: Requires::Right(Role::Send) },
    Route { path: "/api/unread", methods: POST, requires: Requires::User },
    Route { path: "/wsTemplate/sendToUser", methods: POST, requires: Requires::Right(Role::Send) },
    Route { path: "/wsTemplate/pullUnreadMessage", methods: POST, requires: Requires::OwnToken },
    Route { path: "/api/topics/{topic}", methods: POST, requires: Requires::Right(Role::Publish) },
    Route { path: "/api/presence", methods: GET, requires: Requires::Right(Role::Presence) },
    Route { path: "/api/presence/topics/{topic}", methods: GET, requires: Requires::Right(Role::Presence) },
    Route { path: "/api/presence/users", methods: GET, requires: Requires::Right(Role::Presence) },
    Route { path: "/api/presence/users/{user}", methods: GET, requires: Requires::Right(Role::Presence) },
];

/// The ends of a path that stand for anything.
const ANYTHING: &str = "{topic}";

/// The route of a request's path.
pub fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.matches(path))
}

impl Route {
    pub fn matches(&self, path: &str) -> bool {
        if let Some(before) = self.path.strip_suffix(ANYTHING) {
            return path.starts_with(before);
        }
        let is_any = |part: &str| part.starts_with('{') && part.ends_with('}');
        let (mut own, mut asked) = (self.path.split('/'), path.split('/'));
        loop {
            match (own.next(), asked.next()) {
                (None, None) => return true,
                (Some(own), Some(asked)) if own == asked || (is_any(own) && !asked.is_empty()) => {}
                _ => return false,
            }
        }
    }

    /// Its methods as the header `Allow` has them.
    pub fn allow(&self) -> String {
        self.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Requires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self {
            Requires::Nothing => "nothing",
            Requires::Origin => "nothing; of a page, an allowed origin",
            Requires::Handshake => "a WebSocket handshake; of a page, an allowed origin",
            Requires::Right(role) => {
                let role = role.name();
                return write!(
                    f,
                    "an API key, or a token with the role `{role}`; without either, to be a program on this host"
                );
            }
            Requires::User => "a token",
            Requires::OwnToken => "a token, which the route itself checks",
            Requires::Development => "`--dev-sign-in`, and to be a program on this host",
        };
        f.write_str(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_its_route() {
        for (path, route) in [
            ("/", Some("/")),
            ("/message", Some("/message")),
            ("/message/orders/eu", Some("/message/{topic}")),
            ("/message/", Some("/message/{topic}")),
            ("/messages", None),
            ("/events", Some("/events")),
            ("/events/", None),
            ("/api/whoami", Some("/api/whoami")),
            ("/api/whoami/", None),
            ("/api", None),
            ("/api/", None),
            ("/api/topics", None),
            ("/api/users/alice/messages", Some("/api/users/{user}/messages")),
            ("/api/users/a%2Fb/messages", Some("/api/users/{user}/messages")),
            ("/api/users/a/b/messages", None),
            ("/api/users//messages", None),
            ("/api/users/alice", None),
            ("/api/groups/class/members/bob", Some("/api/groups/{group}/members/{user}")),
            ("/wstemplate/sendToUser", None),
            ("/api/topics/a/b", Some("/api/topics/{topic}")),
            ("/api/notification", Some("/api/notification")),
            ("/api/presence/topics/a/b", Some("/api/presence/topics/{topic}")),
            ("/api/presence/users", Some("/api/presence/users")),
            ("/api/presence/users/a/b", None),
            ("/api/presence/", None),
            ("/api/notification/", None),
            ("/API/notification", None),
            ("//api/notification", None),
            ("", None),
        ] {
            assert_eq!(find(path).map(|route| route.path), route, "{path}");
        }
    }

    #[test]
    fn the_documentation_shows_the_table() {
        let row = |route: &Route| format!("| `{}` | {} | {} |\n", route.path, route.allow(), route.requires);
        let head = "| path | methods | requires |\n| --- | --- | --- |\n";
        let table = format!("{head}{}\n", ROUTES.iter().map(row).collect::<String>());
        assert!(include_str!("../../docs/http.md").contains(&table), "docs/http.md lacks:\n{table}");
    }
}
