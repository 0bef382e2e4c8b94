//! Reading a partition again for someone who was away: from its stream, beside what the instance itself reads.
//!
//! It is read as the instance reads it, from some time before the place that is asked for, so that doubles are known and
//! what overtook another comes in its order.

use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::Object;
use lapin::message::Delivery;
use lapin::options::BasicQosOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};

use super::beacon::Tickets;
use super::connection::{Endpoints, discard};
use super::hold::Hold;
use super::intake::{Entry, Intake};
use super::link::Trouble;
use super::peers::Peers;
use super::source::{PREFETCH, Source};
use super::stream;
use super::topology::Names;
use super::{HOLD_TIMEOUTS, Settings};
use crate::broker::{Arrivals, KeyBounds};
use crate::instance::Incarnation;
use crate::message::now_unix_ms;
use crate::metrics::BrokerMetrics;
use crate::place::{Delivered, Gap, Partition, Position, Scope};

/// Who may read at the same time: each has a connection of its own, of some megabytes. Clients that were away for a short
/// time need none.
const READERS_MAX: usize = 8;

/// Batches that wait for who reads.
const BATCHES_WAITING_MAX: usize = 4;

/// Clocks of the broker's hosts and ours may differ so much; else it is read without what was before.
const CLOCKS_APART: Duration = Duration::from_secs(10);

/// What the streams hold, for those who were away. A cheap handle.
#[derive(Clone)]
pub struct Archive {
    endpoints: Arc<Mutex<Endpoints>>,
    readers: Arc<Semaphore>,
    names: Names,
    incarnation: Incarnation,
    message_bytes_max: usize,
    /// How long a publisher may take to repeat a message.
    look_back: Duration,
    hold_patience: Duration,
    keys: KeyBounds,
}

impl Archive {
    pub fn new(settings: &Settings, names: Names) -> Archive {
        Archive {
            endpoints: Arc::new(Mutex::new(Endpoints::new(settings, "reading back"))),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            names,
            incarnation: settings.incarnation.clone(),
            message_bytes_max: settings.message_bytes_max,
            look_back: settings.spool.age_max,
            hold_patience: HOLD_TIMEOUTS * settings.publish_timeout,
            keys: settings.keys,
        }
    }

    /// Begins to read; waits while too many do. It ends when the receiver is dropped, or by trouble with the broker.
    pub async fn read(&self, partition: Partition, behind: Position, age: Duration) -> mpsc::Receiver<Delivered> {
        let (deliveries, delivered) = mpsc::channel(BATCHES_WAITING_MAX);
        if let Ok(permit) = self.readers.clone().acquire_owned().await {
            tokio::spawn(self.clone().serve(partition, behind, age, deliveries, permit));
        }
        delivered
    }

    async fn serve(
        self,
        partition: Partition,
        behind: Position,
        age: Duration,
        deliveries: mpsc::Sender<Delivered>,
        _permit: OwnedSemaphorePermit,
    ) {
        let connected = self.endpoints.lock().await.connect().await;
        let outcome = match connected {
            Ok(connection) => {
                let outcome = self.read_over(&connection, partition, behind, age, deliveries).await;
                discard(connection).await;
                outcome
            }
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = outcome {
            log::debug!("reading {} again ended: {trouble}", self.names.stream_of(partition));
        }
    }

    async fn read_over(
        &self,
        connection: &Object,
        partition: Partition,
        behind: Position,
        age: Duration,
        deliveries: mpsc::Sender<Delivered>,
    ) -> Result<(), Trouble> {
        let back = (age + self.look_back + CLOCKS_APART).as_secs();
        let since = AMQPValue::Timestamp((now_unix_ms() / 1000).saturating_sub(back));
        let mut source = self.open(connection, partition, since).await?;
        let mut batch = source.next().await?;
        let first = batch.iter().flatten().next().and_then(stream::position);
        if first.is_none_or(|first| first.offset > behind.offset) {
            source.end().await?;
            let from = AMQPValue::LongLongInt(i64::try_from(behind.offset).unwrap_or(i64::MAX));
            source = self.open(connection, partition, from).await?;
            batch = source.next().await?;
        }
        let mut intake = self.intake(deliveries.clone());
        let (mut begins, mut is_found) = (true, false);
        loop {
            let mut entries = Vec::with_capacity(batch.len());
            let mut last_tag = 0;
            for delivery in batch {
                let delivery: Delivery = delivery?;
                last_tag = delivery.delivery_tag;
                let position = stream::position(&delivery);
                if !is_found && position.is_some_and(|position| position.offset >= behind.offset) {
                    is_found = true;
                    if position != Some(behind) {
                        let gap = Gap { scope: Scope::Everything, missing: None };
                        let told = Delivered { gaps: vec![gap], ..Delivered::default() };
                        deliveries.send(told).await.map_err(|_| nobody())?;
                    }
                }
                entries.push(Entry { delivery, position });
            }
            intake.read_on(entries, partition, std::mem::take(&mut begins)).await?;
            source.taken(last_tag).await?;
            source.acknowledge().await?;
            tokio::select! {
                next = source.next() => batch = next?,
                () = deliveries.closed() => return Ok(()),
            }
        }
    }

    async fn open(&self, connection: &Object, partition: Partition, from: AMQPValue) -> Result<Source, Trouble> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), from);
        Ok(Source::stream(channel, self.names.stream_of(partition), arguments).await?)
    }

    /// It knows nothing yet, and nobody counts what it drops: that was counted when it came first.
    fn intake(&self, deliveries: mpsc::Sender<Delivered>) -> Intake {
        Intake::new(
            self.names.clone(),
            self.incarnation.clone(),
            self.message_bytes_max,
            deliveries,
            (Peers::default(), Tickets::default()),
            Arrivals::new(self.keys, BrokerMetrics::default()),
            Some(Hold::new(self.hold_patience)),
            BrokerMetrics::default(),
        )
    }
}

fn nobody() -> Trouble {
    Trouble::passing("nobody reads any more")
}
