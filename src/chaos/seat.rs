//! What one connection listens to at the moment, and in whose books what it hears belongs.
//!
//! A plain session hears one thing as long as its connection stands. One that comes and goes speaks `warren.v1.json`: each
//! of its subscriptions is a life of its own, from the acknowledgement, behind which everything has to come, to that of its
//! end, behind which nothing may.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::books::{Cause, End, Life};
use super::ledger::{Ledger, Sender};
use super::subject::{Role, Subject};
use crate::bench::client::Ended;
use crate::bench::marker::Marker;
use crate::protocol::json;

/// The error for a subscription that the broker does not carry yet.
const NOT_IN_FORCE: u16 = 200;

pub struct Seat {
    ledger: Arc<Ledger>,
    instance: usize,
    /// The connection as such, and all that a plain session hears.
    connection: Arc<Life>,
    sender: Option<Arc<Sender>>,
    /// Of a session that comes and goes.
    subscriptions: Option<Subscriptions>,
}

struct Subscriptions {
    /// Topics that there are.
    topics: usize,
    lives: Vec<Arc<Life>>,
    pending: Option<Request>,
}

/// What was asked for and not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Subscribe(Subject),
    Unsubscribe(Subject),
}

/// What of a notice matters here.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Notice<'a> {
    Message {
        #[serde(borrow)]
        text: Option<Cow<'a, str>>,
    },
    Ack,
    Error {
        code: u16,
    },
    #[serde(other)]
    Other,
}

impl Seat {
    /// For a connection that was just agreed to.
    pub fn take(ledger: &Arc<Ledger>, instance: usize, role: Role) -> Seat {
        let connection = ledger.begin(instance, role.hears());
        let sender = matches!(role, Role::Publishes(_)).then(|| ledger.sender(&connection));
        let subscriptions = match role {
            Role::ComesAndGoes(topics) => Some(Subscriptions { topics, lives: Vec::new(), pending: None }),
            Role::Publishes(_) | Role::Listens(_) => None,
        };
        Seat { ledger: ledger.clone(), instance, connection, sender, subscriptions }
    }

    /// The subprotocol that a session of this role speaks.
    pub fn subprotocol(role: Role) -> Option<&'static str> {
        matches!(role, Role::ComesAndGoes(_)).then_some(json::NAME)
    }

    /// The next message of a session that publishes.
    pub fn next_message(&self) -> Option<Marker> {
        self.sender.as_ref().and_then(|sender| self.ledger.send(sender))
    }

    /// What a session that comes and goes asks for next, unless it waits for an answer: to join a topic of chance, or to
    /// leave it if it is there.
    pub fn next_request(&mut self) -> Option<String> {
        let subscriptions = self.subscriptions.as_mut().filter(|own| own.pending.is_none())?;
        let subject = Subject::Topic(fastrand::usize(..subscriptions.topics));
        let is_there = subscriptions.lives.iter().any(|life| life.hears == subject);
        let (request, kind) = match is_there {
            true => (Request::Unsubscribe(subject), "unsubscribe"),
            false => (Request::Subscribe(subject), "subscribe"),
        };
        subscriptions.pending = Some(request);
        Some(json!({ "type": kind, "id": "1", "topics": [subject.pattern()] }).to_string())
    }

    /// A message of the server arrived.
    pub fn hear(&mut self, payload: &[u8]) -> Result<(), Ended> {
        if self.subscriptions.is_none() {
            if let Some(marker) = Marker::decode(payload) {
                self.ledger.hear(&self.connection, self.sender.as_deref(), marker);
            }
            return Ok(());
        }
        match serde_json::from_slice(payload) {
            Ok(Notice::Message { text }) => {
                let marker = text.and_then(|text| Marker::decode(text.as_bytes()));
                marker.into_iter().for_each(|marker| self.hear_subscribed(marker));
            }
            Ok(Notice::Ack) => self.granted(),
            Ok(Notice::Error { code: NOT_IN_FORCE }) => drop(self.answered()),
            Ok(Notice::Error { code }) => return Err(Ended::Refused(format!("a request was refused with {code}"))),
            Ok(Notice::Other) => {}
            Err(error) => return Err(Ended::Refused(format!("a notice cannot be read: {error}"))),
        }
        Ok(())
    }

    fn hear_subscribed(&self, marker: Marker) {
        let (Some(subscriptions), Some(subject)) = (&self.subscriptions, self.ledger.subject_of(marker)) else {
            return;
        };
        match subscriptions.lives.iter().find(|life| life.hears.hears(subject)) {
            Some(life) => self.ledger.hear(life, None, marker),
            // The answer is on its way, and messages may be ahead of it.
            None if subscriptions.pending == Some(Request::Subscribe(subject)) => {}
            None => self.ledger.hear_unwanted(self.instance, subject),
        }
    }

    fn answered(&mut self) -> Option<Request> {
        self.subscriptions.as_mut()?.pending.take()
    }

    fn granted(&mut self) {
        let (Some(request), Some(subscriptions)) = (self.answered(), &mut self.subscriptions) else { return };
        match request {
            Request::Subscribe(subject) => subscriptions.lives.push(self.ledger.begin(self.instance, subject)),
            Request::Unsubscribe(subject) => {
                for life in subscriptions.lives.extract_if(.., |life| life.hears == subject) {
                    self.ledger.end(&life, None, left());
                }
            }
        }
    }

    /// The connection is gone.
    pub fn leave(self, end: End) {
        for life in self.subscriptions.into_iter().flat_map(|subscriptions| subscriptions.lives) {
            self.ledger.end(&life, None, left());
        }
        self.ledger.end(&self.connection, self.sender.as_deref(), end);
    }
}

fn left() -> End {
    End { why: "left".to_owned(), cause: Cause::Left }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::subject::Route;

    /// A publisher to the only topic, and somebody who comes and goes.
    fn seats() -> (Arc<Ledger>, Seat, Seat) {
        let ledger = Arc::new(Ledger::new(1));
        let publisher = Seat::take(&ledger, 0, Role::Publishes(Subject::Topic(0)));
        let listener = Seat::take(&ledger, 0, Role::ComesAndGoes(1));
        (ledger, publisher, listener)
    }

    fn notice(marker: Marker) -> Vec<u8> {
        let text = String::from_utf8(marker.encode().to_vec()).expect("a marker is text");
        json!({ "type": "message", "topic": "chaos.0", "text": text }).to_string().into_bytes()
    }

    fn hear(listener: &mut Seat, publisher: &Seat) {
        listener.hear(&notice(publisher.next_message().expect("a publisher"))).expect("a message");
    }

    fn ask(listener: &mut Seat) -> String {
        let request = listener.next_request().expect("nothing is pending");
        assert_eq!(listener.next_request(), None, "one at a time");
        request
    }

    #[test]
    fn what_comes_without_a_subscription_is_unwanted() {
        let (ledger, publisher, mut listener) = seats();
        let unwanted = || ledger.unwanted(Route::Topics, 0);
        hear(&mut listener, &publisher);
        assert_eq!(unwanted(), 1);
        assert!(ask(&mut listener).contains(r#""type":"subscribe""#));
        hear(&mut listener, &publisher);
        listener.hear(br#"{"type":"ack","id":"1"}"#).expect("an answer");
        hear(&mut listener, &publisher);
        assert!(ask(&mut listener).contains(r#""type":"unsubscribe""#));
        hear(&mut listener, &publisher);
        assert_eq!((unwanted(), ledger.delivered()), (1, 2), "until the answer they may come");
        listener.hear(br#"{"type":"ack","id":"1"}"#).expect("an answer");
        hear(&mut listener, &publisher);
        assert_eq!((unwanted(), ledger.delivered()), (2, 2));
    }

    #[test]
    fn a_subscription_is_expected_to_hear_from_its_answer_on() {
        let (ledger, publisher, mut listener) = seats();
        ask(&mut listener);
        publisher.next_message();
        listener.hear(br#"{"type":"ack","id":"1"}"#).expect("an answer");
        publisher.next_message();
        let lines = ledger.lives().iter().map(|life| life.page().lines.clone()).collect::<Vec<_>>();
        assert_eq!(lines[2][&0].1.missing(Some(2)), vec![1..2]);
    }

    #[test]
    fn a_refusal_ends_it_unless_the_broker_is_away() {
        let (_, _, mut listener) = seats();
        ask(&mut listener);
        listener.hear(br#"{"type":"error","id":"1","code":200,"message":"later"}"#).expect("it may ask again");
        ask(&mut listener);
        assert!(listener.hear(br#"{"type":"error","id":"1","code":104,"message":"no"}"#).is_err());
        assert!(listener.hear(b"no notice").is_err());
        listener.hear(br#"{"type":"welcome","session":"1"}"#).expect("passed over");
    }
}
