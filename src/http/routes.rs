//! What answers each route of the [table](super::table), behind the [gate](super::gate).

use std::convert::Infallible;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use warp::http::header::{HeaderMap, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::path::{FullPath, Tail};
use warp::reject::Rejection;
use warp::reply::{Response, with_header, with_status};
use warp::{Filter, Reply};

use super::api::{self, Problem};
use super::gate::{self, Admitted, Caller, Denied};
use super::peer::{Peer, client_address};
use super::upgrade::Successor;
use super::{Site, account, events, health, page, table, upgrade, ws_template};

/// The public port.
pub fn all(
    site: Arc<Site>,
) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone + Send + Sync + 'static {
    let mut guards = HeaderMap::new();
    for (name, value) in page::GUARDS {
        guards.insert(name, HeaderValue::from_static(value));
    }
    let routes = message(site.clone())
        .or(event_streams(site.clone()))
        .unify()
        .or(index(site.clone()))
        .unify()
        .or(health(site.clone()))
        .unify()
        .or(account(site.clone()))
        .unify()
        .or(letters(site.clone()))
        .unify()
        .or(ws_template(site.clone()))
        .unify()
        .or(presence(site.clone()))
        .unify()
        .or(publishing(site.clone()))
        .unify();
    let metrics = site.metrics.clone();
    let counting = warp::log::custom(move |answered| {
        let route = table::find(answered.path()).map(|route| route.path);
        metrics.answered(route, answered.status().as_u16());
    });
    gate(site).and(routes).recover(refusal).unify().with(warp::reply::with::headers(guards)).with(counting)
}

/// Lets nothing through that is not in the table.
fn gate(site: Arc<Site>) -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::method()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Peer>())
        .and(warp::ext::get::<Admitted>())
        .and_then(move |method: Method, path: FullPath, headers: HeaderMap, peer, admitted: Admitted| {
            let site = site.clone();
            async move {
                let caller = Caller { method: &method, path: path.as_str(), headers: &headers, peer };
                gate::check(&site, &caller, &admitted).await.map_err(warp::reject::custom)
            }
        })
        .untuple_one()
}

fn message(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path("message")
        .and(warp::path::tail())
        .and(get_or_head())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::ext::get::<Successor>())
        .and(warp::ext::get::<Peer>())
        .and(query())
        .then(move |topic: Tail, method, headers: HeaderMap, on_upgrade: Option<OnUpgrade>, successor, peer, query| {
            // Only GET opens a session (RFC 6455 §4.1); HEAD learns what GET without an upgrade learns.
            // hyper is ready for one where it put an `OnUpgrade`.
            let upgrade = on_upgrade.filter(|_| method == Method::GET).map(|_| successor);
            let client = client_address(peer, &headers, &site.trusted_proxies);
            let site = site.clone();
            async move { upgrade::answer(&site, &headers, topic.as_str(), query, upgrade, client).await }
        })
}

fn event_streams(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("events")
        .and(get_or_head())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Successor>())
        .and(warp::ext::get::<Peer>())
        .and(query())
        .then(move |method, headers: HeaderMap, successor, peer, query: String| {
            let successor = Some(successor).filter(|_| method == Method::GET);
            let client = client_address(peer, &headers, &site.trusted_proxies);
            let site = site.clone();
            async move { events::answer(&site, &headers, &query, successor, client).await }
        })
}

fn index(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path::end()
        .or(warp::path!("index.html"))
        .unify()
        .and(get_or_head())
        .and(warp::host::optional())
        .map(move |host: Option<_>| page::index(&site, host.as_ref()))
}

fn health(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let alive = site.clone();
    let healthz =
        warp::path!("healthz").and(get_or_head()).map(move || with_no_store(health::healthz(&alive)).into_response());
    let readyz =
        warp::path!("readyz").and(get_or_head()).map(move || with_no_store(health::readyz(&site)).into_response());
    healthz.or(readyz).unify()
}

fn publishing(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path("api")
        .and(warp::path::tail())
        .and(warp::post())
        .and(query())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Admitted>())
        .and(warp::body::stream())
        .then(move |path: Tail, query: String, headers: HeaderMap, admitted: Admitted, body| {
            let site = site.clone();
            async move {
                match admitted.requester() {
                    Ok(requester) => {
                        let identity = requester.identity().map(Arc::as_ref);
                        site.api.answer(path.as_str(), &query, &headers, identity, body).await
                    }
                    Err(problem) => problem.into_response(),
                }
            }
        })
}

/// What is asked about tokens.
fn account(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let (of_whoami, of_ticket) = (site.clone(), site.clone());
    let whoami = warp::path!("api" / "whoami").and(get_or_head()).and(warp::header::headers_cloned()).then(
        move |headers: HeaderMap| {
            let site = of_whoami.clone();
            async move { account::whoami(&site, &headers).await }
        },
    );
    let ticket = warp::path!("api" / "ticket")
        .and(warp::post())
        .and(warp::ext::get::<Admitted>())
        .map(move |admitted: Admitted| account::ticket(&of_ticket, &admitted));
    let sign_in = warp::path!("api" / "sign-in")
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |headers: HeaderMap, body| {
            let site = site.clone();
            async move { account::sign_in(&site, &headers, body).await }
        });
    whoami.or(ticket).unify().or(sign_in).unify()
}

/// Memberships, and what waits for somebody.
fn letters(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let of_unread = site.clone();
    let members = warp::path!("api" / "groups" / String / "members" / String)
        .and(warp::put().or(warp::delete()).unify())
        .and(warp::method())
        .then(move |group: String, user: String, method: Method| {
            let site = site.clone();
            async move { told(api::change_member(site.sessions.users(), &method, &group, &user).await) }
        });
    let unread = warp::path!("api" / "unread").and(warp::post()).and(warp::ext::get::<Admitted>()).then(
        move |admitted: Admitted| {
            let site = of_unread.clone();
            async move {
                match admitted.user() {
                    Ok(identity) => told(site.api.take_unread(identity).await),
                    Err(problem) => problem.into_response(),
                }
            }
        },
    );
    members.or(unread).unify()
}

fn told(outcome: Result<serde_json::Value, Problem>) -> Response {
    match outcome {
        Ok(answer) => with_no_store(warp::reply::json(&answer)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The calls of existing front ends.
fn ws_template(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let of_send = site.clone();
    let send = warp::path!("wsTemplate" / "sendToUser")
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Admitted>())
        .and(warp::body::stream())
        .then(move |headers: HeaderMap, admitted: Admitted, body| {
            let site = of_send.clone();
            async move { ws_template::send(&site, &headers, &admitted, body).await }
        });
    let pull = warp::path!("wsTemplate" / "pullUnreadMessage")
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |headers: HeaderMap, body| {
            let site = site.clone();
            async move { ws_template::pull_unread(&site, &headers, body).await }
        });
    send.or(pull).unify()
}

fn presence(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path("api").and(warp::path("presence")).and(warp::path::full()).and(warp::get()).and(query()).then(
        move |path: FullPath, query: String| {
            let site = site.clone();
            async move {
                let path = path.as_str().strip_prefix("/api/presence").unwrap_or_default();
                site.whereabouts.answer(path, &query).await
            }
        },
    )
}

fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

/// What stands behind the question mark; empty without one.
fn query() -> impl Filter<Extract = (String,), Error = Infallible> + Copy {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

fn with_no_store(reply: impl Reply) -> impl Reply {
    with_header(reply, "cache-control", "no-store")
}

async fn refusal(rejection: Rejection) -> Result<Response, Infallible> {
    if let Some(denied) = rejection.find::<Denied>() {
        return Ok(denied.to_response());
    }
    log::debug!("request refused: {rejection:?}");
    Ok(with_status("bad request\n", StatusCode::BAD_REQUEST).into_response())
}
