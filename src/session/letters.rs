//! What a session does for what is kept for its user: it is given letters, and shows that it has them.
//!
//! A client of `warren.v1.json` acknowledges each by its id. A plain one is sent a ping behind them, whose payload says up
//! to which, and its pong shows that it has read so far (RFC 6455 §5.5.3). Event streams can show nothing: they are given what
//! comes while another session of the user can, or is kept nowhere.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use crate::broker::{LETTERS_UNACKNOWLEDGED_MAX, NotAccepted};
use crate::close::CloseReason;
use crate::cursor::Cursor;
use crate::hub::encode_one;
use crate::identity::Role;
use crate::message::{Message, MessageId, PayloadKind, Target, now_unix_ms};
use crate::outbox::Verdict;
use crate::protocol::frame;
use crate::protocol::json::{Addressee, ErrorCode, Notice, Refusal, RequestId};
use crate::terms::Terms;
use crate::user::UserName;
use crate::users::Recipient;

/// Letters that may wait for a client whatever their size; more have to be within `outbox_bytes_max`. So many a mailbox gives
/// without an acknowledgement, and as many may be on their way yet that another instance had of it before.
const LETTERS_OF_ANY_SIZE: usize = 2 * LETTERS_UNACKNOWLEDGED_MAX as usize;

impl Recipient for Session {
    fn number(&self) -> u64 {
        self.id.0
    }

    /// What is kept comes only so far ahead of acknowledgements, but not what is kept nowhere, what other instances read, or
    /// what another session acknowledges. Who does not read all that is closed, whatever is done with slow readers, and
    /// has what is kept on coming back: a letter that was left out would never come.
    fn give(&self, message: &Message) {
        let letter = encode_one(message, self.format, &Cursor::default());
        let bytes_max = self.sessions.limits().outbox_bytes_max;
        if self.outbox.send_letter(letter, LETTERS_OF_ANY_SIZE, bytes_max) == Verdict::Full {
            self.close(CloseReason::TooSlow);
        }
    }

    fn acknowledges(&self) -> bool {
        !self.format.is_events()
    }

    fn prove(&self, letter: u64) {
        if let Some(holder) = self.holder().filter(|_| !self.format.is_json() && !self.format.is_events()) {
            holder.asks_for_proof(letter);
            self.send(&frame::ping(&letter.to_be_bytes()));
        }
    }

    fn tell_unacknowledged(&self) {
        if self.format.is_json() {
            let explanation = "what this user was sent is not acknowledged: no more comes until something is";
            self.tell(&Notice::from(&Refusal::new(None, ErrorCode::Unacknowledged, explanation)));
        }
    }
}

/// What a ping behind letters says.
fn number(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_be_bytes)
}

impl Session {
    /// Whose letters it is given, if it is anybody's.
    fn addressee(&self) -> Option<UserName> {
        Some(self.identity()?.user.clone())
    }

    pub(super) fn begin_letters(self: &Arc<Self>) {
        if let Some(user) = self.addressee() {
            self.sessions.users().arrive(&user, self.clone());
        }
    }

    pub(super) fn end_letters(&self) {
        if let Some(user) = self.addressee() {
            self.sessions.users().leave(&user, self.id.0);
        }
    }

    /// Has its user belong to the groups that the token names.
    pub(super) async fn join_groups(&self) -> Result<(), NotAccepted> {
        match self.identity() {
            Some(identity) => self.sessions.users().join_all(&identity.user, &identity.groups).await,
            None => Ok(()),
        }
    }

    /// A pong may answer a ping behind letters.
    pub(super) fn heed_proof(&self, payload: &[u8]) {
        if let Some(user) = self.addressee()
            && let Some(letter) = number(payload)
            && self.holder().is_some_and(|holder| holder.takes_proof(letter))
        {
            self.sessions.users().proved(&user, letter);
        }
    }

    /// Whether a pong is such an answer: the client did not choose to send it.
    pub(super) fn may_be_proof(&self, payload: &[u8]) -> bool {
        number(payload).is_some_and(|letter| self.holder().is_some_and(|holder| holder.awaits_proof(letter)))
    }

    pub(super) fn heed_acknowledgement(&self, message: &MessageId) {
        if let Some(user) = self.addressee() {
            self.sessions.users().acknowledge(&user, message);
        }
    }

    /// Sends something to a user or a group in the name of its own user, and tells the client what became of it.
    pub(super) async fn send_to(
        self: &Arc<Self>,
        request: Option<RequestId>,
        to: Addressee,
        is_kept: bool,
        kind: PayloadKind,
        payload: Bytes,
    ) -> Result<(), (ErrorCode, String)> {
        let from = self.identity().filter(|identity| identity.rights.has(Role::Send));
        let Some(from) = from.map(|identity| identity.user.clone()) else {
            return Err((ErrorCode::Forbidden, "only who is signed in, with the role send, writes to users".into()));
        };
        self.room_for_one_more().await;
        let id = self.sessions.message_ids().next();
        let receipt = self.receipt(request, &id);
        let target = match &to {
            Addressee::User(user) => Target::User(user.clone()),
            Addressee::Group(group) => Target::Group(group.clone()),
        };
        let terms = Some(Arc::new(Terms { from: Some(from), ..Terms::default() }));
        let message = Message { id: Some(id), target, kind, published_ms: now_unix_ms(), terms, payload };
        self.note_unsettled(message.payload.len());
        match to {
            Addressee::User(user) if !is_kept => self.sessions.users().send_if_connected(&user, message, receipt),
            Addressee::User(_) | Addressee::Group(_) => self.sessions.broker().publish(message, receipt).await,
        }
        Ok(())
    }
}
