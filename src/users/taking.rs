//! One at a time takes what waits for a user, as far as this instance goes.
//!
//! With RabbitMQ whoever takes holds everything that they look at until they are done, so another would find nothing there
//! though messages wait. Invariant: a user has an entry only while somebody takes, or waits to.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::user::UserName;

/// Whose mailboxes are being emptied.
#[derive(Default)]
pub(super) struct Taking {
    of: DashMap<UserName, Arc<Mutex<()>>>,
}

/// For as long as this is kept nobody else takes what waits for the user.
pub(super) struct Turn<'a> {
    /// Given back before the place is.
    _held: OwnedMutexGuard<()>,
    _place: Place<'a>,
}

/// That somebody takes, or waits to. The last to go takes the entry along.
struct Place<'a> {
    taking: &'a Taking,
    user: UserName,
}

impl Taking {
    /// Ready when nobody else takes what waits for the user; `None` if that lasts for too long.
    pub async fn turn(&self, user: &UserName, patience: Duration) -> Option<Turn<'_>> {
        let place = Place { taking: self, user: user.clone() };
        let lock = self.of.entry(user.clone()).or_default().clone();
        let held = timeout(patience, lock.lock_owned()).await.ok()?;
        Some(Turn { _held: held, _place: place })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Nobody comes to have it meanwhile: that takes the same guard of the map.
        self.taking.of.remove_if(&self.user, |_, lock| Arc::strong_count(lock) == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_takes_and_nothing_of_it_stays() {
        let taking = Taking::default();
        let [carol, bob] = ["carol", "bob"].map(|name| UserName::parse(name).unwrap());
        let first = taking.turn(&carol, PATIENCE).await.expect("a turn");
        assert!(taking.turn(&bob, PATIENCE).await.is_some(), "others are not concerned");
        assert!(taking.turn(&carol, PATIENCE).await.is_none(), "for too long");
        assert_eq!(taking.of.len(), 1);
        let (second, ()) = tokio::join!(taking.turn(&carol, PATIENCE), async { drop(first) });
        assert!(second.is_some());
        // Who does not wait any more leaves nothing, either.
        assert!(timeout(PATIENCE / 2, taking.turn(&carol, PATIENCE)).await.is_err());
        drop(second);
        assert!(taking.of.is_empty());
    }
}
