//! Random steps against a model that fits on one look: users connect with a phone and a laptop, leave, vanish and move while
//! others write to them and to their group; wires are cut, instances are killed and started again, the broker is killed.
//! Whatever was accepted for a user is delivered or still kept: at the end everybody has read all that was accepted.
//!
//! `MODEL_SEED=… cargo test model_users` repeats the steps of a run that failed; it is in what the run prints.

mod expected;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use fastrand::Rng;
use futures_util::future::{join_all, select_all};
use serde_json::{Value, json};
use warren::broker::Delivery;
use warren::broker::memory::MemoryExchange;

use expected::Model;

use crate::support::broker::{Cluster, PrivateNode, USERS};
use crate::support::client::{Client, get_json};
use crate::support::http::{Answer, request};
use crate::support::identity::{SECRET, token_of, with_tokens};
use crate::support::instance::{Carrier, Instance};
use crate::support::json::PROTOCOL;
use crate::support::post::{JSON, json, post};
use crate::support::process::{Directory, Warren, free_port};
use crate::support::proxy::Proxy;
use crate::support::{eventually, within_deadline};

/// All that was accepted must have come at the end of each round. Each has a strike in its middle, where things break.
const ROUNDS: usize = 3;
const STEPS: usize = 18;
const STEP_OF_THE_STRIKE: usize = 6;
const STEP_OF_THE_REPAIR: usize = 10;

/// Runs in an ordinary test run, unless it is told a seed: with both ways of delivery, ten in which brokers and instances are
/// killed.
const SEEDS: u64 = 5;

/// In process; of processes there are more, as one of them is away at times.
const INSTANCES: usize = 2;
const PROCESSES: usize = 3;

/// The first user has a phone and a laptop, the others one device at a time.
const WITH_TWO_DEVICES: usize = 0;

/// Users in it.
const GROUP: &str = "class";
const MEMBERS: [usize; 2] = [0, 1];

/// Two write by sessions, several messages ahead of the answers. One writes over HTTP, and waits for each.
const WRITERS: usize = 2;
const OVER_HTTP: usize = WRITERS;
const AT_ONCE_MAX: usize = 5;

// --- the world ------------------------------------------------------------------------------------------------------

/// An instance.
enum Host {
    Inside(Instance),
    Process(Warren),
    Killed(SocketAddr),
}

impl Host {
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Host::Inside(instance) => Some(instance.address),
            Host::Process(warren) => Some(warren.address),
            Host::Killed(_) => None,
        }
    }
}

/// Where processes run, and what can be broken there.
struct Ground {
    node: PrivateNode,
    cluster: Cluster,
    delivery: Delivery,
    key_file: String,
    _directory: Directory,
    /// One for each instance.
    wires: Vec<Proxy>,
}

impl Ground {
    /// An instance that is a process of its own.
    async fn start(&self, wire: usize, port: Option<u16>) -> Host {
        let (delivery, port) = (self.delivery.to_string(), port.unwrap_or_else(free_port).to_string());
        let of_cluster = ["--prefix", &self.cluster.prefix, "--delivery", &delivery];
        let own = ["--jwt-key-file", &self.key_file, "--port", &port];
        let arguments = [of_cluster, own].concat();
        Host::Process(Warren::serve(&arguments, &[("WARREN_BROKER", &self.wires[wire].url)]).await)
    }
}

/// One session of a user.
struct Device {
    user: usize,
    is_json: bool,
    client: Client,
    heard: HashSet<usize>,
    /// Acknowledgements that were not sent so far.
    owed: Vec<String>,
}

/// Who writes by sessions.
struct Writer {
    client: Option<Client>,
    /// What was not answered so far, by request.
    unanswered: HashMap<String, usize>,
}

struct World {
    model: Model,
    hosts: Vec<Host>,
    /// Without it nothing breaks.
    ground: Option<Ground>,
    devices: Vec<Device>,
    writers: [Writer; WRITERS],
    chance: Rng,
    /// The broker is away.
    is_without_broker: bool,
}

/// How a session ends.
#[derive(Clone, Copy)]
enum Leaving {
    InGoodOrder,
    Vanishing,
}

impl World {
    async fn new(hosts: Vec<Host>, ground: Option<Ground>, seed: u64) -> World {
        let writers = [(); WRITERS].map(|()| Writer { client: None, unanswered: HashMap::new() });
        let (model, chance) = (Model::default(), Rng::with_seed(seed));
        let mut world = World { model, hosts, ground, devices: Vec::new(), writers, chance, is_without_broker: false };
        world.are_ready().await;
        let bearer = format!("Bearer {}", writer_token());
        for member in MEMBERS {
            let (line, address) =
                (format!("PUT /api/groups/{GROUP}/members/{}", USERS[member]), world.some_address().expect("all run"));
            let answer = request(address, &line, &[("Authorization", &bearer), ("Content-Length", "0")]).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        world
    }

    /// With instances in this process, which nothing breaks.
    async fn unbroken(carrier: &Carrier, seed: u64) -> World {
        let directory = Directory::new("model-users");
        let hosts = [(); INSTANCES].map(|()| carrier.instance_with(with_tokens(&directory)));
        let hosts = join_all(hosts).await.into_iter().map(Host::Inside).collect();
        World::new(hosts, None, seed).await
    }

    /// With instances as processes on a broker of their own.
    async fn on(node: PrivateNode, delivery: Delivery, seed: u64) -> World {
        let directory = Directory::new("model-users");
        let key_file = directory.write("jwt-key", SECRET);
        let cluster = Cluster::at(node.url.clone());
        let wires = join_all([(); PROCESSES].map(|()| Proxy::to(&node.url))).await;
        let ground = Ground { node, cluster, delivery, key_file, _directory: directory, wires };
        let hosts = join_all((0..PROCESSES).map(|wire| ground.start(wire, None))).await;
        World::new(hosts, Some(ground), seed).await
    }

    async fn are_ready(&self) {
        for host in &self.hosts {
            match host {
                Host::Inside(instance) => instance.ready().await,
                Host::Process(warren) => warren.ready().await,
                Host::Killed(_) => {}
            }
        }
    }

    /// Of any instance that runs.
    fn some_address(&mut self) -> Option<SocketAddr> {
        let running: Vec<SocketAddr> = self.hosts.iter().filter_map(Host::address).collect();
        self.chance.choice(running)
    }

    // --- users ---

    /// Opens a session of a user somewhere, if anybody lets it in.
    async fn connect(&mut self, user: usize) {
        let Some(address) = self.some_address() else { return };
        let is_json = self.chance.bool();
        let token = token_of(USERS[user], &json!({}));
        let subprotocol = is_json.then_some(PROTOCOL);
        if let Some(client) = Client::try_connect_as(address, subprotocol, &token).await {
            println!("{} connects to {address}{}", USERS[user], if is_json { "" } else { ", plain" });
            self.devices.push(Device { user, is_json, client, heard: HashSet::new(), owed: Vec::new() });
        }
    }

    async fn disconnect(&mut self, device: usize, leaving: Leaving) {
        let mut device = self.devices.swap_remove(device);
        println!(
            "{} leaves{}",
            USERS[device.user],
            if let Leaving::Vanishing = leaving { " without a word" } else { "" }
        );
        if let Leaving::InGoodOrder = leaving {
            let texts = device.client.leave().await;
            texts.iter().for_each(|text| device.take(text, &mut self.model));
        }
    }

    /// Reads what a session was sent so far, and acknowledges it if that is asked for (by a plain one it is in any case).
    /// False if the session is over.
    async fn read(&mut self, device: usize, acknowledges: bool) -> bool {
        let own = &mut self.devices[device];
        let (texts, mut lives) = own.client.texts_until_pong().await;
        texts.iter().for_each(|text| own.take(text, &mut self.model));
        if acknowledges {
            lives &= own.acknowledge().await;
        }
        if !lives {
            self.devices.swap_remove(device);
        }
        lives
    }

    /// Has a user read until nothing is missing.
    async fn read_to_the_end(&mut self, user: usize) {
        while !self.model.missing(user).is_empty() {
            if !self.devices.iter().any(|device| device.user == user) {
                self.connect(user).await;
                continue;
            }
            let own = self.devices.iter_mut().enumerate().filter(|(_, device)| device.user == user);
            let next = own.map(|(place, device)| Box::pin(async move { (place, device.client.next().await) }));
            let what = format!("{} sees {:?}", USERS[user], self.model.missing(user));
            let ((place, next), _, _) = within_deadline(&what, select_all(next)).await;
            let Ok(message) = next else {
                self.devices.swap_remove(place);
                continue;
            };
            self.devices[place].heed(message.to_text().expect("a text"), &mut self.model).await;
        }
    }

    // --- writers ---

    async fn write(&mut self, sender: usize) {
        let to_group = self.chance.u8(..5) == 0;
        let user = self.chance.usize(..USERS.len());
        if sender == OVER_HTTP {
            return self.write_over_http(to_group, user).await;
        }
        if self.writers[sender].client.is_none() {
            let Some(address) = self.some_address() else { return };
            self.writers[sender].client = Client::try_connect_as(address, Some(PROTOCOL), &writer_token()).await;
        }
        for _ in 0..self.chance.usize(1..=AT_ONCE_MAX) {
            let Writer { client: Some(client), unanswered } = &mut self.writers[sender] else { return };
            let letter = self.model.write(sender, recipients(to_group, user));
            let mut message = json!({"type": "send", "id": letter.to_string(), "text": letter.to_string()});
            match to_group {
                true => message["group"] = json!(GROUP),
                false => message["user"] = json!(USERS[user]),
            }
            unanswered.insert(letter.to_string(), letter);
            if client.try_send(message.to_string()).await.is_err() {
                return self.hear_answers(sender).await;
            }
        }
    }

    async fn write_over_http(&mut self, to_group: bool, user: usize) {
        let Some(address) = self.some_address().filter(|_| !self.is_without_broker) else { return };
        let letter = self.model.write(OVER_HTTP, recipients(to_group, user));
        let path = match to_group {
            true => format!("/api/groups/{GROUP}/messages"),
            false => format!("/api/users/{}/messages", USERS[user]),
        };
        let answer = post_letter(address, &path, json!({"text": letter.to_string()})).await;
        match answer.status {
            200 => self.model.accept(letter, &json(&answer)["id"]),
            503 | 504 if self.ground.is_some() => {}
            _ => panic!("{answer:?}"),
        }
    }

    /// Waits for all answers, or the end of the session: what is not answered by then may have been accepted or not.
    async fn hear_answers(&mut self, sender: usize) {
        let Writer { client, unanswered } = &mut self.writers[sender];
        while let Some(own) = client.as_mut().filter(|_| !unanswered.is_empty()) {
            let Ok(message) = within_deadline("an answer", own.next()).await else {
                *client = None;
                break;
            };
            let answer: Value = serde_json::from_str(message.to_text().expect("a text")).expect("JSON");
            let letter = answer["id"].as_str().and_then(|request| unanswered.remove(request));
            match (letter, answer["type"].as_str()) {
                (None, Some("welcome")) => {}
                (Some(letter), Some("ack")) => self.model.accept(letter, &answer["message_id"]),
                (Some(_), Some("error")) if self.ground.is_some() => {}
                _ => panic!("not expected: {answer}"),
            }
        }
        self.writers[sender].unanswered.clear();
    }

    // --- what happens ---

    async fn step(&mut self) {
        let user = self.chance.usize(..USERS.len());
        let device = (0..self.devices.len()).filter(|device| self.devices[*device].user == user).collect::<Vec<_>>();
        let device = self.chance.choice(device);
        let leaving = if self.chance.bool() { Leaving::InGoodOrder } else { Leaving::Vanishing };
        match (self.chance.u8(..100), device) {
            (0..20, None) => self.connect(user).await,
            (0..10, Some(_)) if user == WITH_TWO_DEVICES => self.connect(user).await,
            (10..20, Some(device)) => {
                // To anywhere, and there before the old session's end is noticed, perhaps.
                self.disconnect(device, leaving).await;
                self.connect(user).await;
            }
            (20..28, Some(device)) => self.disconnect(device, leaving).await,
            (28..45, Some(device)) => {
                let acknowledges = self.chance.bool();
                self.read(device, acknowledges).await;
            }
            // While the broker is away, answers are, too.
            (45..50, _) if !self.is_without_broker => {
                let sender = self.chance.usize(..WRITERS);
                self.hear_answers(sender).await;
                // It goes on elsewhere.
                self.writers[sender].client = None;
            }
            (50..52, _) => self.cut(),
            _ => {
                let sender = self.chance.usize(..=WRITERS);
                self.write(sender).await;
            }
        }
    }

    fn cut(&mut self) {
        if let Some(ground) = &self.ground {
            let place = self.chance.usize(..PROCESSES);
            println!("the wire of {:?} is cut", self.hosts[place].address());
            ground.wires[place].cut();
        }
    }

    /// Kills an instance or the broker, while messages are on their way.
    async fn strike(&mut self, kills_the_broker: bool) {
        for sender in 0..WRITERS {
            self.write(sender).await;
        }
        let Some(ground) = &self.ground else { return };
        if kills_the_broker {
            println!("the broker is killed");
            ground.node.kill().await;
            self.is_without_broker = true;
            return;
        }
        let place = self.chance.usize(..PROCESSES);
        let address = self.hosts[place].address().expect("one at a time is killed");
        if let Host::Process(warren) = std::mem::replace(&mut self.hosts[place], Host::Killed(address)) {
            println!("{address} is killed");
            warren.process.kill().await;
        }
    }

    /// Whatever is away comes back; an instance by its old name, or a new one.
    async fn repair(&mut self) {
        let Some(ground) = &self.ground else { return };
        if std::mem::take(&mut self.is_without_broker) {
            ground.node.restart().await;
            println!("the broker is back");
        }
        for (place, host) in self.hosts.iter_mut().enumerate() {
            if let Host::Killed(address) = host {
                let port = self.chance.bool().then(|| address.port());
                *host = ground.start(place, port).await;
            }
        }
    }

    async fn round(&mut self, kills_the_broker: bool) {
        for step in 0..STEPS {
            match step {
                STEP_OF_THE_STRIKE => self.strike(kills_the_broker).await,
                STEP_OF_THE_REPAIR => self.repair().await,
                _ => self.step().await,
            }
        }
        self.are_ready().await;
        for sender in 0..WRITERS {
            self.hear_answers(sender).await;
        }
        if self.ground.is_none() {
            // What sessions leave behind that have ended comes again, before what is written then.
            self.ends_are_noticed().await;
            for (user, _) in USERS.iter().enumerate() {
                self.write_over_http(false, user).await;
            }
        }
        for (user, _) in USERS.iter().enumerate() {
            self.read_to_the_end(user).await;
        }
        self.model.check();
        if self.ground.is_none() {
            self.copies_have_come().await;
            self.acknowledge_all().await;
        }
    }

    /// Waits until instances have only those sessions that stand.
    async fn ends_are_noticed(&self) {
        let standing = self.devices.len() + self.writers.iter().filter(|writer| writer.client.is_some()).count();
        eventually("sessions that ended have left", || async {
            let addresses = self.hosts.iter().filter_map(Host::address);
            let all = join_all(addresses.map(|address| get_json(address, "/healthz"))).await;
            all.iter().filter_map(|(_, health)| health["sessions"].as_u64()).sum::<u64>() == standing as u64
        })
        .await;
    }

    /// Waits until everything is there that instances sent each other: what is for who is connected goes behind it.
    async fn copies_have_come(&mut self) {
        let addresses: Vec<SocketAddr> = self.hosts.iter().filter_map(Host::address).collect();
        for (user, _) in USERS.iter().enumerate() {
            let count = self.devices.iter().filter(|device| device.user == user).count();
            let mut last = HashSet::new();
            for address in &addresses {
                knows(*address, user, count).await;
                let letter = self.model.write(OVER_HTTP, vec![user]);
                let body = json!({"text": letter.to_string(), "keep": false});
                let answer = post_letter(*address, &format!("/api/users/{}/messages", USERS[user]), body).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                last.insert(letter);
            }
            for device in self.devices.iter_mut().filter(|device| device.user == user) {
                while !last.is_subset(&device.heard) {
                    let message = device.client.receive_text().await;
                    device.heed(&message, &mut self.model).await;
                }
            }
        }
    }

    /// Has everybody acknowledge all, so that nothing of it may come again.
    async fn acknowledge_all(&mut self) {
        // A plain session proves one thing at a time: what it was given, and then what was given to it meanwhile.
        for _ in 0..3 {
            for device in 0..self.devices.len() {
                assert!(self.read(device, true).await, "nothing breaks");
            }
        }
        let Model { done, seen, .. } = &mut self.model;
        done.iter_mut().zip(seen).for_each(|(done, seen)| done.extend(seen.iter()));
    }

    /// Rounds whose strikes take turns, beginning with one that the seed says.
    async fn run(&mut self, seed: u64) {
        for round in 0..ROUNDS as u64 {
            self.round((seed + round).is_multiple_of(2)).await;
        }
        let accepted = self.model.letters.iter().filter(|letter| letter.accepted.is_some()).count();
        assert!(accepted > ROUNDS * STEPS / 2, "only {accepted} messages were accepted");
        println!("seed {seed}: {accepted} accepted, {} repetitions", self.model.repetitions);
    }
}

impl Device {
    /// Notes what the session was sent.
    fn take(&mut self, text: &str, model: &mut Model) {
        if !self.is_json {
            self.heard.insert(model.see(self.user, text, None));
            return;
        }
        let notice: Value = serde_json::from_str(text).expect("JSON");
        if notice["type"] != "message" {
            assert_eq!(notice["type"], "welcome", "not expected: {notice}");
            return;
        }
        assert!(notice["id"].is_string(), "{notice}");
        self.heard.insert(model.see(self.user, notice["text"].as_str().expect("a text"), notice["id"].as_str()));
        self.owed.push(json!({"type": "acknowledge", "message_id": notice["id"]}).to_string());
    }

    /// Acknowledges all that a client has to. False if the session is over.
    async fn acknowledge(&mut self) -> bool {
        for acknowledgement in self.owed.drain(..) {
            if self.client.try_send(acknowledgement).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Notes and acknowledges.
    async fn heed(&mut self, text: &str, model: &mut Model) {
        self.take(text, model);
        // If that fails, the next look shows it.
        self.acknowledge().await;
    }
}

fn recipients(to_group: bool, user: usize) -> Vec<usize> {
    if to_group { MEMBERS.to_vec() } else { vec![user] }
}

fn writer_token() -> String {
    token_of("writer", &json!({"roles": ["send", "groups", "presence"]}))
}

async fn post_letter(address: SocketAddr, path: &str, letter: Value) -> Answer {
    let bearer = format!("Bearer {}", writer_token());
    post(address, path, &[JSON, ("Authorization", &bearer)], letter.to_string()).await
}

/// Waits until an instance knows of so many sessions of a user.
async fn knows(address: SocketAddr, user: usize, count: usize) {
    let bearer = format!("Bearer {}", writer_token());
    let line = format!("GET /api/presence/users/{}", USERS[user]);
    eventually("the sessions are known", || async {
        json(&request(address, &line, &[("Authorization", &bearer)]).await)["count"] == json!(count)
    })
    .await;
}

// --- the runs -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_one_process_everybody_sees_what_was_accepted_and_acknowledged_things_once() {
    join_all(seeds().map(async |seed| {
        let carrier = Carrier::Memory(MemoryExchange::default());
        World::unbroken(&carrier, seed).await.run(seed).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_rabbitmq_everybody_sees_what_was_accepted_and_acknowledged_things_once() {
    let ways = [Delivery::Queue, Delivery::Stream];
    join_all(seeds().flat_map(|seed| ways.map(|way| (seed, way))).map(async |(seed, way)| {
        let carrier = Carrier::RabbitMq(Cluster::shared(), way);
        World::unbroken(&carrier, seed).await.run(seed).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_queues_nothing_accepted_is_lost_whatever_breaks() {
    nothing_accepted_is_lost(Delivery::Queue, "users-queue").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_stream_nothing_accepted_is_lost_whatever_breaks() {
    nothing_accepted_is_lost(Delivery::Stream, "users-stream").await;
}

async fn nothing_accepted_is_lost(delivery: Delivery, name: &str) {
    for seed in seeds() {
        let node = PrivateNode::start(name).await;
        World::on(node, delivery, seed).await.run(seed).await;
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let seed = std::env::var("MODEL_SEED").ok().map(|seed| seed.parse().expect("MODEL_SEED is a number"));
    let (first, count) = seed.map_or_else(|| (u64::from(fastrand::u32(..)), SEEDS), |seed| (seed, 1));
    (first..first + count).inspect(|seed| println!("begins: MODEL_SEED={seed} repeats these steps alone"))
}
