//! Whose a session is, and until when. What a session that is anybody's need not have.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::Session;
use crate::close::CloseReason;
use crate::identity::{Identity, Rights, Unverified};
use crate::message::now_unix_ms;
use crate::protocol::json::Notice;

/// How long before its end a session that can be told is.
const NOTICE_MS: u64 = 30_000;

/// Somebody, who may be renewed.
pub(super) struct Holder {
    identity: RwLock<Arc<Identity>>,
    /// That the end is near.
    told: AtomicBool,
    /// The last letter behind which a ping was sent, and the last that a pong has shown to be there.
    asked: AtomicU64,
    proved: AtomicU64,
}

/// Why somebody is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotRenewed {
    #[error("{0}")]
    Token(#[from] Unverified),
    #[error("the token is another user's")]
    AnotherUser,
    #[error("this session began without a token: connect with one")]
    Nobody,
}

impl Holder {
    pub fn new(identity: Arc<Identity>) -> Holder {
        Holder {
            identity: RwLock::new(identity),
            told: AtomicBool::default(),
            asked: AtomicU64::default(),
            proved: AtomicU64::default(),
        }
    }

    /// Notes a ping behind a letter; their numbers, from 1, only grow.
    pub fn asks_for_proof(&self, letter: u64) {
        self.asked.fetch_max(letter, Ordering::Relaxed);
    }

    /// Whether a ping with this number is to be answered. Anything else is the client's own.
    pub fn awaits_proof(&self, letter: u64) -> bool {
        letter > self.proved.load(Ordering::Relaxed) && letter <= self.asked.load(Ordering::Relaxed)
    }

    /// Takes the answer, if it is one. One may stand for those before it (RFC 6455 §5.5.3).
    pub fn takes_proof(&self, letter: u64) -> bool {
        let is_proof = self.awaits_proof(letter);
        if is_proof {
            self.proved.fetch_max(letter, Ordering::Relaxed);
        }
        is_proof
    }

    fn current(&self) -> Arc<Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn renew(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        self.told.store(false, Ordering::Relaxed);
    }

    /// Milliseconds until the end.
    fn left_ms(&self, unix_ms: u64) -> u64 {
        let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        identity.expires_s.map_or(u64::MAX, |ends_s| ends_s.saturating_mul(1000).saturating_sub(unix_ms))
    }
}

impl Session {
    /// Whose it is, as far as that is known.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.holder().map(Holder::current)
    }

    /// Whether its holder's rights allow something. A session that is anybody's may do everything.
    pub(super) fn may(&self, allows: impl FnOnce(&Rights) -> bool) -> bool {
        self.identity().is_none_or(|identity| allows(&identity.rights))
    }

    /// Whether [`Session::look_at_holder`] has something to do.
    pub(super) fn is_ending(&self, unix_ms: u64) -> bool {
        let Some(holder) = self.holder().filter(|_| !self.has_ended()) else { return false };
        let left_ms = holder.left_ms(unix_ms);
        let is_to_be_told = self.format.is_json() && !holder.told.load(Ordering::Relaxed);
        left_ms == 0 || (is_to_be_told && left_ms <= NOTICE_MS)
    }

    /// Ends a session whose holder's token has ended, and tells before, if it can be told.
    pub(super) fn look_at_holder(&self, unix_ms: u64) {
        let Some(holder) = self.holder() else { return };
        let left_ms = holder.left_ms(unix_ms);
        if left_ms == 0 {
            self.close(CloseReason::Expired);
        } else if self.format.is_json() && left_ms <= NOTICE_MS && !holder.told.swap(true, Ordering::Relaxed) {
            self.tell(&Notice::Expiring { in_ms: left_ms });
        }
    }

    /// Has the session go on by another token of the same user.
    pub(super) async fn renew(&self, token: &str) -> Result<(), NotRenewed> {
        let (Some(holder), Some(verifier)) = (self.holder(), self.sessions.verifier()) else {
            return Err(NotRenewed::Nobody);
        };
        let identity = verifier.verify(token).await?;
        if identity.user != holder.current().user {
            return Err(NotRenewed::AnotherUser);
        }
        holder.renew(identity);
        // It may end at once.
        self.look_at_holder(now_unix_ms());
        Ok(())
    }
}
