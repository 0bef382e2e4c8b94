//! One device of a user: connects to some instance, reads, goes away, and comes back somewhere else.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::mail::Mail;
use super::{Doors, PAUSE, settling, some_door};
use crate::bench::client::{Client, Ended};
use crate::bench::wire;
use crate::chaos::session::Orders;

/// How long a session stays, and how long its user is away after it, at most.
const STAY_MAX: Duration = Duration::from_secs(4);
const ABSENCE_MAX: Duration = Duration::from_secs(2);

/// How long a session hears nothing before it goes without a word, at most: what is sent to it meanwhile nobody sees.
const DEAF_MAX: Duration = Duration::from_secs(1);

/// Time for the server to answer a good-bye.
const GOOD_BYE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Device {
    user: usize,
    /// That of a plain session, and that of one that speaks JSON.
    subprotocols: [String; 2],
    doors: Doors,
    orders: watch::Receiver<Orders>,
    mail: Arc<Mail>,
}

/// What of a notice matters here.
#[derive(Deserialize)]
struct Notice {
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
    id: Option<String>,
    text: Option<String>,
}

impl Device {
    pub fn new(
        user: usize,
        subprotocols: [String; 2],
        doors: Doors,
        orders: watch::Receiver<Orders>,
        mail: Arc<Mail>,
    ) -> Device {
        Device { user, subprotocols, doors, orders, mail }
    }

    /// Goes on until it is dropped.
    pub async fn run(mut self) {
        loop {
            let (place, door) = some_door(&mut self.doors).await;
            let is_json = fastrand::bool();
            let subprotocols = &self.subprotocols[usize::from(is_json)];
            let Ok(client) = Client::connect(door.address, "/message", Some(subprotocols)).await else {
                sleep(PAUSE).await;
                continue;
            };
            self.mail.arrive(self.user);
            let was_struck = |device: &Device| device.doors[place].borrow().generation != door.generation;
            match self.live(client, is_json).await {
                Ok(()) => {}
                Err(_) if was_struck(&self) => {}
                Err(_) => self.mail.note_disconnected(),
            }
            if !self.orders.borrow().is_settling {
                sleep(ABSENCE_MAX.mul_f64(fastrand::f64().powi(2))).await;
            }
        }
    }

    /// Reads until it wants to leave, in good order or without a word; at the end of the run it stays.
    async fn live(&mut self, mut client: Client, is_json: bool) -> Result<(), Ended> {
        let leaves_at = Instant::now() + STAY_MAX.mul_f64(fastrand::f64().powi(2));
        let acknowledges = fastrand::u8(..8) > 0;
        let mut is_last = self.orders.borrow().is_settling;
        let mut owed = Vec::new();
        loop {
            tokio::select! {
                () = sleep_until(leaves_at), if !is_last => break,
                () = settling(&mut self.orders), if !is_last => is_last = true,
                turned = client.turn() => {
                    turned?;
                    self.read(&mut client, is_json, &mut owed)?;
                }
            }
            // In the end also what was not acknowledged before: no more than some comes ahead of that.
            if acknowledges || is_last {
                acknowledge(&mut client, std::mem::take(&mut owed))?;
            }
        }
        if fastrand::bool() {
            // As by a phone in a tunnel.
            sleep(DEAF_MAX.mul_f64(fastrand::f64())).await;
            return Ok(());
        }
        client.send(|out| wire::encode(wire::CLOSE, &1000_u16.to_be_bytes(), out))?;
        match tokio::time::timeout(GOOD_BYE_TIMEOUT, self.read_to_the_end(&mut client, is_json)).await {
            Ok(Ended::Closed { .. }) => Ok(()),
            Ok(ended) => Err(ended),
            Err(_) => Err(Ended::Refused("no answer to the good-bye".to_owned())),
        }
    }

    async fn read_to_the_end(&self, client: &mut Client, is_json: bool) -> Ended {
        loop {
            if let Err(ended) = self.read(client, is_json, &mut Vec::new()) {
                return ended;
            }
            if let Err(error) = client.turn().await {
                return error.into();
            }
        }
    }

    /// Sees what has arrived, and notes what is to be acknowledged. A plain session acknowledges by its pongs, whether it wants to or
    /// not.
    fn read(&self, client: &mut Client, is_json: bool, owed: &mut Vec<String>) -> Result<(), Ended> {
        client.take(|payload| {
            let text = std::str::from_utf8(payload).map_err(|_| Ended::Refused("a text is no UTF-8".to_owned()))?;
            if !is_json {
                self.mail.see(self.user, text);
                return Ok(());
            }
            let notice: Notice = serde_json::from_str(text)
                .map_err(|error| Ended::Refused(format!("a notice cannot be read: {error}")))?;
            if notice.kind == "message" && notice.user.is_some() {
                notice.text.iter().for_each(|text| self.mail.see(self.user, text));
                owed.extend(notice.id);
            }
            Ok(())
        })?;
        Ok(())
    }
}

fn acknowledge(client: &mut Client, owed: Vec<String>) -> Result<(), Ended> {
    if owed.is_empty() {
        return Ok(());
    }
    client.send(|out| {
        for id in owed {
            let acknowledgement = json!({ "type": "acknowledge", "message_id": id }).to_string();
            wire::encode(wire::TEXT, acknowledgement.as_bytes(), out);
        }
    })?;
    Ok(())
}
