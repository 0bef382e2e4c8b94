//! One helper per boundary, so that a test reads as what happens.

pub mod backend;
pub mod broker;
pub mod browser;
pub mod bystanders;
pub mod client;
pub mod deflate;
pub mod events;
pub mod examples;
pub mod http;
pub mod identity;
pub mod instance;
pub mod json;
pub mod load;
pub mod metrics;
pub mod of_users;
pub mod post;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod resources;
pub mod unreadable;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a test waits for what must happen; generous, since it only matters when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, or fails the test with `what`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "did not happen within {DEADLINE:?}: {what}");
}

/// Waits for `future`, or fails the test with `what`.
pub async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not happen within {DEADLINE:?}: {what}"),
    }
}

/// Waits until the instance at `address` says that it has this many sessions.
pub async fn sessions_become(address: SocketAddr, count: usize) {
    let what = format!("{count} sessions");
    eventually(&what, || async { client::get_json(address, "/healthz").await.1["sessions"] == count }).await;
}
