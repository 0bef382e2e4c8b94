//! What a session does that speaks `warren.v1.json`: requests, one after the other, and an answer to each.
//!
//! What is asked for is done before the next request is looked at, but for the broker's word on what was published, which
//! comes when it comes. So a client that publishes behind a subscription hears what it published.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::Session;
use crate::broker::{NotAccepted, Receipt, Settle};
use crate::cursor::Cursor;
use crate::hub::{Expected, Membership, Wish};
use crate::identity::may_hear;
use crate::inbound::Inbound;
use crate::interest::IN_FORCE_TIMEOUT;
use crate::message::{MessageId, PayloadKind, Target};
use crate::protocol::json::{
    self, ErrorCode, Notice, Refusal, Request, RequestId, Selection, SessionLimits, TOPICS_PER_REQUEST_MAX,
};
use crate::topic::Pattern;

/// Patterns with wildcards that one session may subscribe to: each message of a topic is looked up among all of them.
pub const WILDCARDS_MAX: usize = 100;

/// Off only in a build that is to be caught telling clients what they have left.
const UNSUBSCRIBES: bool = !cfg!(feature = "fault-no-unsubscribing");

/// What a session that speaks JSON has beside one that does not. Moved along with what is being done.
pub(super) struct Conversation {
    membership: Membership,
    subscribed: HashSet<Pattern>,
    hears_broadcast: bool,
}

impl Conversation {
    pub fn new(membership: Membership) -> Conversation {
        Conversation { membership, subscribed: HashSet::new(), hears_broadcast: false }
    }

    /// Does what a message asks for, and answers.
    pub async fn hear(&mut self, session: &Arc<Session>, kind: PayloadKind, payload: &[u8]) {
        let request = match kind {
            PayloadKind::Text => Request::parse(payload),
            PayloadKind::Binary => Err(Refusal::new(None, ErrorCode::NotText, "a request is a text message")),
        };
        if let Err(refusal) = self.grant(session, request).await {
            session.tell(&Notice::from(&refusal));
        }
    }

    async fn grant(&mut self, session: &Arc<Session>, request: Result<Request, Refusal>) -> Result<(), Refusal> {
        let id = match request? {
            Request::Subscribe { id, selection, since } => {
                let outcome = self.subscribe(session, id.clone(), selection, since.map(|since| *since)).await;
                return outcome.map_err(|(code, explanation)| Refusal::new(id, code, explanation));
            }
            Request::Unsubscribe { id, selection } => {
                self.unsubscribe(selection).await;
                id
            }
            Request::Publish { id, target, .. } if !session.may(|rights| rights.may_publish_to(&target)) => {
                return Err(Refusal::new(id, ErrorCode::Forbidden, "the token does not allow to publish there"));
            }
            Request::Publish { id, target, kind, payload } => {
                session.publish_and_tell(id, target, kind, payload).await;
                return Ok(());
            }
            Request::Send { id, destination, kind, payload } => {
                let target = Target::Backends(Arc::new(Inbound { destination, session: session.name() }));
                session.publish_and_tell(id, target, kind, payload).await;
                return Ok(());
            }
            Request::SendTo { id, to, is_kept, kind, payload } => {
                if let Err((code, explanation)) = session.send_to(id.clone(), to, is_kept, kind, payload).await {
                    return Err(Refusal::new(id, code, explanation));
                }
                return Ok(());
            }
            Request::Acknowledge { message_id } => {
                session.heed_acknowledgement(&message_id);
                return Ok(());
            }
            Request::Authenticate { id, token } => {
                let renewed = session.renew(token.as_str()).await;
                renewed.map_err(|reason| Refusal::new(id.clone(), ErrorCode::NotAuthenticated, reason))?;
                self.end_what_is_not_allowed(session).await;
                session.join_groups().await.map_err(|why| Refusal::new(id.clone(), code(why), why))?;
                id
            }
            Request::Ping { id } => {
                session.tell(&Notice::pong(id.as_ref()));
                return Ok(());
            }
        };
        if let Some(id) = id {
            session.tell(&Notice::ack(&id, None));
        }
        Ok(())
    }

    /// Ready when everything that is selected is heard, and the client told so. If that is refused nothing has changed.
    async fn subscribe(
        &mut self,
        session: &Session,
        id: Option<RequestId>,
        selection: Selection,
        since: Option<Cursor>,
    ) -> Result<(), (ErrorCode, String)> {
        if since.is_some()
            && let Err(reason) = session.sessions.limits().resumption
        {
            return Err((ErrorCode::NoResumption, reason.to_string()));
        }
        let there_are_tokens = session.sessions.verifier().is_some();
        if !may_hear(session.identity().as_deref(), there_are_tokens, &selection.patterns, selection.broadcast) {
            return Err((
                ErrorCode::Forbidden,
                "the token does not allow to hear this; nothing was subscribed".to_owned(),
            ));
        }
        let topics_max = session.sessions.limits().topics_per_session_max;
        let added: Vec<_> = selection.patterns.into_iter().filter(|one| !self.subscribed.contains(one)).collect();
        if self.subscribed.len() + added.len() > topics_max {
            let explanation = format!("a session has at most {topics_max} topics");
            return Err((ErrorCode::TooManyTopics, explanation));
        }
        let wildcards = self.subscribed.iter().chain(&added).filter(|pattern| pattern.as_topic().is_none()).count();
        if wildcards > WILDCARDS_MAX {
            let explanation = format!("a session has at most {WILDCARDS_MAX} patterns with wildcards");
            return Err((ErrorCode::TooManyTopics, explanation));
        }
        let wish = Wish::new(selection.broadcast && !self.hears_broadcast, &added);
        let expected = self.membership.expect(added.clone());
        if !are_in_force(session, &expected).await {
            let explanation = "the broker does not deliver these topics yet; nothing was subscribed".to_owned();
            return Err((ErrorCode::NotInForce, explanation));
        }
        let told = move |at: &Cursor| id.map(|id| Notice::subscribed(&id, at).frame());
        let entered = session.go_on(&mut self.membership, wish, expected, since, Box::new(told)).await;
        entered.map_err(|reason| (ErrorCode::NotInForce, reason.to_string()))?;
        self.subscribed.extend(added);
        self.hears_broadcast |= selection.broadcast;
        Ok(())
    }

    /// Ready when nothing is heard any more that the session's new token does not grant.
    async fn end_what_is_not_allowed(&mut self, session: &Session) {
        let Some(identity) = session.identity() else { return };
        let rights = &identity.rights;
        let ended = self.subscribed.iter().filter(|pattern| !rights.may_subscribe(pattern)).cloned().collect();
        self.unsubscribe(Selection { patterns: ended, broadcast: !rights.may_hear_broadcast() }).await;
    }

    /// Ready when nothing that is selected is heard any more.
    async fn unsubscribe(&mut self, selection: Selection) {
        for pattern in &selection.patterns {
            if self.subscribed.remove(pattern) && UNSUBSCRIBES {
                self.membership.unsubscribe(pattern);
            }
        }
        if selection.broadcast && std::mem::replace(&mut self.hears_broadcast, false) {
            self.membership.leave();
        }
        self.membership.caught_up().await;
    }
}

/// Whether all of these are in force in time. Who is to leave waits no longer.
async fn are_in_force(session: &Session, expected: &Expected) -> bool {
    // The session's task is woken for either, and looks again.
    let ends = poll_fn(|_| if session.is_over() { Poll::Ready(()) } else { Poll::Pending });
    tokio::select! {
        biased;
        within = tokio::time::timeout(IN_FORCE_TIMEOUT, expected.are_in_force()) => within.is_ok(),
        () = ends => false,
    }
}

impl Session {
    /// The first notice of all, to a client whose handshake is not answered yet.
    pub(super) fn welcome(&self) {
        let limits = self.sessions.limits();
        self.tell(&Notice::Welcome {
            protocol: json::NAME.into(),
            session: self.name().as_str().into(),
            instance: self.sessions.message_ids().incarnation().name().as_str().into(),
            limits: SessionLimits {
                message_bytes_max: limits.message_bytes_max,
                topics_per_session_max: limits.topics_per_session_max,
                topics_per_request_max: TOPICS_PER_REQUEST_MAX,
                pending_requests_max: limits.pending_requests_max,
            },
        });
    }

    pub(super) fn tell(&self, notice: &Notice<'_>) {
        self.post(&notice.frame());
    }

    /// Publishes, and tells the client what became of it once that is known. Waits while that is not known of too many.
    async fn publish_and_tell(
        self: &Arc<Self>,
        request: Option<RequestId>,
        target: Target,
        kind: PayloadKind,
        payload: Bytes,
    ) {
        self.room_for_one_more().await;
        // A client that is gone, or to leave, has been read no further than this: what was read is published.
        let message_id = self.sessions.message_ids().next();
        let receipt = self.receipt(request, &message_id);
        self.hand_over(message_id, target, kind, payload, receipt).await;
    }

    /// Ready when the outcome of few enough messages is not known.
    pub(super) async fn room_for_one_more(&self) {
        let pending_max = self.sessions.limits().pending_requests_max;
        poll_fn(|_| self.poll_unsettled_below(pending_max)).await;
    }

    /// By which the client is told what became of a message.
    pub(super) fn receipt(self: &Arc<Self>, request: Option<RequestId>, message_id: &MessageId) -> Receipt {
        Receipt::to(Arc::new(Publication { session: self.clone(), request, message_id: message_id.clone() }))
    }
}

/// Something that a client published, of which it wants to hear.
struct Publication {
    session: Arc<Session>,
    request: Option<RequestId>,
    message_id: MessageId,
}

impl Settle for Publication {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        match outcome {
            Ok(()) => {
                if let Some(request) = &self.request {
                    self.session.tell(&Notice::ack(request, Some(&self.message_id)));
                }
            }
            Err(reason) => {
                log::debug!("{}: message not accepted: {reason}", self.session.id);
                let refusal = Refusal::new(self.request.clone(), code(reason), reason);
                self.session.tell(&Notice::from(&refusal));
                self.session.sessions.note_refused();
            }
        }
        self.session.note_settled();
    }
}

fn code(reason: NotAccepted) -> ErrorCode {
    match reason {
        NotAccepted::SpoolFull => ErrorCode::SpoolFull,
        NotAccepted::Unconfirmed => ErrorCode::Unconfirmed,
        NotAccepted::Stopping => ErrorCode::Stopping,
        NotAccepted::NoBackend => ErrorCode::NoBackend,
        NotAccepted::QueueFull => ErrorCode::QueueFull,
        NotAccepted::WithoutBackends => ErrorCode::WithoutBackends,
        NotAccepted::MailboxFull => ErrorCode::MailboxFull,
        NotAccepted::NoMailbox => ErrorCode::NoMailbox,
        NotAccepted::NoMembers => ErrorCode::NoMembers,
        NotAccepted::NotConnected => ErrorCode::NotConnected,
        NotAccepted::NoInstance => ErrorCode::Unconfirmed,
    }
}
