//! RabbitMQ between the instances. lapin and deadpool-lapin stay in this folder.
//!
//! Two links, each with a supervisor of its own: `publisher` empties the `spool` with confirms, `consumer` declares what
//! stands in the broker (`topology`) and takes what comes. They use separate connections, because under a memory or disk
//! alarm the broker stops reading from a connection that publishes, acks and heartbeats included. lapin's automatic
//! recovery stays off: tried with 4.12, it declares the anonymous queue again by its old name, which is refused, and
//! doubles bindings. Instead any error tears the link down and a new one is made.

mod archive;
mod beacon;
mod bindings;
mod connection;
mod consumer;
mod entrance;
pub mod envelope;
mod gate;
mod hold;
mod intake;
mod lanes;
mod link;
mod mailboxes;
mod outstanding;
mod partitions;
mod peers;
mod poison;
mod publisher;
mod route;
mod sequence;
mod source;
mod spool;
mod stream;
mod to_users;
mod topology;
mod transport;

#[cfg(test)]
mod fuzz;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

pub use connection::{Endpoint, InvalidEndpoint};
pub use mailboxes::RabbitMailboxes;
pub use spool::Bounds as SpoolBounds;
pub use topology::{NameTaken, Names};

use super::{Arrivals, Broker, Delivery, KeyBounds, Link, LinkState, MailboxBounds, Receipt};
use crate::instance::Incarnation;
use crate::interest::Interest;
use crate::message::{Message, MessageIds};
use crate::metrics::{BrokerMetrics, Direction};
use crate::place::{Delivered, Partition, Position};
use archive::Archive;
use beacon::Tickets;
use bindings::Bindings;
use connection::Endpoints;
use consumer::{Consumer, Supply};
use entrance::Entrance;
use gate::Gate;
use hold::Hold;
use link::Side;
use partitions::Partitions;
use peers::Peers;
use publisher::{Publisher, Surroundings};

/// How long a message that is missing in a stream is waited for: until its publisher misses the confirm, and until it
/// has found another node and published again.
const HOLD_TIMEOUTS: u32 = 3;

/// What the broker link needs to know.
#[derive(Clone)]
pub struct Settings {
    /// At least one; tried in turn.
    pub endpoints: Vec<Endpoint>,
    /// Put before the names of the cluster's exchanges.
    pub prefix: String,
    pub incarnation: Incarnation,
    /// For what programs publish without an id.
    pub message_ids: MessageIds,
    pub delivery: Delivery,
    /// `x-max-length-bytes` of the instance's queue.
    pub queue_bytes_max: u64,
    pub spool: SpoolBounds,
    /// Messages whose confirm is outstanding.
    pub publish_window: usize,
    /// Time for a confirm.
    pub publish_timeout: Duration,
    /// Payloads above this are foreign, and dropped.
    pub message_bytes_max: usize,
    /// What is kept of what is said to users.
    pub mailboxes: MailboxBounds,
    /// How long repetitions are known.
    pub keys: KeyBounds,
    /// How long topics that nobody here wants any more still come.
    pub topic_linger: Duration,
    pub metrics: BrokerMetrics,
}

/// One instance's links to RabbitMQ.
pub struct RabbitMq {
    intake: Arc<spool::Intake>,
    mailboxes: RabbitMailboxes,
    link: watch::Receiver<Link>,
    /// Where messages are kept for those who were away, if they are.
    archive: Option<Archive>,
    /// Until it was told to end.
    publishing: Mutex<Option<JoinHandle<()>>>,
    abort_publishing: AbortHandle,
    /// What reads mailboxes, does errands to them, and lets programs write to users.
    abort_of_users: [AbortHandle; 3],
    /// With what ends it.
    consuming: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl RabbitMq {
    /// Starts both links, which carry the topics that `interest` wants; they come up when the broker does. The second value is told if the broker lets this
    /// instance never in, since another live one bears its name.
    pub fn start(
        settings: Settings,
        interest: Arc<Interest>,
        deliveries: mpsc::Sender<Delivered>,
    ) -> (RabbitMq, oneshot::Receiver<NameTaken>) {
        let metrics = &settings.metrics;
        let (intake, spool) = spool::open(settings.spool, metrics.clone());
        let (refuse, refused) = oneshot::channel();
        let (stop_consuming, stop) = oneshot::channel();
        let connecting = LinkState::Connecting;
        let link = watch::Sender::new(Link {
            kind: "rabbitmq",
            publishing: connecting.clone(),
            consuming: connecting,
            attachments: 0,
        });
        let names = Names::new(&settings.prefix, &settings.incarnation);
        let (unroutable, tickets, peers) = (Arc::new(Notify::new()), Tickets::default(), Peers::default());
        let around = Surroundings {
            side: Side::new(Direction::Publishing, link.clone(), metrics.clone()),
            gate: Gate::new(link.subscribe(), settings.delivery, peers.clone(), tickets.clone()),
            tickets: tickets.clone(),
            unroutable: unroutable.clone(),
        };
        let intake = Arc::new(intake);
        let entrance = Entrance {
            names: names.clone(),
            spool: intake.clone(),
            message_ids: settings.message_ids.clone(),
            message_bytes_max: settings.message_bytes_max,
            metrics: metrics.clone(),
        };
        let (mailboxes, [reading, errands]) = RabbitMailboxes::start(&settings, names.clone());
        let entering = tokio::spawn(entrance.run(Endpoints::new(&settings, "entrance"))).abort_handle();
        let endpoints = Endpoints::new(&settings, "publishing");
        let publisher = Publisher::new(endpoints, names.clone(), &settings, spool, around);
        let incarnation = settings.incarnation.clone();
        let hold = (settings.delivery == Delivery::Stream).then(|| Hold::new(HOLD_TIMEOUTS * settings.publish_timeout));
        let consumer = Consumer {
            endpoints: Endpoints::new(&settings, "consuming"),
            intake: intake::Intake::new(
                names.clone(),
                incarnation,
                settings.message_bytes_max,
                deliveries,
                (peers, tickets.clone()),
                Arrivals::new(settings.keys, metrics.clone()),
                hold,
                metrics.clone(),
            )
            .with_mailboxes(mailboxes.clone()),
            mailboxes: mailboxes.clone(),
            names,
            queue_bytes_max: settings.queue_bytes_max,
            side: Side::new(Direction::Consuming, link.clone(), metrics.clone()),
            link: link.subscribe(),
            supply: match settings.delivery {
                Delivery::Queue => Supply::Queue(Bindings::new(interest, settings.topic_linger)),
                Delivery::Stream => Supply::Streams(Partitions::new(
                    interest,
                    settings.topic_linger,
                    settings.spool.age_max,
                    tickets.clone(),
                )),
            },
            tickets,
            unroutable,
        };
        let archive = (settings.delivery == Delivery::Stream).then(|| Archive::new(&settings, consumer.names.clone()));
        let publishing = tokio::spawn(publisher.run());
        let broker = RabbitMq {
            intake,
            mailboxes,
            abort_of_users: [reading, errands, entering],
            link: link.subscribe(),
            archive,
            abort_publishing: publishing.abort_handle(),
            publishing: Mutex::new(Some(publishing)),
            consuming: Mutex::new(Some((stop_consuming, tokio::spawn(consumer.run(stop, refuse))))),
        };
        (broker, refused)
    }
}

impl RabbitMq {
    /// Where what is said to users is kept.
    pub fn mailboxes(&self) -> RabbitMailboxes {
        self.mailboxes.clone()
    }
}

impl Broker for RabbitMq {
    fn publish(&self, message: Message, receipt: Receipt) -> BoxFuture<'_, ()> {
        Box::pin(self.intake.take(message, receipt))
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn read_back(
        &self,
        partition: Partition,
        behind: Position,
        age: Duration,
    ) -> BoxFuture<'_, Option<mpsc::Receiver<Delivered>>> {
        Box::pin(async move {
            match &self.archive {
                Some(archive) => Some(archive.read(partition, behind, age).await),
                None => None,
            }
        })
    }

    fn finish_publishing(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.intake.stop();
            let publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(publishing) = publishing {
                let _ = publishing.await;
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Long over, unless the broker would not confirm.
            self.abort_publishing.abort();
            self.abort_of_users.iter().for_each(AbortHandle::abort);
            let consuming = self.consuming.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((stop, consuming)) = consuming {
                drop(stop);
                let _ = consuming.await;
            }
        })
    }
}
