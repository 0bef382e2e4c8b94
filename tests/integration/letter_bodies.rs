//! What requests to write to users, and to take what waits for them, may bring: read strictly, and within bounds.

use serde_json::{Value, json};
use warren::config::Config;

use crate::support::eventually;
use crate::support::identity::{token_of, with_tokens};
use crate::support::instance::Instance;
use crate::support::json::JsonClient;
use crate::support::post::{JSON, json as body_of, post, problem, request};
use crate::support::process::Directory;
use crate::support::raw::Raw;

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const SEND: &str = "/wsTemplate/sendToUser";
const PULL: &str = "/wsTemplate/pullUnreadMessage";

/// An instance of its own broker that knows tokens.
async fn instance(change: impl FnOnce(Config) -> Config) -> Instance {
    let directory = Directory::new("letter-bodies");
    let instance = Instance::start(change(with_tokens(&directory))).await;
    // It has read its keys by then.
    instance.ready().await;
    instance
}

fn bearer(user: &str) -> String {
    format!("Bearer {}", token_of(user, &json!({"roles": ["send", "publish"]})))
}

/// Forms are read, and mailboxes emptied, only in a turn of which there are as many as for publishing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_wait_for_nobodys_body_and_count_as_requests_under_way() {
    let instance = instance(|config| Config { publish_requests_max: 1, ..config }).await;
    let (alice, address) = (bearer("alice"), instance.address);
    let headers = [FORM, ("Authorization", &*alice), ("Content-Length", "100")];
    let pulled = async || body_of(&post(address, PULL, &headers[..2], "destination=%2Fx").await);
    let is_busy = async || pulled().await == json!({"code": "500", "msg": "Nothing was done. Send it again."});
    for path in [SEND, PULL] {
        let mut slow = Raw::tcp(address).await;
        slow.send(request(address, path, &headers, "")).await;
        eventually("the form is under way", &is_busy).await;
        // Neither has a body so far: that there is no turn is answered before it comes.
        let sent = post(address, SEND, &headers, "").await;
        assert_eq!((sent.status, &*problem(&sent)), (503, "overloaded"));
        let unread = post(address, "/api/unread", &headers[1..2], "").await;
        assert_eq!((unread.status, &*problem(&unread)), (503, "overloaded"));
        slow.reset();
        eventually("the form is over", async || !is_busy().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_are_bounded_and_of_their_type() {
    let instance = instance(|config| Config { message_bytes_max: 1024, ..config }).await;
    let (alice, address) = (bearer("alice"), instance.address);
    let with = async |path: &str, kind: &str, body: String| {
        post(address, path, &[("Content-Type", kind), ("Authorization", &alice)], body).await
    };
    for (length, told) in
        [(4096, json!({"code": "200"})), (4097, json!({"code": "500", "msg": "The body may have 4096 bytes."}))]
    {
        let body = format!("destination=%2Fx&more={}", "m".repeat(length - 22));
        assert_eq!(body.len(), length);
        assert_eq!(body_of(&with(PULL, FORM.1, body).await), told);
    }
    for (path, body) in [(PULL, "other=1"), (PULL, "destination=a&destination=b")] {
        let told = body_of(&with(path, FORM.1, body.to_owned()).await);
        assert_eq!((&told["code"], told["msg"].is_string()), (&json!("500"), true), "{body}");
    }
    // As many fields as fit are passed over, and the message has its room beside.
    let many = format!("{}receiver=carol&msg={}", "a&".repeat(2000), "%78".repeat(500));
    assert_eq!(with(SEND, "application/x-www-form-urlencoded; charset=UTF-8", many).await.body, "ok");
    let long = |fill: usize| format!("receiver=carol&msg={}", "x".repeat(fill));
    for (kind, body, status, name) in [
        (FORM.1, long(1024), 413, "too-large"),
        (FORM.1, long(3 * 1024 + 4096), 413, "too-large"),
        (FORM.1, "receiver=carol".to_owned(), 400, "invalid-message"),
        (FORM.1, "receiver=carol&msg=a&msg=b".to_owned(), 400, "invalid-message"),
        (FORM.1, format!("receiver=carol&msg=a&destination={}", "d".repeat(256)), 400, "invalid-message"),
        (FORM.1, "receiver=+&msg=a".to_owned(), 400, "bad-name"),
        ("application/json", "{}".to_owned(), 415, "unsupported-media-type"),
        ("application/x-www-form-urlencoded; charset=latin1", long(1), 415, "unsupported-media-type"),
    ] {
        let answer = with(SEND, kind, body).await;
        assert_eq!((answer.status, &*problem(&answer)), (status, name), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fields_of_a_letter_arrive_or_are_refused() {
    let instance = instance(|config| Config { message_bytes_max: 1024, ..config }).await;
    let (alice, address) = (bearer("alice"), instance.address);
    let write = async |path: &str, more: &[(&str, &str)], body: &Value| {
        post(address, path, &[&[JSON, ("Authorization", &alice)], more].concat(), body.to_string()).await
    };
    let carols = "/api/users/carol/messages";
    let whole = json!({"text": "hi", "subject": "/orders", "ttl_ms": 600_000, "keep": true});
    for body in [&whole, &json!({"base64": "AP8="}), &json!({"text": "gone", "ttl_ms": 1})] {
        assert_eq!(write(carols, &[], body).await.status, 200, "{body}");
    }
    let mut ids = Vec::new();
    for key in ["k-1", "\"k-1\"", "k-2"] {
        let answer = write(carols, &[("Idempotency-Key", key)], &json!({"text": "again"})).await;
        ids.push(body_of(&answer)["id"].clone());
    }
    assert!(ids[0] == ids[1] && ids[0] != ids[2], "{ids:?}");

    for (path, body, status, name) in [
        (carols, json!({"text": "x", "unknown": 1}), 400, "malformed-json"),
        (carols, json!(["x"]), 400, "malformed-json"),
        (carols, json!({"text": "x", "base64": "eA=="}), 400, "invalid-message"),
        (carols, json!({"subject": "x"}), 400, "invalid-message"),
        (carols, json!({"base64": "?"}), 400, "invalid-message"),
        (carols, json!({"text": "x", "ttl_ms": 0}), 400, "invalid-message"),
        (carols, json!({"text": "x", "subject": ""}), 400, "invalid-message"),
        (carols, json!({"text": "x", "subject": "s".repeat(256)}), 400, "invalid-message"),
        (carols, json!({"text": "x".repeat(1025)}), 413, "too-large"),
        ("/api/groups/class/messages", json!({"text": "x", "keep": false}), 400, "invalid-message"),
        ("/api/groups/class/messages", json!({"text": "x"}), 404, "no-members"),
        ("/api/groups/%20/messages", json!({"text": "x"}), 400, "bad-name"),
        ("/api/users/%ff/messages", json!({"text": "x"}), 400, "bad-name"),
        ("/api/users/dave/messages", json!({"text": "x", "keep": false}), 404, "not-connected"),
    ] {
        let answer = write(path, &[], &body).await;
        assert_eq!((answer.status, &*problem(&answer)), (status, name), "{path} {body}");
    }
    let long = "k".repeat(201);
    let answer = write(carols, &[("Idempotency-Key", &long)], &json!({"text": "x"})).await;
    assert_eq!((answer.status, &*problem(&answer)), (400, "bad-idempotency-key"));
    let named = format!("/api/users/{}/messages", "n".repeat(129));
    let answer = write(&named, &[], &json!({"text": "x"})).await;
    assert_eq!((answer.status, &*problem(&answer)), (400, "bad-name"));

    // What was accepted waits as it was written; the same id tells its reader of a repetition.
    let answer = post(address, "/api/unread", &[("Authorization", &bearer("carol"))], "").await;
    let waiting = body_of(&answer)["messages"].as_array().expect("messages").clone();
    let first = &waiting[0];
    assert_eq!((&first["text"], &first["subject"], &first["from"]), (&json!("hi"), &json!("/orders"), &json!("alice")));
    assert_eq!(waiting[1]["base64"], "AP8=");
    let waiting_ids: Vec<_> = waiting[2..].iter().map(|message| message["id"].clone()).collect();
    assert_eq!(waiting_ids, ids, "what is of no use any more waits no longer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mailbox_is_told_over_http_and_to_sessions_by_number_and_by_bytes() {
    for bounds in
        [|config| Config { unread_messages_max: 2, ..config }, |config| Config { unread_bytes_max: 1024, ..config }]
    {
        let instance = instance(bounds).await;
        let (alice, address) = (bearer("alice"), instance.address);
        let write = async |path: &str, body: &Value| {
            post(address, path, &[JSON, ("Authorization", &alice)], body.to_string()).await
        };
        let letter = json!({"text": "x".repeat(500)});
        for status in [200, 200, 507] {
            let answer = write("/api/users/carol/messages", &letter).await;
            assert_eq!(answer.status, status, "{}", answer.body);
        }
        let answer = write("/api/users/carol/messages", &letter).await;
        assert_eq!(problem(&answer), "mailbox-full");
        let form = format!("receiver=carol&msg={}", "x".repeat(500));
        let answer = post(address, SEND, &[FORM, ("Authorization", &alice)], form).await;
        assert_eq!((answer.status, &*problem(&answer)), (507, "mailbox-full"));
        let mut session = JsonClient::connect_with(address, &[&alice["Bearer ".len()..]]).await;
        let mut letter = letter.clone();
        (letter["type"], letter["user"]) = (json!("send"), json!("carol"));
        assert_eq!(session.answer(letter).await["code"], 206);
    }
}
