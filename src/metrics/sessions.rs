//! Sessions and what their clients say.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Labelled, counters};
use crate::close::CloseReason;

const REASON: &str = "reason";

/// The reason of a session that ended without a close: neither side said good-bye.
const LOST: &str = "lost";

/// Why a handshake opens no session, as `warren_handshakes_refused_total` names it.
pub const REFUSALS: [&str; 19] = [
    "not_an_upgrade",
    "unknown_version",
    "bad_host",
    "bad_key",
    "bad_extensions",
    "bad_subprotocols",
    "foreign_origin",
    "bad_query",
    "bad_topic",
    "not_replayed",
    "unauthorized",
    "cannot_verify",
    "forbidden",
    "not_attached",
    "not_in_force",
    "full",
    "address_full",
    "user_full",
    "stopping",
];

/// Why a connection that was no session is ended, as `warren_connections_cut_total` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The oldest of more than `--handshakes-max`.
    TooMany,
    /// Its request did not come in time.
    Silent,
    /// Its request's head passes `--request-head-bytes-max`, or has too many lines.
    HeadTooLarge,
    /// What came is no request.
    Malformed,
    /// It held its socket for too long.
    TooLong,
}

impl Cut {
    pub const ALL: [Cut; 5] = [Cut::TooMany, Cut::Silent, Cut::HeadTooLarge, Cut::Malformed, Cut::TooLong];

    pub fn name(self) -> &'static str {
        match self {
            Cut::TooMany => "too_many",
            Cut::Silent => "silent",
            Cut::HeadTooLarge => "head_too_large",
            Cut::Malformed => "malformed",
            Cut::TooLong => "too_long",
        }
    }
}

/// Moved by the registry of sessions, by each session, and by the handshake. A cheap handle.
#[derive(Clone)]
pub struct SessionMetrics {
    open: Gauge,
    /// Those among them that are event streams.
    event_streams: Gauge,
    opened: Counter,
    closed: Labelled<Counter>,
    refused: Labelled<Counter>,
    cut: Labelled<Counter>,
    received_messages: Counter,
    received_bytes: Counter,
    outbox_bytes: Gauge,
    missed: Counter,
}

impl Default for SessionMetrics {
    fn default() -> SessionMetrics {
        SessionMetrics {
            open: Gauge::default(),
            event_streams: Gauge::default(),
            opened: Counter::default(),
            closed: counters(REASON, CloseReason::NAMES.into_iter().chain([LOST])),
            refused: counters(REASON, REFUSALS),
            cut: counters(REASON, Cut::ALL.map(Cut::name)),
            received_messages: Counter::default(),
            received_bytes: Counter::default(),
            outbox_bytes: Gauge::default(),
            missed: Counter::default(),
        }
    }
}

impl SessionMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("sessions", "Sessions that are open, closing ones among them", self.open.clone());
        registry.register(
            "event_streams",
            "Sessions that are open as event streams, closing ones among them",
            self.event_streams.clone(),
        );
        registry.register("sessions_opened", "Sessions that were opened", self.opened.clone());
        registry.register("sessions_closed", "Sessions that began to close, by reason", self.closed.clone());
        registry.register(
            "handshakes_refused",
            "Requests on /message and /events that opened no session, by reason",
            self.refused.clone(),
        );
        registry.register(
            "connections_cut",
            "Connections that were ended before they became sessions, by reason",
            self.cut.clone(),
        );
        registry.register(
            "received_messages",
            "Messages of clients that were handed to the broker",
            self.received_messages.clone(),
        );
        registry.register_with_unit(
            "received",
            "Payload of the messages of clients that were handed to the broker",
            Unit::Bytes,
            self.received_bytes.clone(),
        );
        registry.register_with_unit(
            "outbox_waiting",
            "Bytes that wait in the outboxes of all sessions",
            Unit::Bytes,
            self.outbox_bytes.clone(),
        );
        registry.register(
            "missed_messages",
            "Messages that were left out for slow readers, one for each message and session",
            self.missed.clone(),
        );
    }

    /// A session stands.
    pub fn opened(&self, is_event_stream: bool) {
        self.opened.inc();
        self.open.inc();
        if is_event_stream {
            self.event_streams.inc();
        }
    }

    /// A session is gone.
    pub fn gone(&self, was_event_stream: bool) {
        self.open.dec();
        if was_event_stream {
            self.event_streams.dec();
        }
    }

    /// The server begins to close a session, also in answer to the client.
    pub fn closed(&self, reason: &CloseReason) {
        self.closed.get_or_create(&[(REASON, reason.name())]).inc();
    }

    /// A session's connection ended, and nobody had begun to close it.
    pub fn lost(&self) {
        self.closed.get_or_create(&[(REASON, LOST)]).inc();
    }

    /// A handshake was refused, for one of [`REFUSALS`].
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[(REASON, reason)]).inc();
    }

    /// A connection that is no session is ended.
    pub fn cut(&self, reason: Cut) {
        self.cut.get_or_create(&[(REASON, reason.name())]).inc();
    }

    /// A client's message goes to the broker.
    pub fn received(&self, payload_bytes: usize) {
        self.received_messages.inc();
        self.received_bytes.inc_by(payload_bytes as u64);
    }

    /// Messages were left out for a client that reads too slowly.
    pub fn missed(&self, messages: u32) {
        self.missed.inc_by(messages.into());
    }

    pub(super) fn read(&self, outbox_bytes: usize) {
        self.outbox_bytes.set(i64::try_from(outbox_bytes).unwrap_or(i64::MAX));
    }
}
