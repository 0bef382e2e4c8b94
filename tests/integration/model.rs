//! Random steps against a model that fits on one look: who subscribes, leaves, publishes, comes back, on one, two and five
//! instances, while wires are cut and the broker is killed. What each session heard is compared with what it must and may.
//!
//! `MODEL_SEED=… cargo test model` repeats the steps of a run that failed; it is in what the run prints.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio_tungstenite::tungstenite::Message as Frame;
use warren::broker::Delivery;
use warren::broker::memory::MemoryExchange;
use warren::config::Config;

use crate::support::broker::{Cluster, PrivateNode};
use crate::support::instance::{Carrier, Instance, config};
use crate::support::json::JsonClient;
use crate::support::proxy::Proxy;
use crate::support::{eventually, within_deadline};

/// Sizes of the clusters.
const INSTANCES: [usize; 3] = [1, 2, 5];
const SESSIONS_PER_INSTANCE: usize = 3;

/// What must have come is waited for at the end of each round. In one of them the broker is killed.
const ROUNDS: usize = 6;
const STEPS: usize = 40;
const ROUND_OF_THE_KILL: usize = 3;

/// Few, so that subscriptions overlap. The broadcast is `None`.
const TARGETS: [Selection; 6] = [None, Some("a"), Some("b"), Some("a.b"), Some("a.c"), Some("a.b.c")];
const PATTERNS: [Selection; 5] = [Some("*"), Some("a.*"), Some("a.#"), Some("#.c"), Some("#")];

type Selection = Option<&'static str>;

/// Counts what happens in a world.
type Time = usize;

#[derive(Clone, Copy)]
struct Message {
    sender: usize,
    target: Selection,
    sent: Time,
}

// --- the model ------------------------------------------------------------------------------------------------------

/// What a session has asked for and not been told to be over, and when that was granted, if it was.
#[derive(Default)]
struct Model(HashMap<Selection, Option<Time>>);

impl Model {
    fn may_hear(&self, message: Message) -> bool {
        self.0.keys().any(|selection| selects(*selection, message.target))
    }

    fn must_hear(&self, message: Message) -> bool {
        let was_granted = |at: &Option<Time>| at.is_some_and(|at| at < message.sent);
        self.0.iter().any(|(selection, at)| selects(*selection, message.target) && was_granted(at))
    }
}

fn selects(selection: Selection, target: Selection) -> bool {
    match (selection, target) {
        (Some(pattern), Some(topic)) => matches(&words(pattern), &words(topic)),
        (selection, target) => selection == target,
    }
}

fn matches(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        (["#", rest @ ..], _) => (0..=topic.len()).any(|skipped| matches(rest, &topic[skipped..])),
        ([word, pattern @ ..], [same, topic @ ..]) => (word == same || *word == "*") && matches(pattern, topic),
        (pattern, topic) => pattern.is_empty() && topic.is_empty(),
    }
}

fn words(name: &str) -> Vec<&str> {
    name.split('.').collect()
}

// --- the steps ------------------------------------------------------------------------------------------------------

enum Step {
    Subscribe(Selection),
    Unsubscribe(Selection),
    Publish(Selection),
    /// The connection ends, and with it all subscriptions; another one begins.
    Reconnect,
    /// The connection ends, and another one, to any instance, goes on where it was: what the session must hear does not
    /// change by its absence. Where nobody can go on, as the last.
    Resume,
    /// The wire between the session's instance and the broker.
    Cut,
}

impl Step {
    fn draw(chance: &mut Rng, has_wires: bool) -> Step {
        let mut listened_to = || {
            let among = if chance.bool() { &TARGETS[..] } else { &PATTERNS };
            among[chance.usize(..among.len())]
        };
        let selection = listened_to();
        match chance.u32(..100) {
            0..20 => Step::Subscribe(selection),
            20..35 => Step::Unsubscribe(selection),
            35..37 => Step::Reconnect,
            37..41 => Step::Resume,
            41 if has_wires => Step::Cut,
            _ => Step::Publish(TARGETS[chance.usize(..TARGETS.len())]),
        }
    }
}

/// One session, what the model says of it, and what it heard.
struct Session {
    instance: usize,
    client: JsonClient,
    /// What came with the last notice that had one.
    cursor: Value,
    model: Model,
    /// Messages in the order in which they came, by their number.
    heard: Vec<usize>,
    /// Answers that nobody has looked for yet, by the id of the request.
    answers: HashMap<String, Value>,
    unconfirmed: HashSet<String>,
}

impl Session {
    async fn connect(number: usize, instances: &[Instance]) -> Session {
        let instance = number % instances.len();
        let client = instances[instance].converse().await;
        Session {
            instance,
            client,
            cursor: Value::Null,
            model: Model::default(),
            heard: Vec::new(),
            answers: HashMap::new(),
            unconfirmed: HashSet::new(),
        }
    }

    /// Reads one notice.
    async fn read(&mut self, messages: &[Message]) {
        let Frame::Text(text) = self.client.client.receive().await else { panic!("notices are texts") };
        let notice: Value = serde_json::from_str(&text).expect("JSON");
        if let Some(cursor) = notice.get("cursor") {
            self.cursor = cursor.clone();
        }
        match notice["type"].as_str() {
            Some("message") => {
                let number: usize = notice["text"].as_str().and_then(|text| text.parse().ok()).expect("a number");
                assert!(self.model.may_hear(messages[number]), "nobody asked for it: {notice}");
                assert!(!self.heard.contains(&number), "twice: {notice}");
                assert_eq!(notice["topic"].as_str(), messages[number].target, "{notice}");
                self.heard.push(number);
            }
            Some("ack" | "error") => {
                let id = notice["id"].as_str().expect("the id of a request").to_owned();
                self.answers.insert(id, notice);
            }
            // Where messages wait in queues. What nobody may miss is looked for in any case.
            Some("gap") if self.cursor.is_null() => {}
            _ => panic!("not expected: {notice}"),
        }
    }

    /// Asks on a new connection for all that it had asked for, from where it was.
    async fn resume(&mut self, client: JsonClient, messages: &[Message]) {
        self.client = client;
        let selections: Vec<Selection> = self.model.0.keys().copied().collect();
        let topics: Vec<&str> = selections.iter().flatten().copied().collect();
        while !selections.is_empty() {
            let request = json!({
                "type": "subscribe", "topics": topics, "broadcast": selections.contains(&None), "since": self.cursor,
            });
            let id = self.client.request(request).await;
            let answer = self.answer(&id, messages).await;
            match answer["code"].as_u64() {
                None => return,
                // While the broker is away.
                Some(200) => {}
                Some(_) => panic!("{answer}"),
            }
        }
    }

    /// Waits until the broker has all that was published here.
    async fn confirmed(&mut self, messages: &[Message]) {
        for id in std::mem::take(&mut self.unconfirmed) {
            let answer = self.answer(&id, messages).await;
            assert_eq!(answer["type"], "ack", "{answer}");
        }
    }

    async fn answer(&mut self, id: &str, messages: &[Message]) -> Value {
        loop {
            match self.answers.remove(id) {
                Some(answer) => return answer,
                None => self.read(messages).await,
            }
        }
    }
}

fn request(kind: &str, selection: Selection) -> Value {
    match selection {
        Some(topic) => json!({ "type": kind, "topics": [topic] }),
        None => json!({ "type": kind, "broadcast": true }),
    }
}

// --- the world ------------------------------------------------------------------------------------------------------

/// A cluster, its sessions and all that was published there.
struct World {
    carrier: Carrier,
    /// One for each instance, if there is a broker.
    wires: Vec<Proxy>,
    instances: Vec<Instance>,
    sessions: Vec<Session>,
    messages: Vec<Message>,
    now: Time,
    /// When this round began: what was sent before has arrived.
    round: Time,
    /// Connections that each wire had taken when it was cut in this round.
    cut: HashMap<usize, usize>,
    /// At each instance, times of sending of what may be missing or late there.
    excused: Vec<Vec<Range<Time>>>,
    chance: Rng,
}

impl World {
    async fn new(carrier: Carrier, count: usize, seed: u64) -> World {
        let (mut wires, mut instances) = (Vec::new(), Vec::new());
        for _ in 0..count {
            // A linger that comes and goes within the run. Where there is a stream, so little memory for who was away that
            // this is read, too.
            let config = Config { topic_linger_ms: 20, ..config() };
            let config = match &carrier {
                Carrier::RabbitMq(_, Delivery::Stream) => Config { resume_bytes_max: 2_000, ..config },
                Carrier::RabbitMq(..) | Carrier::Memory(_) => config,
            };
            instances.push(match &carrier {
                Carrier::Memory(_) => carrier.instance_with(config).await,
                Carrier::RabbitMq(cluster, delivery) => {
                    let wire = Proxy::to(&cluster.url).await;
                    let config = cluster.configure_through(&[&wire.url], Config { delivery: *delivery, ..config });
                    wires.push(wire);
                    Instance::start(config).await
                }
            });
        }
        let mut sessions = Vec::new();
        for instance in &instances {
            instance.ready().await;
        }
        for number in 0..count * SESSIONS_PER_INSTANCE {
            sessions.push(Session::connect(number, &instances).await);
        }
        World {
            carrier,
            wires,
            instances,
            sessions,
            messages: Vec::new(),
            now: 0,
            round: 0,
            cut: HashMap::new(),
            excused: vec![Vec::new(); count],
            chance: Rng::with_seed(seed ^ count as u64),
        }
    }

    async fn step(&mut self) {
        let number = self.chance.usize(..self.sessions.len());
        let step = Step::draw(&mut self.chance, !self.wires.is_empty());
        let World { sessions, messages, .. } = self;
        let session = &mut sessions[number];
        self.now += 1;
        match step {
            Step::Subscribe(selection) => {
                let before = session.model.0.get(&selection).copied();
                session.model.0.entry(selection).or_default();
                let id = session.client.request(request("subscribe", selection)).await;
                let answer = session.answer(&id, messages).await;
                match (answer["code"].as_u64(), before) {
                    (None, Some(before)) => drop(session.model.0.insert(selection, before)),
                    (None, None) => drop(session.model.0.insert(selection, Some(self.now))),
                    (Some(200), Some(_)) => {}
                    (Some(200), None) => drop(session.model.0.remove(&selection)),
                    (Some(_), _) => panic!("{answer}"),
                }
            }
            Step::Unsubscribe(selection) => {
                let id = session.client.request(request("unsubscribe", selection)).await;
                let answer = session.answer(&id, messages).await;
                assert_eq!(answer["type"], "ack", "{answer}");
                session.model.0.remove(&selection);
            }
            Step::Publish(target) => {
                let text = messages.len().to_string();
                messages.push(Message { sender: number, target, sent: self.now });
                let request = match target {
                    Some(topic) => json!({ "type": "publish", "topic": topic, "text": text }),
                    None => json!({ "type": "publish", "broadcast": true, "text": text }),
                };
                let id = session.client.request(request).await;
                session.unconfirmed.insert(id);
            }
            Step::Resume if !session.cursor.is_null() => {
                session.confirmed(messages).await;
                session.instance = self.chance.usize(..self.instances.len());
                let client = self.instances[session.instance].converse().await;
                session.resume(client, messages).await;
            }
            Step::Reconnect | Step::Resume => {
                session.confirmed(messages).await;
                session.client = self.instances[session.instance].converse().await;
                session.model = Model::default();
                session.cursor = Value::Null;
            }
            Step::Cut => {
                let instance = session.instance;
                self.cut.entry(instance).or_insert_with(|| self.wires[instance].accepted());
                self.wires[instance].cut();
            }
        }
    }

    /// Waits until everything stands again, is confirmed and has come to all that must hear it; what came is in order.
    async fn settle(&mut self, was_killed: bool) {
        for (instance, before) in self.cut.drain() {
            let wire = &self.wires[instance];
            eventually("both links connect anew", async || wire.accepted() >= before + 2).await;
            self.excused[instance].push(self.round..self.now + 1);
        }
        for (instance, excused) in self.instances.iter().zip(&mut self.excused) {
            instance.ready().await;
            if was_killed {
                excused.push(self.round..self.now + 1);
            }
        }
        for session in &mut self.sessions {
            session.confirmed(&self.messages).await;
        }
        for number in 0..self.sessions.len() {
            self.hears_what_it_must(number).await;
            self.heard_in_order(number);
        }
        self.now += 1;
        self.round = self.now;
    }

    async fn hears_what_it_must(&mut self, number: usize) {
        let session = &self.sessions[number];
        let is_due = |message: Message| {
            message.sent > self.round && session.model.must_hear(message) && !self.is_excused(session.instance, message)
        };
        let mut missing: BTreeSet<usize> =
            (0..self.messages.len()).filter(|message| is_due(self.messages[*message])).collect();
        let session = &mut self.sessions[number];
        loop {
            missing.retain(|message| !session.heard.contains(message));
            if missing.is_empty() {
                return;
            }
            within_deadline(&format!("session {number} hears {missing:?}"), session.read(&self.messages)).await;
        }
    }

    /// Each sender's messages to one target come in the order in which they were sent.
    fn heard_in_order(&self, number: usize) {
        let session = &self.sessions[number];
        let mut last = HashMap::new();
        for heard in &session.heard {
            let message = self.messages[*heard];
            if self.is_excused(session.instance, message) {
                continue;
            }
            let before = last.insert((message.sender, message.target), *heard);
            assert!(before < Some(*heard), "session {number} heard {heard} behind {before:?}");
        }
    }

    /// Where messages wait in the queues of instances, what waits there is lost with the broker or the wire.
    fn is_excused(&self, instance: usize, message: Message) -> bool {
        matches!(self.carrier, Carrier::RabbitMq(_, Delivery::Queue))
            && self.excused[instance].iter().any(|times| times.contains(&message.sent))
    }
}

// --- the runs -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_hears_what_the_model_says_in_one_process() {
    let seed = seed();
    join_all(INSTANCES.map(async |count| {
        let mut world = World::new(Carrier::Memory(MemoryExchange::default()), count, seed).await;
        for _ in 0..ROUNDS {
            world.round().await;
            world.settle(false).await;
        }
    }))
    .await;
}

/// All clusters stand on one broker, which is killed once, in the middle of a round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_hears_what_the_model_says_on_rabbitmq() {
    let seed = seed();
    let node = PrivateNode::start("model").await;
    let ways = [Delivery::Queue, Delivery::Stream];
    let worlds: Vec<_> = ways.into_iter().flat_map(|way| INSTANCES.map(|count| (way, count))).collect();
    let all = Barrier::new(worlds.len());
    join_all(worlds.into_iter().map(async |(delivery, count)| {
        let carrier = Carrier::RabbitMq(Cluster::at(node.url.clone()), delivery);
        let mut world = World::new(carrier, count, seed).await;
        for round in 0..ROUNDS {
            if round == ROUND_OF_THE_KILL {
                world.round_without(&node, &all).await;
            } else {
                world.round().await;
            }
            world.settle(round == ROUND_OF_THE_KILL).await;
        }
    }))
    .await;
}

impl World {
    async fn round(&mut self) {
        for _ in 0..STEPS {
            self.step().await;
        }
    }

    /// A round in whose middle the broker is killed under all, to be started again while they go on.
    async fn round_without(&mut self, node: &PrivateNode, all: &Barrier) {
        self.round().await;
        let kills = all.wait().await.is_leader();
        if kills {
            node.kill().await;
        }
        all.wait().await;
        for instance in &self.instances {
            instance.unready().await;
        }
        all.wait().await;
        let restart = async {
            if kills {
                node.restart().await;
            }
        };
        tokio::join!(restart, self.round());
    }
}

fn seed() -> u64 {
    let seed = std::env::var("MODEL_SEED").ok().map(|seed| seed.parse().expect("MODEL_SEED is a number"));
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MODEL_SEED={seed} repeats these steps");
    seed
}
