//! Publishing requests, each answer held against `docs/openapi.yaml`.

use std::net::SocketAddr;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::http::{Answer, head};
use super::raw::Raw;

pub const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The answer to `POST path` on a connection of its own; `Host` and `Content-Length` are added unless they are given.
pub async fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
    let mut connection = Raw::tcp(address).await;
    post_on(&mut connection, address, path, headers, body).await
}

/// The same on a connection that stands.
pub async fn post_on(
    connection: &mut Raw,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    connection.send(request(address, path, headers, body)).await;
    let answer = connection.answer().await;
    is_described(path, &answer);
    answer
}

/// The bytes of such a request.
pub fn request(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len().to_string();
    let mut headers = headers.to_vec();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        headers.push(("Content-Length", &length));
    }
    let mut request = head(address, &format!("POST {path}"), &headers).into_bytes();
    request.extend_from_slice(body);
    request
}

/// Posts JSON.
pub async fn post_json(address: SocketAddr, path: &str, body: &Value) -> Answer {
    post(address, path, &[JSON], body.to_string()).await
}

/// Publishes a text to a topic, and is told its id.
pub async fn notify(address: SocketAddr, topic: &str, message: &str) -> String {
    let answer =
        post_json(address, "/api/notification", &serde_json::json!({"topic": topic, "message": message})).await;
    published(&answer)
}

/// The id in the answer that tells that the broker has the message.
pub fn published(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = json(answer);
    assert_eq!(body.as_object().map(|fields| fields.len()), Some(1), "{body}");
    body["id"].as_str().expect("an id").to_owned()
}

pub fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

/// The end of the type of the problem that was answered.
pub fn problem(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.body);
    let body = json(answer);
    assert_eq!(body["status"], answer.status, "{body}");
    for field in ["title", "detail"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {body}");
    }
    let name = body["type"].as_str().and_then(|name| name.strip_prefix("urn:warren:problem:"));
    name.unwrap_or_else(|| panic!("no type of Warren's: {body}")).to_owned()
}

/// That the description has the status for the path, and the answer's type for the status.
fn is_described(path: &str, answer: &Answer) {
    let description =
        YamlLoader::load_from_str(include_str!("../../../docs/openapi.yaml")).expect("YAML").swap_remove(0);
    let path = path.split('?').next().unwrap_or(path);
    let path = warren::http::ROUTES.iter().find(|route| route.matches(path)).map_or(path, |route| route.path);
    let route = &description["paths"][path];
    if route.is_badvalue() {
        assert_eq!(answer.status, 404, "{path}");
        return;
    }
    let status = answer.status.to_string();
    let mut response = &route["post"]["responses"][status.as_str()];
    assert!(!response.is_badvalue(), "{path}: {status} is not described");
    if let Some(reference) = response["$ref"].as_str() {
        let name = reference.rsplit('/').next().expect("a name");
        response = &description["components"]["responses"][name];
    }
    let content_type = answer.header("content-type").expect("a type");
    assert!(!response["content"][content_type].is_badvalue(), "{path}: {status} with {content_type} is not described");
    if let Yaml::Hash(headers) = &response["headers"] {
        for name in headers.keys().filter_map(Yaml::as_str) {
            assert!(answer.header(&name.to_lowercase()).is_some(), "{path}: {status} lacks {name}");
        }
    }
}
