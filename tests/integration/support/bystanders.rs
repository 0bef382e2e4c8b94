//! Two well-behaved sessions that talk to each other while something else happens.

use std::cell::Cell;
use std::net::SocketAddr;

use super::client::Client;

pub struct Bystanders {
    one: Client,
    other: Client,
    said: usize,
}

impl Bystanders {
    pub async fn meet(address: SocketAddr) -> Bystanders {
        let (mut one, mut other) = (Client::connect(address).await, Client::connect(address).await);
        one.is_open().await;
        other.is_open().await;
        Bystanders { one, other, said: 0 }
    }

    /// Lets them talk without a break until `happening` is over, and then once more.
    pub async fn talk_while<T>(&mut self, happening: impl Future<Output = T>) -> T {
        let over = Cell::new(false);
        let happening = async {
            let outcome = happening.await;
            over.set(true);
            outcome
        };
        let talking = async {
            while !over.get() {
                self.talk().await;
            }
            self.talk().await;
        };
        tokio::join!(happening, talking).0
    }

    /// Each says something that both hear.
    pub async fn talk(&mut self) {
        let (question, answer) = (format!("question {}", self.said), format!("answer {}", self.said));
        self.said += 1;
        self.one.send(question.as_str()).await;
        self.hear(&question).await;
        self.other.send(answer.as_str()).await;
        self.hear(&answer).await;
    }

    /// Waits until both have heard this; others may speak before.
    pub async fn hear(&mut self, text: &str) {
        self.one.receives_after_others(text).await;
        self.other.receives_after_others(text).await;
    }

    /// Nothing but what they say themselves is heard from now on, up to and including what is on its way.
    pub async fn hear_nobody_else(&mut self) {
        self.one.send("whoever spoke has spoken").await;
        self.one.receives(&["whoever spoke has spoken"]).await;
        self.other.receives(&["whoever spoke has spoken"]).await;
    }
}
