//! A client of `GET /events` that reads the stream as WHATWG HTML §9.2.6 says.

use std::net::SocketAddr;

use serde_json::Value;

use super::http::{Answer, head};
use super::raw::Raw;

pub struct EventStream {
    connection: Raw,
    pub head: Answer,
    /// What a browser would say when it connects again.
    pub last_id: Option<String>,
    /// What the server asked to wait before the next attempt, each time.
    pub retries_ms: Vec<u32>,
    /// Comments so far.
    pub comments: Vec<String>,
}

/// What a browser would hand to its script.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub data: String,
}

impl EventStream {
    /// The stream that a query, such as `topic=a`, asks for.
    pub async fn open(address: SocketAddr, query: &str) -> EventStream {
        Self::open_with(Raw::tcp(address).await, address, query, &[]).await
    }

    /// The same on a connection that stands, with further headers.
    pub async fn open_with(
        mut connection: Raw,
        address: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> EventStream {
        connection.send(head(address, &format!("GET /events?{query}"), headers)).await;
        let head = connection.answer_to_head().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{head:?}");
        EventStream { connection, head, retries_ms: Vec::new(), comments: Vec::new(), last_id: None }
    }

    /// The next event; `None` for the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        let (mut id, mut data) = (None, Vec::new());
        loop {
            let line = self.connection.line().await?;
            if line.is_empty() {
                if !data.is_empty() {
                    return Some(Event { id, data: data.join("\n") });
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => self.comments.push(value),
                "data" => data.push(value),
                "id" => {
                    self.last_id = Some(value.clone());
                    id = Some(value);
                }
                "retry" => self.retries_ms.push(value.parse().expect("milliseconds")),
                other => panic!("no field of ours: {other}"),
            }
        }
    }

    /// The next event's message.
    pub async fn message(&mut self) -> Value {
        let event = self.next().await.expect("an event");
        let message: Value = serde_json::from_str(&event.data).expect("JSON");
        assert_eq!(message["type"], "message");
        // From where to go on; where nobody can, what the message is known by.
        let id = message.get("cursor").unwrap_or(&message["id"]);
        assert_eq!(id.as_str(), event.id.as_deref(), "{message}");
        message
    }

    /// The next messages have these texts.
    pub async fn receives(&mut self, texts: &[&str]) {
        for text in texts {
            let message = self.message().await;
            assert_eq!(message["text"], *text, "{message}");
        }
    }

    /// Waits until so many comments have come; no event may come before.
    pub async fn has_comments(&mut self, count: usize) {
        while self.comments.len() < count {
            let line = self.connection.line().await.expect("a comment");
            match line.split_once(':') {
                Some(("", comment)) => self.comments.push(comment.trim().to_owned()),
                Some(("id", id)) => self.last_id = Some(id.trim().to_owned()),
                Some(("retry", after_ms)) => self.retries_ms.push(after_ms.trim().parse().expect("milliseconds")),
                _ => assert_eq!(line, ""),
            }
        }
    }

    /// The connection beneath.
    pub fn into_connection(self) -> Raw {
        self.connection
    }
}
