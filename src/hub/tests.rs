use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::batch::{Batch, Encoder};
use super::*;
use crate::instance::InstanceName;
use crate::message::{Message, PayloadKind, Target};
use crate::topic::Topic;

mod formats;
mod replay;

#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<u8>>,
    /// When it was handed something.
    times: Mutex<Vec<Instant>>,
    format: Format,
    seat: Seat,
}

impl Listener for Ear {
    fn deliver(&self, frames: &Frames) {
        self.heard.lock().unwrap().extend_from_slice(frames.of(self.format));
        self.times.lock().unwrap().push(Instant::now());
    }

    fn replay(&self, past: &[Bytes]) {
        self.heard.lock().unwrap().extend(past.concat());
    }

    fn format(&self) -> Format {
        self.format
    }

    fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Ear {
    fn text(&self) -> String {
        let frames = self.heard.lock().unwrap().clone();
        // Each frame here is 2 bytes of header and a one-letter payload.
        frames.chunks(3).map(|frame| char::from(frame[2])).collect()
    }

    fn bytes(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    async fn hears(&self, expected: &str) {
        let heard = self.becomes(|ear| ear.text() == expected).await;
        assert!(heard, "heard {:?}, not {expected:?}", self.text());
    }

    async fn hears_something(&self) {
        assert!(self.becomes(|ear| ear.bytes() > 0).await, "nothing was heard");
    }

    async fn becomes(&self, condition: impl Fn(&Ear) -> bool) -> bool {
        let waiting = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waiting).await.is_ok()
    }
}

fn joined(hub: &Hub, listener: Arc<dyn Listener>) -> Membership {
    let mut membership = hub.enter(listener);
    membership.join();
    membership
}

fn own() -> Incarnation {
    Incarnation::begin(InstanceName::parse("a_1").unwrap())
}

fn message(target: Target, text: &'static str) -> Message {
    Message {
        id: None,
        target,
        kind: PayloadKind::Text,
        published_ms: 0,
        terms: None,
        payload: Bytes::from_static(text.as_bytes()),
    }
}

fn start() -> (Hub, mpsc::Sender<Delivered>) {
    start_with(Duration::ZERO)
}

/// How the hub works whose sessions have no names.
fn batching(coalesce: Duration) -> Batching {
    Batching {
        own: own(),
        compression_bytes_min: 100,
        coalesce,
        history: None,
        resume_bytes_max: 1 << 20,
        looks_back: Arc::new(|| false),
        session_named: Arc::new(|_| None),
        post: Post::default(),
    }
}

fn start_with(coalesce: Duration) -> (Hub, mpsc::Sender<Delivered>) {
    start_batching(batching(coalesce))
}

fn start_batching(batching: Batching) -> (Hub, mpsc::Sender<Delivered>) {
    let hub = Hub::start(2, Arc::new(Interest::in_everything()), HubMetrics::default());
    let (deliveries, delivered) = mpsc::channel(4);
    tokio::spawn(hub.clone().run(batching, delivered));
    (hub, deliveries)
}

#[tokio::test]
async fn everyone_who_listens_hears_all_in_order() {
    let (hub, deliveries) = start();
    let ears: Vec<Arc<Ear>> = (0..5).map(|_| Arc::default()).collect();
    let _memberships: Vec<Membership> = ears.iter().map(|ear| joined(&hub, ear.clone())).collect();
    for text in ["a", "b", "c"] {
        deliveries.send(vec![message(Target::Broadcast, text)].into()).await.unwrap();
    }
    for ear in &ears {
        ear.hears("abc").await;
    }
}

#[tokio::test]
async fn who_left_hears_no_more_and_the_others_still_do() {
    let (hub, deliveries) = start();
    let ears: Vec<Arc<Ear>> = (0..6).map(|_| Arc::default()).collect();
    let mut memberships: Vec<Membership> = ears.iter().map(|ear| joined(&hub, ear.clone())).collect();
    deliveries.send(vec![message(Target::Broadcast, "a")].into()).await.unwrap();
    for ear in &ears {
        ear.hears("a").await;
    }
    memberships.remove(3);
    memberships.remove(0);
    deliveries.send(vec![message(Target::Broadcast, "b")].into()).await.unwrap();
    for (index, ear) in ears.iter().enumerate() {
        ear.hears(if index == 0 || index == 3 { "a" } else { "ab" }).await;
    }
    drop(memberships);
    let witness: Arc<Ear> = Arc::default();
    let _membership = joined(&hub, witness.clone());
    deliveries.send(vec![message(Target::Broadcast, "c")].into()).await.unwrap();
    witness.hears("c").await;
    assert!(ears.iter().all(|ear| !ear.text().contains('c')));
}

#[tokio::test]
async fn topics_and_other_instances_do_not_reach_plain_listeners() {
    let (hub, deliveries) = start();
    let ear: Arc<Ear> = Arc::default();
    let _membership = joined(&hub, ear.clone());
    let topic = Target::Topic(Topic::parse("t").unwrap());
    let other = Target::Instance(InstanceName::parse("b_2").unwrap());
    let batch = [(topic, "x"), (other, "y"), (Target::Instance(own().name().clone()), "o"), (Target::Broadcast, "b")];
    deliveries.send(batch.map(|(target, text)| message(target, text)).to_vec().into()).await.unwrap();
    ear.hears("ob").await;
}

#[tokio::test]
async fn what_is_said_to_one_session_reaches_it_alone_in_its_own_format_and_in_order() {
    let (plain, json): (Arc<Ear>, Arc<Ear>) =
        (Arc::default(), Arc::new(Ear { format: Format::JsonDeflated, ..Ear::default() }));
    let ears = [plain.clone(), json.clone()];
    let session_named: SessionNamed = Arc::new(move |name| {
        let ear = ears.get(name.as_str().parse::<usize>().ok()?)?;
        Some(ear.clone())
    });
    let (hub, deliveries) = start_batching(Batching { session_named, ..batching(Duration::ZERO) });
    let _memberships = [joined(&hub, plain.clone()), joined(&hub, json.clone())];
    let to = |name, text| message(Target::Session(SessionName::from_publisher(name)), text);
    deliveries.send(vec![to("0", "a"), to("2", "x"), to("1", "c"), to("0", "b")].into()).await.unwrap();
    plain.hears("ab").await;
    json.hears_something().await;
    let heard = json.heard.lock().unwrap().clone();
    let said: serde_json::Value = serde_json::from_slice(&heard[2..]).expect("one plain frame");
    assert_eq!((&said["direct"], &said["broadcast"], &said["text"]), (&true.into(), &().into(), &"c".into()));
}

#[tokio::test(start_paused = true)]
async fn the_first_message_waits_for_more_as_long_as_it_may() {
    let (hub, deliveries) = start_with(Duration::from_millis(50));
    let ear: Arc<Ear> = Arc::default();
    let _membership = joined(&hub, ear.clone());
    let began = Instant::now();
    let mut expected = String::new();
    for text in ["a", "b", "c"] {
        deliveries.send(vec![message(Target::Broadcast, text)].into()).await.unwrap();
        expected += text;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ear.hears(&expected).await;
    deliveries.send(vec![message(Target::Broadcast, "d")].into()).await.unwrap();
    ear.hears("abcd").await;
    let times: Vec<u128> = ear.times.lock().unwrap().iter().map(|time| (*time - began).as_millis()).collect();
    assert_eq!(times.len(), 2, "one write for the first three");
    assert!((50..=51).contains(&times[0]) && (110..=112).contains(&times[1]), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_does_not_wait_and_no_batch_waits_unless_asked() {
    let long = vec![message(Target::Broadcast, Box::leak("x".repeat(1000).into_boxed_str())); 66];
    for (coalesce_ms, sent) in [(1000, long.clone()), (0, long), (0, vec![message(Target::Broadcast, "a")])] {
        let (hub, deliveries) = start_with(Duration::from_millis(coalesce_ms));
        let ear: Arc<Ear> = Arc::default();
        let _membership = joined(&hub, ear.clone());
        let began = Instant::now();
        deliveries.send(sent.into()).await.unwrap();
        ear.hears_something().await;
        assert_eq!(ear.times.lock().unwrap()[0], began);
    }
}

/// Hears nothing until the gate is open, and holds its worker meanwhile.
#[derive(Default)]
struct Dam {
    is_reached: AtomicBool,
    is_open: AtomicBool,
    seat: Seat,
}

impl Listener for Dam {
    fn deliver(&self, _: &Frames) {
        self.is_reached.store(true, Ordering::Release);
        while !self.is_open.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    fn replay(&self, _: &[Bytes]) {}

    fn seat(&self) -> &Seat {
        &self.seat
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_that_it_has_left_has_heard_its_last() {
    let hub = Hub::start(1, Arc::new(Interest::in_everything()), HubMetrics::default());
    let (deliveries, delivered) = mpsc::channel(4);
    tokio::spawn(hub.clone().run(batching(Duration::ZERO), delivered));
    let (dam, ear) = (Arc::new(Dam::default()), Arc::new(Ear::default()));
    let _first = joined(&hub, dam.clone());
    let mut second = joined(&hub, ear.clone());
    deliveries.send(vec![message(Target::Broadcast, "a")].into()).await.unwrap();
    while !dam.is_reached.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    second.leave();
    let mut caught_up = std::pin::pin!(second.caught_up());
    assert_eq!(caught_up.as_mut().now_or_never(), None, "the last is still under way");
    dam.is_open.store(true, Ordering::Release);
    caught_up.await;
    assert_eq!(ear.text(), "a");
}
