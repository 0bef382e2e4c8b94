//! How all sessions end when the instance stops: in portions, so that their clients do not come back all at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Session, Sessions};
use crate::close::CloseReason;

/// Time that each session adds to a drain, as long as there is some: a thousand a second is little for those who take
/// the clients over, and a stop with few sessions takes no notable time.
const STEP_PER_SESSION: Duration = Duration::from_millis(1);

/// Time from one portion to the next.
const PORTION_INTERVAL: Duration = Duration::from_millis(10);

impl Sessions {
    /// Lets nobody in any more. Those who are in go on as before.
    pub fn refuse_new(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Lets every session leave, a portion at a time and all of them within `span_max`, and waits until they are gone.
    /// Nothing more is read of one who leaves; what was read is settled, and then the client is told. The caller bounds
    /// the wait.
    pub async fn drain(&self, span_max: Duration) {
        self.refuse_new();
        self.all_leave.store(true, Ordering::Release);
        let mut waiting = self.snapshot(|_| true);
        let portion = portion(waiting.len(), span_max);
        while !waiting.is_empty() {
            for session in waiting.drain(waiting.len().saturating_sub(portion)..) {
                session.leave();
            }
            if !waiting.is_empty() {
                tokio::time::sleep(PORTION_INTERVAL).await;
            }
        }
        self.all_gone().await;
    }

    /// Waits until nobody is there any more.
    pub async fn all_gone(&self) {
        loop {
            let left = self.left.notified();
            if self.count() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Closes at once who is still there. Whoever has a message whose outcome is not known is told so.
    pub fn close_rest(&self) {
        for session in self.snapshot(|_| true) {
            session.close(if session.is_settled() { session.going_away() } else { CloseReason::NotAccepted });
        }
    }

    /// Gives up every connection that still stands.
    pub fn cut_rest(&self) {
        for session in self.snapshot(|_| true) {
            session.outbox.abort();
        }
    }

    /// Messages of clients that the broker has not confirmed: those whose outcome is not known, and those that it did
    /// not take since nobody comes in any more.
    pub fn unconfirmed(&self) -> usize {
        self.unsettled.load(Ordering::Acquire) + self.refused.load(Ordering::Acquire)
    }

    /// A client's message was not taken. Called before it ceases to be unsettled.
    pub(super) fn note_refused(&self) {
        if self.is_draining() {
            self.refused.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Session {
    /// Asks the session's task to read nothing more and to close once all that was read is settled.
    pub(super) fn leave(self: &Arc<Self>) {
        self.leaving.store(true, Ordering::Release);
        self.outbox.wake();
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The reason for which a stopping instance closes, with a time to come back at of this session's own.
    pub(super) fn going_away(&self) -> CloseReason {
        CloseReason::GoingAway { retry_after_ms: fastrand::u32(1..=self.sessions.limits().retry_after_max_ms.max(1)) }
    }
}

/// Sessions that leave together.
fn portion(sessions: usize, span_max: Duration) -> usize {
    let span = STEP_PER_SESSION.saturating_mul(sessions.try_into().unwrap_or(u32::MAX)).min(span_max);
    let pauses = span.as_millis() / PORTION_INTERVAL.as_millis();
    sessions.div_ceil(usize::try_from(pauses).unwrap_or(usize::MAX).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses that so many sessions make.
    fn pauses(sessions: usize, span_max_ms: u64) -> usize {
        sessions.div_ceil(portion(sessions, Duration::from_millis(span_max_ms))) - 1
    }

    #[test]
    fn few_sessions_leave_at_once_and_many_take_the_time_there_is() {
        for few in 1..10 {
            assert_eq!(pauses(few, 5_000), 0);
        }
        assert_eq!(portion(1_000, Duration::from_secs(5)), 10);
        assert_eq!(pauses(1_000, 5_000), 99);
        assert_eq!(pauses(1_000_000, 5_000), 500);
        assert_eq!(pauses(1_000_000, 0), 0);
    }

    #[test]
    fn no_number_of_sessions_takes_longer_than_there_is_time() {
        for sessions in [1, 10, 11, 499, 500, 501, 5_001, 99_999] {
            assert!(pauses(sessions, 500) <= 50, "{sessions}");
        }
    }
}
