//! Which topics' keys come to this instance: its exchange is bound to those in which somebody here is interested, from
//! the first subscription on until some time after the last.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{ExchangeBindOptions, ExchangeUnbindOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::watch;
use tokio::time::Instant;

use super::topology::Names;
use crate::interest::Interest;
use crate::topic::TopicKey;

/// Bindings made again at a time: each costs the broker a transaction.
const CONFIRMED_AT_ONCE: usize = 64;

/// Bindings undone at a time, as deliveries wait meanwhile.
const UNBOUND_AT_ONCE: usize = 64;

/// One instance's bindings. What it knows outlives every connection.
pub struct Bindings {
    interest: Arc<Interest>,
    changes: watch::Receiver<()>,
    /// How long a key stays bound after the last subscription.
    linger: Duration,
    /// By key.
    states: Vec<State>,
    /// How many of the bound ones were bound again.
    confirmed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unbound,
    Bound,
    /// Nobody has been interested since then.
    Lingering(Instant),
}

impl Bindings {
    pub fn new(interest: Arc<Interest>, linger: Duration) -> Bindings {
        let (changes, states) = (interest.changes(), TopicKey::all().map(|_| State::Unbound).collect());
        Bindings { interest, changes, linger, states, confirmed: 0 }
    }

    /// Ready when the interest may have changed.
    pub async fn changed(&mut self) {
        // The sender lives as long as the interest, which we hold.
        let _ = self.changes.changed().await;
    }

    /// The connection is gone, and with it every binding. Who subscribes from now on waits.
    pub fn lost(&mut self) {
        TopicKey::all().for_each(|key| self.interest.set_delivered(key, false));
    }

    /// Binds again on a new connection what was bound on the last one, if it is still wanted.
    pub async fn restore(&mut self, channel: &Channel, names: &Names) -> Result<(), lapin::Error> {
        let wanted: Vec<TopicKey> =
            TopicKey::all().filter(|key| self.is_bound(*key) && self.interest.is_wanted(*key)).collect();
        bind_all(channel, names, &wanted).await?;
        for key in TopicKey::all() {
            self.states[key.index()] = State::Unbound;
        }
        self.note_bound(&wanted);
        Ok(())
    }

    /// Binds what is wanted by now, and unbinds what was wanted by nobody for long enough. The answer is the keys that
    /// come from now on and did not before.
    pub async fn follow(&mut self, channel: &Channel, names: &Names) -> Result<HashSet<TopicKey>, lapin::Error> {
        let now = Instant::now();
        let (mut to_bind, mut to_unbind) = (Vec::new(), Vec::new());
        for key in TopicKey::all() {
            let state = &mut self.states[key.index()];
            match (*state, self.interest.is_wanted(key)) {
                (State::Unbound, true) => to_bind.push(key),
                (State::Lingering(_), true) => *state = State::Bound,
                (State::Bound, false) => *state = State::Lingering(now),
                (State::Lingering(since), false) if now - since >= self.linger => to_unbind.push(key),
                (State::Unbound | State::Lingering(_), false) | (State::Bound, true) => {}
            }
        }
        bind_all(channel, names, &to_bind).await?;
        self.note_bound(&to_bind);
        // The rest in the next rounds: nobody waits for it.
        let to_unbind = to_unbind.into_iter().take(UNBOUND_AT_ONCE);
        let unwanted: Vec<TopicKey> = to_unbind.filter(|key| self.is_given_up(*key)).collect();
        unbind_all(channel, names, &unwanted).await?;
        Ok(to_bind.into_iter().collect())
    }

    /// Binds again some of what is bound, each time others: somebody may have deleted the exchange.
    pub async fn confirm(&mut self, channel: &Channel, names: &Names) -> Result<(), lapin::Error> {
        let bound = TopicKey::all().filter(|key| self.is_bound(*key));
        let some: Vec<TopicKey> = bound.skip(self.confirmed).take(CONFIRMED_AT_ONCE).collect();
        self.confirmed = if some.len() < CONFIRMED_AT_ONCE { 0 } else { self.confirmed + CONFIRMED_AT_ONCE };
        bind_all(channel, names, &some).await
    }

    /// Whether a key that was wanted by nobody is to be unbound now.
    fn is_given_up(&mut self, key: TopicKey) -> bool {
        self.interest.set_delivered(key, false);
        // Who subscribed before that was told may rely on it; who does so after it waits for the next round.
        let is_wanted = self.interest.is_wanted(key);
        self.states[key.index()] = if is_wanted { State::Bound } else { State::Unbound };
        if is_wanted {
            self.interest.set_delivered(key, true);
        }
        !is_wanted
    }

    pub fn is_bound(&self, key: TopicKey) -> bool {
        self.states[key.index()] != State::Unbound
    }

    fn note_bound(&mut self, keys: &[TopicKey]) {
        for key in keys {
            self.states[key.index()] = State::Bound;
            self.interest.set_delivered(*key, true);
        }
    }
}

/// All but the last without waiting for each answer: RabbitMQ deals with a channel's calls in their order.
async fn bind_all(channel: &Channel, names: &Names, keys: &[TopicKey]) -> Result<(), lapin::Error> {
    for (index, key) in keys.iter().enumerate() {
        let options = ExchangeBindOptions { nowait: index + 1 < keys.len() };
        let (own, topics) = (names.instance.clone(), names.topics.clone());
        channel.exchange_bind(own, topics, routing_key(*key), options, FieldTable::default()).await?;
    }
    Ok(())
}

async fn unbind_all(channel: &Channel, names: &Names, keys: &[TopicKey]) -> Result<(), lapin::Error> {
    for (index, key) in keys.iter().enumerate() {
        let options = ExchangeUnbindOptions { nowait: index + 1 < keys.len() };
        let (own, topics) = (names.instance.clone(), names.topics.clone());
        channel.exchange_unbind(own, topics, routing_key(*key), options, FieldTable::default()).await?;
    }
    Ok(())
}

fn routing_key(key: TopicKey) -> ShortString {
    key.to_string().into()
}
