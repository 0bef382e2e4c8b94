//! What is done with deliveries, whichever way they came: doubles are dropped, gaps told, the rest handed on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use lapin::message::Delivery;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::beacon::{self, Beacon, Tickets};
use super::envelope;
use super::hold::{Arrived, Hold, Line};
use super::link::Trouble;
use super::mailboxes::RabbitMailboxes;
use super::peers::Peers;
use super::route::Route;
use super::sequence::{Rank, Tracker};
use super::source::Batch;
use super::topology::Names;
use crate::broker::{Arrivals, WORD_BYTES_MAX};
use crate::instance::Incarnation;
use crate::message::Message;
use crate::metrics::{BrokerMetrics, Dropped};
use crate::place::{Delivered, Gap, Partition, Place, Position, Reading, Scope};
use crate::topic::TopicKey;

/// Off only in a build that is to be caught doubling messages.
const DROPS_DOUBLES: bool = !cfg!(feature = "fault-no-dropping-of-doubles");

/// The way from the deliveries of RabbitMQ to the hub. What it knows of publishers outlives every connection.
pub struct Intake {
    names: Names,
    incarnation: Incarnation,
    message_bytes_max: usize,
    deliveries: mpsc::Sender<Delivered>,
    peers: Peers,
    tickets: Tickets,
    arrivals: Arrivals,
    /// Where messages wait for one before them; none where nothing would come late.
    hold: Option<Hold>,
    /// Who is told of new mailboxes.
    mailboxes: Option<RabbitMailboxes>,
    tracker: Tracker,
    /// What was missing before nobody here could have heard.
    is_attached: bool,
    /// The keys of topics that come. Until a beacon with the ticket has come back, what is in the queue may be older than
    /// the binding: what is missing then was never meant to come.
    keys: HashMap<TopicKey, Option<u64>>,
    /// By partition: how far each was read.
    read: [Progress; Partition::COUNT],
    /// What is missing and was not told to the sessions yet.
    gaps: HashMap<Scope, Option<u64>>,
    missing: Tally,
    not_a_topic: Tally,
    oversized: Tally,
    metrics: BrokerMetrics,
}

/// How deliveries have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the instance's own queue.
    Queue,
    /// From the stream of a partition.
    Stream(Partition),
}

/// How far a partition was read.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The entry at hand.
    current: Option<Position>,
    /// Up to here everything was handed on: earlier than what was read while something is held back.
    reached: Option<Position>,
    /// Sessions rely on it.
    is_attached: bool,
}

/// A delivery of a stream, and which entry of it that is.
pub struct Entry {
    pub delivery: Delivery,
    pub position: Option<Position>,
}

/// What a message has become: handed on, with where it stands.
type Placed = (Message, Option<Place>);

/// What a batch has brought.
#[derive(Default)]
pub struct Taken {
    /// The delivery tag to acknowledge.
    pub last_tag: u64,
    /// The newest ticket of a beacon of our own.
    pub ticket: Option<u64>,
}

impl Intake {
    #[expect(clippy::too_many_arguments, reason = "built in one place, of parts that have nothing in common")]
    pub fn new(
        names: Names,
        incarnation: Incarnation,
        message_bytes_max: usize,
        deliveries: mpsc::Sender<Delivered>,
        (peers, tickets): (Peers, Tickets),
        arrivals: Arrivals,
        hold: Option<Hold>,
        metrics: BrokerMetrics,
    ) -> Intake {
        Intake {
            names,
            incarnation,
            message_bytes_max,
            deliveries,
            peers,
            tickets,
            arrivals,
            hold,
            mailboxes: None,
            tracker: Tracker::default(),
            is_attached: false,
            keys: HashMap::new(),
            read: [Progress::default(); Partition::COUNT],
            gaps: HashMap::new(),
            not_a_topic: Tally::new("dropped messages whose routing key or x-warren-topic names no topic"),
            missing: Tally::new("messages are missing"),
            oversized: Tally::new("dropped messages of more than --message-bytes-max"),
            metrics,
        }
    }

    /// Has word of new mailboxes go there.
    pub fn with_mailboxes(self, mailboxes: RabbitMailboxes) -> Intake {
        Intake { mailboxes: Some(mailboxes), ..self }
    }

    /// Hands a batch on, waiting for room.
    pub async fn hand_on(&mut self, batch: Batch, way: Way) -> Result<Taken, Trouble> {
        let mut messages = Vec::with_capacity(batch.len());
        let mut taken = Taken::default();
        let mut trouble = None;
        for delivery in batch {
            match delivery {
                Ok(delivery) => self.take(Entry { delivery, position: None }, way, &mut messages, &mut taken),
                Err(error) => trouble = Some(Trouble::from(error)),
            }
        }
        self.send(messages, Vec::new()).await?;
        trouble.map_or(Ok(taken), Err)
    }

    /// The same for what was read of a partition; `begins` if it does not go on from what was read before.
    pub async fn read_on(&mut self, entries: Vec<Entry>, partition: Partition, begins: bool) -> Result<Taken, Trouble> {
        let mut messages = Vec::with_capacity(entries.len());
        let mut taken = Taken::default();
        let read: Vec<Position> = entries.iter().filter_map(|entry| entry.position).collect();
        if begins {
            self.read[partition.index()].reached = None;
        }
        for entry in entries {
            self.read[partition.index()].current = entry.position;
            self.take(entry, Way::Stream(partition), &mut messages, &mut taken);
            self.read[partition.index()].reached = self.reached(partition);
        }
        if self.hold.as_ref().is_some_and(Hold::is_full) {
            self.give_up(&mut messages);
        }
        let reached = self.reached(partition);
        let reading = Reading { partition, begins, entries: read, reached };
        self.send(messages, vec![reading]).await?;
        Ok(taken)
    }

    fn take(&mut self, entry: Entry, way: Way, messages: &mut Vec<Placed>, taken: &mut Taken) {
        let Entry { delivery, position } = entry;
        taken.last_tag = delivery.delivery_tag;
        if let Some(user) = envelope::made_mailbox(&delivery, &self.names) {
            return self.mailboxes.iter().for_each(|mailboxes| mailboxes.made(user.clone()));
        }
        if delivery.exchange != self.names.beacon && delivery.exchange != self.names.partitions {
            let partition = if let Way::Stream(partition) = way { Some(partition) } else { None };
            self.accept(delivery, partition.zip(position), messages);
        } else if let Some(beacon) = beacon::open(&delivery) {
            taken.ticket = self.note(beacon, way, messages).max(taken.ticket);
        }
    }

    /// Up to where everything of a partition was handed on.
    fn reached(&self, partition: Partition) -> Option<Position> {
        let progress = &self.read[partition.index()];
        let holds = self.hold.as_ref().is_some_and(|hold| hold.holds(partition));
        if holds { progress.reached } else { progress.current }
    }

    /// The keys that come from now on beside those of `kept`, and a ticket that was asked for since they do.
    pub fn follow(&mut self, new: &HashSet<TopicKey>, ticket: u64, kept: impl Fn(TopicKey) -> bool) {
        for key in new {
            self.tracker.rebase(&Route::Key(*key));
            self.keys.insert(*key, Some(ticket));
        }
        self.keys.retain(|key, _| new.contains(key) || kept(*key));
    }

    /// Whether what is missing of a route can be told.
    fn is_known(&self, route: &Route) -> bool {
        match route {
            Route::Key(key) if self.reads_streams() => self.read[Partition::of_key(*key).index()].is_attached,
            Route::Key(key) => self.keys.get(key).is_some_and(Option::is_none),
            Route::Broadcast | Route::Instance(_) => true,
        }
    }

    fn reads_streams(&self) -> bool {
        self.hold.is_some()
    }

    /// From now on sessions rely on this instance.
    pub fn attached(&mut self) {
        self.is_attached = true;
    }

    /// From now on sessions rely on a partition.
    pub fn reads(&mut self, partition: Partition) {
        self.read[partition.index()].is_attached = true;
    }

    /// A partition is not read any more.
    pub fn ended(&mut self, partition: Partition) {
        self.read[partition.index()] = Progress::default();
        partition.keys().for_each(|key| self.tracker.forget(&Route::Key(key)));
    }

    /// Messages may be missing for good, and nothing else tells: nothing waits for them.
    pub fn interrupted(&mut self) {
        self.tracker.expect_gaps();
        self.mailboxes.iter().for_each(RabbitMailboxes::look_again);
        self.metrics.possible_gap();
        if self.is_attached {
            self.gaps.insert(Scope::Everything, None);
        }
        if let Some(hold) = &mut self.hold {
            hold.lose_patience();
        }
    }

    /// Hands on what has been held back for too long, and tells what has not been told. To be called now and then.
    pub async fn patrol(&mut self) -> Result<(), Trouble> {
        for tally in [&mut self.missing, &mut self.not_a_topic, &mut self.oversized] {
            tally.tell();
        }
        let mut messages = Vec::new();
        self.give_up(&mut messages);
        let gaps = self.gaps.drain().map(|(scope, missing)| Gap { scope, missing }).collect();
        self.deliver(Delivered { messages, readings: Vec::new(), gaps }).await
    }

    fn give_up(&mut self, messages: &mut Vec<Placed>) {
        while let Some(((incarnation, route), held)) = self.hold.as_mut().and_then(Hold::give_up) {
            for (number, message) in held {
                self.place(&incarnation, &route, number, message, messages);
            }
        }
    }

    async fn send(&self, messages: Vec<Placed>, readings: Vec<Reading>) -> Result<(), Trouble> {
        self.deliver(Delivered { messages, readings, gaps: Vec::new() }).await
    }

    async fn deliver(&self, delivered: Delivered) -> Result<(), Trouble> {
        if !delivered.is_empty() && self.deliveries.send(delivered).await.is_err() {
            return Err(Trouble::passing("the instance is stopping"));
        }
        Ok(())
    }

    /// The ticket, if the beacon is our own.
    ///
    /// What comes from a stream tells of what travels in that: of another it would overtake what it speaks of.
    fn note(&mut self, beacon: Beacon, way: Way, messages: &mut Vec<Placed>) -> Option<u64> {
        let travels_so = |route: &Route| match way {
            Way::Queue => true,
            Way::Stream(partition) => route.partition() == Some(partition),
        };
        for (route, number) in &beacon.numbers {
            if self.is_known(route) && travels_so(route) {
                self.reach(beacon.incarnation.as_str(), route, *number, messages);
            }
        }
        self.peers.hear(beacon.incarnation.as_str());
        if beacon.incarnation.as_str() != self.incarnation.as_str() {
            return None;
        }
        if way == Way::Queue {
            self.keys.values_mut().for_each(|ticket| *ticket = ticket.filter(|asked| *asked > beacon.ticket));
        }
        if way == Way::Queue || way == Way::Stream(Partition::BROADCAST) {
            self.tickets.came_back(beacon.ticket);
        }
        Some(beacon.ticket)
    }

    /// A publisher says how far it has got: what is missing up to there will not come any more, so that nothing waits for it.
    fn reach(&mut self, incarnation: &str, route: &Route, reached: u64, messages: &mut Vec<Placed>) {
        let line = (incarnation.into(), route.clone());
        while let Some((number, message)) = self.hold.as_mut().and_then(|hold| hold.next(&line, |next| next <= reached))
        {
            self.place(incarnation, route, number, message, messages);
        }
        let missing = self.tracker.reached(incarnation, route, reached);
        self.miss(route, missing);
        self.let_follow(incarnation, route.clone(), messages);
    }

    /// Adds the delivery's message, and what has waited for it, unless it must wait itself.
    fn accept(&mut self, delivery: Delivery, at: Option<(Partition, Position)>, messages: &mut Vec<Placed>) {
        let Ok((message, origin)) = envelope::open(delivery, &self.names) else {
            self.not_a_topic.count(1);
            return self.metrics.dropped(Dropped::NotATopic);
        };
        let (Some(origin), Some(route)) = (origin, Route::to(&message.target)) else {
            return self.add((message, at), messages);
        };
        let fits = self.fits(&message);
        let incarnation = origin.incarnation.as_str();
        if self.hold.is_some() && fits && self.tracker.is_ahead(incarnation, &route, origin.number) {
            return self.hold_back(&(incarnation.into(), route), origin.number, (message, at));
        }
        self.place(incarnation, &route, origin.number, (message, at), messages);
        self.let_follow(incarnation, route, messages);
    }

    fn hold_back(&mut self, line: &Line, number: u64, message: Arrived) {
        if let Some(hold) = &mut self.hold
            && !hold.keep(line, number, message)
        {
            self.metrics.duplicate();
        }
    }

    /// Adds what waited for the message that came just now.
    fn let_follow(&mut self, incarnation: &str, route: Route, messages: &mut Vec<Placed>) {
        if self.hold.as_ref().is_none_or(Hold::is_empty) {
            return;
        }
        let line = (incarnation.into(), route);
        while let Some(hold) = &mut self.hold
            && let Some((number, message)) =
                hold.next(&line, |number| !self.tracker.is_ahead(incarnation, &line.1, number))
        {
            self.place(incarnation, &line.1, number, message, messages);
        }
    }

    /// Adds a message unless it is a double.
    fn place(&mut self, incarnation: &str, route: &Route, number: u64, message: Arrived, messages: &mut Vec<Placed>) {
        match self.tracker.place(incarnation, route, number) {
            Rank::Expected | Rank::Implausible | Rank::Late => {}
            Rank::AfterGap(missing) if self.is_known(route) => self.miss(route, missing),
            Rank::AfterGap(_) => {}
            Rank::Double if DROPS_DOUBLES => return self.metrics.duplicate(),
            Rank::Double => {}
        }
        self.add(message, messages);
    }

    fn add(&mut self, (message, at): Arrived, messages: &mut Vec<Placed>) {
        if !self.fits(&message) {
            self.oversized.count(1);
            self.metrics.dropped(Dropped::Oversized);
        } else if self.arrivals.admit(&message) {
            let place = at.map(|(partition, position)| Place {
                partition,
                offset: position.offset,
                reached: self.reached(partition),
                // Nobody was told that the broadcast is there before it was.
                is_past: partition != Partition::BROADCAST && !self.read[partition.index()].is_attached,
            });
            messages.push((message, place));
        }
    }

    fn fits(&self, message: &Message) -> bool {
        let bytes_max = if message.target.is_between_instances() { WORD_BYTES_MAX } else { self.message_bytes_max };
        message.payload.len() <= bytes_max
    }

    fn miss(&mut self, route: &Route, messages: u64) {
        if !self.is_attached || messages == 0 {
            return;
        }
        let scope = match route {
            Route::Broadcast => Scope::Broadcast,
            Route::Key(key) => Scope::Key(*key),
            // Nothing counts what is meant for one instance.
            Route::Instance(_) => Scope::Everything,
        };
        let missing = self.gaps.entry(scope).or_insert(Some(0));
        *missing = missing.map(|missing| missing + messages);
        self.missing.count(messages);
        self.metrics.missing(messages);
    }
}

/// Something that should not happen, counted, and logged at most once a second: others decide how often it does.
struct Tally {
    what: &'static str,
    total: u64,
    told: u64,
    told_at: Option<Instant>,
}

impl Tally {
    fn new(what: &'static str) -> Tally {
        Tally { what, total: 0, told: 0, told_at: None }
    }

    fn count(&mut self, more: u64) {
        self.total += more;
        self.tell();
    }

    fn tell(&mut self) {
        let soon = self.told_at.is_some_and(|at| at.elapsed() < Duration::from_secs(1));
        if self.total > self.told && !soon {
            (self.told, self.told_at) = (self.total, Some(Instant::now()));
            log::warn!("{} (so far {})", self.what, self.total);
        }
    }
}
