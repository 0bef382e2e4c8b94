//! What the options on identity change, and what programs in a terminal take.

use std::net::SocketAddr;
use std::path::PathBuf;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use warren::config::Config;

use crate::support::eventually;
use crate::support::http::{Answer, request};
use crate::support::identity::{SECRET, now_s, token, token_of, with_tokens};
use crate::support::instance::{Instance, config};
use crate::support::post::{JSON, json as json_of, post, problem};
use crate::support::process::{Directory, Process, Signal, Warren};
use crate::support::raw::{Raw, handshake_at};

async fn with_token(address: SocketAddr, line: &str, token: &str) -> Answer {
    let value = format!("Bearer {token}");
    request(address, line, &[("Authorization", &value)]).await
}

async fn ticket(address: SocketAddr, token: &str) -> (String, u64) {
    let value = format!("Bearer {token}");
    let answer = post(address, "/api/ticket", &[("Authorization", &value)], "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = json_of(&answer);
    (body["ticket"].as_str().expect("a ticket").to_owned(), body["expires_in_s"].as_u64().expect("seconds"))
}

async fn opens(address: SocketAddr, ticket: &str) -> Answer {
    let mut client = Raw::tcp(address).await;
    client.send(handshake_at(address, &format!("/message?ticket={ticket}"), &[])).await;
    client.answer().await
}

#[tokio::test]
async fn a_token_is_for_the_audience_and_by_the_issuer_that_are_named() {
    let directory = Directory::new("audience");
    let secret = directory.write("secret", SECRET);
    let issuer = "https://idp.example";
    let options = ["--jwt-key-file", &secret, "--jwt-audience", "warren,other", "--jwt-issuer", issuer];
    let warren = Warren::serve(&options, &[]).await;
    for (claims, reason) in [
        (json!({"aud": "other", "iss": issuer}), None),
        (json!({"aud": ["x", "warren"], "iss": issuer}), None),
        (json!({"aud": "x", "iss": issuer}), Some("audience")),
        (json!({"iss": issuer}), Some("audience")),
        (json!({"aud": "warren", "iss": "https://evil.example"}), Some("issuer")),
        (json!({"aud": "warren"}), Some("issuer")),
    ] {
        let answer = with_token(warren.address, "GET /api/whoami", &token_of("alice", &claims)).await;
        let said = json_of(&answer)["reason"].as_str().map(str::to_owned);
        assert_eq!((answer.status, said.as_deref()), (if reason.is_none() { 200 } else { 401 }, reason), "{claims}");
    }
    let words = ["token", "--user", "alice", "--audience", "other", "--issuer", issuer];
    let made = Warren::run(&words, &[("WARREN_JWT_KEY_FILE", &secret)]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(with_token(warren.address, "GET /api/whoami", made.stdout.trim()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_has_the_name_that_was_chosen() {
    let directory = Directory::new("cookie");
    let jwt_cookie = "__Host-id".parse().expect("a name");
    let instance = Instance::start(Config { jwt_cookie, ..with_tokens(&directory) }).await;
    for (name, status) in [("__Host-id", 200), ("warren_token", 401), ("__host-id", 401)] {
        let cookie = format!("other=x; {name}={}", token(&[]));
        let headers = [("Cookie", cookie.as_str()), ("Sec-Fetch-Site", "same-origin")];
        assert_eq!(request(instance.address, "GET /api/whoami", &headers).await.status, status, "{name}");
    }
}

/// With a public key for tokens, of which no secret for tickets can be made.
fn with_public_key(directory: &Directory, ticket_key: Option<&str>) -> Config {
    let public = directory.write("public", include_str!("../keys/rsa.pub.pem"));
    let ticket_key_file = ticket_key.map(|key| PathBuf::from(directory.write("ticket-key", key)));
    Config { jwt_key_file: Some(public.into()), ticket_key_file, ..config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_good_where_the_secret_for_tickets_is_shared() {
    let directory = Directory::new("shared-tickets");
    let key = EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pem")).expect("a key");
    let claims = json!({"sub": "alice", "exp": now_s() + 600});
    let token = encode(&Header::new(Algorithm::RS256), &claims, &key).expect("a token");
    let sharing = [with_public_key(&directory, Some(SECRET)), with_public_key(&directory, Some(SECRET))];
    let [one, other] = sharing.map(Instance::start);
    let (one, other) = (one.await, other.await);
    let (ticket_of_one, _) = ticket(one.address, &token).await;
    assert_eq!(opens(other.address, &ticket_of_one).await.status, 101);
    let answer = opens(other.address, &ticket_of_one).await;
    assert_eq!((answer.status, answer.body.contains("used before")), (401, true), "{}", answer.body);
    let alone = Instance::start(with_public_key(&directory, None)).await;
    let (ticket_of_alone, _) = ticket(alone.address, &token).await;
    let answer = opens(one.address, &ticket_of_alone).await;
    assert_eq!((answer.status, answer.body.contains("not given here")), (401, true), "{}", answer.body);
    assert_eq!(opens(alone.address, &ticket_of_alone).await.status, 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_a_ticket_does_not_spend_it() {
    let directory = Directory::new("looked-at-tickets");
    let instance = Instance::start(with_tokens(&directory)).await;
    let (ticket, _) = ticket(instance.address, &token(&[])).await;
    for status in [200, 200] {
        assert_eq!(request(instance.address, &format!("HEAD /events?ticket={ticket}"), &[]).await.status, status);
    }
    assert_eq!(opens(instance.address, &ticket).await.status, 101);
    assert_eq!(request(instance.address, &format!("HEAD /events?ticket={ticket}"), &[]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_lasts_as_long_as_is_told_whatever_the_clocks() {
    let directory = Directory::new("short-tickets");
    let config = Config { ticket_lifetime_s: 1, jwt_leeway_s: 600, ..with_tokens(&directory) };
    let instance = Instance::start(config).await;
    let (ticket, expires_in_s) = ticket(instance.address, &token(&[])).await;
    assert_eq!(expires_in_s, 1);
    let line = format!("HEAD /events?ticket={ticket}");
    eventually("the ticket ends", || async { request(instance.address, &line, &[]).await.status == 401 }).await;
    let answer = request(instance.address, &format!("GET /events?ticket={ticket}"), &[]).await;
    assert_eq!((answer.status, &json_of(&answer)["reason"]), (401, &json!("expired")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_that_may_well_be_good_are_to_be_brought_again() {
    let directory = Directory::new("many-tickets");
    let instance = Instance::start(Config { tickets_max: 1, ..with_tokens(&directory) }).await;
    let of_bob = token_of("bob", &json!({}));
    assert_eq!(opens(instance.address, &ticket(instance.address, &token(&[])).await.0).await.status, 101);
    let (waiting, _) = ticket(instance.address, &of_bob).await;
    let answer = opens(instance.address, &waiting).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.body);
    let answer = request(instance.address, &format!("GET /events?ticket={waiting}"), &[]).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (503, "cannot-verify"));
    assert_eq!(json_of(&answer)["reason"], "too_many_tickets");
    let refused = instance.metrics().value("warren_handshakes_refused_total{reason=\"cannot_verify\"}").await;
    assert_eq!(refused, 2.0);
}

#[tokio::test]
async fn a_request_verifies_its_token_once() {
    let directory = Directory::new("verified-once");
    let secret = directory.write("secret", SECRET);
    let options = ["--jwt-key-file", &secret, "--dev-sign-in", "--log", "info,warren=trace"];
    let warren = Warren::serve(&options, &[]).await;
    let value = format!("Bearer {}", token(&["admin"]));
    let bearer = ("Authorization", value.as_str());
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for (path, headers, body) in [
        ("/api/publish", &[JSON, bearer][..], r#"{"broadcast": true, "text": "x"}"#),
        ("/api/users/bob/messages", &[JSON, bearer], r#"{"text": "x"}"#),
        ("/api/ticket", &[bearer], ""),
        ("/api/unread", &[bearer], ""),
        ("/wsTemplate/sendToUser", &[form, bearer], "receiver=bob&msg=x"),
        ("/wsTemplate/pullUnreadMessage", &[form, bearer], "destination=/topic/reply"),
    ] {
        let answer = post(warren.address, path, headers, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    assert_eq!(request(warren.address, "GET /api/presence", &[bearer]).await.status, 200);
    assert_eq!(request(warren.address, "PUT /api/groups/class/members/bob", &[bearer]).await.status, 200);
    warren.process.signal(Signal::TERM);
    let log = warren.process.ended().await.stderr;
    assert_eq!(log.matches("a token was verified: it counts").count(), 8, "{log}");
}

/// A listener in a terminal, until it has heard the message.
async fn hears(mut listener: Process, address: SocketAddr) {
    listener.reports("listening at").await;
    let value = format!("Bearer {}", token(&["publish"]));
    let body = json!({"topic": "news", "text": "heard by who has a token"}).to_string();
    assert_eq!(post(address, "/api/publish", &[JSON, ("Authorization", &value)], body).await.status, 200);
    let ended = listener.ended().await;
    assert!(ended.code == Some(0) && ended.stdout.contains("heard by who has a token"), "{ended:?}");
}

#[tokio::test]
async fn a_listener_in_a_terminal_brings_a_token() {
    let directory = Directory::new("listener");
    let secret = directory.write("secret", SECRET);
    let warren = Warren::serve(&["--jwt-key-file", &secret], &[]).await;
    let url = warren.url();
    let token = token_of("alice", &json!({"subscribe": ["news"]}));
    let file = directory.write("token", &format!("{token}\n"));
    let words = ["subscribe", "news", "--count", "1", "--url", &url];
    hears(Warren::command(&[&words[..], &["--token-file", &file]].concat(), &[]), warren.address).await;
    hears(Warren::command(&words, &[("WARREN_TOKEN", &token)]), warren.address).await;
    let denied = Warren::run(&["subscribe", "other", "--url", &url, "--token-file", &file], &[]).await;
    assert!(denied.code == Some(1) && denied.stderr.contains("403"), "{denied:?}");
    let denied = Warren::run(&words, &[("WARREN_TOKEN", "nonsense")]).await;
    assert!(denied.code == Some(1) && denied.stderr.contains("401"), "{denied:?}");
    let unreadable = Warren::run(&["subscribe", "news", "--token-file", "/nowhere/token"], &[]).await;
    assert!(unreadable.code == Some(2) && unreadable.stderr.contains("/nowhere/token"), "{unreadable:?}");
}
