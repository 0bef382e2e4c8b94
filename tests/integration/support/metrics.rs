//! What an instance shows at `GET /metrics`.

use std::net::SocketAddr;

use super::eventually;
use super::http::request;

/// The metrics of one instance; series are named as they are written: `name{label="value"}`.
#[derive(Clone, Copy)]
pub struct Metrics {
    pub address: SocketAddr,
}

impl Metrics {
    /// The value of a series, which must be there.
    pub async fn value(&self, series: &str) -> f64 {
        let answer = request(self.address, "GET /metrics", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let value = answer.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no series {series} in\n{}", answer.body));
        value.parse().expect("a number")
    }

    /// Waits until a series has this value.
    pub async fn show(&self, series: &str, value: f64) {
        eventually(&format!("{series} {value}"), || async { self.value(series).await == value }).await;
    }

    /// Waits until so many sessions have closed for this reason.
    pub async fn show_closed(&self, reason: &str, count: usize) {
        self.show(&format!("warren_sessions_closed_total{{reason=\"{reason}\"}}"), count as f64).await;
    }

    /// Waits until the state of both directions of the link is this one.
    pub async fn show_link(&self, state: &str) {
        for direction in ["publishing", "consuming"] {
            self.show(&format!("warren_broker_link{{direction=\"{direction}\",state=\"{state}\"}}"), 1.0).await;
        }
    }
}
