//! Beacons: each publisher says every second how far its numbers have got.
//!
//! So a loss shows even when nothing follows it. An instance that reads a stream knows by a beacon of its own that it
//! has read up to now: it asks for one with a new ticket, and waits until that comes back. Beacons have an exchange of
//! their own, so that programs that listen to the broadcast are not bothered, and travel with the messages from there
//! on: same channel, same queue or stream, so none overtakes what it speaks of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::{Notify, watch};

use super::route::Route;
use super::sequence::Numbers;
use crate::instance::Incarnation;
use crate::place::Partition;
use crate::topic::TopicKey;

/// What a beacon's AMQP `type` is.
const KIND: &str = "warren.beacon";

/// 64 bits: the last ticket that the publisher's own instance has asked for.
pub const TICKET: &str = "x-warren-ticket";

/// 64 bits: the last number of the broadcast.
const BROADCAST: &str = "x-warren-broadcast";

/// A table: the last number of each key of topics.
const KEYS: &str = "x-warren-keys";

/// How the publisher is asked for a beacon, and told when one has come back.
#[derive(Clone)]
pub struct Tickets {
    last: Arc<AtomicU64>,
    wanted: Arc<Notify>,
    back: watch::Sender<u64>,
    /// A bit for each partition that this instance reads, where beacons are to come, too.
    watched: Arc<AtomicU32>,
}

impl Default for Tickets {
    fn default() -> Tickets {
        Tickets { last: Arc::default(), wanted: Arc::default(), back: watch::Sender::new(0), watched: Arc::default() }
    }
}

impl Tickets {
    /// Whether beacons are to come in a partition.
    pub fn watch(&self, partition: Partition, is_watched: bool) {
        let bit = 1 << partition.index();
        if is_watched {
            self.watched.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.watched.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    pub fn is_watched(&self, partition: Partition) -> bool {
        self.watched.load(Ordering::Acquire) & 1 << partition.index() != 0
    }

    /// Asks for a beacon; the answer is the ticket that it will bear.
    pub fn ask(&self) -> u64 {
        let ticket = self.last.fetch_add(1, Ordering::AcqRel) + 1;
        self.wanted.notify_one();
        ticket
    }

    /// Ready when a beacon was asked for.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A beacon of our own with this ticket has come back.
    pub fn came_back(&self, ticket: u64) {
        self.back.send_replace(ticket);
    }

    /// The last ticket that came back.
    pub fn back(&self) -> watch::Receiver<u64> {
        self.back.subscribe()
    }

    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }
}

/// What a beacon says.
#[derive(Debug, PartialEq)]
pub struct Beacon {
    pub incarnation: ShortString,
    pub ticket: u64,
    pub numbers: Vec<(Route, u64)>,
}

/// A beacon's properties; its body is empty. Without `numbers` it bears a ticket alone; one for a partition of topics has
/// those of that partition's keys.
pub fn properties(
    incarnation: &Incarnation,
    ticket: u64,
    numbers: Option<&Numbers>,
    partition: Partition,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(TICKET.into(), number(ticket));
    let mut keys = FieldTable::default();
    let is_told = |route: &Route| partition == Partition::BROADCAST || route.partition() == Some(partition);
    for (route, last) in numbers.into_iter().flat_map(Numbers::iter).filter(|(route, _)| is_told(route)) {
        match route {
            Route::Broadcast => drop(headers.insert(BROADCAST.into(), number(last))),
            Route::Key(key) => drop(keys.insert(key.to_string().into(), number(last))),
            // Only the one instance that is meant could tell a loss from what others were sent.
            Route::Instance(_) => {}
        }
    }
    headers.insert(KEYS.into(), AMQPValue::FieldTable(keys));
    BasicProperties::default()
        .with_type(KIND.into())
        .with_delivery_mode(1)
        .with_app_id(incarnation.as_str().into())
        .with_headers(headers)
}

/// The beacon that a delivery of its exchange is, if it is one.
pub fn open(delivery: &Delivery) -> Option<Beacon> {
    let properties = &delivery.properties;
    if properties.kind().as_ref().is_none_or(|kind| kind.as_str() != KIND) {
        return None;
    }
    let headers = properties.headers().as_ref()?.inner();
    let mut numbers = Vec::new();
    if let Some(last) = headers.get(BROADCAST).and_then(unsigned) {
        numbers.push((Route::Broadcast, last));
    }
    if let Some(AMQPValue::FieldTable(keys)) = headers.get(KEYS) {
        for (key, last) in keys.inner() {
            numbers.extend(TopicKey::parse(key.as_str()).map(Route::Key).zip(unsigned(last)));
        }
    }
    let incarnation = properties.app_id().as_ref()?.clone();
    Some(Beacon { incarnation, ticket: headers.get(TICKET).and_then(unsigned)?, numbers })
}

fn number(value: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX))
}

fn unsigned(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::Names;
    use super::*;
    use crate::instance::InstanceName;

    fn delivery(names: &Names, properties: BasicProperties) -> Delivery {
        let mut delivery = Delivery::mock(1, names.beacon.clone(), "".into(), false, Vec::new());
        delivery.properties = properties;
        delivery
    }

    #[test]
    fn a_beacon_survives_the_way_through_amqp() {
        let incarnation = Incarnation::begin(InstanceName::parse("10.0.0.5_8080").unwrap());
        let names = Names::new("warren", &incarnation);
        let topic = Route::Key(TopicKey::parse("17").unwrap());
        let mut numbers = Numbers::default();
        for route in [&Route::Broadcast, &topic, &topic, &Route::Instance(incarnation.name().clone())] {
            numbers.next(route);
        }
        let beacon =
            open(&delivery(&names, properties(&incarnation, 7, Some(&numbers), Partition::BROADCAST))).unwrap();
        assert_eq!((beacon.incarnation.as_str(), beacon.ticket), (incarnation.as_str(), 7));
        assert_eq!(beacon.numbers, [(Route::Broadcast, 1), (topic, 2)]);
        let bare = open(&delivery(&names, properties(&incarnation, 8, None, Partition::BROADCAST))).unwrap();
        assert_eq!((bare.ticket, bare.numbers), (8, vec![]));
    }

    #[test]
    fn what_has_another_type_is_no_beacon() {
        let incarnation = Incarnation::begin(InstanceName::parse("10.0.0.5_8080").unwrap());
        let names = Names::new("warren", &incarnation);
        let mut delivery = delivery(&names, properties(&incarnation, 7, None, Partition::BROADCAST));
        assert!(open(&delivery).is_some());
        delivery.properties = BasicProperties::default();
        assert_eq!(open(&delivery), None);
    }
}
