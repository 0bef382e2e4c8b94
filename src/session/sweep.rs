//! The one timer of all sessions.

use std::sync::Arc;
use std::time::Duration;

use super::Sessions;
use crate::message::now_unix_ms;

impl Sessions {
    /// Looks at every session in turn, for as long as the instance runs: pings, idle ends, unfinished closes, tokens
    /// that end.
    ///
    /// Each limit is kept to within a quarter of itself, at most a second late.
    pub async fn sweep(self: Arc<Self>) {
        let limits = self.limits();
        let shortest_ms = limits.ping_interval_ms.min(limits.answer_timeout_ms()).min(limits.close_timeout_ms);
        let period = Duration::from_millis(u64::from(shortest_ms / 4).clamp(10, 1000));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now_ms = self.clock().now_ms();
            let unix_ms = now_unix_ms();
            let due = self.snapshot(|session| session.is_due(now_ms) || session.is_ending(unix_ms));
            for session in due {
                session.tick(now_ms);
                session.look_at_holder(unix_ms);
            }
        }
    }
}
