use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::message::{PayloadKind, Target};
use crate::topic::Topic;

#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<u8>>,
    seat: Seat,
}

impl Listener for Ear {
    fn deliver(&self, frames: &Bytes) {
        self.heard.lock().unwrap().extend_from_slice(frames);
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

    async fn hears(&self, expected: &str) {
        let waiting = async {
            while self.text() != expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert!(heard.is_ok(), "heard {:?}, not {expected:?}", self.text());
    }
}

fn own() -> InstanceName {
    InstanceName::parse("a_1").unwrap()
}

fn message(target: Target, text: &'static str) -> Message {
    Message { id: None, target, kind: PayloadKind::Text, payload: Bytes::from_static(text.as_bytes()) }
}

fn start() -> (Hub, mpsc::Sender<Vec<Message>>) {
    let hub = Hub::start(2);
    let (deliveries, delivered) = mpsc::channel(4);
    tokio::spawn(hub.clone().run(own(), delivered));
    (hub, deliveries)
}

#[tokio::test]
async fn everyone_who_listens_hears_all_in_order() {
    let (hub, deliveries) = start();
    let ears: Vec<Arc<Ear>> = (0..5).map(|_| Arc::default()).collect();
    let _memberships: Vec<Membership> = ears.iter().map(|ear| hub.join(ear.clone())).collect();
    for text in ["a", "b", "c"] {
        deliveries.send(vec![message(Target::Broadcast, text)]).await.unwrap();
    }
    for ear in &ears {
        ear.hears("abc").await;
    }
}

#[tokio::test]
async fn who_left_hears_no_more_and_the_others_still_do() {
    let (hub, deliveries) = start();
    let ears: Vec<Arc<Ear>> = (0..6).map(|_| Arc::default()).collect();
    let mut memberships: Vec<Membership> = ears.iter().map(|ear| hub.join(ear.clone())).collect();
    deliveries.send(vec![message(Target::Broadcast, "a")]).await.unwrap();
    for ear in &ears {
        ear.hears("a").await;
    }
    memberships.remove(3);
    memberships.remove(0);
    deliveries.send(vec![message(Target::Broadcast, "b")]).await.unwrap();
    for (index, ear) in ears.iter().enumerate() {
        ear.hears(if index == 0 || index == 3 { "a" } else { "ab" }).await;
    }
    drop(memberships);
    let witness: Arc<Ear> = Arc::default();
    let _membership = hub.join(witness.clone());
    deliveries.send(vec![message(Target::Broadcast, "c")]).await.unwrap();
    witness.hears("c").await;
    assert!(ears.iter().all(|ear| !ear.text().contains('c')));
}

#[tokio::test]
async fn topics_and_other_instances_do_not_reach_plain_listeners() {
    let (hub, deliveries) = start();
    let ear: Arc<Ear> = Arc::default();
    let _membership = hub.join(ear.clone());
    let topic = Target::Topic(Topic::from_routing_key("t").unwrap());
    let other = Target::Instance(InstanceName::parse("b_2").unwrap());
    let batch = [(topic, "x"), (other, "y"), (Target::Instance(own()), "o"), (Target::Broadcast, "b")];
    deliveries.send(batch.map(|(target, text)| message(target, text)).to_vec()).await.unwrap();
    ear.hears("ob").await;
}
