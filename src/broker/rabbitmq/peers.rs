//! Who else is there: the instances whose beacons are heard.
//!
//! A beacon says that its instance hears, too: it sends none while its own consumer is away. So after the broker was
//! lost an instance knows when those that were there before are back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Three beacons: whoever was heard within that, before the last of all was heard, is taken to be there. Nobody is heard
/// in the time that it takes to notice that the broker is gone.
const PRESENT_FOR: Duration = Duration::from_secs(3);

/// A cheap handle.
#[derive(Clone, Default)]
pub struct Peers {
    heard: Arc<Mutex<HashMap<Box<str>, Instant>>>,
    changed: Arc<Notify>,
}

impl Peers {
    /// Notes a beacon of `incarnation`.
    pub fn hear(&self, incarnation: &str) {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, at| now - *at <= 2 * PRESENT_FOR);
        match heard.get_mut(incarnation) {
            Some(at) => *at = now,
            None => {
                heard.insert(incarnation.into(), now);
            }
        }
        drop(heard);
        self.changed.notify_one();
    }

    /// Who was there when somebody was heard last.
    pub fn present(&self) -> Vec<Box<str>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let last = heard.values().max().copied();
        let present = heard.iter().filter(|(_, at)| last.is_some_and(|last| last - **at <= PRESENT_FOR));
        present.map(|(incarnation, _)| incarnation.clone()).collect()
    }

    /// Ready when all of `expected` were heard since `since`. For one waiter at a time.
    pub async fn are_back(&self, expected: &[Box<str>], since: Instant) {
        while !self.all_heard(expected, since) {
            self.changed.notified().await;
        }
    }

    fn all_heard(&self, expected: &[Box<str>], since: Instant) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        expected.iter().all(|incarnation| heard.get(incarnation).is_some_and(|at| *at > since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_fell_silent_with_everybody_else_was_there() {
        let peers = Peers::default();
        peers.hear("gone for long");
        tokio::time::advance(2 * PRESENT_FOR).await;
        peers.hear("a");
        tokio::time::advance(PRESENT_FOR / 2).await;
        peers.hear("b");
        tokio::time::advance(10 * PRESENT_FOR).await;
        let mut present = peers.present();
        present.sort_unstable();
        assert_eq!(present, ["a".into(), "b".into()]);
    }
}
