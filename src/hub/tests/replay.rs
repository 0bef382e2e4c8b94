//! Joining with a replay: whoever does hears one run of messages, without a hole or a double, up to the last.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::message::now_unix_ms;
use crate::protocol::frame::encoded_len;

const LIMITS: HistoryLimits =
    HistoryLimits { bytes_max: 4 << 20, messages_max: 400, age_max: Duration::from_secs(3600) };

/// Hears numbers; slowly, if `dawdles`.
#[derive(Default)]
struct Counter {
    /// What was replayed, once it was.
    past: Mutex<Option<Vec<u64>>>,
    live: Mutex<Vec<u64>>,
    dawdles: bool,
    seat: Seat,
}

impl Listener for Counter {
    fn deliver(&self, frames: &Frames) {
        self.live.lock().unwrap().extend(numbers(frames.of(Format::Plain)));
        if self.dawdles {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn replay(&self, past: &[Bytes]) {
        let before = self.past.lock().unwrap().replace(numbers(&past.concat()));
        assert!(before.is_none() && self.live.lock().unwrap().is_empty(), "the past comes once, and first");
    }

    fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Counter {
    fn heard(&self) -> Vec<u64> {
        let past = self.past.lock().unwrap().clone().unwrap_or_default();
        [past, self.live.lock().unwrap().clone()].concat()
    }

    /// The last number that was heard live; 0 before the first.
    fn last(&self) -> u64 {
        self.live.lock().unwrap().last().copied().unwrap_or(0)
    }

    async fn hears_up_to(&self, number: u64) {
        self.hears_more_than(number - 1).await;
    }

    async fn hears_more_than(&self, number: u64) {
        let waiting = async {
            while self.last() <= number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(heard.is_ok(), "heard up to {}, no more than {number}", self.last());
    }

    fn assert_one_run(&self) {
        let heard = self.heard();
        let broken = heard.windows(2).find(|pair| pair[1] != pair[0] + 1);
        assert_eq!(broken, None, "of {} messages", heard.len());
    }
}

/// The numbers at the beginning of each payload.
fn numbers(mut frames: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(&[_, length]) = frames.first_chunk() {
        let (header, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([frames[2], frames[3]]))),
            length => (2, usize::from(length)),
        };
        assert_eq!(encoded_len(length), header + length);
        numbers.push(u64::from_be_bytes(frames[header..header + 8].try_into().unwrap()));
        frames = &frames[header + length..];
    }
    assert!(frames.is_empty());
    numbers
}

fn numbered(number: u64, length: usize) -> Message {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(8 + length, 0);
    let kind = PayloadKind::Binary;
    Message {
        id: None,
        target: Target::Broadcast,
        kind,
        published_ms: now_unix_ms(),
        terms: None,
        payload: payload.into(),
    }
}

fn with_replay(hub: &Hub, listener: Arc<dyn Listener>, asked: Replay) -> Membership {
    let mut membership = hub.enter(listener);
    membership.join_with_replay(asked);
    membership
}

fn start_with_history(workers: usize, coalesce: Duration, limits: HistoryLimits) -> (Hub, mpsc::Sender<Delivered>) {
    start_looking_back(workers, coalesce, limits, Arc::new(|| false))
}

fn start_looking_back(
    workers: usize,
    coalesce: Duration,
    limits: HistoryLimits,
    looks_back: Arc<dyn Fn() -> bool + Send + Sync>,
) -> (Hub, mpsc::Sender<Delivered>) {
    let hub = Hub::start(workers, Arc::new(Interest::in_everything()), HubMetrics::default());
    let (deliveries, delivered) = mpsc::channel(4);
    let batching = Batching { history: Some(limits), looks_back, ..super::batching(coalesce) };
    tokio::spawn(hub.clone().run(batching, delivered));
    (hub, deliveries)
}

/// The hub has taken everything out of its channel.
async fn all_taken(deliveries: &mpsc::Sender<Delivered>) {
    while deliveries.capacity() < deliveries.max_capacity() {
        tokio::task::yield_now().await;
    }
}

/// Batches of messages of any size, as fast as they are taken, until `enough`; how many those were.
async fn send_numbers(deliveries: mpsc::Sender<Delivered>, enough: Arc<AtomicBool>, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sent = 0;
    while !enough.load(Ordering::Acquire) {
        let count = random.u64(1..200);
        let longest = *random.choice(&[0, 100, 2000]).unwrap();
        let messages = (sent + 1..=sent + count).map(|number| numbered(number, random.usize(0..=longest)));
        deliveries.send(messages.collect::<Vec<_>>().into()).await.unwrap();
        sent += count;
    }
    sent
}

/// While messages flow, listeners of every kind come and go.
async fn everybody_hears_one_run(coalesce: Duration, seed: u64) {
    const JOINS: usize = 150;
    let (hub, deliveries) = start_with_history(3, coalesce, LIMITS);
    let witness = Arc::new(Counter::default());
    let _membership = with_replay(&hub, witness.clone(), Replay::Messages(0));
    let enough = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(send_numbers(deliveries.clone(), enough.clone(), seed));
    let mut random = fastrand::Rng::with_seed(!seed);
    let (mut staying, mut leaving, mut left) = (Vec::new(), VecDeque::new(), Vec::new());
    for _ in 0..JOINS {
        let before = witness.last();
        let listener = Arc::new(Counter { dawdles: random.u8(..) < 10, ..Counter::default() });
        let asked = match random.u8(..4) {
            0 => Replay::Age(Duration::from_millis(random.u64(..20))),
            _ => Replay::Messages(random.usize(..LIMITS.messages_max + 100)),
        };
        let membership = with_replay(&hub, listener.clone(), asked);
        match random.u8(..4) {
            0 => left.push(listener),
            1 => leaving.push_back((listener, membership)),
            _ => staying.push((listener, membership, asked, before)),
        }
        if leaving.len() > random.usize(..10) {
            left.extend(leaving.pop_front().map(|(listener, _)| listener));
        }
        if random.u8(..3) == 0 {
            witness.hears_more_than(before).await;
        }
    }
    enough.store(true, Ordering::Release);
    let last = sending.await.unwrap() + 1;
    // One more, so that whoever joined behind the others has something to wait for.
    deliveries.send(vec![numbered(last, 0)].into()).await.unwrap();
    witness.hears_up_to(last).await;
    assert_eq!(witness.heard().len() as u64, last);
    let mut joined_in_between = 0;
    for (listener, _, asked, before) in &staying {
        listener.hears_up_to(last).await;
        listener.assert_one_run();
        let past = listener.past.lock().unwrap().clone().expect("a replay");
        let live_from = listener.live.lock().unwrap()[0];
        assert!(live_from > *before, "what was heard before is past");
        if let Replay::Messages(messages) = *asked {
            let expected = messages.min(LIMITS.messages_max).min(live_from as usize - 1);
            assert_eq!(past.len(), expected, "live from {live_from}");
        }
        joined_in_between += usize::from(!past.is_empty() && live_from < last);
    }
    assert!(joined_in_between > JOINS / 10, "{joined_in_between} joined while messages flowed");
    left.iter().for_each(|listener| listener.assert_one_run());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_joins_while_messages_flow_hears_one_run() {
    for seed in 0..3 {
        println!("seed {seed}");
        everybody_hears_one_run(Duration::ZERO, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_joins_while_messages_wait_for_others_hears_one_run() {
    for seed in 3..6 {
        println!("seed {seed}");
        everybody_hears_one_run(Duration::from_millis(3), seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_takes_what_waits_for_others_along() {
    let (hub, deliveries) = start_with_history(1, Duration::from_millis(500), LIMITS);
    let early = Arc::new(Counter::default());
    let _early = joined(&hub, early.clone());
    deliveries.send(vec![numbered(1, 0), numbered(2, 0)].into()).await.unwrap();
    all_taken(&deliveries).await;
    let late = Arc::new(Counter::default());
    let began = Instant::now();
    let _late = with_replay(&hub, late.clone(), Replay::Messages(1));
    early.hears_up_to(2).await;
    assert!(began.elapsed() < Duration::from_millis(400), "handed out for the sake of the replay");
    deliveries.send(vec![numbered(3, 0)].into()).await.unwrap();
    late.hears_up_to(3).await;
    assert_eq!((late.heard(), early.heard()), (vec![2, 3], vec![1, 2, 3]));
}

#[tokio::test]
async fn the_past_reaches_back_to_before_anybody_listened() {
    let (hub, deliveries) = start_with_history(8, Duration::ZERO, LIMITS);
    for number in 1..=5 {
        deliveries.send(vec![numbered(number, 0)].into()).await.unwrap();
    }
    all_taken(&deliveries).await;
    let late = Arc::new(Counter::default());
    let _late = with_replay(&hub, late.clone(), Replay::Messages(9));
    deliveries.send(vec![numbered(6, 0)].into()).await.unwrap();
    late.hears_up_to(6).await;
    assert_eq!(*late.past.lock().unwrap(), Some(vec![1, 2, 3, 4, 5]));
    assert_eq!(late.heard(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn who_joined_before_the_broker_delivers_hears_it_live() {
    for _ in 0..200 {
        let (hub, deliveries) = start_with_history(2, Duration::ZERO, LIMITS);
        let listener = Arc::new(Counter::default());
        let _membership = with_replay(&hub, listener.clone(), Replay::Messages(0));
        deliveries.send(vec![numbered(1, 0)].into()).await.unwrap();
        listener.hears_up_to(1).await;
    }
}

#[tokio::test]
async fn who_leaves_before_being_let_in_never_listens() {
    let (hub, deliveries) = start_with_history(1, Duration::ZERO, LIMITS);
    let (gone, stays) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
    // On this runtime of one thread neither the hub nor the worker has seen it when it leaves.
    drop(with_replay(&hub, gone.clone(), Replay::Messages(1)));
    let _stays = with_replay(&hub, stays.clone(), Replay::Messages(1));
    deliveries.send(vec![numbered(1, 0)].into()).await.unwrap();
    stays.hears_up_to(1).await;
    assert_eq!((gone.heard(), gone.past.lock().unwrap().is_some()), (vec![], false));
    assert_eq!(Arc::strong_count(&gone), 1, "nobody holds it");
}

#[tokio::test]
async fn only_broadcasts_are_replayed() {
    let (hub, deliveries) = start_with_history(1, Duration::ZERO, LIMITS);
    let topic = Target::Topic(Topic::parse("t").unwrap());
    let to = |target, number| Message { target, ..numbered(number, 0) };
    let batch = vec![
        to(Target::Broadcast, 1),
        to(topic, 2),
        to(Target::Instance(own().name().clone()), 3),
        to(Target::Broadcast, 4),
    ];
    let early = Arc::new(Counter::default());
    let _early = joined(&hub, early.clone());
    deliveries.send(batch.into()).await.unwrap();
    early.hears_up_to(4).await;
    let late = Arc::new(Counter::default());
    let _late = with_replay(&hub, late.clone(), Replay::Messages(9));
    deliveries.send(vec![to(Target::Instance(own().name().clone()), 5)].into()).await.unwrap();
    late.hears_up_to(5).await;
    assert_eq!((early.heard(), late.heard()), (vec![1, 3, 4, 5], vec![1, 4, 5]));
}

#[tokio::test]
async fn what_was_said_before_the_instance_was_there_is_as_old_as_it_is_and_the_rest_as_when_it_came() {
    let begins = Arc::new(AtomicBool::new(true));
    let looks_back = begins.clone();
    let (hub, deliveries) =
        start_looking_back(1, Duration::ZERO, LIMITS, Arc::new(move || looks_back.load(Ordering::Relaxed)));
    let aged = |number, seconds: u64| Message { published_ms: now_unix_ms() - seconds * 1000, ..numbered(number, 0) };
    deliveries.send(vec![aged(1, 1_000_000), aged(2, 40), aged(3, 20)].into()).await.unwrap();
    let witness = Arc::new(Counter::default());
    let _witness = with_replay(&hub, witness.clone(), Replay::Messages(3));
    witness.hears_up_to(3).await;
    begins.store(false, Ordering::Relaxed);
    // It waited in a spool while the broker was away.
    deliveries.send(vec![aged(4, 600)].into()).await.unwrap();
    witness.hears_up_to(4).await;
    let listener = Arc::new(Counter::default());
    let _membership = with_replay(&hub, listener.clone(), Replay::Age(Duration::from_secs(30)));
    deliveries.send(vec![numbered(5, 0)].into()).await.unwrap();
    listener.hears_up_to(5).await;
    assert_eq!(listener.heard(), [3, 4, 5]);
}
