//! The in-process broker: no server, for one instance, and for tests of several within a process.

mod mailboxes;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::{Arrivals, Broker, Link, LinkState, MailboxBounds, NotAccepted, Receipt};
use crate::instance::InstanceName;
use crate::message::{Message, Target};
use crate::place::{Delivered, Partition, Place, Position, Reading};
pub use mailboxes::MemoryMailboxes;

/// What the instances of one process have in common: the exchange that every message goes through.
#[derive(Clone)]
pub struct MemoryExchange {
    /// Held while a message goes out, so that all instances see one order.
    turn: Arc<tokio::sync::Mutex<()>>,
    instances: Arc<Mutex<Vec<Member>>>,
    /// How far it has got. Everything is one line here.
    reached: Arc<Mutex<Position>>,
    mailboxes: Arc<OnceLock<MemoryMailboxes>>,
}

impl Default for MemoryExchange {
    fn default() -> MemoryExchange {
        // Another exchange, another check: what was heard from the one says nothing in the other.
        let beginning = Position { offset: 0, check: RandomState::new().hash_one(()) as u16 };
        MemoryExchange {
            turn: Arc::default(),
            instances: Arc::default(),
            reached: Arc::new(Mutex::new(beginning)),
            mailboxes: Arc::default(),
        }
    }
}

/// An instance, as the exchange sees it.
#[derive(Clone)]
struct Member {
    name: InstanceName,
    deliveries: mpsc::Sender<Delivered>,
    /// Asked while a message goes out only, so nobody waits for it.
    arrivals: Arc<Mutex<Arrivals>>,
}

impl MemoryExchange {
    /// An instance's way to the exchange; what comes back and `arrivals` admits goes to `deliveries`.
    pub fn attach(&self, name: InstanceName, deliveries: mpsc::Sender<Delivered>, arrivals: Arrivals) -> MemoryBroker {
        let arrivals = Arc::new(Mutex::new(arrivals));
        let mut instances = self.lock();
        // Nobody else sends there yet, and nothing that is published from now on is missed.
        let _ = deliveries.try_send(self.beginning());
        instances.push(Member { name, deliveries: deliveries.clone(), arrivals });
        drop(instances);
        let up = Link { kind: "memory", publishing: LinkState::Up, consuming: LinkState::Up, attachments: 1 };
        MemoryBroker { exchange: self.clone(), own: deliveries, link: watch::Sender::new(up) }
    }

    /// The mailboxes of all instances; the first who asks says their bounds, on a runtime.
    pub fn mailboxes(&self, bounds: MailboxBounds) -> MemoryMailboxes {
        self.mailboxes.get_or_init(|| MemoryMailboxes::start(bounds)).clone()
    }

    /// From where an instance hears that comes now.
    fn beginning(&self) -> Delivered {
        let position = *self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = Reading { begins: true, ..reading_of(position) };
        Delivered { readings: vec![reading], ..Delivered::default() }
    }

    /// Who is there to hear a message, and where it stands: whoever comes later begins behind it.
    fn next(&self, target: &Target) -> (Vec<Member>, Option<Position>) {
        let instances = self.lock();
        (instances.clone(), self.place(target))
    }

    /// The next place of a message; none for what nobody can ask for again. One that is withdrawn leaves its place empty.
    fn place(&self, target: &Target) -> Option<Position> {
        if !matches!(target, Target::Broadcast | Target::Topic(_)) {
            return None;
        }
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.offset += 1;
        Some(*reached)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One instance's end of a [`MemoryExchange`].
pub struct MemoryBroker {
    exchange: MemoryExchange,
    own: mpsc::Sender<Delivered>,
    link: watch::Sender<Link>,
}

impl MemoryBroker {
    /// Whether the one instance is there that a message is for, if it is for one.
    fn is_there(&self, target: &Target) -> bool {
        match target {
            Target::Peer(name) | Target::UserAt(name, _) => self.exchange.lock().iter().any(|one| one.name == *name),
            _ => true,
        }
    }

    async fn carry(&self, message: Message) -> Result<(), NotAccepted> {
        let _turn = self.exchange.turn.lock().await;
        if !self.link.borrow().is_up() {
            return Err(NotAccepted::Stopping);
        }
        if matches!(message.target, Target::Backends(_)) {
            return Err(NotAccepted::WithoutBackends);
        }
        if !self.is_there(&message.target) {
            return Err(NotAccepted::NoInstance);
        }
        let (instances, at) = self.exchange.next(&message.target);
        // Room with all of them first: a message that is withdrawn meanwhile must have reached nobody. An instance that
        // stopped is no longer meant.
        let mut rooms = Vec::with_capacity(instances.len());
        for instance in &instances {
            rooms.extend(instance.deliveries.reserve().await.ok().map(|room| (room, &instance.arrivals)));
        }
        for (room, arrivals) in rooms {
            let admitted = arrivals.lock().unwrap_or_else(PoisonError::into_inner).admit(&message);
            room.send(delivered(message.clone(), at, admitted));
        }
        Ok(())
    }
}

impl Broker for MemoryBroker {
    fn publish(&self, message: Message, receipt: Receipt) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if !matches!(message.target, Target::User(_) | Target::Unread(_) | Target::Group(_)) {
                return receipt.settle(self.carry(message).await);
            }
            // In its turn: what is said before the instance stops is kept.
            let _turn = self.exchange.turn.lock().await;
            match self.exchange.mailboxes.get() {
                _ if !self.link.borrow().is_up() => receipt.settle(Err(NotAccepted::Stopping)),
                Some(mailboxes) => mailboxes.keep(message, receipt),
                None => receipt.settle(Err(NotAccepted::NoMailbox)),
            }
        })
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

/// A message in its place; or the place alone, of a repetition.
fn delivered(message: Message, at: Option<Position>, is_admitted: bool) -> Delivered {
    let place = at.map(|position| Place {
        partition: Partition::BROADCAST,
        offset: position.offset,
        reached: Some(position),
        is_past: false,
    });
    let messages = if is_admitted { vec![(message, place)] } else { Vec::new() };
    Delivered { messages, readings: at.map(reading_of).into_iter().collect(), gaps: Vec::new() }
}

fn reading_of(position: Position) -> Reading {
    Reading { partition: Partition::BROADCAST, begins: false, entries: vec![position], reached: Some(position) }
}

fn stopped() -> LinkState {
    LinkState::Down { reason: "stopped".into(), permanent: false }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::broker::tests::Heard;
    use crate::broker::{KeyBounds, Settle};
    use crate::inbound::{Destination, Inbound, SessionName};
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

    fn attach(exchange: &MemoryExchange) -> (MemoryBroker, mpsc::Receiver<Delivered>) {
        let bounds = KeyBounds { window: Duration::from_secs(60), keys_max: 1 };
        let (deliveries, mut delivered) = mpsc::channel(1);
        let name = InstanceName::parse("a_1").unwrap();
        let broker = exchange.attach(name, deliveries, Arrivals::new(bounds, BrokerMetrics::default()));
        let beginning = delivered.try_recv().expect("from where it hears");
        assert!(beginning.messages.is_empty() && beginning.readings.len() == 1);
        (broker, delivered)
    }

    #[test]
    fn there_are_no_backends() {
        let (one, mut delivered) = attach(&MemoryExchange::default());
        let inbound = Inbound {
            destination: Destination::parse("/app/test").unwrap(),
            session: SessionName::from_publisher("a_1@0/1"),
        };
        let to_backends = Message { target: Target::Backends(Arc::new(inbound)), ..message("a") };
        let heard = Arc::new(Heard::default());
        assert_eq!(one.publish(to_backends, Receipt::to(heard.clone())).now_or_never(), Some(()));
        assert_eq!(*heard.0.lock().unwrap(), [Err(NotAccepted::WithoutBackends)]);
        assert!(delivered.try_recv().is_err());
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
            assert_eq!(delivered.try_recv().expect("the last").messages[0].0.payload, "last");
        }
    }
}
