//! Every route of the table answers who brings what it requires, and nobody else; what is not in the table is denied.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;
use warren::config::{Anonymous, Config};
use warren::http::{ROUTES, Requires, Route};

use crate::support::http::{Answer, request};
use crate::support::identity::{token, with_tokens};
use crate::support::instance::{Instance, config};
use crate::support::post::{JSON, post, post_on, problem, published};
use crate::support::process::Directory;
use crate::support::raw::{Raw, handshake_at};

/// A key, and what the file has of it: FIPS 180-2's example.
const KEY: &str = "abc";
const KEY_HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Whether what a route requires is brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Brings {
    What,
    Not,
}

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// A request to a route, with what it requires or something that it must not be content with.
async fn ask(address: SocketAddr, route: &Route, method: &str, brings: Brings, keyed: bool) -> Answer {
    let path = route.path.replace("{topic}", "a/b").replace("{user}", "alice").replace("{group}", "class");
    match route.requires {
        Requires::Nothing => request(address, &format!("{method} {path}"), &[]).await,
        Requires::Origin => {
            let foreign = [("Origin", "http://evil.example")];
            let headers = if brings == Brings::What { &[][..] } else { &foreign };
            request(address, &format!("{method} {path}"), headers).await
        }
        Requires::Handshake => {
            let origin: &[(&str, &str)] =
                if brings == Brings::What { &[] } else { &[("Origin", "http://evil.example")] };
            let mut client = Raw::tcp(address).await;
            let handshake = String::from_utf8(handshake_at(address, &path, origin)).expect("ASCII");
            client.send(handshake.replacen("GET", method, 1)).await;
            if method == "HEAD" { client.answer_to_head().await } else { client.answer().await }
        }
        Requires::User => {
            let authorization = format!("Bearer {}", token(&["send"]));
            let headers = [("Authorization", authorization.as_str())];
            post(address, &path, if brings == Brings::What { &headers } else { &[] }, "").await
        }
        Requires::OwnToken => {
            let authorization = format!("Bearer {}", token(&[]));
            let headers = [FORM, ("Authorization", authorization.as_str())];
            post(address, &path, if brings == Brings::What { &headers } else { &headers[..1] }, "destination=a").await
        }
        Requires::Development => {
            let forwarded: &[_] = if brings == Brings::What { &[JSON] } else { &[JSON, ("Via", "1.1 proxy")] };
            post(address, &path, forwarded, json!({"user": "alice"}).to_string()).await
        }
        Requires::Right(_) => {
            let authorization = format!("Bearer {KEY}");
            let mut headers = vec![match path.as_str() {
                "/wsTemplate/sendToUser" => FORM,
                path if path.contains("topics") => ("Content-Type", "text/plain"),
                _ => JSON,
            }];
            match (keyed, brings) {
                (true, Brings::What) => headers.push(("Authorization", &authorization)),
                (true, Brings::Not) | (false, Brings::What) => {}
                (false, Brings::Not) => headers.push(("X-Forwarded-For", "127.0.0.1")),
            }
            if method != "POST" {
                return request(address, &format!("{method} {path}"), &headers[1..]).await;
            }
            let body = match path.as_str() {
                "/api/notification" => json!({"topic": "a", "message": "b"}),
                "/api/publish" => json!({"topic": "a", "text": "b"}),
                _ => json!({"text": "b"}),
            };
            let body = if headers[0] == FORM { "receiver=bob&msg=b".to_owned() } else { body.to_string() };
            post(address, &path, &headers, body).await
        }
    }
}

/// With API keys, with a key for tokens, and for development; anybody may connect.
async fn keyed() -> (Instance, Directory) {
    let directory = Directory::new("api-keys");
    let file = directory.write("keys", &format!("# who may publish\nshop {KEY_HASH}\n"));
    let api_keys_file = Some(PathBuf::from(file));
    let config = Config { api_keys_file, anonymous: Anonymous::Allow, dev_sign_in: true, ..with_tokens(&directory) };
    (Instance::start(config).await, directory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_who_brings_what_it_requires_and_nobody_else() {
    let (with_keys, _directory) = keyed().await;
    let without_keys = Instance::start(config()).await;
    for (instance, keyed) in [(&with_keys, true), (&without_keys, false)] {
        for route in &ROUTES {
            for method in route.methods {
                let method = method.as_str();
                let welcome = ask(instance.address, route, method, Brings::What, keyed).await.status;
                let denied = ask(instance.address, route, method, Brings::Not, keyed).await.status;
                let expected = match (route.requires, method) {
                    (Requires::User, _) => (if keyed { 200 } else { 401 }, 401),
                    (Requires::Development, _) => {
                        if keyed {
                            (200, 403)
                        } else {
                            (404, 404)
                        }
                    }
                    (Requires::Nothing, _) => (200, 200),
                    (Requires::Origin, _) => (200, 403),
                    (Requires::Handshake, "GET") => (101, 403),
                    // HEAD opens no session.
                    (Requires::Handshake, _) => (426, 426),
                    // The refusal is the answer.
                    (Requires::OwnToken, _) => (200, 200),
                    // A program without a key has no name to send in.
                    (Requires::Right(_), _) if !keyed && route.path == "/wsTemplate/sendToUser" => (401, 403),
                    (Requires::Right(_), _) => (200, if keyed { 401 } else { 403 }),
                };
                assert_eq!((welcome, denied), expected, "{method} {} (keys: {keyed})", route.path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_table_is_denied() {
    let (instance, _directory) = keyed().await;
    for route in &ROUTES {
        let path = route.path.replace("{topic}", "a").replace("{user}", "a").replace("{group}", "a");
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW", "post"] {
            if route.methods.iter().any(|of_route| of_route.as_str() == method) {
                continue;
            }
            let answer = request(instance.address, &format!("{method} {path}"), &[]).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(route.allow().as_str())), "{method} {path}");
        }
    }
    for path in [
        "/api",
        "/api/",
        "/api/topics",
        "/api/notification/",
        "/api/notifications",
        "/API/publish",
        "//api/publish",
        "/x/../api/publish",
        "/api/%70ublish",
        "/healthz/",
        "/metrics",
        "/messages",
        "/message%2Fa",
    ] {
        let authorization = format!("Bearer {KEY}");
        let answer = post(instance.address, path, &[JSON, ("Authorization", &authorization)], "{}").await;
        assert_eq!(answer.status, 404, "{path}");
        if path.starts_with("/api/") {
            assert_eq!(problem(&answer), "not-found");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_key_does_not_even_get_its_body_read() {
    let (instance, _directory) = keyed().await;
    let mut connection = Raw::tcp(instance.address).await;
    let head = [JSON, ("Content-Length", "1000000")];
    let answer = post_on(&mut connection, instance.address, "/api/publish", &head, "").await;
    assert_eq!((answer.status, problem(&answer).as_str()), (401, "unauthorized"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_page_of_the_web_can_send_to_this_host_is_refused() {
    let instance = Instance::start(config()).await;
    let body = json!({"topic": "a", "text": "b"}).to_string();
    let port = instance.address.port();
    for host in ["localhost".to_owned(), format!("localhost:{port}"), format!("127.0.0.1:{port}"), "[::1]".to_owned()] {
        published(&post(instance.address, "/api/publish", &[JSON, ("Host", &host)], &body).await);
    }
    let own = format!("http://{}", instance.address);
    published(&post(instance.address, "/api/publish", &[JSON, ("Origin", &own)], &body).await);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for (headers, status) in [
        (&[JSON, ("Host", "rebound.example")][..], 403),
        (&[JSON, ("Host", "rebound.example:8080")], 403),
        (&[JSON, ("Origin", "http://evil.example")], 403),
        (&[JSON, ("Origin", "null")], 403),
        (&[JSON, ("Sec-Fetch-Site", "cross-site")], 403),
        (&[JSON, ("Forwarded", "for=127.0.0.1")], 403),
        (&[form], 415),
        (&[("Content-Type", "text/plain")], 415),
        (&[("Content-Type", "multipart/form-data; boundary=x")], 415),
        (&[], 415),
    ] {
        let answer = post(instance.address, "/api/publish", headers, &body).await;
        assert_eq!(answer.status, status, "{headers:?}");
        problem(&answer);
    }
    let answer = post(instance.address, "/api/topics/a", &[form], "b").await;
    assert_eq!(answer.status, 415);
    let plain_form = [("Content-Type", "text/plain"), ("Origin", "http://evil.example")];
    assert_eq!(post(instance.address, "/api/topics/a", &plain_form, "b=c").await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bodies_are_told_what_is_wrong() {
    let limits = Config { message_bytes_max: 1024, publish_body_bytes_max: 4096, publish_batch_max: 2, ..config() };
    let instance = Instance::start(limits).await;
    let mut listener = instance.subscribe("%23").await;
    let large = json!({"topic": "a", "text": "x".repeat(1025)}).to_string();
    let huge = json!({"topic": "a", "text": "x".repeat(100_000)}).to_string();
    let three = json!([{"topic": "a", "text": ""}, {"topic": "a", "text": ""}, {"topic": "a", "text": ""}]).to_string();
    let long_topic = json!({"topic": "x".repeat(256), "text": ""}).to_string();
    let deep = "[".repeat(4000);
    for (path, body, status, name) in [
        ("/api/publish", "", 400, "malformed-json"),
        ("/api/publish", "\0", 400, "malformed-json"),
        ("/api/publish", "{\"topic\": \"a\", \"text\": \"b\"", 400, "malformed-json"),
        ("/api/publish", "{\"topic\": \"a\", \"text\": \"b\", \"to\": 1}", 400, "malformed-json"),
        ("/api/publish", deep.as_str(), 400, "malformed-json"),
        ("/api/publish", "{}", 400, "invalid-message"),
        ("/api/publish", "[]", 400, "invalid-message"),
        ("/api/publish", "{\"topic\": \"a.*\", \"text\": \"b\"}", 400, "bad-topic"),
        ("/api/publish", long_topic.as_str(), 400, "bad-topic"),
        ("/api/publish", large.as_str(), 413, "too-large"),
        ("/api/publish", huge.as_str(), 413, "too-large"),
        ("/api/publish", three.as_str(), 413, "too-large"),
        ("/api/publish?ttl_ms=5", "{\"topic\": \"a\", \"text\": \"b\"}", 400, "invalid-message"),
        ("/api/notification", "[{\"topic\": \"a\", \"message\": \"b\"}]", 400, "malformed-json"),
        ("/api/notification", "{\"topic\": \"a\", \"text\": \"b\"}", 400, "malformed-json"),
        ("/api/topics/", "b", 400, "bad-topic"),
        ("/api/topics/a//b", "b", 400, "bad-topic"),
        ("/api/topics/%FF", "b", 400, "bad-topic"),
        ("/api/topics/a%23", "b", 400, "bad-topic"),
        ("/api/topics/a", huge.as_str(), 413, "too-large"),
    ] {
        let answer = post(instance.address, path, &[JSON], body).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (status, name), "{path} {body:.60}");
    }
    let key = [JSON, ("Idempotency-Key", "a b")];
    let answer = post(instance.address, "/api/publish", &key, "{\"topic\": \"a\", \"text\": \"b\"}").await;
    assert_eq!((answer.status, problem(&answer).as_str()), (400, "bad-idempotency-key"));
    let answer = post(instance.address, "/api/topics/a", &[("Content-Type", "text/plain")], b"\xff").await;
    assert_eq!((answer.status, problem(&answer).as_str()), (400, "invalid-message"));
    let gzip = [JSON, ("Content-Encoding", "gzip")];
    assert_eq!(post(instance.address, "/api/publish", &gzip, "\x1f\u{8b}").await.status, 415);
    // Nothing of all this was published, and the largest message still is.
    let largest = "x".repeat(1024);
    let plain = [("Content-Type", "text/plain")];
    published(&post(instance.address, "/api/topics/a", &plain, &largest).await);
    listener.receives(&[&largest]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_come_in_chunks_but_not_for_ever() {
    let limits = Config { message_bytes_max: 1024, handshake_timeout_ms: 500, ..config() };
    let instance = Instance::start(limits).await;
    let head = format!(
        "POST /api/topics/a HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        instance.address
    );
    let mut listener = instance.subscribe("a").await;
    let mut patient = Raw::tcp(instance.address).await;
    patient.send(format!("{head}2\r\nab\r\n")).await;
    patient.send("1\r\nc\r\n0\r\n\r\n").await;
    published(&patient.answer().await);
    listener.receives(&["abc"]).await;
    let mut endless = Raw::tcp(instance.address).await;
    endless.send(format!("{head}800\r\n{}", "x".repeat(0x800))).await;
    let answer = endless.answer().await;
    assert_eq!((answer.status, problem(&answer).as_str()), (413, "too-large"));
    let mut silent = Raw::tcp(instance.address).await;
    silent.send(format!("{head}2\r\nab\r\n")).await;
    let answer = silent.answer().await;
    assert_eq!((answer.status, problem(&answer).as_str()), (408, "body-timeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_route_and_status() {
    let instance = Instance::start(config()).await;
    let shown = instance.metrics();
    let of = |route: &str, status: &str| format!("warren_http_requests_total{{route=\"{route}\",status=\"{status}\"}}");
    let plain = [("Content-Type", "text/plain")];
    published(&post(instance.address, "/api/topics/a/b", &plain, "c").await);
    assert_eq!(post(instance.address, "/api/topics/a", &[], "c").await.status, 415);
    assert_eq!(request(instance.address, "GET /api/topics/a", &[]).await.status, 405);
    assert_eq!(request(instance.address, "GET /nothing", &[]).await.status, 404);
    let _session = instance.connect().await;
    shown.show(&of("/api/topics/{topic}", "2xx"), 1.0).await;
    shown.show(&of("/api/topics/{topic}", "4xx"), 2.0).await;
    shown.show(&of("none", "4xx"), 1.0).await;
    shown.show(&of("/message", "1xx"), 1.0).await;
}
