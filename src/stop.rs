//! Stopping in good order: first nobody new comes in, then the sessions leave a few at a time, at last the broker is left.
//!
//! Nothing that was accepted is lost on the way: a session is told good-bye only when it is known what became of all
//! that was read of it, and until then its instance publishes and delivers as before.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::broker::Broker;
use crate::http::Serving;
use crate::presence::Presence;
use crate::session::Sessions;

/// The sessions leave within this part of the time, so that those who leave last have as much to read what still
/// waits for them and to answer.
const LEAVING_SHARE: u32 = 2;

/// Whoever is still there when only this part of the time is left is told so, and may still answer.
const LAST_WORD_SHARE: u32 = 10;

/// Time for the broker to take the word that this instance leaves; without it the others notice a little later.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Time to settle what is still on its way to the broker after the sessions are gone.
const BROKER_CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a stop may take.
pub struct Patience {
    /// Time for load balancers to notice that the instance takes nobody any more. Part of `timeout`.
    pub delay: Duration,
    /// Time until everyone is gone.
    pub timeout: Duration,
}

/// Stops all but answering requests on connections that stand.
pub async fn in_order(
    sessions: &Sessions,
    presence: &Presence,
    serving: &mut Serving,
    broker: &dyn Broker,
    patience: &Patience,
) {
    let deadline = Instant::now() + patience.timeout;
    sessions.refuse_new();
    if !patience.delay.is_zero() {
        sleep(patience.delay).await;
    }
    serving.close_port();

    let left = deadline.saturating_duration_since(Instant::now());
    let last_word = deadline - left / LAST_WORD_SHARE;
    if timeout_at(last_word, sessions.drain(left / LEAVING_SHARE)).await.is_err() {
        sessions.close_rest();
    }
    // While there is still somebody who publishes.
    let _ = timeout(GOODBYE_TIMEOUT, presence.say_goodbye(broker)).await;
    let rest = async { tokio::join!(broker.finish_publishing(), sessions.all_gone()) };
    let in_time = timeout_at(deadline, rest).await.is_ok();
    tell(sessions, patience.timeout);
    if !in_time {
        sessions.cut_rest();
    }
    if timeout(BROKER_CLOSE_TIMEOUT, broker.close()).await.is_err() {
        log::warn!("the broker link did not close within {} s", BROKER_CLOSE_TIMEOUT.as_secs());
    }
}

fn tell(sessions: &Sessions, timeout: Duration) {
    let option = format!("--drain-timeout-ms {}", timeout.as_millis());
    let (unconfirmed, left) = (sessions.unconfirmed(), sessions.count());
    if unconfirmed > 0 {
        log::warn!("{unconfirmed} messages of clients were not confirmed within {option}");
    }
    if left > 0 {
        log::warn!("{left} sessions did not close within {option}, and were cut");
    }
}
