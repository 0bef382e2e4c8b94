//! The streams that an instance reads: the broadcast's always, those of topics from the first subscription to one of their
//! topics until some time after the last.
//!
//! Each is read at its own place, over a channel of its own. What is known of a partition's place outlives every
//! connection; it is forgotten when nobody here wants the partition any more.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_lapin::Object;
use lapin::options::BasicQosOptions;
use tokio::sync::watch;
use tokio::time::Instant;

use super::beacon::Tickets;
use super::intake::Entry;
use super::link::Trouble;
use super::source::{Batch, PREFETCH, Source};
use super::stream::{Reader, Verdict};
use super::topology::{self, Failure, Names};
use crate::interest::Interest;
use crate::place::Partition;

/// Connections in a row that broke over what they read, after which streams are read one after the other, until each
/// has shown that it is none of its entries.
const SUSPICIOUS_AFTER: u32 = 2;

pub struct Partitions {
    interest: Arc<Interest>,
    changes: watch::Receiver<()>,
    /// How long a partition of topics is read after the last subscription.
    linger: Duration,
    /// How far back reading begins.
    look_back: Duration,
    tickets: Tickets,
    /// By partition.
    lines: Vec<Line>,
    /// Which was served last.
    served: usize,
    /// Connections in a row that broke over what they read.
    unreadable: u32,
}

struct Line {
    partition: Partition,
    state: State,
    reader: Reader,
    /// While there is a connection.
    source: Option<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unread,
    Read,
    /// Nobody has been interested since then.
    Lingering(Instant),
}

/// What there is to do.
pub enum Next {
    Batch(Partition, Batch),
    /// Something else may be wanted.
    Interest,
}

/// What was read.
#[derive(Default)]
pub struct Read {
    /// To be handed on.
    pub entries: Vec<Entry>,
    pub last_tag: u64,
    /// It does not go on from what was read before.
    pub begins: bool,
    /// Something before it may be missing for good.
    pub interrupted: bool,
}

impl Partitions {
    pub fn new(interest: Arc<Interest>, linger: Duration, look_back: Duration, tickets: Tickets) -> Partitions {
        let lines = Partition::all().map(|partition| Line {
            partition,
            state: if partition == Partition::BROADCAST { State::Read } else { State::Unread },
            reader: Reader::new(look_back),
            source: None,
        });
        tickets.watch(Partition::BROADCAST, true);
        let (changes, lines) = (interest.changes(), lines.collect());
        Partitions { interest, changes, linger, look_back, tickets, lines, served: 0, unreadable: 0 }
    }

    /// The connection is gone. Who subscribes from now on waits.
    pub fn lost(&mut self, trouble: Option<&Trouble>) {
        if let Some(trouble) = trouble.filter(|trouble| trouble.is_unreadable()) {
            self.unreadable += 1;
            // One of them; only when one is read at a time it is known which.
            for line in self.lines.iter_mut().filter(|line| line.source.is_some() && !line.is_caught_up()) {
                if line.reader.could_not_read() && self.unreadable > SUSPICIOUS_AFTER {
                    log::warn!("a message in a stream cannot be read, and is passed over: {trouble}");
                }
            }
        }
        for line in &mut self.lines {
            line.source = None;
            line.partition.keys().for_each(|key| self.interest.set_delivered(key, false));
        }
    }

    /// Reads what is wanted by now, and no more what was wanted by nobody for long enough. The answer is which ended.
    pub async fn follow(&mut self, connection: &Object, names: &Names) -> Result<Vec<Partition>, Failure> {
        let mut ended = Vec::new();
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            let is_wanted = line.partition == Partition::BROADCAST || is_wanted(&self.interest, line.partition);
            match (line.state, is_wanted) {
                (State::Unread | State::Lingering(_), true) => line.state = State::Read,
                (State::Read, false) => line.state = State::Lingering(Instant::now()),
                (State::Lingering(since), false) if since.elapsed() >= self.linger && self.give_up(index).await? => {
                    ended.push(self.lines[index].partition);
                }
                (State::Unread | State::Lingering(_), false) | (State::Read, true) => {}
            }
        }
        self.open(connection, names).await?;
        Ok(ended)
    }

    /// Begins to read what is to be read and is not yet.
    async fn open(&mut self, connection: &Object, names: &Names) -> Result<(), Failure> {
        let one_by_one = self.unreadable >= SUSPICIOUS_AFTER;
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            if line.state == State::Unread || line.source.is_some() {
                if one_by_one && line.source.is_some() && !line.is_caught_up() {
                    return Ok(());
                }
                continue;
            }
            self.tickets.watch(line.partition, true);
            let channel = connection.create_channel().await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let from = line.reader.attach(self.tickets.ask());
            let source = Source::stream(channel, names.stream_of(line.partition), from).await;
            line.source = Some(source.map_err(no_replica)?);
            if one_by_one {
                return Ok(());
            }
        }
        if self.lines.iter().all(|line| line.source.is_none() || line.is_caught_up()) {
            self.unreadable = 0;
        }
        Ok(())
    }

    /// Stops reading a partition that nobody wants; false if somebody does by now.
    async fn give_up(&mut self, index: usize) -> Result<bool, lapin::Error> {
        let line = &mut self.lines[index];
        let set_delivered = |is: bool| line.partition.keys().for_each(|key| self.interest.set_delivered(key, is));
        let was_delivered = line.is_caught_up();
        set_delivered(false);
        // Who subscribed before that was told may rely on it; who does so after it waits for the next round.
        if is_wanted(&self.interest, line.partition) {
            line.state = State::Read;
            set_delivered(was_delivered);
            return Ok(false);
        }
        self.tickets.watch(line.partition, false);
        line.state = State::Unread;
        line.reader = Reader::new(self.look_back);
        if let Some(source) = line.source.take() {
            source.end().await?;
        }
        Ok(true)
    }

    /// What is ready of any of them, or that the interest may have changed. Loses nothing when dropped.
    pub async fn next(&mut self) -> Result<Next, Trouble> {
        let Partitions { changes, lines, served, .. } = self;
        tokio::select! {
            // The sender lives as long as the interest, which we hold.
            _ = changes.changed() => Ok(Next::Interest),
            next = poll_fn(|cx| poll_next(lines, served, cx)) => next,
        }
    }

    /// Notes what was read: what of it is new.
    pub fn read(&mut self, partition: Partition, batch: Batch) -> Result<Read, Trouble> {
        let reader = &mut self.lines[partition.index()].reader;
        let mut read = Read { begins: reader.position().is_none(), ..Read::default() };
        for delivery in batch {
            let delivery = delivery.map_err(Trouble::from)?;
            read.last_tag = delivery.delivery_tag;
            match reader.read(&delivery) {
                Verdict::Known => continue,
                Verdict::New => {}
                Verdict::NewAfterPossibleGap => read.interrupted = true,
                Verdict::Elsewhere => {
                    return Err(Trouble::passing("the stream is asked for what comes behind, or anew"));
                }
            }
            read.entries.push(Entry { delivery, position: reader.position() });
        }
        read.begins |= read.interrupted;
        Ok(read)
    }

    /// What came up to `tag` is dealt with.
    pub async fn taken(&mut self, partition: Partition, tag: u64) -> Result<(), lapin::Error> {
        match &mut self.lines[partition.index()].source {
            Some(source) => source.taken(tag).await,
            None => Ok(()),
        }
    }

    /// A beacon of our own has come back in a partition. Whether that shows that it was read up to now.
    pub fn arrived(&mut self, partition: Partition, ticket: u64) -> bool {
        let line = &mut self.lines[partition.index()];
        if !line.reader.arrived(ticket) {
            return false;
        }
        partition.keys().for_each(|key| self.interest.set_delivered(key, true));
        true
    }

    pub async fn acknowledge(&mut self) -> Result<(), lapin::Error> {
        for line in &mut self.lines {
            if let Some(source) = &mut line.source {
                source.acknowledge().await?;
            }
        }
        Ok(())
    }

    /// Whether one of them has been silent for so long that it must be asked for anew. `can_publish`: a beacon could have
    /// gone out.
    pub fn are_silent(&mut self, can_publish: bool) -> bool {
        let lines = self.lines.iter_mut().filter(|line| line.source.is_some());
        // Each is asked: it notes how it is to go on.
        lines.filter_map(|line| line.reader.is_silent(can_publish).then_some(())).count() > 0
    }
}

/// Each in its turn, so that a busy one leaves the others theirs; `served` is whose turn it was.
fn poll_next(lines: &mut [Line], served: &mut usize, cx: &mut Context<'_>) -> Poll<Result<Next, Trouble>> {
    for step in 1..=lines.len() {
        let index = (*served + step) % lines.len();
        let line = &mut lines[index];
        if let Some(source) = &mut line.source
            && let Poll::Ready(batch) = source.poll_next(cx)
        {
            *served = index;
            return Poll::Ready(batch.map(|batch| Next::Batch(line.partition, batch)));
        }
    }
    Poll::Pending
}

impl Line {
    /// Read up to when it was asked for on this connection.
    fn is_caught_up(&self) -> bool {
        self.source.is_some() && self.reader.is_caught_up()
    }
}

fn is_wanted(interest: &Interest, partition: Partition) -> bool {
    partition.keys().any(|key| interest.is_wanted(key))
}

/// RabbitMQ answers 406 on a node that bears no replica of the stream, which another node mends.
fn no_replica(error: lapin::Error) -> Failure {
    if topology::is_code(&error, 406) {
        return Trouble::passing(format!("this node does not serve the stream: {error}")).into();
    }
    error.into()
}
