//! The way to the broker: one task, one channel, a bounded window of outstanding confirms.
//!
//! Publishing from one place keeps every sender's order, and one long-lived channel with a window is the fast way
//! (measured: 118,000/s; confirming one by one 6,000/s; a channel per message 2,000/s). What the broker does not confirm,
//! for whatever reason, is published again, in order and with its old number.
//!
//! What is said to backends has a channel and a window of its own, so that a queue of theirs that is slow, full, broken or
//! without its majority holds up nothing that instances hear: RabbitMQ stops reading a channel while it looks for a quorum
//! queue's leader (seen with 3.10.8, where a queue had been lost by a crash). What such a queue refuses, or nobody is bound to hear, is not published again but
//! told to its sender.

mod settling;

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Event, PublisherConfirm};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Settings;
use super::beacon::{self, Tickets};
use super::connection::{Endpoints, discard};
use super::envelope;
use super::gate::{Gate, Moved};
use super::lanes::{Lane, Lanes};
use super::link::{Side, Trouble, interval, is_of_one_channel};
use super::mailboxes;
use super::outstanding::Outstanding;
use super::sequence::Numbers;
use super::spool::{Entry, Spool};
use super::to_users::ToUsers;
use super::topology::{self, Names};
use crate::broker::{Delivery, MailboxBounds, MailboxName, NotAccepted};
use crate::instance::Incarnation;
use crate::message::Target;
use crate::metrics::BrokerMetrics;
use crate::place::Partition;
use settling::refuse;

/// How often each publisher tells how far it is.
const BEACON_INTERVAL: Duration = Duration::from_secs(1);

/// Time to make the mailboxes that are wanted.
const MAKING_MAX: Duration = Duration::from_secs(30);

/// Pause before what the broker refused is published again: the next try may find a queue or a binding made anew.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

pub struct Publisher {
    endpoints: Endpoints,
    spool: Spool,
    link: PublishingLink,
}

/// What the publisher has to do with the other parts of the broker link.
pub struct Surroundings {
    pub side: Side,
    pub gate: Gate,
    pub tickets: Tickets,
    /// Told when a message came back that nobody was bound to receive.
    pub unroutable: Arc<Notify>,
}

impl Publisher {
    pub fn new(
        endpoints: Endpoints,
        names: Names,
        settings: &Settings,
        spool: Spool,
        around: Surroundings,
    ) -> Publisher {
        let link = PublishingLink {
            names,
            incarnation: settings.incarnation.clone(),
            window: settings.publish_window,
            timeout: settings.publish_timeout,
            around,
            outstanding: Outstanding::default(),
            to_backends: Outstanding::default(),
            to_users: ToUsers::new(&settings.mailboxes),
            to_peers: Outstanding::default(),
            mailboxes: settings.mailboxes,
            refused: Vec::new(),
            paused_until: None,
            blocked: false,
            streams: settings.delivery == Delivery::Stream,
            metrics: settings.metrics.clone(),
        };
        Publisher { endpoints, spool, link }
    }

    /// Publishes until told to stop and all is settled.
    pub async fn run(mut self) {
        while !self.spool.is_finished() {
            let (connection, trouble) = tokio::select! {
                connected = self.endpoints.connect() => match connected {
                    Err(trouble) => (None, trouble),
                    Ok(connection) => match self.serve(&connection).await {
                        Ok(()) => return discard(connection).await,
                        Err(trouble) => (Some(connection), trouble),
                    },
                },
                () = self.spool.finished() => return,
            };
            self.link.put_all_back(&mut self.spool);
            self.link.around.gate.publishing_lost();
            // Told before the good-bye, which a silent broker draws out.
            let pause = self.link.around.side.down(&trouble);
            if let Some(connection) = connection {
                discard(connection).await;
            }
            self.spool.patrol(None);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.spool.finished() => return,
            }
        }
    }

    /// Publishes over one connection. `Ok` when told to stop and all is settled.
    async fn serve(&mut self, connection: &Object) -> Result<(), Trouble> {
        let mut events = std::pin::pin!(connection.events_listener());
        match Channels::open(connection, &self.link.names).await {
            Ok(channels) => self.link.publish_all(connection, &channels, &mut events, &mut self.spool).await,
            Err(error) => {
                // Another node may serve us where this one lets us in and then fails.
                self.endpoints.skip();
                Err(error.into())
            }
        }
    }
}

/// One for each lane.
struct Channels {
    instances: Channel,
    backends: Channel,
    users: Channel,
    peers: Channel,
}

impl Channels {
    /// Publishing to an exchange that does not exist closes the channel, so the exchanges are declared first.
    async fn open(connection: &Object, names: &Names) -> Result<Channels, lapin::Error> {
        let (instances, backends) = (connection.create_channel().await?, connection.create_channel().await?);
        let (users, peers) = (connection.create_channel().await?, connection.create_channel().await?);
        topology::declare_cluster(&instances, names).await?;
        for channel in [&instances, &backends, &users, &peers] {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
        }
        Ok(Channels { instances, backends, users, peers })
    }
}

struct PublishingLink {
    names: Names,
    incarnation: Incarnation,
    window: usize,
    timeout: Duration,
    around: Surroundings,
    /// Of what instances hear, beacons among it.
    outstanding: Outstanding<Entry>,
    /// Of what is said to backends.
    to_backends: Outstanding<Entry>,
    /// Of what is said to users.
    to_users: ToUsers,
    /// Of what instances tell each other.
    to_peers: Outstanding<Entry>,
    mailboxes: MailboxBounds,
    /// What instances should have heard and was nacked or returned, oldest first. While there are any, nothing else is
    /// published to them: what comes later would overtake them.
    refused: Vec<Entry>,
    paused_until: Option<Instant>,
    /// The broker reads nothing from us: publishes hang without an error.
    blocked: bool,
    /// Topics are kept in streams.
    streams: bool,
    metrics: BrokerMetrics,
}

impl PublishingLink {
    async fn publish_all(
        &mut self,
        connection: &Object,
        channels: &Channels,
        events: &mut (impl Stream<Item = Event> + Unpin),
        spool: &mut Spool,
    ) -> Result<(), Trouble> {
        self.blocked = false;
        self.paused_until = None;
        self.around.side.up();
        let mut patrol = interval(self.timeout / 4);
        let mut beacon_due = interval(BEACON_INTERVAL);
        let mut making: Option<BoxFuture<'_, _>> = None;
        while !(spool.is_finished() && self.is_idle()) {
            if self.outstanding.is_empty() && !self.refused.is_empty() {
                self.put_back(spool);
                self.paused_until = Some(Instant::now() + RETRY_PAUSE);
            }
            if let Some(wanted) = self.to_users.begin_making() {
                let (names, bounds) = (self.names.clone(), self.mailboxes);
                let making_all = async move { mailboxes::make_all(connection, &names, bounds, wanted).await };
                making = Some(Box::pin(tokio::time::timeout(MAKING_MAX, making_all)));
            }
            let on_their_way = self.to_backends.len() + self.to_users.outstanding.len() + self.to_peers.len();
            self.metrics.unconfirmed(self.outstanding.entries().count() + on_their_way);
            spool.report(self.oldest());
            let open = self.open_lanes();
            tokio::select! {
                biased;
                event = events.next() => self.note(event)?,
                settled = poll_fn(|cx| self.outstanding.poll_settled(cx)) => self.settle_to_instances(settled?, spool),
                settled = poll_fn(|cx| self.to_backends.poll_settled(cx)) => self.settle_to_backends(settled?, spool),
                settled = poll_fn(|cx| self.to_users.outstanding.poll_settled(cx)) => {
                    self.settle_to_users(settled?, spool);
                }
                settled = poll_fn(|cx| self.to_peers.poll_settled(cx)) => self.settle_to_peers(settled?, spool),
                made = end_of(&mut making) => {
                    making = None;
                    let made = made.map_err(|_| Trouble::passing("no mailbox was made in time"))?;
                    self.publish_aside(channels, &made?, spool);
                }
                moved = self.around.gate.moved() => {
                    if moved == (Moved::Opened { lost: true }) {
                        self.rewind(spool);
                    }
                }
                // Before the messages, and whatever the window: who has much to publish must be heard of all the same.
                _ = beacon_due.tick(), if !self.blocked => self.beacon(&channels.instances, spool),
                () = self.around.tickets.wanted(), if !self.blocked => self.beacon(&channels.instances, spool),
                () = until(self.paused_until) => self.paused_until = None,
                _ = patrol.tick() => {
                    spool.patrol(self.oldest());
                    if self.around.gate.is_open() {
                        spool.trim_kept();
                    }
                    self.check_deadlines()?;
                }
                () = spool.ready(open), if open.any() && !spool.is_finished() => {
                    self.publish_ready(channels, spool, open);
                }
            }
        }
        Ok(())
    }

    /// Nothing is on its way.
    fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
            && self.to_backends.is_empty()
            && self.to_users.is_idle()
            && self.to_peers.is_empty()
            && self.refused.is_empty()
    }

    /// What may be published now. While the instance does not hear, backends would answer it in vain.
    fn open_lanes(&self) -> Lanes {
        let may_publish = !self.blocked && self.around.gate.is_open();
        let in_order = self.refused.is_empty() && self.paused_until.is_none();
        Lanes {
            instances: may_publish && in_order && self.outstanding.len() < self.window,
            backends: may_publish && self.to_backends.len() < self.window,
            users: may_publish && self.to_users.is_open(self.window),
            peers: may_publish && self.to_peers.len() < self.window,
        }
    }

    /// The oldest on its way whose sender waits to be told.
    fn oldest<'a>(&'a self) -> Option<&'a Entry> {
        let of = |outstanding: &'a Outstanding<Entry>| outstanding.entries().find(|entry| entry.is_awaited());
        let all = [&self.outstanding, &self.to_backends, &self.to_peers].map(of);
        let to_users = self.to_users.entries().find(|entry| entry.is_awaited());
        all.into_iter().flatten().chain(to_users).min_by_key(|entry| entry.since())
    }

    /// The broker may have lost what it had confirmed, so that goes first; nothing is outstanding while the gate is shut.
    fn rewind(&mut self, spool: &mut Spool) {
        if REPUBLISHES {
            spool.rewind();
        }
    }

    /// What is not confirmed goes back to where it came from, in order.
    fn put_all_back(&mut self, spool: &mut Spool) {
        let to_backends: Vec<Entry> = self.to_backends.drain().collect();
        spool.put_back(to_backends.into_iter());
        let (to_users, culprit) = self.to_users.drain();
        culprit.into_iter().for_each(|entry| entry.refuse(NotAccepted::Unconfirmed));
        spool.put_back(to_users.into_iter());
        let to_peers: Vec<Entry> = self.to_peers.drain().collect();
        spool.put_back(to_peers.into_iter());
        self.put_back(spool);
        self.metrics.unconfirmed(0);
    }

    /// The same of what instances should hear.
    fn put_back(&mut self, spool: &mut Spool) {
        let entries: Vec<Entry> = self.refused.drain(..).chain(self.outstanding.drain()).collect();
        if REPUBLISHES {
            spool.put_back(entries.into_iter());
        } else {
            entries.into_iter().for_each(|entry| spool.confirm(entry));
        }
    }

    fn publish_ready(&mut self, channels: &Channels, spool: &mut Spool, open: Lanes) {
        while open.instances
            && self.outstanding.len() < self.window
            && let Some(entry) = spool.next(Lane::Instances)
        {
            let (key, writing) = self.write(&channels.instances, &entry);
            self.outstanding.begin(writing, Some((entry.on_its_way(), key)), Instant::now() + self.timeout);
        }
        while open.backends
            && self.to_backends.len() < self.window
            && let Some(entry) = spool.next(Lane::Backends)
        {
            let (key, writing) = self.write(&channels.backends, &entry);
            // By then a beacon behind it is confirmed, or the link is given up.
            let deadline = Instant::now() + BEACON_INTERVAL + 2 * self.timeout;
            self.to_backends.begin(writing, Some((entry.on_its_way(), key)), deadline);
        }
        while open.users
            && self.to_users.is_open(self.window)
            && let Some(entry) = spool.next(Lane::Users)
        {
            let Some(entry) = self.to_users.admit(entry) else { continue };
            let (key, writing) = self.write(&channels.users, &entry);
            let deadline = Instant::now() + BEACON_INTERVAL + 2 * self.timeout;
            self.to_users.outstanding.begin(writing, Some((entry.on_its_way(), key)), deadline);
        }
        while open.peers
            && self.to_peers.len() < self.window
            && let Some(entry) = spool.next(Lane::Peers)
        {
            let (key, writing) = self.write(&channels.peers, &entry);
            let deadline = Instant::now() + BEACON_INTERVAL + 2 * self.timeout;
            self.to_peers.begin(writing, Some((entry.on_its_way(), key)), deadline);
        }
    }

    /// The routing key, and what writes the message.
    fn write(
        &self,
        channel: &Channel,
        entry: &Entry,
    ) -> (ShortString, impl Future<Output = lapin::Result<PublisherConfirm>> + Send + use<>) {
        if !entry.message.target.is_between_instances() {
            self.metrics.published(1);
            self.metrics.republished(u64::from(entry.handed_over > 0));
        }
        let (exchange, key) = envelope::address(&self.names, &entry.message.target);
        let properties = envelope::properties(&entry.message, &self.incarnation, entry.number);
        // Mandatory: RabbitMQ confirms what nobody is bound to receive; only the return tells. (For a moment after a restart
        // that is so of a stream that is not back yet.) But nobody has to be interested in a topic that is kept nowhere.
        let mandatory = self.streams || !matches!(entry.message.target, Target::Topic(_));
        let options = BasicPublishOptions { mandatory, ..Default::default() };
        let (channel, payload, by) = (channel.clone(), entry.message.payload.clone(), key.clone());
        (key, async move { channel.basic_publish(exchange, by, options, &payload, properties).await })
    }

    fn beacon(&mut self, channel: &Channel, spool: &Spool) {
        if !self.around.gate.lets_beacons_pass() {
            return;
        }
        // What is not confirmed may still be published again: no loss yet. While the gate is shut that holds for what was
        // confirmed, too.
        let unconfirmed = self.refused.iter().chain(self.outstanding.entries());
        let numbers = spool.numbers().filter(|_| self.around.gate.is_open());
        let numbers = numbers.map(|numbers| numbers.before(unconfirmed.filter_map(Entry::place)));
        self.beacon_in(channel, Partition::BROADCAST, numbers.as_ref());
        if self.streams {
            let said: HashSet<Partition> = numbers.iter().flat_map(Numbers::partitions).collect();
            let is_due = |partition: &Partition| said.contains(partition) || self.around.tickets.is_watched(*partition);
            let due: Vec<Partition> = Partition::topics().filter(is_due).collect();
            due.into_iter().for_each(|partition| self.beacon_in(channel, partition, numbers.as_ref()));
        }
    }

    /// Tells of the topics in one partition, or of everything.
    fn beacon_in(&mut self, channel: &Channel, partition: Partition, numbers: Option<&Numbers>) {
        let properties = beacon::properties(&self.incarnation, self.around.tickets.last(), numbers, partition);
        let (exchange, key) = match partition {
            Partition::BROADCAST => (self.names.beacon.clone(), ShortString::default()),
            topics => (self.names.partitions.clone(), topology::partition_key(topics)),
        };
        let (channel, options) = (channel.clone(), BasicPublishOptions::default());
        let writing = async move { channel.basic_publish(exchange, key, options, &[], properties).await };
        self.outstanding.begin(writing, None, Instant::now() + self.timeout);
    }

    /// Publishes what waited for these mailboxes; before it goes word of them, so that whoever hears of none is told of
    /// nothing that stands in it.
    fn publish_aside(&mut self, channels: &Channels, made: &HashSet<MailboxName>, spool: &mut Spool) {
        for name in made.iter().filter(|name| !name.is_asked_for) {
            let (channel, names, user) = (channels.users.clone(), self.names.clone(), name.user.clone());
            let writing = async move {
                let (properties, options) = (envelope::mailbox_made(&user), BasicPublishOptions::default());
                channel.basic_publish(names.peers.clone(), ShortString::default(), options, &[], properties).await
            };
            self.to_users.outstanding.begin(writing, None, Instant::now() + self.timeout);
        }
        let (ready, without) = self.to_users.end_making(made);
        without.into_iter().for_each(|entry| refuse(entry, NotAccepted::NoMailbox));
        spool.put_back(ready.into_iter());
    }

    fn note(&mut self, event: Option<Event>) -> Result<(), Trouble> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                self.blocked = true;
                self.around.side.blocked(reason);
            }
            Some(Event::ConnectionUnblocked) => {
                self.blocked = false;
                let deadline = Instant::now() + self.timeout;
                self.outstanding.postpone(deadline);
                self.to_backends.postpone(deadline + self.timeout);
                self.to_users.outstanding.postpone(deadline + self.timeout);
                self.to_peers.postpone(deadline + self.timeout);
                self.around.side.up();
            }
            // On a channel of ours, its next message tells; a mailbox that stands otherwise than wanted ends only its own.
            Some(Event::Error(error)) if !is_of_one_channel(&error) => return Err(error.into()),
            Some(_) => {}
            None => return Err(Trouble::passing("the connection ended")),
        }
        Ok(())
    }
}

/// Off only in a build that is to be caught losing messages, which it calls accepted.
const REPUBLISHES: bool = !cfg!(feature = "fault-no-republishing");

/// Ready with what is under way, if anything is.
async fn end_of<T>(under_way: &mut Option<BoxFuture<'_, T>>) -> T {
    match under_way {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
