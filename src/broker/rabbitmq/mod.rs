//! RabbitMQ between the instances. lapin and deadpool-lapin stay in this folder.
//!
//! Two links, each with a supervisor of its own: `publisher` sends with confirms, `consumer` declares what stands
//! in the broker (`topology`) and takes what comes. They use separate connections, because under a memory or disk
//! alarm the broker stops reading from a connection that publishes, acks and heartbeats included. lapin's automatic
//! recovery stays off: tried with 4.12, it declares the anonymous queue again by its old name, which is refused, and
//! doubles bindings. Instead any error tears the link down and a new one is made.

mod connection;
mod consumer;
pub mod envelope;
mod link;
mod publisher;
mod sequence;
mod topology;
mod transport;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use connection::{Endpoint, InvalidEndpoint};
pub use topology::{NameTaken, Names};

use super::{Broker, Link, LinkState, NotAccepted, Receipt};
use crate::instance::Incarnation;
use crate::message::Message;
use connection::Endpoints;
use consumer::Consumer;
use link::Side;
use publisher::{Order, Publisher};

/// What the broker link needs to know.
pub struct Settings {
    /// At least one; tried in turn.
    pub endpoints: Vec<Endpoint>,
    /// Put before the names of the cluster's exchanges.
    pub prefix: String,
    pub incarnation: Incarnation,
    /// `x-max-length-bytes` of the instance's queue.
    pub queue_bytes_max: u64,
    /// Messages whose confirm is outstanding.
    pub publish_window: usize,
    /// Time for a confirm.
    pub publish_timeout: Duration,
    /// Payloads above this are foreign, and dropped.
    pub message_bytes_max: usize,
}

/// One instance's links to RabbitMQ.
pub struct RabbitMq {
    orders: mpsc::Sender<Order>,
    link: watch::Receiver<Link>,
    /// Until it was told to end.
    publishing: Mutex<Option<JoinHandle<()>>>,
    /// With what ends it.
    consuming: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl RabbitMq {
    /// Starts both links; they come up when the broker does. The second value is told if the broker lets this
    /// instance never in, since another live one bears its name.
    pub fn start(
        settings: Settings,
        deliveries: mpsc::Sender<Vec<Message>>,
    ) -> (RabbitMq, oneshot::Receiver<NameTaken>) {
        let (orders, orders_in) = mpsc::channel(settings.publish_window);
        let (refuse, refused) = oneshot::channel();
        let (stop_consuming, consuming) = oneshot::channel();
        let down = Link { kind: "rabbitmq", publishing: LinkState::Connecting, consuming: LinkState::Connecting };
        let link = watch::Sender::new(down);
        let names = Names::new(&settings.prefix, &settings.incarnation);
        let unroutable = Arc::new(Notify::new());
        let publisher = Publisher::new(
            Endpoints::new(&settings, "publishing"),
            names.clone(),
            &settings,
            orders_in,
            Side::publishing(link.clone()),
            unroutable.clone(),
        );
        let consumer = Consumer::new(
            Endpoints::new(&settings, "consuming"),
            names,
            &settings,
            deliveries,
            Side::consuming(link.clone()),
            unroutable,
        );
        let broker = RabbitMq {
            orders,
            link: link.subscribe(),
            publishing: Mutex::new(Some(tokio::spawn(publisher.run()))),
            consuming: Mutex::new(Some((stop_consuming, tokio::spawn(consumer.run(consuming, refuse))))),
        };
        (broker, refused)
    }
}

impl Broker for RabbitMq {
    fn publish(&self, message: Message, receipt: Receipt) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // While nothing comes back, the sender would not even hear itself: better told than left in the dark.
            if self.link.borrow().consuming != LinkState::Up {
                return receipt.settle(Err(NotAccepted::LinkDown));
            }
            if let Err(mpsc::error::SendError(Order::Publish(_, receipt))) =
                self.orders.send(Order::Publish(message, receipt)).await
            {
                receipt.settle(Err(NotAccepted::Stopping));
            }
        })
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn finish_publishing(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _ = self.orders.send(Order::Stop).await;
            let publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(publishing) = publishing {
                let _ = publishing.await;
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let consuming = self.consuming.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((stop, consuming)) = consuming {
                drop(stop);
                let _ = consuming.await;
            }
        })
    }
}
