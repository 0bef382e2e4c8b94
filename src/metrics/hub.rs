//! The fan-out. Everything here is moved once a batch and worker, never once a delivery.

use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper ends of the latencies' buckets in seconds: from what an idle instance takes to what a long outage does.
const LATENCY_BUCKETS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Moved by the hub and its workers. A cheap handle.
#[derive(Clone)]
pub struct HubMetrics {
    broadcast_messages: Counter,
    broadcast_bytes: Counter,
    deliveries: Counter,
    delivered_bytes: Counter,
    replayed: Counter,
    fan_out: Histogram,
    end_to_end: Histogram,
}

impl Default for HubMetrics {
    fn default() -> HubMetrics {
        HubMetrics {
            broadcast_messages: Counter::default(),
            broadcast_bytes: Counter::default(),
            deliveries: Counter::default(),
            delivered_bytes: Counter::default(),
            replayed: Counter::default(),
            fan_out: Histogram::new(LATENCY_BUCKETS),
            end_to_end: Histogram::new(LATENCY_BUCKETS),
        }
    }
}

impl HubMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "broadcast_messages",
            "Messages of the broker that were meant for the sessions here",
            self.broadcast_messages.clone(),
        );
        registry.register_with_unit(
            "broadcast",
            "Payload of the messages of the broker that were meant for the sessions here",
            Unit::Bytes,
            self.broadcast_bytes.clone(),
        );
        registry.register(
            "deliveries",
            "Messages handed to sessions, one for each message and session",
            self.deliveries.clone(),
        );
        registry.register_with_unit(
            "delivered",
            "Encoded frames handed to sessions, compressed where that was negotiated",
            Unit::Bytes,
            self.delivered_bytes.clone(),
        );
        registry.register(
            "replayed_messages",
            "Messages of the past handed to sessions that asked for them, one for each message and session",
            self.replayed.clone(),
        );
        registry.register_with_unit(
            "fan_out",
            "Time from when the hub took a batch until a worker had handed it to the last of its sessions",
            Unit::Seconds,
            self.fan_out.clone(),
        );
        registry.register_with_unit(
            "end_to_end",
            "Time from when a client's message was read here until it was back from the broker and handed to sessions",
            Unit::Seconds,
            self.end_to_end.clone(),
        );
    }

    /// A batch goes to the workers.
    pub fn broadcast(&self, messages: u64, payload_bytes: u64) {
        self.broadcast_messages.inc_by(messages);
        self.broadcast_bytes.inc_by(payload_bytes);
    }

    /// A worker has handed a batch to all its sessions.
    pub fn delivered(&self, deliveries: u64, bytes: u64) {
        self.deliveries.inc_by(deliveries);
        self.delivered_bytes.inc_by(bytes);
    }

    /// A session that asked for the past was given so much.
    pub fn replayed(&self, messages: u64) {
        self.replayed.inc_by(messages);
    }

    /// At that: when the hub took the batch, and when the first of our own clients' messages in it was read.
    pub fn latencies(&self, taken: Instant, read: Option<Instant>) {
        self.fan_out.observe(taken.elapsed().as_secs_f64());
        if let Some(read) = read {
            self.end_to_end.observe(read.elapsed().as_secs_f64());
        }
    }
}
