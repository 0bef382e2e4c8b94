//! Reading a partition again for someone who was away: from its stream, beside what the instance itself reads.
//!
//! It is read as the instance reads it, from some time before the place that is asked for, so that doubles are known and
//! what overtook another comes in its order.

use std::sync::{Arc, Weak};
use std::time::Duration;

use deadpool_lapin::Object;
use lapin::options::BasicQosOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};

use super::Settings;
use super::beacon::Tickets;
use super::connection::{Endpoints, discard};
use super::hold::Hold;
use super::intake::{Entry, Intake};
use super::link::{Trouble, interval};
use super::peers::Peers;
use super::source::{Batch, PREFETCH, Source};
use super::stream;
use super::topology::Names;
use crate::broker::{Arrivals, KeyBounds};
use crate::instance::Incarnation;
use crate::message::now_unix_ms;
use crate::metrics::BrokerMetrics;
use crate::place::{Delivered, Gap, Partition, Position, Scope};

/// Who may read at the same time. They share one connection; each may hold some hundred messages.
const READERS_MAX: usize = 32;

/// Batches that wait for who reads.
const BATCHES_WAITING_MAX: usize = 4;

/// Clocks of the broker's hosts and ours may differ so much; else it is read without what was before.
const CLOCKS_APART: Duration = Duration::from_secs(10);

/// How long a message that is missing is waited for: what was published again comes soon, as nothing has to be waited for
/// but reading.
const HOLD_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked for what was held for too long.
const PATROL_INTERVAL: Duration = Duration::from_millis(500);

/// Connections that broke at the same place over what they read, after which an entry is passed over; and in all.
const UNREADABLE_MAX: u32 = 3;
const BREAKS_MAX: u32 = 30;

/// What the streams hold, for those who were away. A cheap handle.
#[derive(Clone)]
pub struct Archive {
    endpoints: Arc<Mutex<Endpoints>>,
    /// While somebody reads.
    connection: Arc<Mutex<Weak<Object>>>,
    readers: Arc<Semaphore>,
    names: Names,
    incarnation: Incarnation,
    message_bytes_max: usize,
    /// How long a publisher may take to repeat a message.
    look_back: Duration,
    keys: KeyBounds,
}

/// One reading, however many connections it takes.
struct Reading {
    partition: Partition,
    behind: Position,
    /// How long ago that was given.
    age: Duration,
    /// The entry that was read last.
    last: Option<u64>,
    /// Whether the entry that it goes on from was met, or told to be gone.
    is_found: bool,
    /// Whether what comes next goes on from what was handed on before.
    begins: bool,
    intake: Intake,
    deliveries: mpsc::Sender<Delivered>,
}

impl Archive {
    pub fn new(settings: &Settings, names: Names) -> Archive {
        Archive {
            endpoints: Arc::new(Mutex::new(Endpoints::new(settings, "reading back"))),
            connection: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            names,
            incarnation: settings.incarnation.clone(),
            message_bytes_max: settings.message_bytes_max,
            look_back: settings.spool.age_max,
            keys: settings.keys,
        }
    }

    /// Begins to read; waits while too many do. It ends when the receiver is dropped, or by trouble with the broker.
    pub async fn read(&self, partition: Partition, behind: Position, age: Duration) -> mpsc::Receiver<Delivered> {
        let (deliveries, delivered) = mpsc::channel(BATCHES_WAITING_MAX);
        if let Ok(permit) = self.readers.clone().acquire_owned().await {
            let intake = self.intake(deliveries.clone());
            let (last, is_found, begins) = (None, false, true);
            let reading = Reading { partition, behind, age, last, is_found, begins, intake, deliveries };
            tokio::spawn(self.clone().serve(reading, permit));
        }
        delivered
    }

    async fn serve(self, mut reading: Reading, _permit: OwnedSemaphorePermit) {
        let (mut stuck, mut passed_over, mut is_unreadable) = (0_u32, 0_u64, false);
        for _ in 0..BREAKS_MAX {
            let before = reading.last;
            let outcome = match self.connect().await {
                Ok(connection) => {
                    let gone = reading.deliveries.clone();
                    let outcome = tokio::select! {
                        outcome = self.read_over(&connection, &mut reading, passed_over) => outcome,
                        () = gone.closed() => Ok(()),
                    };
                    // The last one to read closes it.
                    if let Some(connection) = Arc::into_inner(connection) {
                        discard(connection).await;
                    }
                    outcome
                }
                Err(trouble) => Err(trouble),
            };
            let Err(trouble) = outcome else { return };
            log::debug!("reading {} again broke: {trouble}", self.names.stream_of(reading.partition));
            if reading.last > before {
                (stuck, passed_over) = (0, 0);
            }
            stuck += 1;
            // What is done on a connection that just broke fails in many ways.
            is_unreadable |= trouble.is_unreadable();
            if stuck >= UNREADABLE_MAX {
                if !is_unreadable {
                    return;
                }
                passed_over += 1;
                // What came before the place that is asked for was heard.
                if reading.is_found && reading.tell_gap().await.is_err() {
                    return;
                }
            }
        }
    }

    /// The connection that all who read share.
    async fn connect(&self) -> Result<Arc<Object>, Trouble> {
        let mut shared = self.connection.lock().await;
        if let Some(connection) = shared.upgrade().filter(|connection| connection.status().connected()) {
            return Ok(connection);
        }
        let connection = Arc::new(self.endpoints.lock().await.connect().await?);
        *shared = Arc::downgrade(&connection);
        Ok(connection)
    }

    /// Reads on; ends only by trouble, or when nobody wants more.
    async fn read_over(&self, connection: &Object, reading: &mut Reading, passed_over: u64) -> Result<(), Trouble> {
        let (mut source, mut first) = self.begin(connection, reading, passed_over).await?;
        let mut patrol = interval(PATROL_INTERVAL);
        loop {
            let batch = match first.take() {
                Some(first) => first,
                None => tokio::select! {
                    batch = source.next() => batch?,
                    _ = patrol.tick() => {
                        reading.intake.patrol().await?;
                        continue;
                    }
                },
            };
            let last_tag = reading.take(batch).await?;
            source.taken(last_tag).await?;
            source.acknowledge().await?;
        }
    }

    /// Where reading begins: some time before the place that is asked for, or if that is not before it, there; or behind
    /// what was read already.
    async fn begin(
        &self,
        connection: &Object,
        reading: &Reading,
        passed_over: u64,
    ) -> Result<(Source, Option<Batch>), Trouble> {
        let offset = |offset: u64| AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX));
        if let Some(last) = reading.last {
            return Ok((self.open(connection, reading.partition, offset(last + 1 + passed_over)).await?, None));
        }
        let back = (reading.age + self.look_back + CLOCKS_APART).as_secs();
        let since = AMQPValue::Timestamp((now_unix_ms() / 1000).saturating_sub(back));
        let mut early = self.open(connection, reading.partition, since).await?;
        let batch = early.next().await?;
        let first = batch.iter().flatten().next().and_then(stream::position);
        if first.is_none_or(|first| first.offset <= reading.behind.offset) {
            return Ok((early, Some(batch)));
        }
        early.end().await?;
        let there = offset(reading.behind.offset + passed_over);
        Ok((self.open(connection, reading.partition, there).await?, None))
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
            Some(Hold::new(HOLD_PATIENCE)),
            BrokerMetrics::default(),
        )
    }
}

impl Reading {
    /// Hands a batch on; the answer is what to acknowledge.
    async fn take(&mut self, batch: Batch) -> Result<u64, Trouble> {
        let (mut entries, mut last_tag, mut trouble) = (Vec::with_capacity(batch.len()), 0, None);
        for delivery in batch {
            let delivery = match delivery {
                Ok(delivery) => delivery,
                Err(error) => {
                    trouble = Some(Trouble::from(error));
                    break;
                }
            };
            last_tag = delivery.delivery_tag;
            let position = stream::position(&delivery);
            if let Some(position) = position.filter(|position| position.offset >= self.behind.offset)
                && !std::mem::replace(&mut self.is_found, true)
                && position != self.behind
            {
                self.tell_gap().await?;
            }
            self.last = position.map_or(self.last, |position| Some(position.offset));
            entries.push(Entry { delivery, position });
        }
        self.intake.read_on(entries, self.partition, std::mem::take(&mut self.begins)).await?;
        trouble.map_or(Ok(last_tag), Err)
    }

    /// Something behind the place that is asked for is gone.
    async fn tell_gap(&mut self) -> Result<(), Trouble> {
        let gap = Gap { scope: Scope::Everything, missing: None };
        let told = Delivered { gaps: vec![gap], ..Delivered::default() };
        self.deliveries.send(told).await.map_err(|_| Trouble::passing("nobody reads any more"))
    }
}
