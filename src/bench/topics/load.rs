//! The sessions of a run: who listens, who publishes, and how many messages are on their way.
//!
//! Publishers keep a window of deliveries, not of acknowledgements: a broker takes messages faster than everybody hears
//! them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::bench::client::{Client, Ended};
use crate::bench::wire;
use crate::protocol::json;

/// Handshakes and subscriptions under way at a time.
const AT_A_TIME: usize = 64;

/// How every message that a session of `warren.v1.json` hears begins; and every error.
const MESSAGE: &[u8] = br#"{"type":"message""#;
const ERROR: &[u8] = br#"{"type":"error""#;

/// What is said to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// To one of so many topics, by chance.
    ToTopics(usize),
    ToEverybody,
}

impl Said {
    fn request(self, text: &str) -> String {
        match self {
            Said::ToTopics(topics) => {
                json!({ "type": "publish", "topic": topic(fastrand::usize(..topics)), "text": text }).to_string()
            }
            Said::ToEverybody => json!({ "type": "publish", "broadcast": true, "text": text }).to_string(),
        }
    }
}

/// The name of a topic by its number.
pub fn topic(number: usize) -> String {
    format!("bench.orders.{number}")
}

/// What the sessions of a run count.
#[derive(Default)]
pub struct Counts {
    published: AtomicU64,
    delivered: AtomicU64,
    /// Told when there may be room for another message.
    room: Notify,
}

impl Counts {
    pub fn published(&self) -> u64 {
        self.published.load(Acquire)
    }

    pub fn delivered(&self) -> u64 {
        self.delivered.load(Acquire)
    }
}

/// Opens plain sessions, or those of `warren.v1.json`, in turn at each address.
pub async fn open(addresses: &[SocketAddr], count: usize, speaks_json: bool) -> anyhow::Result<Vec<Client>> {
    let subprotocol = speaks_json.then_some(json::NAME);
    let connecting = (0..count).map(|number| {
        let address = addresses[number % addresses.len()];
        async move { Client::connect(address, "/message", subprotocol).await }
    });
    few_at_a_time(connecting).await.context("opening sessions")
}

/// Has each session ask for its subscription, and waits until all are in force.
pub async fn subscribe(clients: Vec<Client>, request: impl Fn(usize) -> Value) -> anyhow::Result<Vec<Client>> {
    let subscribing = clients.into_iter().enumerate().map(|(number, mut client)| {
        let request = request(number).to_string();
        async move {
            client.send(|out| wire::encode(wire::TEXT, request.as_bytes(), out))?;
            let mut is_granted = false;
            while !is_granted {
                client.turn().await?;
                client.take(|notice| {
                    is_granted |= notice.starts_with(br#"{"type":"ack""#);
                    no_error(notice)
                })?;
            }
            Ok(client)
        }
    });
    few_at_a_time(subscribing).await.context("subscribing")
}

/// The results, in the order of what was asked for.
async fn few_at_a_time<F>(all: impl Iterator<Item = F>) -> anyhow::Result<Vec<Client>>
where
    F: Future<Output = Result<Client, Ended>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(AT_A_TIME));
    let mut running = JoinSet::new();
    for (number, one) in all.enumerate() {
        let permit = permits.clone().acquire_owned().await?;
        running.spawn(async move { (number, one.await, drop(permit)) });
    }
    let mut clients = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (number, client, ()) = ended?;
        clients.push((number, client?));
    }
    clients.sort_by_key(|(number, _)| *number);
    Ok(clients.into_iter().map(|(_, client)| client).collect())
}

fn no_error(notice: &[u8]) -> Result<(), Ended> {
    match notice.starts_with(ERROR) {
        true => Err(Ended::Refused(String::from_utf8_lossy(notice).into_owned())),
        false => Ok(()),
    }
}

/// The sessions of a run at work. Its drop ends them.
pub struct Load {
    pub counts: Arc<Counts>,
    publishes: watch::Sender<bool>,
    sessions: JoinSet<Ended>,
}

impl Load {
    /// Everybody listens; nobody publishes yet. `fan_out` sessions hear each message, and `window` messages may be on
    /// their way.
    pub fn begin(listeners: Vec<Client>, publishers: Vec<Client>, work: Work) -> Load {
        let counts = Arc::new(Counts::default());
        let (publishes, orders) = watch::channel(false);
        let mut sessions = JoinSet::new();
        for client in listeners {
            sessions.spawn(listen(client, counts.clone(), work));
        }
        for client in publishers {
            sessions.spawn(publish(client, counts.clone(), work, orders.clone()));
        }
        Load { counts, publishes, sessions }
    }

    pub fn publish(&self, publishes: bool) {
        self.publishes.send_replace(publishes);
    }

    /// An error if a session has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.sessions.try_join_next() {
            None => Ok(()),
            Some(ended) => bail!("a session ended: {}", ended?),
        }
    }
}

/// What the sessions of a run do.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub said: Said,
    /// Whether listeners speak `warren.v1.json`.
    pub hears_json: bool,
    /// Sessions that hear each message.
    pub fan_out: u64,
    /// Messages on their way, of all publishers.
    pub window: u64,
    pub size: usize,
}

impl Work {
    fn has_room(self, counts: &Counts) -> bool {
        let underway = (counts.published() * self.fan_out).saturating_sub(counts.delivered());
        underway < self.window * self.fan_out
    }
}

async fn listen(mut client: Client, counts: Arc<Counts>, work: Work) -> Ended {
    let is_message = |payload: &[u8]| !work.hears_json || payload.starts_with(MESSAGE);
    loop {
        let mut heard = 0;
        let turned = client.turn().await.map_err(Ended::from).and_then(|()| {
            client.take(|payload| {
                heard += u64::from(is_message(payload));
                Ok(())
            })
        });
        if let Err(ended) = turned {
            return ended;
        }
        if heard > 0 {
            counts.delivered.fetch_add(heard, AcqRel);
            if work.has_room(&counts) {
                counts.room.notify_waiters();
            }
        }
    }
}

async fn publish(mut client: Client, counts: Arc<Counts>, work: Work, mut orders: watch::Receiver<bool>) -> Ended {
    let text = "x".repeat(work.size);
    loop {
        let room = counts.room.notified();
        if *orders.borrow_and_update() && client.is_flushed() && work.has_room(&counts) {
            counts.published.fetch_add(1, Release);
            let request = work.said.request(&text);
            if let Err(error) = client.send(|out| wire::encode(wire::TEXT, request.as_bytes(), out)) {
                return error.into();
            }
            tokio::task::yield_now().await;
            continue;
        }
        let done = tokio::select! {
            () = room => Ok(()),
            _ = orders.changed() => Ok(()),
            turned = client.turn() => turned.map_err(Ended::from).and_then(|()| client.take(no_error)),
        };
        if let Err(ended) = done {
            return ended;
        }
    }
}
