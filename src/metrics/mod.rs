//! What the instance counts about itself, and how that is written for Prometheus.
//!
//! Owns the families' names and help texts and is the only place that knows the crate behind them. Refuses labels that
//! grow with use: no session, user, topic or address is one. Invariant: whoever changes a state moves its metric there
//! and then; what can be asked at any time (bytes that wait, the link, ages) is read when it is rendered. What happens
//! once a delivery is counted once a batch. `docs/metrics.md` describes each family, and a test compares the two.

mod broker;
mod http;
mod hub;
mod letters;
mod presence;
mod sessions;

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use broker::{BrokerMetrics, Direction, Dropped};
pub use http::HttpMetrics;
pub use hub::HubMetrics;
pub use letters::LetterMetrics;
pub use presence::PresenceMetrics;
pub use sessions::{Cut, REFUSALS, SessionMetrics};

use crate::broker::Link;
use crate::instance::InstanceName;

/// How [`Metrics::render`] writes: OpenMetrics 1.0, Prometheus' text format as it was standardised.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter for each value of one label.
type Labelled<M> = Family<[(&'static str, &'static str); 1], M>;

/// All families of one instance. A cheap handle; so are its parts.
#[derive(Clone)]
pub struct Metrics {
    pub sessions: SessionMetrics,
    pub http: HttpMetrics,
    pub hub: HubMetrics,
    pub broker: BrokerMetrics,
    pub presence: PresenceMetrics,
    pub letters: LetterMetrics,
    registry: Arc<Registry>,
}

/// What is read rather than kept: as it is when somebody asks.
pub struct Readings<'a> {
    /// Bytes that wait for slow clients.
    pub outbox_bytes: usize,
    pub link: &'a Link,
}

impl Metrics {
    /// Every series that there can be, at zero.
    pub fn new(instance: &InstanceName) -> Metrics {
        let mut registry = Registry::with_prefix("warren");
        let build = [("version", env!("CARGO_PKG_VERSION").to_owned()), ("name", instance.to_string())];
        registry.register("build", "Version of Warren, and the instance's name", Info::new(build));
        let (sessions, hub, broker) = (SessionMetrics::default(), HubMetrics::default(), BrokerMetrics::default());
        let http = HttpMetrics::default();
        let presence = PresenceMetrics::default();
        presence.register(registry.sub_registry_with_prefix("presence"));
        let letters = LetterMetrics::default();
        letters.register(registry.sub_registry_with_prefix("letters"));
        http.register(registry.sub_registry_with_prefix("http"));
        sessions.register(&mut registry);
        hub.register(&mut registry);
        broker.register(registry.sub_registry_with_prefix("broker"));
        Metrics { sessions, http, hub, broker, presence, letters, registry: Arc::new(registry) }
    }

    /// Everything as text, in the format of [`CONTENT_TYPE`].
    pub fn render(&self, readings: &Readings<'_>) -> String {
        self.sessions.read(readings.outbox_bytes);
        self.broker.read(readings.link);
        let mut text = String::new();
        // Writing to a string fails only if a metric's own encoding does, and these are the crate's.
        if let Err(error) = encode(&mut text, &self.registry) {
            log::error!("metrics cannot be written: {error}");
        }
        text
    }
}

/// A counter with one series for each of `values`, there from the start: a rate needs the zero before the first.
fn counters(label: &'static str, values: impl IntoIterator<Item = &'static str>) -> Labelled<Counter> {
    let family = Labelled::default();
    for value in values {
        drop(family.get_or_create(&[(label, value)]));
    }
    family
}

#[cfg(test)]
mod tests;
