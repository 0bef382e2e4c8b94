//! Which topics somebody here subscribes to, by their keys, and for which of them the broker is known to deliver.
//!
//! Whoever subscribes adds to the count and then looks at what is delivered; whoever ends deliveries says so and then looks
//! at the count. Both in one order for all (`SeqCst`), so that one of them sees the other.
//!
//! Between the hub, which counts subscriptions, and the broker, which makes its deliveries follow. Neither knows the
//! other. Nothing here waits but [`Interest::in_force`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::topic::{Pattern, TOPIC_KEYS, Topic, TopicKey};
use crate::watching::Watching;

/// How long a client waits until the broker delivers what it subscribes to.
pub const IN_FORCE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Interest {
    keys: Box<[Key]>,
    /// Subscriptions with wildcards: what they match may have any key.
    wildcards: AtomicU32,
    /// Told when a key may have become wanted, or wanted no more.
    wanted: watch::Sender<()>,
    /// Told when deliveries of a key have begun or ended.
    delivered: watch::Sender<()>,
    watching: Watching,
}

#[derive(Default)]
struct Key {
    subscriptions: AtomicU32,
    is_delivered: AtomicBool,
}

impl Interest {
    /// Of a broker that delivers everything to everyone.
    pub fn in_everything() -> Interest {
        let interest = Interest::by_keys();
        TopicKey::all().for_each(|key| interest.set_delivered(key, true));
        interest
    }

    /// Of a broker that delivers what is wanted, and says when it does.
    pub fn by_keys() -> Interest {
        Interest {
            keys: (0..TOPIC_KEYS).map(|_| Key::default()).collect(),
            wildcards: AtomicU32::new(0),
            wanted: watch::Sender::new(()),
            delivered: watch::Sender::new(()),
            watching: Watching::default(),
        }
    }

    /// Who asks to hear of comings and goings.
    pub fn watching(&self) -> &Watching {
        &self.watching
    }

    /// One more subscription.
    pub fn add(&self, pattern: &Pattern) {
        self.watching.add(pattern);
        if self.count_of(pattern).fetch_add(1, Ordering::SeqCst) == 0 {
            self.wanted.send_replace(());
        }
    }

    /// One less.
    pub fn remove(&self, pattern: &Pattern) {
        self.watching.remove(pattern);
        if self.count_of(pattern).fetch_sub(1, Ordering::SeqCst) == 1 {
            self.wanted.send_replace(());
        }
    }

    fn count_of(&self, pattern: &Pattern) -> &AtomicU32 {
        match pattern.as_topic() {
            Some(topic) => &self.keys[topic.key().index()].subscriptions,
            None => &self.wildcards,
        }
    }

    /// Whether somebody might want a message of this topic.
    pub fn wants(&self, topic: &Topic) -> bool {
        self.is_wanted(topic.key())
    }

    /// Ready when everything that is published from then on and that `pattern` matches will be delivered.
    pub async fn in_force(&self, pattern: &Pattern) {
        let key = pattern.as_topic().map(|topic| topic.key());
        let is_delivered = |key: TopicKey| self.keys[key.index()].is_delivered.load(Ordering::SeqCst);
        let mut changes = self.delivered.subscribe();
        // The sender lives as long as `self`.
        let _ = changes.wait_for(|()| key.map_or_else(|| TopicKey::all().all(is_delivered), is_delivered)).await;
    }

    // --- the broker's side ---

    /// Whenever [`Interest::is_wanted`] may have changed for some key.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.wanted.subscribe()
    }

    pub fn is_wanted(&self, key: TopicKey) -> bool {
        self.wildcards.load(Ordering::SeqCst) > 0 || self.keys[key.index()].subscriptions.load(Ordering::SeqCst) > 0
    }

    /// Deliveries of a key have begun, or end.
    pub fn set_delivered(&self, key: TopicKey, is_delivered: bool) {
        if self.keys[key.index()].is_delivered.swap(is_delivered, Ordering::SeqCst) != is_delivered {
            self.delivered.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_key_is_wanted_while_somebody_subscribes_and_in_force_once_it_is_delivered() {
        let interest = Interest::by_keys();
        let mut changes = interest.changes();
        let topic = Topic::parse("orders.17").unwrap();
        assert!(!interest.wants(&topic) && !changes.has_changed().unwrap());
        interest.add(&topic.clone().into());
        interest.add(&topic.clone().into());
        assert!(interest.wants(&topic) && changes.has_changed().unwrap());
        changes.mark_unchanged();
        let subscribed = pattern("orders.17");
        let in_force = interest.in_force(&subscribed);
        let mut in_force = std::pin::pin!(in_force);
        assert_eq!(in_force.as_mut().now_or_never(), None);
        interest.set_delivered(topic.key(), true);
        in_force.await;
        interest.remove(&subscribed);
        assert!(interest.wants(&topic) && !changes.has_changed().unwrap());
        interest.remove(&subscribed);
        assert!(!interest.wants(&topic) && changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_wildcard_wants_every_key() {
        let interest = Interest::by_keys();
        let all = pattern("orders.#");
        interest.add(&all);
        assert!(TopicKey::all().all(|key| interest.is_wanted(key)));
        TopicKey::all().skip(1).for_each(|key| interest.set_delivered(key, true));
        assert_eq!(interest.in_force(&all).now_or_never(), None);
        TopicKey::all().take(1).for_each(|key| interest.set_delivered(key, true));
        interest.in_force(&all).await;
        interest.remove(&all);
        assert!(!TopicKey::all().any(|key| interest.is_wanted(key)));
    }

    #[tokio::test]
    async fn where_everything_comes_everything_is_in_force() {
        Interest::in_everything().in_force(&pattern("#")).await;
    }
}
