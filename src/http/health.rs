//! `GET /healthz`: the process lives. `GET /readyz`: it can carry messages, so a load balancer may send clients.

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
    /// `ready`, `broker_unavailable` or `draining`.
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
    let (status, code) = match (site.sessions.is_draining(), link.is_up()) {
        (true, _) => ("draining", StatusCode::SERVICE_UNAVAILABLE),
        (false, false) => ("broker_unavailable", StatusCode::SERVICE_UNAVAILABLE),
        (false, true) => ("ready", StatusCode::OK),
    };
    let body = Readiness { status, instance: site.incarnation.name().as_str(), broker: &link };
    with_status(json(&body), code)
}
