//! The in-process broker: no server, for one instance, and for tests of several within a process.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::{Broker, Link, LinkState, NotAccepted, Receipt};
use crate::message::Message;

/// What the instances of one process have in common: the exchange that every message goes through.
#[derive(Clone, Default)]
pub struct MemoryExchange {
    /// Held while a message goes out, so that all instances see one order.
    turn: Arc<tokio::sync::Mutex<()>>,
    instances: Arc<Mutex<Vec<mpsc::Sender<Vec<Message>>>>>,
}

impl MemoryExchange {
    /// An instance's way to the exchange; what comes back goes to `deliveries`.
    pub fn attach(&self, deliveries: mpsc::Sender<Vec<Message>>) -> MemoryBroker {
        self.lock().push(deliveries.clone());
        let up = Link { kind: "memory", publishing: LinkState::Up, consuming: LinkState::Up, attachments: 1 };
        MemoryBroker { exchange: self.clone(), own: deliveries, link: watch::Sender::new(up) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Vec<Message>>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One instance's end of a [`MemoryExchange`].
pub struct MemoryBroker {
    exchange: MemoryExchange,
    own: mpsc::Sender<Vec<Message>>,
    link: watch::Sender<Link>,
}

impl MemoryBroker {
    async fn carry(&self, message: Message) -> Result<(), NotAccepted> {
        let _turn = self.exchange.turn.lock().await;
        if !self.link.borrow().is_up() {
            return Err(NotAccepted::Stopping);
        }
        let instances = self.exchange.lock().clone();
        for instance in instances {
            // An instance that stopped meanwhile is no longer meant.
            let _ = instance.send(vec![message.clone()]).await;
        }
        Ok(())
    }
}

impl Broker for MemoryBroker {
    fn publish(&self, message: Message, receipt: Receipt) -> BoxFuture<'_, ()> {
        Box::pin(async move { receipt.settle(self.carry(message).await) })
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn finish_publishing(&self) -> BoxFuture<'_, ()> {
        self.link.send_modify(|link| link.publishing = stopped());
        Box::pin(async {
            // Whoever has its turn now has published; those who come after it see that publishing is over.
            drop(self.exchange.turn.lock().await);
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.link.send_modify(|link| link.consuming = stopped());
        self.exchange.lock().retain(|instance| !instance.same_channel(&self.own));
        Box::pin(std::future::ready(()))
    }
}

fn stopped() -> LinkState {
    LinkState::Down { reason: "stopped".into(), permanent: false }
}
