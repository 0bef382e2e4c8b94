//! Running instances without sessions: what one knows of another, and what is told, over the in-process broker, by a clock
//! that stands still while nobody waits.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::user;
use crate::broker::memory::MemoryExchange;
use crate::broker::{Arrivals, Broker, DELIVERIES_WAITING_MAX, KeyBounds};
use crate::hub::Hub;
use crate::instance::{Incarnation, InstanceName};
use crate::interest::Interest;
use crate::message::{MessageIds, Target};
use crate::metrics::{BrokerMetrics, HubMetrics, PresenceMetrics};
use crate::presence::Presence;
use crate::presence::roll::Turn;
use crate::presence::table::SILENCE_MAX;
use crate::presence::word::{Spoken, Word};
use crate::topic::Pattern;

/// An instance without sessions of its own, on an exchange.
pub struct Running {
    pub presence: Presence,
    pub interest: Arc<Interest>,
    /// What comes to topics.
    pub told: Arc<Mutex<Vec<serde_json::Value>>>,
    /// How many questions it has heard, its own too.
    pub questions: Arc<AtomicUsize>,
    pub broker: Arc<dyn Broker>,
    pub hub: Hub,
    tasks: [JoinHandle<()>; 2],
}

impl Running {
    pub fn start(exchange: &MemoryExchange, name: &str) -> Running {
        Running::start_through(exchange, name, |broker, _| broker)
    }

    /// One that says everything through what is made of its broker.
    pub fn start_through(
        exchange: &MemoryExchange,
        name: &str,
        through: impl FnOnce(Arc<dyn Broker>, Arc<Interest>) -> Arc<dyn Broker>,
    ) -> Running {
        let incarnation = Incarnation::begin(InstanceName::parse(name).unwrap());
        let (interest, told) = (Arc::new(Interest::in_everything()), Arc::new(Mutex::new(Vec::new())));
        let presence = Presence::new(MessageIds::new(incarnation.clone()), PresenceMetrics::default());
        let (deliveries, mut delivered) = mpsc::channel(DELIVERIES_WAITING_MAX);
        let bounds = KeyBounds { window: Duration::from_secs(60), keys_max: 1 };
        let broker =
            exchange.attach(incarnation.name().clone(), deliveries, Arrivals::new(bounds, BrokerMetrics::default()));
        let broker = through(Arc::new(broker), interest.clone());
        let hub = Hub::start(1, interest.clone(), HubMetrics::default());
        let running = tokio::spawn(presence.clone().run(broker.clone(), hub.clone()));
        let questions = Arc::new(AtomicUsize::new(0));
        let (heard, telling, asking) = (presence.clone(), told.clone(), questions.clone());
        let hearing = tokio::spawn(async move {
            while let Some(delivered) = delivered.recv().await {
                for (message, _) in &delivered.messages {
                    match &message.target {
                        Target::Peer(name) if name != incarnation.name() => {}
                        Target::Topic(_) => {
                            telling.lock().unwrap().push(serde_json::from_slice(&message.payload).unwrap());
                        }
                        _ => {
                            if matches!(Spoken::parse(&message.payload), Ok(Spoken { word: Word::Count { .. }, .. })) {
                                asking.fetch_add(1, Ordering::Relaxed);
                            }
                            heard.take(message);
                        }
                    }
                }
            }
        });
        Running { presence, interest, told, questions, broker, hub, tasks: [running, hearing] }
    }

    pub fn name(&self) -> InstanceName {
        self.presence.shared.ids.incarnation().name().clone()
    }

    pub fn kill(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Waits, with the clock of the test, and says how long it took.
pub async fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn instances_know_each_others_users_until_they_are_gone() {
    let exchange = MemoryExchange::default();
    let (one, two) = (Running::start(&exchange, "a_1"), Running::start(&exchange, "b_1"));
    let (alice, bob) = (user("alice"), user("bob"));
    assert_eq!(one.presence.arrive(&alice, 1, 10), Turn::Turned);
    assert_eq!(two.presence.arrive(&alice, 1, 5), Turn::Turned);
    two.presence.arrive(&bob, 2, 20);
    until("both know all", || {
        one.presence.holders(&alice) == [two.name()]
            && one.presence.holders(&bob) == [two.name()]
            && two.presence.holders(&alice) == [one.name()]
    })
    .await;
    let stays = one.presence.sessions_of(&alice);
    assert_eq!(
        stays.iter().map(|stay| (&stay.instance, stay.since_ms)).collect::<Vec<_>>(),
        [(&two.name(), 5), (&one.name(), 10)]
    );
    assert_eq!(two.presence.sessions_of(&alice), stays);
    // Who comes later is told everything.
    let three = Running::start(&exchange, "c_1");
    let took = until("the third knows all", || three.presence.holders(&alice).len() == 2).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(two.presence.leave(&bob, 2), Turn::Turned);
    until("bob is gone", || one.presence.holders(&bob).is_empty()).await;
    two.kill();
    let took = until("the dead one is dropped", || one.presence.holders(&alice).is_empty()).await;
    assert!(SILENCE_MAX - Duration::from_secs(1) <= took && took <= SILENCE_MAX + Duration::from_secs(2), "{took:?}");
    let again = Running::start(&exchange, "b_1");
    again.presence.arrive(&bob, 1, 30);
    until("its next run is known", || one.presence.holders(&bob) == [again.name()]).await;
}

#[tokio::test(start_paused = true)]
async fn of_too_many_the_youngest_are_closed_by_who_holds_them() {
    let exchange = MemoryExchange::default();
    let instances = [Running::start(&exchange, "a_1"), Running::start(&exchange, "b_1")];
    let closed: [Arc<Mutex<BTreeSet<u64>>>; 2] = Default::default();
    for (instance, closed) in instances.iter().zip(closed.clone()) {
        instance.presence.bound_sessions(2, move |number| _ = closed.lock().unwrap().insert(number));
    }
    let alice = user("alice");
    // All at once: nobody knows of the others' yet.
    for (instance, number, since_ms) in [(0, 1, 10), (1, 1, 30), (1, 2, 20), (0, 2, 20)] {
        let presence = &instances[instance].presence;
        if since_ms <= 20 {
            assert!(presence.has_room_for(&alice));
        }
        presence.arrive(&alice, number, since_ms);
    }
    // The oldest, and of two that came at once the one whose instance is the first by name.
    until("the youngest are closed", || {
        closed[0].lock().unwrap().is_empty() && *closed[1].lock().unwrap() == BTreeSet::from([1, 2])
    })
    .await;
    assert!(!instances[0].presence.has_room_for(&alice) && instances[0].presence.has_room_for(&user("bob")));
}

impl Running {
    /// Event, user and instance of all that was told.
    pub fn events(&self) -> Vec<String> {
        let text = |told: &serde_json::Value, field: &str| told[field].as_str().unwrap_or_default().to_owned();
        let told = self.told.lock().unwrap();
        told.iter()
            .map(|told| ["event", "user", "topic", "instance"].map(|field| text(told, field)).join(" "))
            .collect()
    }

    pub fn tells_of_users(&self) -> bool {
        let shared = &self.presence.shared;
        shared.users_asked.load(Ordering::Relaxed) && shared.knows_all.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_hears_of_each_user_once_whoever_dies() {
    let exchange = MemoryExchange::default();
    let (one, two) = (Running::start(&exchange, "a_1"), Running::start(&exchange, "b_1"));
    let three = Running::start(&exchange, "c_1");
    let (alice, bob) = (user("alice"), user("bob"));
    one.presence.arrive(&user("before"), 9, 0);
    let asking = Pattern::parse("warren.presence.users").unwrap();
    three.interest.add(&asking);
    until("all know all", || [&one, &two, &three].iter().all(|instance| instance.tells_of_users())).await;
    until("the first tells", || two.presence.others().peers().all(|(_, peer)| peer.knows_all)).await;
    two.presence.arrive(&alice, 1, 0);
    until("alice has come", || three.events() == ["join alice  b_1"]).await;
    // She moves.
    one.presence.arrive(&alice, 1, 0);
    two.presence.leave(&alice, 1);
    until("she is there", || three.presence.holders(&alice) == [one.name()]).await;
    two.presence.arrive(&bob, 2, 0);
    until("bob has come", || three.events().len() == 2).await;
    assert_eq!(three.events(), ["join alice  b_1", "join bob  b_1"]);
    // Who told is dead, and bob goes before anybody notices.
    one.kill();
    two.presence.leave(&bob, 2);
    until("all are gone", || three.events().len() == 5).await;
    let mut last = three.events().split_off(2);
    assert_eq!(last[0], "leave bob  b_1");
    last.sort_unstable();
    assert_eq!(last, ["leave alice  a_1", "leave before  a_1", "leave bob  b_1"]);
    three.interest.remove(&asking);
    until("nobody asks", || !two.tells_of_users() && !three.tells_of_users()).await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_about_a_topic_hears_of_it_and_of_no_other() {
    let exchange = MemoryExchange::default();
    let (one, two) = (Running::start(&exchange, "a_1"), Running::start(&exchange, "b_1"));
    two.interest.add(&Pattern::parse("warren.presence.topics.orders.*").unwrap());
    let (alice, orders) = (user("alice"), Pattern::parse("orders.eu").unwrap());
    let watching = one.interest.watching();
    until("the other tells", || {
        watching.note(Some(&alice), &orders, true);
        !two.events().is_empty()
    })
    .await;
    two.told.lock().unwrap().clear();
    watching.note(Some(&alice), &Pattern::parse("news").unwrap(), true);
    watching.note(Some(&alice), &orders, false);
    until("alice has ended it", || two.events().last().is_some_and(|last| last == "leave alice orders.eu a_1")).await;
    assert!(two.events().iter().all(|event| event.ends_with("alice orders.eu a_1")), "{:?}", two.events());
}
