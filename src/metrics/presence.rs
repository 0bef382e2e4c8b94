//! Who is connected, in numbers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Moved by the tasks of presence; the gauges once a second. A cheap handle.
#[derive(Clone, Default)]
pub struct PresenceMetrics {
    users: Gauge,
    sessions: Gauge,
    instances: Gauge,
    asked: Counter,
    dropped: Counter,
    misunderstood: Counter,
}

impl PresenceMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("users", "Users with sessions on this instance", self.users.clone());
        registry.register(
            "cluster_sessions",
            "Sessions of users on all instances, as far as this one knows",
            self.sessions.clone(),
        );
        registry.register("instances", "Other instances that are there", self.instances.clone());
        registry.register(
            "snapshots_asked",
            "Snapshots that other instances were asked for, since something of them was not known",
            self.asked.clone(),
        );
        registry.register(
            "instances_dropped",
            "Other instances that were not heard any more, and were dropped with their users",
            self.dropped.clone(),
        );
        registry.register(
            "misunderstood",
            "Messages to instances that no instance of this version says",
            self.misunderstood.clone(),
        );
    }

    /// How many there are now.
    pub fn stand(&self, users_here: usize, sessions: usize, instances: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.users.set(number(users_here));
        self.sessions.set(number(sessions));
        self.instances.set(number(instances));
    }

    /// An instance is asked for a snapshot.
    pub fn asked(&self) {
        self.asked.inc();
    }

    /// An instance was not heard any more.
    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// A message was not understood.
    pub fn misunderstood(&self) {
        self.misunderstood.inc();
    }
}
