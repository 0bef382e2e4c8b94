//! The two calls of existing front ends, form-encoded: `POST /wsTemplate/sendToUser` and
//! `POST /wsTemplate/pullUnreadMessage`. Their answers are what these front ends expect.

use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Messages among which one call looks for them: those about other destinations are before them, perhaps.
const LOOKED_AT_MAX: usize = 5000;

/// Bytes of a form beside the message, which is at most three times as long there.
const FORM_BYTES_MAX: usize = 4 * 1024;

/// The fields that these calls know. Existing front ends send others beside, such as tokens against forged requests: they
/// are passed over, and nothing of them is kept.
#[derive(Debug, Default, PartialEq, Eq)]
struct Form {
    receiver: Option<String>,
    msg: Option<String>,
    destination: Option<String>,
}

impl Form {
    fn parse(body: &[u8]) -> Result<Form, Problem> {
        let mut form = Form::default();
        for (name, value) in form_urlencoded::parse(body) {
            let field = match &*name {
                "receiver" => &mut form.receiver,
                "msg" => &mut form.msg,
                "destination" => &mut form.destination,
                _ => continue,
            };
            if field.replace(value.into_owned()).is_some() {
                return Err(Problem::new(ProblemKind::InvalidMessage, format!("The field {name:?} is there twice.")));
            }
        }
        Ok(form)
    }
}

fn given(name: &str, field: Option<String>) -> Result<String, Problem> {
    field.ok_or_else(|| Problem::new(ProblemKind::InvalidMessage, format!("The field {name:?} is missing.")))
}

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
    let turn = site.api.begin()?;
    let bytes_max = site.api.limits().message_bytes_max * 3 + FORM_BYTES_MAX;
    let form = form(site, headers, stream, bytes_max.min(site.api.limits().json_bytes_max)).await?;
    let (receiver, payload, destination) = letter(&sender, form)?;
    let outcome =
        site.api.write(&turn, Target::User(receiver), PayloadKind::Text, payload.into(), from, &destination).await?;
    Ok(outcome.map_or_else(
        || http::Response::builder().header(CONTENT_TYPE, "text/plain; charset=utf-8").body("ok").into_response(),
        |problem| problem.into_response(),
    ))
}

/// Whom a form is for, what they get, and what it is about.
fn letter(sender: &str, form: Form) -> Result<(UserName, String, String), Problem> {
    let (receiver, text) = (given("receiver", form.receiver)?, given("msg", form.msg)?);
    let receiver =
        UserName::parse(&receiver).map_err(|reason| Problem::new(ProblemKind::BadName, format!("{reason}.")))?;
    let payload = json!({ "content": format!("{sender} say: {text}") }).to_string();
    Ok((receiver, payload, form.destination.unwrap_or_else(|| DESTINATION.to_owned())))
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
    let _turn = site.api.begin()?;
    let destination = given("destination", form(site, headers, stream, FORM_BYTES_MAX).await?.destination)?;
    let found = AtomicUsize::new(0);
    let is_wanted = move |message: &Message| {
        let subject = message.terms.as_ref().and_then(|terms| terms.subject.as_deref());
        // What says nothing is about whatever is asked for first; what is no text cannot be answered here.
        message.kind == PayloadKind::Text
            && subject.is_none_or(|subject| subject == destination)
            && found.fetch_add(1, Ordering::Relaxed) < TAKEN_MAX
    };
    let users = site.sessions.users();
    let taken = users.take_unread(&identity.user, LOOKED_AT_MAX, Box::new(is_wanted)).await;
    Ok(taken.map_err(super::api::not_reached)?.iter().map(shown).collect())
}

/// A text that is an object of JSON as it stands, any other in one.
fn shown(message: &Message) -> String {
    match serde_json::from_slice::<Value>(&message.payload) {
        Ok(Value::Object(_)) => String::from_utf8_lossy(&message.payload).into_owned(),
        _ => json!({ "content": String::from_utf8_lossy(&message.payload) }).to_string(),
    }
}

/// The form of a request, none of its fields twice. What of the body is not in there is gone with this.
async fn form<B: Buf>(
    site: &Site,
    headers: &HeaderMap,
    stream: impl Stream<Item = Result<B, warp::Error>>,
    bytes_max: usize,
) -> Result<Form, Problem> {
    body::expect_form(headers)?;
    Form::parse(&body::read(headers, stream, site.api.body_limits(bytes_max)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_what_it_has_of_the_known_fields() {
        let parsed = |body: &str| Form::parse(body.as_bytes());
        let (receiver, msg) = (Some("a b".to_owned()), Some("x&y=z".to_owned()));
        let expected = Form { receiver, msg, destination: None };
        assert_eq!(parsed("_csrf=1&receiver=a+b&msg=x%26y%3Dz&&_csrf=2&other").unwrap(), expected);
        assert_eq!(parsed("").unwrap(), Form::default());
        assert_eq!(parsed("msg").unwrap().msg, Some(String::new()));
        assert_eq!(parsed("msg=a&msg=b").unwrap_err().to_response().status(), 400);
    }

    #[test]
    fn a_letter_tells_who_says_what_about_what() {
        let form = |body: &str| Form::parse(body.as_bytes()).unwrap();
        let (receiver, payload, destination) = letter("alice", form("receiver=carol&msg=%22hi%22")).unwrap();
        assert_eq!((receiver.as_str(), &*destination), ("carol", DESTINATION));
        assert_eq!(payload, r#"{"content":"alice say: \"hi\""}"#);
        assert_eq!(letter("alice", form("receiver=c&msg=&destination=%2Fx")).unwrap().2, "/x");
        for wrong in ["msg=a", "receiver=c", "receiver=&msg=a", "receiver=%00&msg=a"] {
            assert_eq!(letter("alice", form(wrong)).unwrap_err().to_response().status(), 400, "{wrong}");
        }
    }
}
