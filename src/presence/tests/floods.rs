//! More to tell than can be told: whatever comes and goes, an instance says in time that it is there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::running::{Running, until};
use super::user;
use crate::broker::memory::MemoryExchange;
use crate::broker::{Broker, Link, Receipt};
use crate::interest::Interest;
use crate::message::{Message, Target};
use crate::presence::table::SILENCE_MAX;
use crate::presence::telling::EVENTS_AT_ONCE;
use crate::topic::Pattern;

/// What becomes of the events that an instance tells.
enum Fate {
    /// Each takes its time, and begets another, as if clients subscribed without end.
    Beget(Arc<Interest>),
    /// There is no room for them, so often as somebody tried.
    Wait(AtomicUsize),
    /// They are taken, and it is not known whether the broker has them.
    Keep(Mutex<Vec<Receipt>>),
}

/// A broker that treats events so, and all else as well as another.
struct Strained {
    broker: Arc<dyn Broker>,
    fate: Arc<Fate>,
}

impl Broker for Strained {
    fn publish(&self, message: Message, receipt: Receipt) -> BoxFuture<'_, ()> {
        if !matches!(message.target, Target::Topic(_)) {
            return self.broker.publish(message, receipt);
        }
        Box::pin(async move {
            match &*self.fate {
                Fate::Beget(interest) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    note(interest);
                    self.broker.publish(message, receipt).await;
                }
                Fate::Wait(tried) => {
                    tried.fetch_add(1, Ordering::Relaxed);
                    std::future::pending().await
                }
                Fate::Keep(receipts) => receipts.lock().unwrap().push(receipt),
            }
        })
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.broker.link()
    }

    fn finish_publishing(&self) -> BoxFuture<'_, ()> {
        self.broker.finish_publishing()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.broker.close()
    }
}

/// Someone has subscribed.
fn note(interest: &Interest) {
    interest.watching().note(Some(&user("bob")), &Pattern::parse("orders").unwrap(), true);
}

/// The first of two instances, through a broker that treats its events so, and the other, on which somebody asks for them.
/// Alice is on the first, and the other knows it.
async fn strained(fate: impl FnOnce(Arc<Interest>) -> Fate) -> (Running, Running, Arc<Fate>) {
    let exchange = MemoryExchange::default();
    let mut treats = None;
    let one = Running::start_through(&exchange, "a_1", |broker, interest| {
        let fate = treats.insert(Arc::new(fate(interest))).clone();
        Arc::new(Strained { broker, fate })
    });
    let two = Running::start(&exchange, "b_1");
    one.presence.arrive(&user("alice"), 1, 0);
    until("alice is known", || knows_alice(&two, &one)).await;
    two.interest.add(&Pattern::parse("warren.presence.#").unwrap());
    (one, two, treats.expect("a fate"))
}

fn knows_alice(knows: &Running, holds: &Running) -> bool {
    knows.presence.holders(&user("alice")) == [holds.name()]
}

/// For several times as long as silence is borne with, alice is known to be on the first.
async fn is_there_throughout(one: &Running, two: &Running) {
    let began = tokio::time::Instant::now();
    until("a long time", || {
        assert!(knows_alice(two, one), "gone after {:?}", began.elapsed());
        began.elapsed() > 4 * SILENCE_MAX
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_subscriptions_silences_nobody() {
    let (one, two, _) = strained(Fate::Beget).await;
    until("it tells", || {
        note(&one.interest);
        !two.told.lock().unwrap().is_empty()
    })
    .await;
    is_there_throughout(&one, &two).await;
    let told = two.told.lock().unwrap().len();
    until("it goes on telling", || two.told.lock().unwrap().len() > told + EVENTS_AT_ONCE).await;
}

#[tokio::test(start_paused = true)]
async fn events_for_which_there_is_no_room_hold_nothing_up() {
    let (one, two, fate) = strained(|_| Fate::Wait(AtomicUsize::new(0))).await;
    let Fate::Wait(tried) = &*fate else { panic!("another fate") };
    until("it tries", || {
        note(&one.interest);
        tried.load(Ordering::Relaxed) > 0
    })
    .await;
    (0..EVENTS_AT_ONCE).for_each(|_| note(&one.interest));
    is_there_throughout(&one, &two).await;
    assert!(two.told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn events_take_no_more_of_the_spool_than_their_share() {
    let (one, two, fate) = strained(|_| Fate::Keep(Mutex::default())).await;
    let Fate::Keep(receipts) = &*fate else { panic!("another fate") };
    until("it tells", || {
        note(&one.interest);
        !receipts.lock().unwrap().is_empty()
    })
    .await;
    (0..2 * EVENTS_AT_ONCE).for_each(|_| note(&one.interest));
    is_there_throughout(&one, &two).await;
    assert_eq!(receipts.lock().unwrap().len(), EVENTS_AT_ONCE);
    // What waited is told once the broker has the others.
    let taken = std::mem::take(&mut *receipts.lock().unwrap());
    taken.into_iter().for_each(|receipt| receipt.settle(Ok(())));
    until("the rest is told", || receipts.lock().unwrap().len() >= EVENTS_AT_ONCE).await;
}

#[tokio::test(start_paused = true)]
async fn what_there_was_no_room_for_is_told_by_who_comes_next() {
    let (one, two, _) = strained(|_| Fate::Wait(AtomicUsize::new(0))).await;
    until("both know all", || one.tells_of_users() && two.tells_of_users()).await;
    until("the first tells", || two.presence.others().peers().all(|(_, peer)| peer.knows_all)).await;
    two.presence.arrive(&user("bob"), 1, 0);
    is_there_throughout(&one, &two).await;
    assert!(two.events().is_empty());
    one.kill();
    until("the other tells", || two.events().iter().any(|event| event == "join bob  b_1")).await;
}
