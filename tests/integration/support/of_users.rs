//! What a registry of sessions has for those that are somebody's, where a test builds one itself.

use std::sync::Arc;
use std::time::Duration;

use warren::broker::memory::MemoryMailboxes;
use warren::broker::{Broker, MailboxBounds};
use warren::message::MessageIds;
use warren::metrics::LetterMetrics;
use warren::presence::Presence;
use warren::session::{Limits, OfUsers, SlowReader};
use warren::users::{Manner, Unread, Users};

/// Mailboxes of its own, and no tokens.
pub fn of_users(ids: &MessageIds, broker: Arc<dyn Broker>, presence: Presence) -> OfUsers {
    let day = Duration::from_secs(86_400);
    let bounds = MailboxBounds { messages_max: 10, bytes_max: 1000, age_max: day, idle_max: day };
    let mailboxes = Arc::new(MemoryMailboxes::start(bounds));
    let (own, whereabouts) = (ids.incarnation().name().clone(), Arc::new(presence.clone()));
    let manner = Manner { acknowledgement_timeout: day, unread: Unread::Push, mailbox_idle: day };
    OfUsers {
        verifier: None,
        presence,
        users: Users::start(own, broker, mailboxes, whereabouts, manner, LetterMetrics::default()),
    }
}

/// Room for ten sessions; everything short.
pub fn limits() -> Limits {
    Limits {
        message_bytes_max: 100,
        rate: None,
        outbox_bytes_max: 1000,
        slow_reader: SlowReader::Disconnect,
        sessions_max: 10,
        sessions_per_address_max: 0,
        ping_interval_ms: 1000,
        idle_timeout_ms: 2000,
        topics_per_session_max: 1,
        pending_requests_max: 1,
        close_timeout_ms: 1000,
        retry_after_max_ms: 1,
        resumption: Ok(()),
        answer_keep_alive: false,
    }
}
