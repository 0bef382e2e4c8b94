//! From orders to their outcomes: into the broker's spool, then until its confirm.
//!
//! Handing a message over and hearing what became of it are two steps. Until the broker has taken a message it can be
//! withdrawn, by dropping the future that hands it over: because there was no room for it in time, or because the client
//! hung up. Then it is certain that nobody gets it. From then on nothing withdraws it: who waits no longer can only say that
//! the outcome is not known.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Api;
use super::order::Order;
use super::outcome::{Outcome, Why};
use crate::broker::{NotAccepted, Receipt, Settle};
use crate::message::{Message, MessageId, Target, now_unix_ms};
use crate::terms::Terms;

type Settled = Result<(), NotAccepted>;

/// A message that was handed over.
struct Pending {
    id: MessageId,
    /// What became of it, where that was known at once.
    known: Option<Settled>,
    settled: oneshot::Receiver<Settled>,
}

/// What tells a request what became of its message, if it still waits.
struct Ear(Mutex<Option<oneshot::Sender<Settled>>>);

impl Settle for Ear {
    fn settled(&self, outcome: Settled) {
        if let Some(ear) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody listens any more where the client hung up.
            let _ = ear.send(outcome);
        }
    }
}

impl Api {
    /// Publishes in order, and tells of each what became of it. Once one is not taken, none behind it is: it would
    /// overtake.
    pub(super) async fn publish(&self, orders: Vec<Order>) -> Vec<Outcome> {
        let mut all = Vec::with_capacity(orders.len());
        let mut refused = None;
        let deadline = Instant::now() + self.limits.spool_wait;
        for order in orders {
            let pending = self.hand_over(order, refused, deadline).await;
            refused = pending.known.and_then(Result::err).filter(|reason| *reason != NotAccepted::Unconfirmed);
            all.push(pending);
        }
        self.await_confirms(all).await
    }

    /// Waits until the broker has taken the message, or refused it; or passes an earlier refusal on.
    async fn hand_over(&self, order: Order, refused: Option<NotAccepted>, deadline: Instant) -> Pending {
        let is_kept = order.is_kept;
        let (id, message) = self.message(order);
        let (ear, mut settled) = oneshot::channel();
        if let Some(reason) = refused {
            return Pending { id, known: Some(Err(reason)), settled };
        }
        let receipt = Receipt::to(Arc::new(Ear(Mutex::new(Some(ear)))));
        if let (false, Target::User(user)) = (is_kept, message.target.clone()) {
            self.users.send_if_connected(&user, message, receipt);
            return Pending { id, known: settled.try_recv().ok(), settled };
        }
        let known = match timeout_at(deadline, self.broker.publish(message, receipt)).await {
            Ok(()) => settled.try_recv().ok(),
            // Withdrawn, as the broker promises.
            Err(_) => Some(Err(NotAccepted::SpoolFull)),
        };
        Pending { id, known, settled }
    }

    async fn await_confirms(&self, all: Vec<Pending>) -> Vec<Outcome> {
        let deadline = Instant::now() + self.limits.answer_wait;
        let mut outcomes = Vec::with_capacity(all.len());
        for Pending { id, known, settled } in all {
            let settled = match known {
                Some(known) => Some(known),
                None => timeout_at(deadline, settled).await.ok().and_then(Result::ok),
            };
            outcomes.push(outcome(id, settled));
        }
        outcomes
    }

    /// With its id: of a message with an idempotency key the same whenever and wherever it is repeated.
    fn message(&self, order: Order) -> (MessageId, Message) {
        let Order { target, kind, payload, ttl_ms, key, from, subject, is_kept: _ } = order;
        let published_ms = now_unix_ms();
        let expires_ms = ttl_ms.map(|ttl_ms| published_ms.saturating_add(ttl_ms));
        let terms = Terms { idempotency_key: key, expires_ms, from, subject, ..Terms::default() };
        let id = terms.fingerprint(&target).map_or_else(|| self.message_ids.next(), MessageId::of_repeatable);
        let terms = (terms != Terms::default()).then(|| Arc::new(terms));
        (id.clone(), Message { id: Some(id), target, kind, published_ms, terms, payload })
    }
}

/// By what was settled in time, if anything.
fn outcome(id: MessageId, settled: Option<Settled>) -> Outcome {
    match settled {
        Some(Ok(())) => Outcome::Published(id),
        Some(Err(NotAccepted::SpoolFull)) => Outcome::NotSpooled(id),
        Some(Err(NotAccepted::Stopping)) => Outcome::Stopping(id),
        Some(Err(NotAccepted::Unconfirmed)) | None => Outcome::Unknown(id),
        // Told of what is said to backends alone, which no request here is.
        Some(Err(NotAccepted::NoBackend | NotAccepted::QueueFull | NotAccepted::WithoutBackends)) => {
            Outcome::Unknown(id)
        }
        Some(Err(NotAccepted::MailboxFull)) => Outcome::Refused(id, Why::MailboxFull),
        Some(Err(NotAccepted::NoMailbox)) => Outcome::Refused(id, Why::NoMailbox),
        Some(Err(NotAccepted::NoMembers)) => Outcome::Refused(id, Why::NoMembers),
        Some(Err(NotAccepted::NotConnected | NotAccepted::NoInstance)) => Outcome::Refused(id, Why::NotConnected),
    }
}

#[cfg(test)]
mod tests;
