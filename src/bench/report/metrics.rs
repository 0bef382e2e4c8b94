//! The numbers of a run that are shown: each with its name, its unit and where it stands, in one place for the table,
//! the page and the medians.

use crate::bench::measure::{Memory, Run, Traffic};

/// One number of a run.
pub struct Metric {
    /// Its name in JSON, with the unit.
    pub key: &'static str,
    pub title: &'static str,
    pub decimals: usize,
    /// Whether its ratio to the floor's says something.
    pub has_ratio: bool,
    pub of: fn(&Run) -> Option<f64>,
}

/// In the order of the table.
pub const METRICS: [Metric; 22] = [
    metric("connects_per_second", "connects/s", 0, true, |run| Some(run.connect.per_second)),
    metric("handshake_p50_ms", "handshake p50, ms", 2, false, |run| Some(run.connect.handshake_p50_ms)),
    metric("handshake_max_ms", "slowest handshake, ms", 2, false, |run| Some(run.connect.handshake_max_ms)),
    metric("connect_cpu_us", "server CPU per connect, µs", 1, true, |run| run.connect.server_cpu_us),
    metric("memory_before_kib", "memory before, KiB", 0, false, |run| memory(run, |memory| memory.before_kib as f64)),
    metric("memory_idle_kib", "memory with idle sessions, KiB", 0, false, |run| {
        memory(run, |memory| memory.idle_kib as f64)
    }),
    metric("memory_after_kib", "memory after the work, KiB", 0, false, |run| {
        memory(run, |memory| memory.after_kib as f64)
    }),
    metric("kib_per_session", "memory per idle session, KiB", 2, true, |run| {
        memory(run, |memory| memory.idle_kib_per_session)
    }),
    metric("messages_per_second", "messages/s", 1, true, |run| traffic(run, |traffic| traffic.messages_per_second)),
    metric("deliveries_per_second", "deliveries/s", 0, true, |run| {
        traffic(run, |traffic| traffic.deliveries_per_second)
    }),
    metric("wire_bytes_per_delivery", "bytes on the wire per delivery", 1, false, |run| {
        traffic(run, |traffic| traffic.wire_bytes_per_delivery)
    }),
    metric("latency_p50_us", "latency p50, µs", 0, true, |run| traffic(run, |traffic| traffic.latency.p50_us)),
    metric("latency_p90_us", "latency p90, µs", 0, true, |run| traffic(run, |traffic| traffic.latency.p90_us)),
    metric("latency_p99_us", "latency p99, µs", 0, true, |run| traffic(run, |traffic| traffic.latency.p99_us)),
    metric("latency_p999_us", "latency p99.9, µs", 0, true, |run| traffic(run, |traffic| traffic.latency.p999_us)),
    metric("latency_max_us", "latency max, µs", 0, false, |run| traffic(run, |traffic| traffic.latency.max_us)),
    metric("cpu_us_per_delivery", "server CPU per delivery, µs", 3, true, |run| {
        run.traffic.as_ref()?.server_cpu_us_per_delivery
    }),
    metric("server_cores", "server's cores busy", 2, false, |run| run.traffic.as_ref()?.server_cores),
    metric("generator_cpu_us_per_delivery", "generator CPU per delivery, µs", 3, false, |run| {
        traffic(run, |traffic| traffic.generator_cpu_us_per_delivery)
    }),
    metric("generator_busy", "generator's busiest thread", 2, false, |run| {
        traffic(run, |traffic| traffic.generator_busy)
    }),
    metric("lateness_max_ms", "latest send, ms", 2, false, |run| traffic(run, |traffic| traffic.lateness_max_ms)),
    metric("faults", "lost, doubled, out of order, …", 0, false, |run| {
        Some(run.faults.named().map(|(_, count)| count as f64).sum())
    }),
];

const fn metric(
    key: &'static str,
    title: &'static str,
    decimals: usize,
    has_ratio: bool,
    of: fn(&Run) -> Option<f64>,
) -> Metric {
    Metric { key, title, decimals, has_ratio, of }
}

/// The metric of this name.
pub fn by_key(key: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.key == key)
}

fn memory(run: &Run, of: impl Fn(&Memory) -> f64) -> Option<f64> {
    run.memory.as_ref().map(of)
}

fn traffic(run: &Run, of: impl Fn(&Traffic) -> f64) -> Option<f64> {
    run.traffic.as_ref().map(of)
}
