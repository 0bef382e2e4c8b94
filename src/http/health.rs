//! `GET /healthz`: the process lives. `GET /readyz`: it can carry messages and tell who brings a token, so a load balancer may
//! send clients.

use serde::Serialize;
use warp::http::StatusCode;
use warp::reply::{Json, WithStatus, json, with_status};

use super::Site;
use crate::broker::Link;

#[derive(Serialize)]
struct Health<'a> {
    status: &'a str,
    instance: &'a str,
    version: &'a str,
    sessions: usize,
}

#[derive(Serialize)]
struct Readiness<'a> {
    /// `ready`, `broker_unavailable`, `keys_unavailable` or `draining`.
    status: &'a str,
    instance: &'a str,
    broker: &'a Link,
}

pub fn healthz(site: &Site) -> Json {
    json(&Health {
        status: "alive",
        instance: site.incarnation.name().as_str(),
        version: env!("CARGO_PKG_VERSION"),
        sessions: site.sessions.count(),
    })
}

pub fn readyz(site: &Site) -> WithStatus<Json> {
    let link = site.link.borrow().clone();
    let (status, code) = if site.sessions.is_draining() {
        ("draining", StatusCode::SERVICE_UNAVAILABLE)
    } else if !link.is_up() {
        ("broker_unavailable", StatusCode::SERVICE_UNAVAILABLE)
    } else if !site.identities.are_ready() {
        ("keys_unavailable", StatusCode::SERVICE_UNAVAILABLE)
    } else {
        ("ready", StatusCode::OK)
    };
    let body = Readiness { status, instance: site.incarnation.name().as_str(), broker: &link };
    with_status(json(&body), code)
}
