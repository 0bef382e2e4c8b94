//! Publishing over HTTP: `POST /api/notification`, `/api/publish`, `/api/topics/{topic}`; and writing to users.
//!
//! Owns what is between a request and the broker: who may publish (`access`), what a body may be (`body`), what it says
//! (`order`), and what is answered (`outcome`, `problem`). Refuses whatever it does not understand. Invariant: 200 is
//! answered for what the broker has confirmed, and 503 for what nobody gets; in between the answer is 504.

mod access;
pub(super) mod body;
mod letters;
mod order;
mod outcome;
mod problem;
mod publish;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use tokio::sync::{Semaphore, SemaphorePermit};
use warp::Reply;
use warp::http::HeaderMap;
use warp::reply::Response;

pub use access::{Access, Requester, is_local};
pub use letters::{change_member, not_reached};
pub use problem::{Kind as ProblemKind, Problem};

use self::body::BodyLimits;
use self::order::{Order, OrderLimits, Orders};
use crate::broker::Broker;
use crate::identity::Identity;
use crate::message::{MessageIds, PayloadKind, Target};
use crate::user::UserName;
use crate::users::Users;

/// What is taken, and how long anybody waits.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimits {
    /// Payload of one message, and bytes of a raw body.
    pub message_bytes_max: usize,
    /// Bytes of a body in JSON.
    pub json_bytes_max: usize,
    /// Messages in one request.
    pub batch_max: usize,
    /// Requests at a time.
    pub requests_max: usize,
    /// Time for a body to come.
    pub body_timeout: Duration,
    /// How long a request waits until its messages are taken.
    pub spool_wait: Duration,
    /// How long it waits then until they are confirmed.
    pub answer_wait: Duration,
}

/// That a request is one of those that may be under way. Its drop lets the next one in.
pub struct Turn<'a>(#[expect(dead_code, reason = "its drop is what counts")] SemaphorePermit<'a>);

/// What publishing requests are answered from.
pub struct Api {
    broker: Arc<dyn Broker>,
    users: Arc<Users>,
    message_ids: MessageIds,
    limits: ApiLimits,
    under_way: Semaphore,
}

impl Api {
    pub fn new(broker: Arc<dyn Broker>, users: Arc<Users>, message_ids: MessageIds, limits: ApiLimits) -> Api {
        let under_way = Semaphore::new(limits.requests_max.min(Semaphore::MAX_PERMITS));
        Api { broker, users, message_ids, limits, under_way }
    }

    /// Answers a POST beneath `/api/`; `path` is the rest of its path, and `identity` whose rights count, if they are
    /// limited.
    pub async fn answer<B: Buf>(
        &self,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        identity: Option<&Identity>,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Response {
        let answered = self.answer_or_fail(path, query, headers, identity, body).await;
        answered.unwrap_or_else(|problem| {
            log::debug!("a publishing request failed: {problem:?}");
            problem.into_response()
        })
    }

    async fn answer_or_fail<B: Buf>(
        &self,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        identity: Option<&Identity>,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Response, Problem> {
        let _turn = self.begin()?;
        if !query.is_empty() {
            return Err(Problem::new(ProblemKind::InvalidMessage, "There are no parameters here."));
        }
        let orders = self.orders(path, headers, identity, body).await?;
        if let Some(identity) = identity {
            check_rights(&orders, identity)?;
        }
        Ok(match orders {
            Orders::One(order) => match &self.publish(vec![order]).await[..] {
                [outcome] => outcome::answer_one(outcome),
                outcomes => outcome::answer_all(outcomes),
            },
            Orders::Batch(orders) => outcome::answer_all(&self.publish(orders).await),
        })
    }

    async fn orders<B: Buf>(
        &self,
        path: &str,
        headers: &HeaderMap,
        identity: Option<&Identity>,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Orders, Problem> {
        let ApiLimits { message_bytes_max, batch_max, .. } = self.limits;
        let limits = OrderLimits { message_bytes_max, batch_max };
        let key = order::key(headers)?;
        if let Some(target) = letters::addressee(path)? {
            body::expect_json(headers)?;
            let body = body::read(headers, body, self.body_limits(self.limits.json_bytes_max)).await?;
            let from = identity.map(|identity| identity.user.clone());
            return order::letter(target, &body, key, from, limits).map(Orders::One);
        }
        if let Some(topic) = path.strip_prefix("topics/") {
            let kind = body::payload_kind(headers)?;
            let body = body::read(headers, body, self.body_limits(message_bytes_max)).await?;
            return order::raw(topic, kind, body, key, limits).map(Orders::One);
        }
        body::expect_json(headers)?;
        let body = body::read(headers, body, self.body_limits(self.limits.json_bytes_max)).await?;
        match path {
            "notification" => order::notification(&body, key, limits).map(Orders::One),
            "publish" => order::items(&body, key, limits),
            _ => Err(Problem::new(ProblemKind::NotFound, "There is no such route.")),
        }
    }

    /// The turn of a request, taken before its body is read and kept for as long as that, or what is answered, may take
    /// memory: there are only so many.
    pub fn begin(&self) -> Result<Turn<'_>, Problem> {
        let turn = self.under_way.try_acquire().map(Turn);
        turn.map_err(|_| Problem::new(ProblemKind::Overloaded, "Nothing was done. Send it again."))
    }

    /// Writes one message to a user, in the turn of who asks; the answer is what is wrong, if anything.
    pub async fn write(
        &self,
        _turn: &Turn<'_>,
        target: Target,
        kind: PayloadKind,
        payload: Bytes,
        from: Option<UserName>,
        subject: &str,
    ) -> Result<Option<Problem>, Problem> {
        order::check_subject(subject)?;
        let ApiLimits { message_bytes_max, batch_max, .. } = self.limits;
        let order = Order { from, subject: Some(subject.into()), ..Order::new(target, kind, payload) };
        let order = order.within(OrderLimits { message_bytes_max, batch_max })?;
        let outcomes = self.publish(vec![order]).await;
        Ok(outcomes.first().and_then(outcome::Outcome::problem))
    }

    pub fn limits(&self) -> &ApiLimits {
        &self.limits
    }

    pub fn body_limits(&self, bytes_max: usize) -> BodyLimits {
        BodyLimits { bytes_max, timeout: self.limits.body_timeout }
    }

    /// Ready when no request is under way.
    pub async fn all_answered(&self) {
        let all = u32::try_from(self.limits.requests_max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        drop(self.under_way.acquire_many(all).await);
    }
}

/// That all of it may be published.
fn check_rights(orders: &Orders, identity: &Identity) -> Result<(), Problem> {
    let orders = match orders {
        Orders::One(order) => std::slice::from_ref(order),
        Orders::Batch(orders) => &orders[..],
    };
    let is_denied = |order: &Order| !identity.rights.may_publish_to(&order.target);
    match orders.iter().position(is_denied) {
        None => Ok(()),
        Some(index) => {
            let problem = Problem::new(ProblemKind::Forbidden, "The token does not allow to publish there.");
            Err(if orders.len() > 1 { problem.at(index) } else { problem })
        }
    }
}

#[cfg(test)]
mod description;
