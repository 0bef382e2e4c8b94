//! The two calls of existing front ends, form-encoded: `POST /wsTemplate/sendToUser` and
//! `POST /wsTemplate/pullUnreadMessage`. Their answers are what these front ends expect.

use std::collections::HashMap;

use bytes::Buf;
use futures_util::Stream;
use serde_json::{Value, json};
use url::form_urlencoded;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use warp::reply::Response;
use warp::{Reply, http};

use super::Site;
use super::api::{Problem, ProblemKind, Requester, body};
use super::gate::Admitted;
use crate::message::{Message, PayloadKind, Target};
use crate::user::UserName;

/// What a message is about unless the call says otherwise.
const DESTINATION: &str = "/topic/reply";

/// Messages that one call takes.
const TAKEN_MAX: usize = 1000;

/// Bytes of a form beside the message, which is at most three times as long there.
const FORM_BYTES_MAX: usize = 4 * 1024;

/// Writes to `receiver` in the name of who asks, and answers `ok` when it is kept.
pub async fn send<B: Buf>(
    site: &Site,
    headers: &HeaderMap,
    admitted: &Admitted,
    stream: impl Stream<Item = Result<B, warp::Error>>,
) -> Response {
    match try_send(site, headers, admitted, stream).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn try_send<B: Buf>(
    site: &Site,
    headers: &HeaderMap,
    admitted: &Admitted,
    stream: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Response, Problem> {
    let (sender, from) = match admitted.requester()? {
        Requester::User(identity) => (identity.user.to_string(), Some(identity.user.clone())),
        // A key's name is nobody's.
        Requester::Key(owner) => (owner.clone(), None),
        Requester::Local => {
            return Err(Problem::new(ProblemKind::Unauthorized, "The sender is who is signed in: bring a token."));
        }
    };
    let form = form(site, headers, stream).await?;
    let field = |name: &str| form.get(name).map(String::as_str);
    let missing = |name: &str| Problem::new(ProblemKind::InvalidMessage, format!("The field {name:?} is missing."));
    let receiver = field("receiver").ok_or_else(|| missing("receiver"))?;
    let text = field("msg").ok_or_else(|| missing("msg"))?;
    let destination = field("destination").unwrap_or(DESTINATION);
    let receiver =
        UserName::parse(receiver).map_err(|reason| Problem::new(ProblemKind::BadName, format!("{reason}.")))?;
    let payload = json!({ "content": format!("{sender} say: {text}") }).to_string();
    let outcome = site.api.write(Target::User(receiver), PayloadKind::Text, payload.into(), from, destination).await?;
    Ok(outcome.map_or_else(
        || http::Response::builder().header(CONTENT_TYPE, "text/plain; charset=utf-8").body("ok").into_response(),
        |problem| problem.into_response(),
    ))
}

/// Answers what waits for who asks and is about `destination`, at most once.
pub async fn pull_unread<B: Buf>(
    site: &Site,
    headers: &HeaderMap,
    stream: impl Stream<Item = Result<B, warp::Error>>,
) -> Response {
    let answer = match try_pull(site, headers, stream).await {
        Ok(unread) if unread.is_empty() => json!({ "code": "200" }),
        Ok(unread) => json!({ "code": "200", "result": unread }),
        Err(problem) => json!({ "code": "500", "msg": problem.detail() }),
    };
    http::Response::builder()
        .header(CONTENT_TYPE, "application/json")
        .header(CACHE_CONTROL, "no-store")
        .body(answer.to_string())
        .into_response()
}

async fn try_pull<B: Buf>(
    site: &Site,
    headers: &HeaderMap,
    stream: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Vec<String>, Problem> {
    let identity = site.access.admit_user(headers).await?;
    let form = form(site, headers, stream).await?;
    let destination = form.get("destination").cloned();
    let destination = destination
        .ok_or_else(|| Problem::new(ProblemKind::InvalidMessage, "The field \"destination\" is missing."))?;
    let is_wanted = move |message: &Message| {
        let subject = message.terms.as_ref().and_then(|terms| terms.subject.as_deref());
        // What says nothing is about whatever is asked for first; what is no text cannot be answered here.
        message.kind == PayloadKind::Text && subject.is_none_or(|subject| subject == destination)
    };
    let users = site.sessions.users();
    let taken = users.take_unread(&identity.user, TAKEN_MAX, Box::new(is_wanted)).await;
    Ok(taken.map_err(super::api::not_reached)?.iter().map(shown).collect())
}

/// A text that is an object of JSON as it stands, any other in one.
fn shown(message: &Message) -> String {
    match serde_json::from_slice::<Value>(&message.payload) {
        Ok(Value::Object(_)) => String::from_utf8_lossy(&message.payload).into_owned(),
        _ => json!({ "content": String::from_utf8_lossy(&message.payload) }).to_string(),
    }
}

/// The fields of a form, none twice.
async fn form<B: Buf>(
    site: &Site,
    headers: &HeaderMap,
    stream: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<HashMap<String, String>, Problem> {
    let essence = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let detail = "Send Content-Type: application/x-www-form-urlencoded.";
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    let bytes_max = site.sessions.limits().message_bytes_max * 3 + FORM_BYTES_MAX;
    let body = body::read(headers, stream, site.api.body_limits(bytes_max)).await?;
    let mut fields = HashMap::new();
    for (name, value) in form_urlencoded::parse(&body) {
        if fields.insert(name.to_string(), value.into_owned()).is_some() {
            return Err(Problem::new(ProblemKind::InvalidMessage, format!("The field {name:?} is there twice.")));
        }
    }
    Ok(fields)
}
