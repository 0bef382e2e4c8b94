//! A client of the subprotocol `warren.v1.json`, over a WebSocket that is not Warren's own code.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::client::Client;

pub const PROTOCOL: &str = "warren.v1.json";

pub struct JsonClient {
    pub client: Client,
    pub welcome: Value,
    /// Messages that came before they were asked for.
    heard: VecDeque<Value>,
    requests: u64,
}

impl JsonClient {
    pub async fn connect(address: SocketAddr) -> JsonClient {
        Self::connect_with(address, &[]).await
    }

    /// One of whose these tokens are.
    pub async fn connect_with(address: SocketAddr, tokens: &[&str]) -> JsonClient {
        let mut client = Client::connect_speaking_with(address, PROTOCOL, tokens).await;
        let welcome = parsed(&client.receive().await);
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        JsonClient { client, welcome, heard: VecDeque::new(), requests: 0 }
    }

    /// Sends a request with an id of its own, which is the answer.
    pub async fn request(&mut self, mut request: Value) -> String {
        self.requests += 1;
        let id = format!("request {}", self.requests);
        request["id"] = json!(id);
        self.client.send(request.to_string()).await;
        id
    }

    /// The next notice that is no message; messages before it are kept.
    pub async fn notice(&mut self) -> Value {
        loop {
            let told = parsed(&self.client.receive().await);
            if told["type"] != "message" {
                return told;
            }
            self.heard.push_back(told);
        }
    }

    /// The answer to a request, which must be the next notice.
    pub async fn answer(&mut self, request: Value) -> Value {
        let id = self.request(request).await;
        let answer = self.notice().await;
        assert_eq!(answer["id"], json!(id), "{answer}");
        answer
    }

    pub async fn granted(&mut self, request: Value) -> Value {
        let answer = self.answer(request).await;
        assert_eq!(answer["type"], "ack", "{answer}");
        answer
    }

    pub async fn refused(&mut self, request: Value, code: u16) -> String {
        let answer = self.answer(request).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{answer}");
        answer["message"].as_str().expect("an explanation").to_owned()
    }

    pub async fn subscribe(&mut self, topics: &[&str]) {
        self.granted(json!({"type": "subscribe", "topics": topics})).await;
    }

    pub async fn subscribe_to_broadcast(&mut self) {
        self.granted(json!({"type": "subscribe", "broadcast": true})).await;
    }

    pub async fn unsubscribe(&mut self, topics: &[&str]) {
        self.granted(json!({"type": "unsubscribe", "topics": topics})).await;
    }

    /// Publishes a text; the answer is its message id.
    pub async fn publish(&mut self, topic: &str, text: &str) -> String {
        let ack = self.granted(json!({"type": "publish", "topic": topic, "text": text})).await;
        ack["message_id"].as_str().expect("the id of what was published").to_owned()
    }

    /// Sends a text to backends; the answer is its message id.
    pub async fn send_to(&mut self, destination: &str, text: &str) -> String {
        let ack = self.granted(json!({"type": "send", "destination": destination, "text": text})).await;
        ack["message_id"].as_str().expect("the id of what was sent").to_owned()
    }

    /// The name by which backends know this session.
    pub fn session(&self) -> &str {
        self.welcome["session"].as_str().expect("a name")
    }

    pub async fn broadcast(&mut self, text: &str) -> String {
        let ack = self.granted(json!({"type": "publish", "broadcast": true, "text": text})).await;
        ack["message_id"].as_str().expect("the id of what was published").to_owned()
    }

    /// The next message.
    pub async fn message(&mut self) -> Value {
        if let Some(message) = self.heard.pop_front() {
            return message;
        }
        let told = parsed(&self.client.receive().await);
        assert_eq!(told["type"], "message", "{told}");
        told
    }

    /// The next messages are these texts of these topics; the broadcast has none.
    pub async fn hears(&mut self, expected: &[(Option<&str>, &str)]) {
        for (topic, text) in expected {
            let message = self.message().await;
            let broadcast = message.get("broadcast").map(|value| value == &json!(true));
            assert_eq!((message["topic"].as_str(), message["text"].as_str()), (*topic, Some(*text)), "{message}");
            assert_eq!(broadcast, topic.is_none().then_some(true), "{message}");
        }
    }

    /// What has come and was not asked for yet.
    pub fn heard_so_far(&mut self) -> Vec<Value> {
        self.heard.drain(..).collect()
    }

    /// The next notice of this type; messages before it are kept, others passed over.
    pub async fn notice_of(&mut self, kind: &str) -> Value {
        loop {
            let notice = self.notice().await;
            if notice["type"] == kind {
                return notice;
            }
        }
    }

    /// The next message, whatever gaps are told before it.
    pub async fn message_after_gaps(&mut self) -> Value {
        if let Some(message) = self.heard.pop_front() {
            return message;
        }
        loop {
            let told = parsed(&self.client.receive().await);
            if told["type"] != "gap" {
                assert_eq!(told["type"], "message", "{told}");
                return told;
            }
        }
    }

    /// Passes over what has come so far.
    pub fn forget(&mut self) {
        self.heard.clear();
    }

    /// Nothing has come that was not asked for.
    pub async fn heard_nothing_else(&mut self) {
        let pong = self.answer(json!({"type": "ping"})).await;
        assert_eq!(pong["type"], "pong", "{pong}");
        assert_eq!(self.heard, [Value::Null; 0]);
    }
}

fn parsed(message: &Message) -> Value {
    match message {
        Message::Text(text) => serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")),
        other => panic!("expected a text, got {other:?}"),
    }
}
