//! What stands in front of every route: it lets through what the [table](super::table) has, from who brings what is
//! required for it.

use std::sync::{Arc, OnceLock};

use warp::http::header::{ALLOW, HeaderMap};
use warp::http::{HeaderValue, Method, StatusCode};
use warp::reject::Reject;
use warp::reply::{Response, with_status};
use warp::{Reply, http};

use super::Site;
use super::api::{Problem, ProblemKind, Requester, is_local};
use super::identities::Unauthorized;
use super::peer::Peer;
use super::table::{self, Requires, Route};
use crate::identity::Identity;

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

/// Who was let in, for what answers behind the gate: so a request's token is verified once. One for each request.
#[derive(Clone, Default)]
pub struct Admitted(Arc<OnceLock<Requester>>);

impl Admitted {
    fn note(&self, requester: Requester) {
        // A request passes one gate.
        let _ = self.0.set(requester);
    }

    /// Who asks; whoever has not been let in as somebody is refused.
    pub fn requester(&self) -> Result<&Requester, Problem> {
        self.0.get().ok_or_else(|| Unauthorized::Missing.into())
    }

    /// Whose token was brought; whoever was let in without one is refused.
    pub fn user(&self) -> Result<&Arc<Identity>, Problem> {
        self.requester()?.identity().ok_or_else(|| Unauthorized::Missing.into())
    }
}

/// Lets a request through and notes who asks, or says why not.
pub async fn check(site: &Site, caller: &Caller<'_>, admitted: &Admitted) -> Result<(), Denied> {
    let not_found = || Denied::NotFound { api: caller.path.starts_with(API) };
    let route = table::find(caller.path).ok_or_else(not_found)?;
    if !route.methods.contains(caller.method) {
        return Err(Denied::WrongMethod(route));
    }
    let judged = match route.requires {
        // A handshake is the upgrade's to judge, which answers each mistake in its own way; so is who asks for events.
        Requires::Nothing | Requires::Origin | Requires::Handshake | Requires::OwnToken => Ok(()),
        Requires::Right(role) => site.access.admit(caller, role).await.map(|requester| admitted.note(requester)),
        Requires::User => {
            site.access.admit_user(caller.headers).await.map(|identity| admitted.note(Requester::User(identity)))
        }
        Requires::Development if site.sign_in.is_none() => return Err(not_found()),
        Requires::Development => is_local(caller),
    };
    judged.map_err(Denied::NotAllowed)
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
