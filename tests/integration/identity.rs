//! Who somebody is, and what follows from that: what is let in, what tokens grant, and how they end.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tungstenite::Message;
use warren::config::{Anonymous, Config};

use crate::support::client::Client;
use crate::support::events::EventStream;
use crate::support::http::{Answer, request};
use crate::support::identity::{SECRET, now_s, token, token_of, with_tokens};
use crate::support::instance::{Instance, config};
use crate::support::json::JsonClient;
use crate::support::post::{JSON, json as json_of, post, problem};
use crate::support::process::{Directory, Signal, Warren};
use crate::support::raw::{Raw, handshake_at};

/// When a token ends whose end is waited for, in seconds: less than what is told ahead (30), and enough for all that has to
/// happen before, also on a busy machine.
const SOON_S: u64 = 20;

/// An instance that knows tokens.
async fn instance() -> (Instance, Directory) {
    let directory = Directory::new("identity");
    (Instance::start(with_tokens(&directory)).await, directory)
}

fn bearer(token: &str) -> (&'static str, String) {
    ("Authorization", format!("Bearer {token}"))
}

/// The answer to a handshake at this path.
async fn handshake(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut client = Raw::tcp(address).await;
    client.send(handshake_at(address, path, headers)).await;
    client.answer().await
}

async fn whoami(address: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    request(address, "GET /api/whoami", headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_brings_no_token_is_refused_before_the_upgrade() {
    let (instance, _directory) = instance().await;
    for path in ["/message", "/message/orders"] {
        let answer = handshake(instance.address, path, &[]).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{}", answer.body);
    }
    let answer = request(instance.address, "GET /events", &[]).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (401, "unauthorized"));
    assert_eq!(json_of(&answer)["reason"], "missing");
    let (name, value) = bearer("nonsense");
    let answer = handshake(instance.address, "/message", &[(name, &value)]).await;
    assert_eq!(answer.status, 401);
    let refused = instance.metrics().value("warren_handshakes_refused_total{reason=\"unauthorized\"}").await;
    assert_eq!(refused, 4.0);
    instance.stop().await.expect("a good stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_anybody_is_let_in_as_before() {
    let instance = Instance::start(config()).await;
    let (name, value) = bearer("nonsense");
    assert_eq!(handshake(instance.address, "/message", &[(name, &value)]).await.status, 101);
    assert_eq!(json_of(&whoami(instance.address, &[]).await), json!({"user": null}));
    let answer = post(instance.address, "/api/ticket", &[(name, &value)], "").await;
    assert_eq!((answer.status, problem(&answer).as_str()), (401, "unauthorized"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_sessions_in_each_way_that_there_is() {
    let (instance, _directory) = instance().await;
    let token = token(&[]);
    let (name, value) = bearer(&token);
    assert_eq!(handshake(instance.address, "/message", &[(name, &value)]).await.status, 101);
    for (offered, selected) in [
        (format!("warren.v1.json, bearer.{token}"), Some("warren.v1.json")),
        (format!("bearer.{token}, warren.v1.plain"), Some("warren.v1.plain")),
        (format!("bearer.{token}"), None),
    ] {
        let answer = handshake(instance.address, "/message", &[("Sec-WebSocket-Protocol", &offered)]).await;
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, selected));
    }
    let own = format!("http://{}", instance.address);
    let cookie = ("Cookie", format!("warren_token={token}"));
    let of_page = [("Origin", own.as_str()), (cookie.0, cookie.1.as_str())];
    assert_eq!(handshake(instance.address, "/message", &of_page).await.status, 101);
    assert_eq!(handshake(instance.address, "/message", &of_page[1..]).await.status, 401);
    let in_query = format!("/message?token={token}");
    assert_eq!(handshake(instance.address, &in_query, &[]).await.status, 401, "that is switched off");
    let stream =
        EventStream::open_with(Raw::tcp(instance.address).await, instance.address, "", &[(name, &value)]).await;
    assert_eq!(stream.head.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_opens_one_session() {
    let (instance, _directory) = instance().await;
    let (name, value) = bearer(&token(&[]));
    let ticket = async || {
        let answer = post(instance.address, "/api/ticket", &[(name, &value)], "").await;
        let body = json_of(&answer);
        assert_eq!((answer.status, &body["expires_in_s"]), (200, &json!(30)));
        body["ticket"].as_str().expect("a ticket").to_owned()
    };
    let path = format!("/message?ticket={}", ticket().await);
    assert_eq!(handshake(instance.address, &path, &[]).await.status, 101);
    let answer = handshake(instance.address, &path, &[]).await;
    assert_eq!((answer.status, answer.body.contains("used before")), (401, true), "{}", answer.body);
    let mut stream = EventStream::open(instance.address, &format!("topic=a&ticket={}", ticket().await)).await;
    let mut client = JsonClient::connect_with(instance.address, &[&token(&[])]).await;
    client.publish("a", "heard").await;
    assert_eq!(json_data(&stream.next().await.expect("an event").data)["text"], "heard");
}

fn json_data(data: &str) -> Value {
    serde_json::from_str(data).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_told_who_it_is_and_why_not() {
    let (instance, _directory) = instance().await;
    let address = instance.address;
    let ends = now_s() + 1000;
    let claims = json!({"groups": ["class"], "roles": ["send", "king"], "exp": ends});
    let (name, value) = bearer(&token_of("alice", &claims));
    let answer = whoami(address, &[(name, &value)]).await;
    let body = json_of(&answer);
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert_eq!(
        (&body["user"], &body["groups"], &body["roles"]),
        (&json!("alice"), &json!(["class"]), &json!(["send"]))
    );
    let expires: jiff::Timestamp = body["expires"].as_str().expect("a time").parse().expect("RFC 3339");
    assert_eq!(expires.as_second(), ends as i64);
    let cookie = format!("a=b; warren_token={}", token(&[]));
    let by_cookie = [("Cookie", cookie.as_str()), ("Sec-Fetch-Site", "same-origin")];
    assert_eq!(json_of(&whoami(address, &by_cookie).await)["user"], "alice");
    let expired = bearer(&token_of("alice", &json!({"exp": now_s() - 2}))).1;
    let not_yet = bearer(&token_of("alice", &json!({"nbf": now_s() + 60}))).1;
    let forged = bearer(&format!("{}x", token(&[]))).1;
    for (headers, reason) in [
        (&[][..], "missing"),
        (&by_cookie[..1], "missing"),
        (&[("Authorization", expired.as_str())], "expired"),
        (&[("Authorization", not_yet.as_str())], "not_yet_valid"),
        (&[("Authorization", value.as_str()), ("Authorization", value.as_str())], "several"),
        (&[("Authorization", forged.as_str())], "signature"),
    ] {
        let answer = whoami(address, headers).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (401, "unauthorized"));
        assert_eq!(json_of(&answer)["reason"], reason);
    }
    let foreign = whoami(address, &[(name, &value), ("Origin", "http://evil.example")]).await;
    assert_eq!((foreign.status, problem(&foreign).as_str()), (403, "foreign-origin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_grants_topics_to_plain_sessions_and_streams() {
    let (instance, _directory) = instance().await;
    let address = instance.address;
    let token = token_of("alice", &json!({"subscribe": ["orders.*"], "publish": ["orders.eu"]}));
    let (name, value) = bearer(&token);
    let header = [(name, value.as_str())];
    for (path, status) in [
        ("/message/orders.eu", 101),
        ("/message/orders.*", 101),
        ("/message/orders.%23", 403),
        ("/message/parcels", 403),
        ("/message", 403),
    ] {
        assert_eq!(handshake(address, path, &header).await.status, status, "{path}");
    }
    for (query, status) in [("topic=orders.eu&topic=parcels", 403), ("", 403), ("topic=orders.eu&broadcast=true", 403)]
    {
        let answer = request(address, &format!("GET /events?{query}"), &header).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (status, "forbidden"), "{query}");
    }
    let mut listener = EventStream::open_with(Raw::tcp(address).await, address, "topic=orders.*", &header).await;
    let mut allowed = Client::connect_as(address, "/message/orders.eu", &token).await;
    allowed.send(Message::text("may")).await;
    assert_eq!(json_data(&listener.next().await.expect("an event").data)["text"], "may");
    let mut denied = Client::connect_as(address, "/message/orders.us", &token).await;
    denied.send(Message::text("may not")).await;
    denied.is_closed_with(1008).await;
    allowed.is_open().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_grants_topics_to_requests_in_json() {
    let (instance, _directory) = instance().await;
    let claims = json!({"subscribe": ["orders.*"], "publish": ["orders.eu", ""]});
    let mut client = JsonClient::connect_with(instance.address, &[&token_of("alice", &claims)]).await;
    client.subscribe(&["orders.eu", "orders.*"]).await;
    client.refused(json!({"type": "subscribe", "topics": ["orders.eu", "parcels"]}), 109).await;
    client.refused(json!({"type": "subscribe", "topics": ["#"]}), 109).await;
    client.refused(json!({"type": "subscribe", "broadcast": true}), 109).await;
    client.refused(json!({"type": "publish", "topic": "orders.us", "text": "no"}), 109).await;
    client.publish("orders.eu", "yes").await;
    client.broadcast("yes, too").await;
    assert_eq!(client.message().await["text"], "yes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_over_http_takes_the_role_and_the_topic() {
    let (instance, _directory) = instance().await;
    let publish = async |claims: Value, body: Value| {
        let (name, value) = bearer(&token_of("alice", &claims));
        post(instance.address, "/api/publish", &[JSON, (name, &value)], body.to_string()).await
    };
    let message = json!({"topic": "orders.eu", "text": "a"});
    assert_eq!(publish(json!({"roles": ["send"]}), message.clone()).await.status, 403);
    let publisher = json!({"roles": ["publish"], "publish": ["orders.*"]});
    assert_eq!(publish(publisher.clone(), message.clone()).await.status, 200);
    let other = json!({"topic": "parcels", "text": "a"});
    let answer = publish(publisher.clone(), json!([message, other])).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (403, "forbidden"));
    assert_eq!(json_of(&answer)["index"], 1);
    assert_eq!(publish(publisher, json!({"broadcast": true, "text": "a"})).await.status, 403);
    assert_eq!(publish(json!({"roles": ["admin"]}), other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token() {
    let (instance, _directory) = instance().await;
    let address = instance.address;
    let token = token_of("alice", &json!({"exp": now_s() + SOON_S}));
    let (name, value) = bearer(&token);
    let mut plain = Client::connect_as(address, "/message", &token).await;
    let mut stream = EventStream::open_with(Raw::tcp(address).await, address, "", &[(name, &value)]).await;
    let mut client = JsonClient::connect_with(address, &[&token]).await;
    let told = client.notice().await;
    assert_eq!(told["type"], "expiring", "{told}");
    assert!(told["in_ms"].as_u64().is_some_and(|in_ms| in_ms <= SOON_S * 1000), "{told}");
    plain.is_closed_with(4004).await;
    client.client.is_closed_with(4004).await;
    while stream.next().await.is_some() {}
    assert!(stream.comments.iter().any(|comment| comment == "expired"), "{:?}", stream.comments);
    assert_eq!(instance.metrics().value("warren_sessions_closed_total{reason=\"expired\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_json_goes_on_by_another_token() {
    let (instance, _directory) = instance().await;
    let token = token_of("alice", &json!({"exp": now_s() + SOON_S}));
    let mut client = JsonClient::connect_with(instance.address, &[&token]).await;
    assert_eq!(client.notice().await["type"], "expiring");
    client.subscribe(&["orders.eu", "parcels"]).await;
    let authenticate = |token: String| json!({"type": "authenticate", "token": token});
    let why = client.refused(authenticate(token_of("bob", &json!({}))), 110).await;
    assert!(why.contains("another user"), "{why}");
    client.refused(authenticate("nonsense".into()), 110).await;
    let of_alice = token_of("alice", &json!({"subscribe": ["orders.*"]}));
    client.granted(authenticate(of_alice)).await;
    client.publish("parcels", "not heard any more").await;
    client.publish("orders.eu", "heard").await;
    assert_eq!(client.message().await["text"], "heard");
    client.refused(json!({"type": "subscribe", "topics": ["parcels"]}), 109).await;
    // A session that was opened with the same token, and not renewed, has ended.
    let mut other =
        Client::connect_as(instance.address, "/message", &token_of("alice", &json!({"exp": now_s() + SOON_S + 1})))
            .await;
    other.is_closed_with(4004).await;
    client.client.is_open().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_nobody_stays_so() {
    let directory = Directory::new("anonymous");
    let instance = Instance::start(Config { anonymous: Anonymous::Allow, ..with_tokens(&directory) }).await;
    let mut client = instance.converse().await;
    client.subscribe(&["#"]).await;
    client.refused(json!({"type": "authenticate", "token": token(&[])}), 110).await;
    client.client.is_open().await;
    let answer = handshake(instance.address, "/message", &[("Authorization", "Bearer x")]).await;
    assert_eq!(answer.status, 401, "a token that does not count is not the same as none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_development_server_signs_anybody_in() {
    let directory = Directory::new("sign-in");
    let instance = Instance::start(Config { dev_sign_in: true, ..with_tokens(&directory) }).await;
    let sign_in = async |headers: &[(&str, &str)], body: &str| {
        post(instance.address, "/api/sign-in", headers, body.to_owned()).await
    };
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let by_form = sign_in(&[form], "user=alice&groups=class&groups=choir").await;
    let by_json = sign_in(&[JSON], r#"{"user": "alice", "groups": ["class", "choir"]}"#).await;
    for answer in [by_form, by_json] {
        assert_eq!(answer.status, 200, "{}", answer.body);
        let (name, value) = bearer(json_of(&answer)["token"].as_str().expect("a token"));
        let body = json_of(&whoami(instance.address, &[(name, &value)]).await);
        assert_eq!(body["groups"], json!(["class", "choir"]));
        assert_eq!((&body["user"], &body["roles"]), (&json!("alice"), &json!(["send", "presence"])));
    }
    for (headers, body, status) in [
        (&[JSON][..], r#"{"user": ""}"#, 400),
        (&[JSON], r#"{"user": "a", "roles": ["admin"]}"#, 400),
        (&[form], "user=a&roles=admin", 400),
        (&[form], "", 400),
        (&[("Content-Type", "text/plain")], "user=a", 415),
        (&[JSON, ("Origin", "http://evil.example")], r#"{"user": "a"}"#, 403),
        (&[JSON, ("X-Forwarded-For", "127.0.0.1")], r#"{"user": "a"}"#, 403),
    ] {
        assert_eq!(sign_in(headers, body).await.status, status, "{body}");
    }
}

#[tokio::test]
async fn a_token_that_was_made_in_a_terminal_is_good_for_clients_there() {
    let directory = Directory::new("made-tokens");
    let secret = directory.write("secret", &format!("{SECRET}\n"));
    let warren = Warren::serve(&["--jwt-key-file", &secret], &[]).await;
    let url = warren.url();
    let made = Warren::run(
        &["token", "--user", "alice", "--roles", "publish", "--publish", "orders.*", "--jwt-key-file", &secret],
        &[],
    )
    .await;
    assert_eq!((made.code, made.stdout.lines().count()), (Some(0), 1), "{made:?}");
    let token = made.stdout.trim();
    let (name, value) = bearer(token);
    let answer = whoami(warren.address, &[(name, &value)]).await;
    assert_eq!((&json_of(&answer)["user"], &json_of(&answer)["roles"]), (&json!("alice"), &json!(["publish"])));
    let file = directory.write("token", token);
    let publish =
        async |topic: &str| Warren::run(&["publish", topic, "x", "--url", &url, "--api-key-file", &file], &[]).await;
    assert_eq!(publish("orders.eu").await.code, Some(0));
    let denied = publish("parcels").await;
    assert!(denied.code == Some(1) && denied.stderr.contains("403"), "{denied:?}");
    let denied = Warren::run(&["subscribe", "orders.*", "--url", &url], &[]).await;
    assert!(denied.code == Some(1) && denied.stderr.contains("401"), "{denied:?}");
    let unusable = Warren::run(&["token", "--user", "alice", "--jwt-key-file", "/nowhere/key"], &[]).await;
    assert!(unusable.code == Some(1) && unusable.stderr.contains("/nowhere/key"), "{unusable:?}");
}

#[tokio::test]
async fn a_configuration_of_tokens_that_makes_no_sense_is_refused() {
    let directory = Directory::new("bad-tokens");
    let secret = directory.write("secret", SECRET);
    let short = directory.write("short", "short");
    let public = directory.write("public", include_str!("../keys/rsa.pub.pem"));
    let private = directory.write("private", include_str!("../keys/rsa.pem"));
    let set = directory.write("set", include_str!("../keys/jwks.json"));
    let ssh = directory.write("ssh", &format!("ssh-ed25519 {} me@host", "A".repeat(64)));
    let marked = directory.write("marked", &format!("\u{feff}{}", include_str!("../keys/rsa.pub.pem")));
    let cut = directory.write("cut", include_str!("../keys/rsa.pub.pem").split_at(200).0);
    let empty_set = directory.write("empty-set", r#"{"keys": []}"#);
    for (words, named) in [
        (&["--jwt-key-file", &short][..], "at least 32 bytes"),
        (&["--jwt-key-file", &private], "private key"),
        (&["--jwt-key-file", "/nowhere/key"], "/nowhere/key"),
        (&["--jwt-key-file", &set], "it is JSON"),
        (&["--jwt-key-file", &ssh], "a key of SSH"),
        (&["--jwt-key-file", &marked], "byte order mark"),
        (&["--jwt-key-file", &cut], "no public key"),
        (&["--jwt-jwks", &empty_set], "it has no key"),
        (&["--jwt-jwks", &set, "--jwt-jwks-age-max-s", "3600"], "--jwt-jwks-age-max-s"),
        (&["--jwt-key-file", &secret, "--jwt-jwks", &secret], "--jwt-jwks"),
        (&["--jwt-jwks", &secret], "no JSON Web Key Set"),
        (&["--jwt-jwks", "ftp://idp.example/"], "--jwt-jwks"),
        (&["--anonymous", "refuse"], "--anonymous"),
        (&["--dev-sign-in"], "--dev-sign-in"),
        (&["--dev-sign-in", "--jwt-key-file", &public], "--dev-sign-in"),
        (&["--ticket-key-file", &short], "--ticket-key-file"),
        (&["--ticket-key-file", &public], "a secret is wanted"),
    ] {
        let ended = Warren::run(words, &[]).await;
        assert!(ended.code == Some(2) && ended.stderr.contains(named), "{words:?}: {ended:?}");
    }
}

#[tokio::test]
async fn tokens_and_tickets_stand_in_no_log_line() {
    let directory = Directory::new("logged-tokens");
    let secret = directory.write("secret", SECRET);
    let warren = Warren::serve(&["--jwt-key-file", &secret, "--jwt-in-query", "--log", "trace"], &[]).await;
    let token = token(&["publish"]);
    let (name, value) = bearer(&token);
    let answer = post(warren.address, "/api/ticket", &[(name, &value)], "").await;
    let ticket = json_of(&answer)["ticket"].as_str().expect("a ticket").to_owned();
    let forged = format!("{token}forged");
    for path in ["/message", "/message/a"] {
        for credentials in [format!("token={token}"), format!("ticket={ticket}"), format!("token={forged}")] {
            handshake(warren.address, &format!("{path}?{credentials}"), &[]).await;
            request(warren.address, &format!("GET /events?{credentials}&no=such"), &[]).await;
        }
    }
    let mut client = JsonClient::connect_with(warren.address, &[&token]).await;
    client.granted(json!({"type": "authenticate", "token": token})).await;
    client.refused(json!({"type": "authenticate", "token": forged}), 110).await;
    let cookie = format!("warren_token={token}");
    whoami(warren.address, &[("Cookie", &cookie), ("Sec-Fetch-Site", "same-origin")]).await;
    post(warren.address, "/api/publish", &[JSON, (name, &value)], r#"{"broadcast": true, "text": "x"}"#).await;
    warren.process.signal(Signal::TERM);
    let log = warren.process.ended().await.stderr;
    assert!(log.contains("DEBUG") && log.contains("no session"), "{log}");
    for secret in [&token, &ticket] {
        let signature = secret.rsplit('.').next().expect("a signature");
        assert!(!log.contains(signature), "{log}");
    }
}
