//! What stands in front of every route: it lets through what the [table](super::table) has, from who brings what is
//! required for it.

use warp::http::header::{ALLOW, HeaderMap};
use warp::http::{HeaderValue, Method, StatusCode};
use warp::reject::Reject;
use warp::reply::{Response, with_status};
use warp::{Reply, http};

use super::Site;
use super::api::{Problem, ProblemKind, is_local};
use super::peer::Peer;
use super::table::{self, Requires, Route};

/// Beneath it everything is answered for machines.
const API: &str = "/api/";

/// A request that is let through nowhere.
#[derive(Debug)]
pub enum Denied {
    /// No route has the path.
    NotFound {
        api: bool,
    },
    WrongMethod(&'static Route),
    NotAllowed(Problem),
}

impl Reject for Denied {}

/// What the gate sees of a request.
pub struct Caller<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub peer: Peer,
}

/// Lets a request through, or says why not.
pub async fn check(site: &Site, caller: &Caller<'_>) -> Result<(), Denied> {
    let not_found = || Denied::NotFound { api: caller.path.starts_with(API) };
    let route = table::find(caller.path).ok_or_else(not_found)?;
    if !route.methods.contains(caller.method) {
        return Err(Denied::WrongMethod(route));
    }
    let admitted = match route.requires {
        // A handshake is the upgrade's to judge, which answers each mistake in its own way; so is who asks for events.
        Requires::Nothing | Requires::Origin | Requires::Handshake | Requires::OwnToken => Ok(()),
        Requires::Right(role) => site.access.admit(caller, role).await.map(drop),
        Requires::User => site.access.admit_user(caller.headers).await.map(drop),
        Requires::Development if site.sign_in.is_none() => return Err(not_found()),
        Requires::Development => is_local(caller),
    };
    admitted.map_err(Denied::NotAllowed)
}

impl Denied {
    pub fn to_response(&self) -> Response {
        match self {
            Denied::NotFound { api: false } => with_status("nothing here\n", StatusCode::NOT_FOUND).into_response(),
            Denied::NotFound { api: true } => {
                Problem::new(ProblemKind::NotFound, "There is no such route; docs/http.md lists all.").into_response()
            }
            Denied::WrongMethod(route) => {
                let text = format!("only {} here\n", route.allow());
                let response = match route.requires {
                    Requires::Right(_)
                    | Requires::User
                    | Requires::OwnToken
                    | Requires::Development
                    | Requires::Origin => Problem::new(ProblemKind::WrongMethod, text.trim_end()).into_response(),
                    Requires::Nothing | Requires::Handshake => {
                        http::Response::builder().status(StatusCode::METHOD_NOT_ALLOWED).body(text).into_response()
                    }
                };
                with_allow(response, route)
            }
            Denied::NotAllowed(problem) => problem.to_response(),
        }
    }
}

fn with_allow(mut response: Response, route: &Route) -> Response {
    if let Ok(allow) = HeaderValue::from_str(&route.allow()) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}
