//! The spool: what was taken from senders and is not confirmed yet, bounded in messages, bytes and age.
//!
//! Senders see the [`Intake`]: it takes a message while there is room, and makes them wait while there is none, so that
//! a session stops reading and TCP holds its client. The publisher sees the [`Spool`]: a queue whose front it hands to
//! the broker, into which it puts back what did not get through, and which keeps what was confirmed lately. A message's
//! number is given when it enters the queue, and stays the same however often it is published: by it receivers know it
//! again. What is said to backends stands in a lane of its own and has no number: they know it by its id.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};

use super::envelope;
use super::lanes::{Lane, Lanes, Waiting};
use super::outstanding::Published;
use super::route::Route;
use super::sequence::Numbers;
use crate::broker::{NotAccepted, Receipt};
use crate::message::Message;
use crate::metrics::BrokerMetrics;

/// What a waiting message takes beside its payload (measured as the resident memory of 100,000 that wait).
const OVERHEAD_BYTES: usize = 512;

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub messages_max: usize,
    /// Payloads, and `OVERHEAD_BYTES` for each.
    pub bytes_max: usize,
    /// Once the oldest waits for longer, nothing more is taken.
    pub age_max: Duration,
    /// How long a sender waits for room.
    pub wait: Duration,
    /// How long what was confirmed is kept, to be sent again if the broker is lost; zero: not at all.
    pub keep: Duration,
}

/// Makes both ends.
pub fn open(bounds: Bounds, metrics: BrokerMetrics) -> (Intake, Spool) {
    let (orders, taken) = mpsc::unbounded_channel();
    let stale = watch::Sender::new(false);
    let room = Room {
        messages: Arc::new(Semaphore::new(bounds.messages_max.min(Semaphore::MAX_PERMITS))),
        bytes: Arc::new(Semaphore::new(bounds.bytes_max.min(Semaphore::MAX_PERMITS))),
    };
    let intake = Intake { room: room.clone(), orders, stale: stale.clone(), bounds };
    let spool = Spool {
        orders: taken,
        room,
        stale,
        bounds,
        numbers: Numbers::default(),
        waiting: Waiting::default(),
        kept: VecDeque::new(),
        kept_bytes: 0,
        stopping: false,
        metrics,
    };
    (intake, spool)
}

#[derive(Clone)]
struct Room {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Room {
    fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }

    fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }
}

/// A message's share of the room; given back when dropped.
struct Place {
    _message: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

enum Order {
    Publish(Entry),
    Stop,
}

/// One message on its way.
pub struct Entry {
    pub message: Message,
    /// Of this incarnation on the message's route, if that is numbered; `None` until it enters the queue.
    pub number: Option<u64>,
    since: Instant,
    /// How often it was handed to the broker.
    pub handed_over: u32,
    /// Who is told what becomes of it; none, where that was told before.
    sender: Option<(Receipt, Place)>,
}

impl Published for Entry {
    fn is(&self, returned: &Delivery) -> bool {
        envelope::is_of(&self.message, self.number, returned)
    }
}

impl Entry {
    /// Its route, and its number there, if it has one.
    pub fn place(&self) -> Option<(Route, u64)> {
        Route::to(&self.message.target).zip(self.number)
    }

    /// When it was taken.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The same, now that it is handed to the broker.
    pub fn on_its_way(self) -> Entry {
        Entry { handed_over: self.handed_over.saturating_add(1), ..self }
    }

    /// Whether somebody waits to be told what becomes of it.
    pub fn is_awaited(&self) -> bool {
        self.sender.is_some()
    }

    /// Tells its sender that it is not published, or that nobody knows.
    pub fn refuse(mut self, why: NotAccepted) {
        if let Some((receipt, _place)) = self.sender.take() {
            receipt.settle(Err(why));
        }
    }
}

/// The senders' end.
pub struct Intake {
    room: Room,
    orders: mpsc::UnboundedSender<Order>,
    stale: watch::Sender<bool>,
    bounds: Bounds,
}

impl Intake {
    /// Takes a message, waiting for room; past the stated time its sender is told that there was none.
    pub async fn take(&self, message: Message, receipt: Receipt) {
        let cost = message.payload.len() + OVERHEAD_BYTES;
        let place = match timeout(self.bounds.wait, self.place(cost)).await {
            Ok(Some(place)) => place,
            Ok(None) => return receipt.settle(Err(NotAccepted::Stopping)),
            Err(_) => return receipt.settle(Err(NotAccepted::SpoolFull)),
        };
        let entry =
            Entry { message, number: None, since: Instant::now(), handed_over: 0, sender: Some((receipt, place)) };
        if let Err(mpsc::error::SendError(Order::Publish(entry))) = self.orders.send(Order::Publish(entry)) {
            entry.refuse(NotAccepted::Stopping);
        }
    }

    /// `None` once the spool takes nothing more.
    async fn place(&self, cost: usize) -> Option<Place> {
        if *self.stale.borrow() {
            self.stale.subscribe().wait_for(|stale| !stale || self.room.is_closed()).await.ok()?;
        }
        // The largest message fits an empty spool, whatever the bound.
        let cost = u32::try_from(cost.min(self.bounds.bytes_max)).unwrap_or(u32::MAX);
        let message = self.room.messages.clone().acquire_owned().await.ok()?;
        let bytes = self.room.bytes.clone().acquire_many_owned(cost).await.ok()?;
        Some(Place { _message: message, _bytes: bytes })
    }

    /// Takes nothing more, and asks the spool's other end to finish with what was taken so far. Whoever waits for room
    /// is told at once, whatever the other end is busy with.
    pub fn stop(&self) {
        self.room.close();
        // Wakes who waits for that to change, to look at the room as well.
        self.stale.send_modify(|_| ());
        let _ = self.orders.send(Order::Stop);
    }
}

/// The publisher's end.
pub struct Spool {
    orders: mpsc::UnboundedReceiver<Order>,
    room: Room,
    stale: watch::Sender<bool>,
    bounds: Bounds,
    numbers: Numbers,
    waiting: Waiting,
    /// Confirmed, oldest first, with when that was.
    kept: VecDeque<(Entry, Instant)>,
    kept_bytes: usize,
    stopping: bool,
    metrics: BrokerMetrics,
}

impl Spool {
    /// Ready when something waits in one of these lanes, or a stop has come. Loses nothing when dropped.
    pub async fn ready(&mut self, lanes: Lanes) {
        while !self.waiting.has_some_in(lanes) {
            if self.stopping {
                return std::future::pending().await;
            }
            let order = self.orders.recv().await;
            self.enter(order);
            if self.stopping {
                return;
            }
        }
    }

    /// Ready when told to stop, with nothing left that waits. Loses nothing when dropped.
    pub async fn finished(&mut self) {
        while !self.stopping {
            let order = self.orders.recv().await;
            self.enter(order);
            self.report(None);
        }
        if !self.waiting.is_empty() {
            std::future::pending().await
        }
    }

    /// The oldest message that waits in a lane.
    pub fn next(&mut self, lane: Lane) -> Option<Entry> {
        while self.waiting.lane(lane).is_empty()
            && let Ok(order) = self.orders.try_recv()
        {
            self.enter(Some(order));
        }
        self.waiting.lane(lane).pop_front()
    }

    pub fn is_finished(&self) -> bool {
        self.stopping && self.waiting.is_empty()
    }

    /// Puts back what was taken with [`Spool::next`], in the same order. What instances tell each other is dropped: by the
    /// time it could be heard they have told more.
    pub fn put_back(&mut self, entries: impl DoubleEndedIterator<Item = Entry>) {
        for entry in entries.rev().filter(|entry| !entry.message.target.is_between_instances()) {
            self.waiting.lane_of(&entry).push_front(entry);
        }
    }

    /// The broker has the message.
    pub fn confirm(&mut self, mut entry: Entry) {
        if let Some((receipt, _place)) = entry.sender.take() {
            receipt.settle(Ok(()));
        }
        // What queues of backends and users have is on disk.
        if self.bounds.keep.is_zero() || Lane::of(&entry.message.target) != Lane::Instances {
            return;
        }
        self.kept_bytes += entry.message.payload.len() + OVERHEAD_BYTES;
        self.kept.push_back((entry, Instant::now()));
        self.trim_kept();
    }

    /// The broker may have lost what it had confirmed: that is sent again, before what waits.
    pub fn rewind(&mut self) {
        self.kept_bytes = 0;
        let kept = std::mem::take(&mut self.kept);
        self.put_back(kept.into_iter().map(|(entry, _)| entry));
    }

    /// Forgets what was confirmed too long ago. Not to be called while the broker is away: what counts is how long
    /// before its loss something was confirmed.
    pub fn trim_kept(&mut self) {
        while let Some((entry, confirmed)) = self.kept.front() {
            if confirmed.elapsed() <= self.bounds.keep && self.kept_bytes <= self.bounds.bytes_max {
                return;
            }
            self.kept_bytes -= entry.message.payload.len() + OVERHEAD_BYTES;
            self.kept.pop_front();
        }
    }

    /// Looks at the age of what waits, `oldest` being what was handed to the broker first.
    pub fn patrol(&mut self, oldest: Option<&Entry>) {
        while let Ok(order) = self.orders.try_recv() {
            self.enter(Some(order));
        }
        self.report(oldest);
        let age = self.age(oldest);
        let stale = age > self.bounds.age_max;
        if self.stale.send_if_modified(|was| std::mem::replace(was, stale) != stale) && stale {
            log::warn!("the spool takes no more: a message waits for {} s for the broker", age.as_secs());
        }
    }

    /// How long the oldest message has been waiting for its confirm.
    fn age(&self, oldest: Option<&Entry>) -> Duration {
        self.since(oldest).map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn since(&self, oldest: Option<&Entry>) -> Option<Instant> {
        oldest.map(Entry::since).into_iter().chain(self.waiting.since()).min()
    }

    /// Tells the metrics how much waits, `oldest` being what was handed to the broker first.
    pub fn report(&self, oldest: Option<&Entry>) {
        let taken = |room: &Semaphore, max: usize| max.saturating_sub(room.available_permits());
        let messages = taken(&self.room.messages, self.bounds.messages_max);
        let bytes = taken(&self.room.bytes, self.bounds.bytes_max);
        self.metrics.spool(messages, bytes, self.since(oldest).map(Instant::into_std));
    }

    /// The last number of each route that was handed out; `None` while some wait, which have their numbers already.
    pub fn numbers(&self) -> Option<&Numbers> {
        (!self.waiting.has_some_for_instances()).then_some(&self.numbers)
    }

    fn enter(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Publish(mut entry)) => {
                entry.number = Route::to(&entry.message.target).map(|route| self.numbers.next(&route));
                self.waiting.lane_of(&entry).push_back(entry);
            }
            Some(Order::Stop) | None => self.stopping = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::broker::tests::Heard;
    use crate::message::{PayloadKind, Target};

    fn message() -> Message {
        let payload = Bytes::from_static(b"hello");
        Message { id: None, target: Target::Broadcast, kind: PayloadKind::Text, published_ms: 0, terms: None, payload }
    }

    /// Senders wait for longer than a test lasts.
    fn bounds(messages_max: usize, age_max: Duration) -> Bounds {
        let wait = Duration::from_secs(3600);
        Bounds { messages_max, bytes_max: 1 << 20, age_max, wait, keep: Duration::ZERO }
    }

    /// A spool that keeps what was confirmed for so long, and what the senders of `count` messages in it have heard.
    async fn keeping(keep: Duration, bytes_max: usize, count: usize) -> (Intake, Spool, Arc<Heard>) {
        let bounds = Bounds { keep, bytes_max, ..bounds(10, Duration::from_secs(60)) };
        let (intake, spool) = open(bounds, BrokerMetrics::default());
        let heard = Arc::new(Heard::default());
        for _ in 0..count {
            intake.take(message(), Receipt::to(heard.clone())).await;
        }
        (intake, spool, heard)
    }

    fn confirm_next(spool: &mut Spool, count: usize) {
        for _ in 0..count {
            let entry = spool.next(Lane::Instances).expect("something waits").on_its_way();
            spool.confirm(entry);
        }
    }

    /// The numbers of all that waits, and whether each was published before.
    fn waiting(spool: &mut Spool) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| spool.next(Lane::Instances))
            .map(|entry| (entry.number.expect("a number"), entry.handed_over > 0))
            .collect()
    }

    const KEEP: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn what_was_confirmed_lately_is_sent_again_first_in_order_and_under_its_numbers() {
        let (_intake, mut spool, heard) = keeping(KEEP, 1 << 20, 3).await;
        confirm_next(&mut spool, 2);
        spool.rewind();
        assert!(spool.numbers().is_none(), "what waits may come yet");
        confirm_next(&mut spool, 2);
        assert_eq!(*heard.0.lock().unwrap(), [Ok(()), Ok(())], "each sender is told once");
        spool.rewind();
        assert_eq!(waiting(&mut spool), [(1, true), (2, true), (3, false)], "kept anew when it is confirmed anew");
        spool.rewind();
        assert!(spool.next(Lane::Instances).is_none(), "what is on its way is not kept beside");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_confirmed_takes_no_room_from_senders() {
        let (intake, mut spool, _) = keeping(KEEP, 1 << 20, 10).await;
        confirm_next(&mut spool, 10);
        let taken = intake.take(message(), Receipt::to(Arc::new(Heard::default()))).now_or_never();
        assert!(taken.is_some());
        spool.rewind();
        assert_eq!(waiting(&mut spool).len(), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_confirmed_too_long_ago_is_forgotten() {
        let (_intake, mut spool, _) = keeping(KEEP, 1 << 20, 3).await;
        confirm_next(&mut spool, 1);
        tokio::time::advance(KEEP).await;
        confirm_next(&mut spool, 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        spool.trim_kept();
        // While the broker is away nobody trims: however long that lasts, what was kept is kept.
        tokio::time::advance(100 * KEEP).await;
        spool.rewind();
        assert_eq!(waiting(&mut spool), [(2, true), (3, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_in_bytes() {
        let cost = message().payload.len() + OVERHEAD_BYTES;
        let (_intake, mut spool, _) = keeping(KEEP, 3 * cost, 3).await;
        confirm_next(&mut spool, 3);
        spool.rewind();
        confirm_next(&mut spool, 1);
        spool.rewind();
        assert_eq!(waiting(&mut spool).len(), 3, "three fit, and what was sent again was counted out");

        let (intake, mut spool, _) = keeping(KEEP, 3 * cost - 1, 2).await;
        confirm_next(&mut spool, 2);
        intake.take(message(), Receipt::to(Arc::new(Heard::default()))).await;
        confirm_next(&mut spool, 1);
        spool.rewind();
        assert_eq!(waiting(&mut spool), [(2, true), (3, true)], "the oldest goes");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_to_keep_nothing_is_sent_again() {
        let (_intake, mut spool, heard) = keeping(Duration::ZERO, 1 << 20, 2).await;
        confirm_next(&mut spool, 2);
        spool.rewind();
        assert!(spool.next(Lane::Instances).is_none());
        assert_eq!(*heard.0.lock().unwrap(), [Ok(()), Ok(())]);
    }

    /// What the sender of one more message hears when the intake stops while nobody is at the other end.
    async fn heard_at_a_stop(intake: &Intake) -> Vec<Result<(), NotAccepted>> {
        let (began, waits) = (Instant::now(), Arc::new(Heard::default()));
        let mut waiting = pin!(intake.take(message(), Receipt::to(waits.clone())));
        assert!((&mut waiting).now_or_never().is_none());
        intake.stop();
        waiting.await;
        assert_eq!(began.elapsed(), Duration::ZERO, "at once");
        let heard = waits.0.lock().unwrap();
        heard.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_told_at_once_to_who_waits_for_room() {
        let (intake, _spool) = open(bounds(1, Duration::from_secs(60)), BrokerMetrics::default());
        let taken = Arc::new(Heard::default());
        intake.take(message(), Receipt::to(taken.clone())).await;
        assert_eq!(heard_at_a_stop(&intake).await, [Err(NotAccepted::Stopping)]);
        assert!(taken.0.lock().unwrap().is_empty(), "what was taken may still be confirmed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_told_at_once_to_who_waits_for_the_oldest_to_be_confirmed() {
        let (intake, mut spool) = open(bounds(10, Duration::from_secs(60)), BrokerMetrics::default());
        intake.take(message(), Receipt::to(Arc::new(Heard::default()))).await;
        tokio::time::advance(Duration::from_secs(61)).await;
        spool.patrol(None);
        assert_eq!(heard_at_a_stop(&intake).await, [Err(NotAccepted::Stopping)]);
    }
}
