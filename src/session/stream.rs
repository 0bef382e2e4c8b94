//! What an event stream has that a WebSocket has not, and the other way round.
//!
//! Its client says nothing: there are no pings to be answered, no close frame to come back, and whatever it sends behind
//! its request is passed over. It ends as its TCP connection does. A browser connects again by itself, after the time that
//! the stream names.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Session, Start};
use crate::close::CloseReason;
use crate::place::{Gap, Scope};
use crate::protocol::events;
use crate::protocol::json::Notice;

impl Session {
    /// The first of a stream, to a client whose request is not answered yet.
    pub(super) fn greet(&self, start: &Start) {
        self.post(&events::retry(self.reconnection_ms()));
        match start {
            Start::Now(at) if !at.is_empty() => self.post(&events::place(&at.to_string())),
            Start::AfterAbsence => self.post(&Notice::gap(Gap { scope: Scope::Everything, missing: None }).event()),
            Start::Now(_) | Start::Since(_) => {}
        }
    }

    /// The last of one.
    pub(super) fn farewell(&self, reason: &CloseReason) -> Bytes {
        let retry_after_ms = matches!(reason, CloseReason::GoingAway { .. }).then(|| self.reconnection_ms());
        events::farewell(reason.name(), retry_after_ms)
    }

    /// Says something if nothing was said on purpose for so long.
    pub(super) fn keep_streaming(&self, waited_ms: u32) {
        if waited_ms >= self.sessions.limits().ping_interval_ms {
            self.mark_now();
            self.send(&events::heartbeat());
        }
    }

    /// The client's end of the connection is closed, or was before it read all: of a stream's client that is all the
    /// good-bye there is.
    pub(super) fn note_end(&self) {
        if self.format.is_events() && !self.ended.swap(true, Ordering::AcqRel) {
            self.sessions.metrics().closed(&CloseReason::ByClient(None));
        }
    }

    /// Lets the kernel give up a client that acknowledges nothing, heartbeats least of all, as a WebSocket's idle timeout
    /// would: without it that takes a quarter of an hour.
    pub(super) fn bound_silence(&self, stream: &impl AsFd) {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, self.sessions.limits().idle_timeout_ms) {
            log::debug!("{}: TCP_USER_TIMEOUT: {error}", self.id);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = stream;
    }

    /// A time of this session's own, so that not all come again at once; never next to nothing, as a browser that finds
    /// nobody keeps trying at this interval.
    fn reconnection_ms(&self) -> u32 {
        let max_ms = self.sessions.limits().retry_after_max_ms.max(1);
        fastrand::u32(max_ms.div_ceil(2)..=max_ms)
    }
}
