//! The in-process broker: no server, for one instance, and for tests of several within a process.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::{Arrivals, Broker, Link, LinkState, NotAccepted, Receipt};
use crate::message::Message;

/// What the instances of one process have in common: the exchange that every message goes through.
#[derive(Clone, Default)]
pub struct MemoryExchange {
    /// Held while a message goes out, so that all instances see one order.
    turn: Arc<tokio::sync::Mutex<()>>,
    instances: Arc<Mutex<Vec<Member>>>,
}

/// An instance, as the exchange sees it.
#[derive(Clone)]
struct Member {
    deliveries: mpsc::Sender<Vec<Message>>,
    /// Asked while a message goes out only, so nobody waits for it.
    arrivals: Arc<Mutex<Arrivals>>,
}

impl MemoryExchange {
    /// An instance's way to the exchange; what comes back and `arrivals` admits goes to `deliveries`.
    pub fn attach(&self, deliveries: mpsc::Sender<Vec<Message>>, arrivals: Arrivals) -> MemoryBroker {
        let arrivals = Arc::new(Mutex::new(arrivals));
        self.lock().push(Member { deliveries: deliveries.clone(), arrivals });
        let up = Link { kind: "memory", publishing: LinkState::Up, consuming: LinkState::Up, attachments: 1 };
        MemoryBroker { exchange: self.clone(), own: deliveries, link: watch::Sender::new(up) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
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
        // Room with all of them first: a message that is withdrawn meanwhile must have reached nobody. An instance that
        // stopped is no longer meant.
        let mut rooms = Vec::with_capacity(instances.len());
        for instance in &instances {
            rooms.extend(instance.deliveries.reserve().await.ok().map(|room| (room, &instance.arrivals)));
        }
        for (room, arrivals) in rooms {
            if arrivals.lock().unwrap_or_else(PoisonError::into_inner).admit(&message) {
                room.send(vec![message.clone()]);
            }
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
        self.exchange.lock().retain(|instance| !instance.deliveries.same_channel(&self.own));
        Box::pin(std::future::ready(()))
    }
}

fn stopped() -> LinkState {
    LinkState::Down { reason: "stopped".into(), permanent: false }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::broker::{KeyBounds, Settle};
    use crate::message::{PayloadKind, Target};
    use crate::metrics::BrokerMetrics;

    struct Nobody;

    impl Settle for Nobody {
        fn settled(&self, _outcome: Result<(), NotAccepted>) {}
    }

    fn message(payload: &'static str) -> Message {
        let (target, payload) = (Target::Broadcast, payload.into());
        Message { id: None, target, kind: PayloadKind::Text, published_ms: 0, terms: None, payload }
    }

    fn attach(exchange: &MemoryExchange) -> (MemoryBroker, mpsc::Receiver<Vec<Message>>) {
        let bounds = KeyBounds { window: Duration::from_secs(60), keys_max: 1 };
        let (deliveries, delivered) = mpsc::channel(1);
        (exchange.attach(deliveries, Arrivals::new(bounds, BrokerMetrics::default())), delivered)
    }

    #[test]
    fn what_is_withdrawn_reaches_nobody() {
        let exchange = MemoryExchange::default();
        let ((one, mut of_one), (_two, mut of_two)) = (attach(&exchange), attach(&exchange));
        let publish = |payload| one.publish(message(payload), Receipt::to(Arc::new(Nobody))).now_or_never();
        assert_eq!(publish("first"), Some(()));
        of_one.try_recv().expect("the first");
        // There is room with one, but not with both.
        assert_eq!(publish("withdrawn"), None);
        of_two.try_recv().expect("the first");
        assert_eq!(publish("last"), Some(()));
        for delivered in [&mut of_one, &mut of_two] {
            assert_eq!(delivered.try_recv().expect("the last")[0].payload, "last");
        }
    }
}
