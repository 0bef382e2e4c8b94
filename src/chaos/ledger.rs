//! The books of the whole run: who sent what, who heard what, what is still on its way.
//!
//! A sender is one connection of a session that publishes to one subject; its next connection is another sender, with numbers from 0
//! again, because what a client sends on two connections has no order between them. Sessions write here while the run
//! goes on; [`balance`](super::balance) reads it at the end.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::books::{End, Entry, Life, Line, Lines};
use super::order::Order;
use super::subject::{Route, Subject};
use crate::bench::marker::Marker;

pub struct Ledger {
    run: u32,
    epoch: Instant,
    senders: RwLock<Vec<Arc<Sender>>>,
    lives: Mutex<Vec<Arc<Life>>>,
    /// Messages that their sender has not heard back, by instance of the sender.
    outstanding: Vec<AtomicU64>,
    /// The latest time of sending among what was heard, by route, instance of the listener and then of the sender.
    heard_ns: [Vec<Vec<AtomicU64>>; Route::ALL.len()],
    /// Deliveries to a session that had not asked for them, by route and instance of the session.
    unwanted: [Vec<AtomicU64>; Route::ALL.len()],
    delivered: AtomicU64,
    order: Order,
    /// Nothing is sent any more.
    is_closed: AtomicBool,
    /// Something was sent.
    pub sent: Notify,
}

/// One connection that publishes.
pub struct Sender {
    pub id: u32,
    pub instance: usize,
    pub subject: Subject,
    /// What the same connection heard.
    pub life: Arc<Life>,
    /// When each message was sent, in nanoseconds of the run.
    sent_ns: Mutex<Vec<u64>>,
}

impl Sender {
    pub fn sent_ns(&self) -> MutexGuard<'_, Vec<u64>> {
        self.sent_ns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many messages were sent.
    pub fn count(&self) -> u32 {
        u32::try_from(self.sent_ns().len()).unwrap_or(u32::MAX)
    }

    pub fn has_ended(&self) -> bool {
        self.life.page().end.is_some()
    }
}

impl Ledger {
    pub fn new(instances: usize) -> Ledger {
        let zeros = || (0..instances).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        Ledger {
            run: fastrand::u32(..),
            epoch: Instant::now(),
            senders: RwLock::default(),
            lives: Mutex::default(),
            outstanding: zeros(),
            heard_ns: Route::ALL.map(|_| (0..instances).map(|_| zeros()).collect()),
            unwanted: Route::ALL.map(|_| zeros()),
            delivered: AtomicU64::new(0),
            order: Order::default(),
            is_closed: AtomicBool::new(false),
            sent: Notify::new(),
        }
    }

    /// Since the run began.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.now())
    }

    /// A connection or a subscription was agreed to. Everything that is sent to its subject from here on is expected on it.
    pub fn begin(&self, instance: usize, hears: Subject) -> Arc<Life> {
        // A copy: no page is looked at under the list's lock, as pages are held where the list is asked for.
        let senders = self.senders();
        let heard = senders.iter().filter(|sender| hears.hears(sender.subject) && !sender.has_ended());
        let counts = heard.map(|sender| (sender.id, sender.instance, sender.count()));
        let mut life = Life::new(instance, hears, senders.len() as u32, counts);
        life.stood_first = senders.iter().all(|sender| sender.count() == 0);
        let life = Arc::new(life);
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).push(life.clone());
        life
    }

    /// The connection is one that publishes to what it hears.
    pub fn sender(&self, life: &Arc<Life>) -> Arc<Sender> {
        let mut senders = self.senders.write().unwrap_or_else(PoisonError::into_inner);
        let id = senders.len() as u32;
        let (instance, subject) = (life.instance, life.hears);
        senders.push(Arc::new(Sender { id, instance, subject, life: life.clone(), sent_ns: Mutex::default() }));
        senders[senders.len() - 1].clone()
    }

    /// What a message of this run was said to.
    pub fn subject_of(&self, marker: Marker) -> Option<Subject> {
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        (marker.run == self.run).then_some(senders.get(marker.publisher as usize)?.subject)
    }

    /// A message arrived where nobody had asked for it.
    pub fn hear_unwanted(&self, instance: usize, subject: Subject) {
        self.unwanted[subject.route() as usize][instance].fetch_add(1, Relaxed);
    }

    pub fn unwanted(&self, route: Route, instance: usize) -> u64 {
        self.unwanted[route as usize][instance].load(Relaxed)
    }

    /// The sender's next message, which is now on its way: to be called before it is written. `None` once the ledger is
    /// closed.
    pub fn send(&self, sender: &Sender) -> Option<Marker> {
        let now_ns = self.now_ns();
        let mut sent_ns = sender.sent_ns();
        if self.is_closed.load(Acquire) {
            return None;
        }
        let sequence = u32::try_from(sent_ns.len()).unwrap_or(u32::MAX);
        sent_ns.push(now_ns);
        self.outstanding[sender.instance].fetch_add(1, Release);
        Some(Marker { run: self.run, publisher: sender.id, sequence, sent_ns: now_ns })
    }

    /// Lets nobody send any more; what was sent by now is all there is.
    pub fn close(&self) {
        self.is_closed.store(true, Release);
        // Who looked before is done when it has given its lock back.
        self.senders().iter().for_each(|sender| drop(sender.sent_ns()));
    }

    /// A message arrived on a connection, whose own sender this is if it has one.
    pub fn hear(&self, life: &Life, own: Option<&Sender>, marker: Marker) {
        let Some(subject) = self.subject_of(marker) else { return };
        if !life.hears.hears(subject) {
            return self.hear_unwanted(life.instance, subject);
        }
        let mut page = life.page();
        let known = page.lines.get_mut(&marker.publisher);
        let entered = known.map(|(from, line)| (*from, line.enter(marker.sequence)));
        let Some((from, entry)) = entered.or_else(|| self.first_of(life, &mut page.lines, marker)) else { return };
        match entry {
            Entry::InOrder => {}
            Entry::Late => page.late_sent_ns.push(marker.sent_ns),
            Entry::Double => {
                page.doubled += 1;
                return;
            }
        }
        let message = (marker.publisher, marker.sequence);
        if let Some(place) = self.order.place(subject, message, life.stood_first) {
            let last = page.places.entry(subject).or_default();
            let is_behind = place < *last;
            *last = place.max(*last);
            page.unordered += u64::from(is_behind);
        }
        page.delivered += 1;
        self.delivered.fetch_add(1, Relaxed);
        self.heard_ns[subject.route() as usize][life.instance][from].fetch_max(marker.sent_ns, Relaxed);
        if own.is_some_and(|own| own.id == marker.publisher) {
            self.outstanding[life.instance].fetch_sub(1, Release);
        }
    }

    /// Opens a line for a sender; `None` if there is no such sender.
    fn first_of(&self, life: &Life, lines: &mut Lines, marker: Marker) -> Option<(usize, Entry)> {
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        let from = senders.get(marker.publisher as usize)?.instance;
        let mut line = Line::new(life.baseline_of_new(marker.publisher));
        let entry = line.enter(marker.sequence);
        lines.insert(marker.publisher, (from, line));
        Some((from, entry))
    }

    /// The connection is gone, and with it what its sender had not heard back: the sender has been told.
    pub fn end(&self, life: &Life, own: Option<&Sender>, end: End) {
        let mut page = life.page();
        page.end = Some(end);
        if let Some(own) = own {
            let heard = page.lines.get(&own.id).map_or(0, |(_, line)| super::books::count(&line.arrived()));
            self.outstanding[life.instance].fetch_sub(u64::from(own.count()).saturating_sub(heard), Release);
        }
    }

    /// Messages on their way: of one instance's senders, or of all.
    pub fn outstanding(&self, instance: Option<usize>) -> u64 {
        match instance {
            Some(instance) => self.outstanding[instance].load(Acquire),
            None => self.outstanding.iter().map(|count| count.load(Acquire)).sum(),
        }
    }

    /// Whether every instance heard from every instance something that was sent after `since`, on each of these routes.
    pub fn flows_since(&self, since: Duration, routes: &[Route]) -> bool {
        let since = nanoseconds(since);
        let mut heard_ns = routes.iter().flat_map(|route| self.heard_ns[*route as usize].iter().flatten());
        heard_ns.all(|heard_ns| heard_ns.load(Relaxed) > since)
    }

    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    pub fn senders(&self) -> Vec<Arc<Sender>> {
        self.senders.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn lives(&self) -> Vec<Arc<Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::books::Cause;

    #[test]
    fn who_hears_two_senders_the_other_way_round_has_seen_another_order() {
        let ledger = Ledger::new(2);
        let lives = [ledger.begin(0, Subject::Broadcast), ledger.begin(1, Subject::Broadcast)];
        let senders = lives.each_ref().map(|life| ledger.sender(life));
        let [first, second] = senders.each_ref().map(|sender| ledger.send(sender).expect("open"));
        let late = ledger.begin(0, Subject::Broadcast);
        let unheard = ledger.send(&senders[0]).expect("open");
        ledger.hear(&late, None, unheard);
        for (life, order) in [(&lives[0], [first, second]), (&lives[1], [second, first]), (&late, [first, second])] {
            order.into_iter().for_each(|marker| ledger.hear(life, None, marker));
        }
        assert_eq!([&lives[0], &lives[1], &late].map(|life| life.page().unordered), [0, 1, 0]);
        assert_eq!([&lives[0], &late].map(|life| life.stood_first), [true, false]);
    }

    fn end() -> End {
        End { why: "gone".to_owned(), cause: Cause::Instance }
    }

    fn send(ledger: &Ledger, sender: &Sender) -> Marker {
        ledger.send(sender).expect("the ledger is open")
    }

    #[test]
    fn nothing_is_sent_behind_the_last_line() {
        let ledger = Ledger::new(1);
        let sender = ledger.sender(&ledger.begin(0, Subject::Broadcast));
        send(&ledger, &sender);
        ledger.close();
        assert_eq!((ledger.send(&sender), sender.count(), ledger.outstanding(None)), (None, 1, 1));
    }

    #[test]
    fn a_message_is_on_its_way_until_its_sender_hears_it() {
        let ledger = Ledger::new(2);
        let (life, other) = (ledger.begin(0, Subject::Broadcast), ledger.begin(1, Subject::Broadcast));
        let sender = ledger.sender(&life);
        let marker = send(&ledger, &sender);
        assert_eq!((ledger.outstanding(None), ledger.outstanding(Some(1))), (1, 0));
        ledger.hear(&other, None, marker);
        assert_eq!(ledger.outstanding(Some(0)), 1, "somebody else heard it");
        ledger.hear(&life, Some(&sender), marker);
        assert_eq!((ledger.outstanding(None), ledger.delivered()), (0, 2));
        ledger.hear(&life, Some(&sender), marker);
        assert_eq!((ledger.outstanding(None), ledger.delivered(), life.page().doubled), (0, 2, 1));
    }

    #[test]
    fn a_sender_that_is_gone_waits_for_nothing() {
        let ledger = Ledger::new(1);
        let life = ledger.begin(0, Subject::Broadcast);
        let sender = ledger.sender(&life);
        let first = send(&ledger, &sender);
        send(&ledger, &sender);
        ledger.hear(&life, Some(&sender), first);
        ledger.end(&life, Some(&sender), end());
        assert_eq!(ledger.outstanding(None), 0);
        assert!(sender.has_ended());
    }

    #[test]
    fn a_new_connection_begins_where_the_senders_are() {
        let ledger = Ledger::new(1);
        let sender = ledger.sender(&ledger.begin(0, Subject::Broadcast));
        let markers: Vec<Marker> = (0..3).map(|_| send(&ledger, &sender)).collect();
        let gone = ledger.sender(&ledger.begin(0, Subject::Broadcast));
        ledger.end(&gone.life, Some(&gone), end());
        let life = ledger.begin(0, Subject::Broadcast);
        ledger.hear(&life, None, markers[2]);
        assert_eq!(life.page().lines[&sender.id].1.missing(Some(5)), vec![3..5]);
        assert!(!life.page().lines.contains_key(&gone.id));
    }

    #[test]
    fn flow_is_back_when_all_heard_from_all() {
        let ledger = Ledger::new(2);
        let lives = [ledger.begin(0, Subject::Broadcast), ledger.begin(1, Subject::Broadcast)];
        let senders = lives.each_ref().map(|life| ledger.sender(life));
        let since = ledger.now();
        for sender in &senders {
            assert!(!ledger.flows_since(since, &[Route::Broadcast]));
            let marker = send(&ledger, sender);
            lives.iter().for_each(|life| ledger.hear(life, None, marker));
        }
        assert!(ledger.flows_since(since, &[Route::Broadcast]));
        assert!(!ledger.flows_since(ledger.now(), &[Route::Broadcast]));
        assert!(!ledger.flows_since(since, &Route::ALL), "nothing was said to a topic");
    }

    #[test]
    fn what_is_heard_follows_from_what_was_asked_for() {
        let ledger = Ledger::new(1);
        let [topic, other, all, broadcast] =
            [Subject::Topic(0), Subject::Topic(1), Subject::AllTopics, Subject::Broadcast]
                .map(|own| ledger.begin(0, own));
        let marker = send(&ledger, &ledger.sender(&topic));
        assert_eq!(ledger.subject_of(marker), Some(Subject::Topic(0)));
        for life in [&topic, &other, &all, &broadcast] {
            ledger.hear(life, None, marker);
        }
        assert_eq!([&topic, &other, &all, &broadcast].map(|life| life.page().delivered), [1, 0, 1, 0]);
        assert_eq!(Route::ALL.map(|route| ledger.unwanted(route, 0)), [0, 2]);
    }

    #[test]
    fn what_is_not_of_this_run_counts_for_nothing() {
        let ledger = Ledger::new(1);
        let life = ledger.begin(0, Subject::Broadcast);
        let sender = ledger.sender(&life);
        let marker = send(&ledger, &sender);
        ledger.hear(&life, None, Marker { run: marker.run.wrapping_add(1), ..marker });
        ledger.hear(&life, None, Marker { publisher: 7, ..marker });
        assert_eq!((ledger.delivered(), life.page().delivered), (0, 0));
    }
}
