//! What somebody with a token asks about it: `GET /api/whoami`, `POST /api/ticket`; and getting one from a development
//! server, `POST /api/sign-in`.

use bytes::Buf;
use futures_util::Stream;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use warp::reply::Response;
use warp::{Reply, http};

use super::api::{Problem, ProblemKind, body};
use super::gate::Admitted;
use super::{Site, origin};
use crate::identity::{Identity, Rights, Role, Rules, Signer};
use crate::user::{GroupName, UserName};

/// How long who signs in on a development server stays so.
const SIGNED_IN_S: u64 = 3600;

/// Bytes of what signs somebody in.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Gives tokens to whoever asks from this host, for development.
pub struct SignIn {
    pub signer: Signer,
    /// What the verifier asks of tokens.
    pub rules: Rules,
}

/// As whom somebody wants to be known.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    user: String,
    #[serde(default)]
    groups: Vec<String>,
}

/// Tells who asks: a browser does not tell its page why an upgrade failed.
pub async fn whoami(site: &Site, headers: &HeaderMap) -> Response {
    if !origin::may_connect(&site.allowed_origins, headers) {
        return Problem::new(ProblemKind::ForeignOrigin, "Pages of this origin may not ask (--allowed-origins).")
            .into_response();
    }
    match site.identities.of(headers).await {
        Ok(Some(identity)) => answer(&described(&identity)),
        Ok(None) => answer(&json!({"user": null})),
        Err(reason) => Problem::from(reason).into_response(),
    }
}

/// Gives who was let in a ticket.
pub fn ticket(site: &Site, admitted: &Admitted) -> Response {
    let given = admitted.user().and_then(|identity| {
        let given = site.identities.tickets.give(identity);
        given.map_err(|reason| Problem::new(ProblemKind::Overloaded, format!("No ticket: {reason}.")))
    });
    match given {
        Ok(ticket) => answer(&json!({"ticket": ticket, "expires_in_s": site.identities.tickets.lifetime_s()})),
        Err(problem) => problem.into_response(),
    }
}

/// Gives a token for any name, on a development server.
pub async fn sign_in<B: Buf>(
    site: &Site,
    headers: &HeaderMap,
    stream: impl Stream<Item = Result<B, warp::Error>>,
) -> Response {
    let signed = async {
        let not_here = || Problem::new(ProblemKind::NotFound, "Nobody signs in here (--dev-sign-in).");
        let SignIn { signer, rules } = site.sign_in.as_ref().ok_or_else(not_here)?;
        let body = body::read(headers, stream, site.api.body_limits(BODY_BYTES_MAX)).await?;
        let identity = wanted(headers, &body)?;
        let token = signer.sign(&identity, SIGNED_IN_S, rules);
        token.map_err(|reason| Problem::new(ProblemKind::InvalidMessage, format!("No token: {reason}.")))
    };
    match signed.await {
        Ok(token) => answer(&json!({"token": token, "expires_in_s": SIGNED_IN_S})),
        Err(problem) => problem.into_response(),
    }
}

fn described(identity: &Identity) -> Value {
    let groups: Vec<&str> = identity.groups.iter().map(GroupName::as_str).collect();
    let roles: Vec<&str> = identity.rights.roles.iter().map(|role| role.name()).collect();
    let mut description = json!({"user": identity.user.as_str(), "groups": groups, "roles": roles});
    let ends = identity.expires_s.and_then(|ends_s| Timestamp::from_second(i64::try_from(ends_s).ok()?).ok());
    if let Some(ends) = ends {
        description["expires"] = ends.to_string().into();
    }
    description
}

/// Who is to be signed in: JSON, or a form.
fn wanted(headers: &HeaderMap, body: &[u8]) -> Result<Identity, Problem> {
    let is_form = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    let wanted = if is_form { of_form(body)? } else { of_json(headers, body)? };
    let invalid = |reason: &dyn std::fmt::Display| Problem::new(ProblemKind::InvalidMessage, format!("{reason}."));
    let user = UserName::parse(&wanted.user).map_err(|reason| invalid(&reason))?;
    let groups = wanted.groups.iter().map(|name| GroupName::parse(name)).collect::<Result<_, _>>();
    let rights = Rights { roles: vec![Role::Send, Role::Presence], ..Rights::default() };
    Ok(Identity { user, groups: groups.map_err(|reason| invalid(&reason))?, rights, expires_s: None })
}

fn of_json(headers: &HeaderMap, body: &[u8]) -> Result<Wanted, Problem> {
    body::expect_json(headers)?;
    serde_json::from_slice(body).map_err(|error| Problem::new(ProblemKind::MalformedJson, error.to_string()))
}

/// `groups` any number of times.
fn of_form(body: &[u8]) -> Result<Wanted, Problem> {
    let mut wanted = Wanted::default();
    for (name, value) in form_urlencoded::parse(body) {
        match &*name {
            "user" => wanted.user = value.into_owned(),
            "groups" => wanted.groups.push(value.into_owned()),
            _ => return Err(Problem::new(ProblemKind::InvalidMessage, format!("There is no field {name:?}."))),
        }
    }
    Ok(wanted)
}

fn answer(body: &Value) -> Response {
    http::Response::builder()
        .header(CONTENT_TYPE, "application/json")
        .header(CACHE_CONTROL, "no-store")
        .body(body.to_string())
        .into_response()
}
