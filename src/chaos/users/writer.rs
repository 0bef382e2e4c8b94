//! Who writes to users: a session that speaks JSON and is told of each message whether it is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::mail::{Addressee, Mail};
use super::{Doors, GROUP, PAUSE, name_of, some_door};
use crate::bench::client::{Client, Ended};
use crate::bench::wire;
use crate::chaos::session::Orders;

/// Of so many messages one is for the group.
const ONE_TO_THE_GROUP: usize = 8;

/// Messages ahead of the answers.
const UNANSWERED_MAX: usize = 32;

pub struct Writer {
    number: usize,
    subprotocols: String,
    doors: Doors,
    orders: watch::Receiver<Orders>,
    mail: Arc<Mail>,
    /// Between two messages.
    interval: Duration,
    /// What was not answered so far, by request.
    unanswered: HashMap<String, usize>,
}

/// What of a notice matters here.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
}

impl Writer {
    pub fn new(
        number: usize,
        subprotocols: String,
        doors: Doors,
        orders: watch::Receiver<Orders>,
        mail: Arc<Mail>,
        interval: Duration,
    ) -> Writer {
        Writer { number, subprotocols, doors, orders, mail, interval, unanswered: HashMap::new() }
    }

    /// Goes on until it is dropped.
    pub async fn run(mut self) {
        loop {
            let (place, door) = some_door(&mut self.doors).await;
            if let Ok(client) = Client::connect(door.address, "/message", Some(&self.subprotocols)).await {
                self.live(client).await;
                if self.doors[place].borrow().generation == door.generation {
                    self.mail.note_disconnected();
                }
                // Nobody will tell it any more.
                self.unanswered.drain().for_each(|(_, letter)| self.mail.give_up(letter));
            }
            sleep(PAUSE).await;
        }
    }

    /// Writes until the session ends.
    async fn live(&mut self, mut client: Client) -> Ended {
        let mut ticks = interval(self.interval);
        // What could not be written in time is not made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let writes =
                self.orders.borrow().publishes && client.is_flushed() && self.unanswered.len() < UNANSWERED_MAX;
            let done = tokio::select! {
                turned = client.turn() => turned.map_err(Ended::from).and_then(|()| client.take(|notice| self.hear(notice))),
                _ = ticks.tick() => if writes { self.write(&mut client) } else { Ok(()) },
            };
            if let Err(ended) = done {
                return ended;
            }
        }
    }

    fn write(&mut self, client: &mut Client) -> Result<(), Ended> {
        let to = match fastrand::usize(..ONE_TO_THE_GROUP) {
            0 => Addressee::Group,
            _ => Addressee::User(fastrand::usize(..self.mail.users())),
        };
        let (letter, text) = self.mail.write(self.number, to);
        let mut request = json!({ "type": "send", "id": letter.to_string(), "text": text });
        match to {
            Addressee::Group => request["group"] = json!(GROUP),
            Addressee::User(user) => request["user"] = json!(name_of(user)),
        }
        self.unanswered.insert(letter.to_string(), letter);
        Ok(client.send(|out| wire::encode(wire::TEXT, request.to_string().as_bytes(), out))?)
    }

    fn hear(&mut self, notice: &[u8]) -> Result<(), Ended> {
        let answer: Answer = serde_json::from_slice(notice)
            .map_err(|error| Ended::Refused(format!("a notice cannot be read: {error}")))?;
        let Some(letter) = answer.id.and_then(|id| self.unanswered.remove(&id)) else { return Ok(()) };
        match answer.kind.as_str() {
            "ack" => self.mail.accept(letter),
            _ => self.mail.give_up(letter),
        }
        Ok(())
    }
}
