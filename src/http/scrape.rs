//! `GET /metrics`, on a listener of its own: what is counted here is for whoever runs the server, not for its visitors.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;
use warp::http::StatusCode;
use warp::http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use warp::reject::{MethodNotAllowed, Rejection};
use warp::reply::{Response, with_header, with_status};
use warp::{Filter, Reply, http};

use crate::broker::Link;
use crate::metrics::{self, Metrics, Readings};
use crate::session::Sessions;

/// What a scrape is answered from.
pub struct Scrape {
    pub metrics: Metrics,
    pub sessions: Arc<Sessions>,
    pub link: watch::Receiver<Link>,
}

/// `GET /metrics` and nothing else.
pub fn routes(
    scrape: Arc<Scrape>,
) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone + Send + Sync + 'static {
    warp::path!("metrics").and(warp::get()).map(move || answer(&scrape)).recover(refusal).unify()
}

fn answer(scrape: &Scrape) -> Response {
    let link = scrape.link.borrow().clone();
    let readings = Readings { outbox_bytes: scrape.sessions.outbox_bytes(), link: &link };
    http::Response::builder()
        .header(CONTENT_TYPE, metrics::CONTENT_TYPE)
        .header(CACHE_CONTROL, "no-store")
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        // A connection may idle for less time here than there is between two scrapes.
        .header(CONNECTION, "close")
        .body(scrape.metrics.render(&readings))
        .into_response()
}

async fn refusal(rejection: Rejection) -> Result<Response, Infallible> {
    if rejection.find::<MethodNotAllowed>().is_some() {
        let text = with_status("only GET here\n", StatusCode::METHOD_NOT_ALLOWED);
        return Ok(with_header(text, ALLOW, "GET").into_response());
    }
    Ok(with_status("nothing here but /metrics\n", StatusCode::NOT_FOUND).into_response())
}
