//! What the books come to: accepted, delivered, lost, told, duplicated, reordered, disconnected.
//!
//! A message is *accepted* when its sender's connection stood until the message came back, or until the end of the
//! run. If the connection ended first, the sender has been *told*: it knows that it does not know. But if it ended with
//! the good-bye of its instance, what that had read was accepted: everything up to the last message that anybody heard
//! of. An accepted message is *lost* at a connection that stood from before it was sent and did not get it; of a
//! connection that ended before the run did, only a message whose successor arrived can be said to be lost.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::books::{Cause, Life, common, count};
use super::ledger::{Ledger, Sender, nanoseconds};
use super::subject::{Route, Subject};

/// Sums of one instance, or of all. What concerns sending counts at the sender's instance, what concerns hearing at
/// the listener's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    pub accepted: u64,
    /// Messages of which the sender was told that it cannot know.
    pub told: u64,
    pub delivered: u64,
    /// Deliveries of accepted messages that did not come.
    pub lost: u64,
    /// Of these, those that no fault explains where messages are kept in queues.
    pub lost_without_excuse: u64,
    /// Different messages among the lost.
    pub messages_lost: u64,
    pub duplicated: u64,
    /// Deliveries to a session that had not asked for them, or had left.
    pub unwanted: u64,
    pub reordered: u64,
    /// Deliveries behind one that came later elsewhere.
    pub unordered: u64,
    /// Of these, those that no fault explains where messages are kept in queues.
    pub reordered_without_excuse: u64,
    /// Connections that ended though their instance lived and they were read.
    pub disconnected: u64,
    /// Of these, senders whose message was refused (1013).
    pub refused: u64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.accepted += other.accepted;
        self.told += other.told;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.lost_without_excuse += other.lost_without_excuse;
        self.messages_lost += other.messages_lost;
        self.duplicated += other.duplicated;
        self.unwanted += other.unwanted;
        self.reordered += other.reordered;
        self.unordered += other.unordered;
        self.reordered_without_excuse += other.reordered_without_excuse;
        self.disconnected += other.disconnected;
        self.refused += other.refused;
    }
}

/// While it lasted, a fault may have taken messages along that waited in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    /// Where messages may be missing; everywhere if `None`.
    pub instance: Option<usize>,
    pub from: Duration,
    pub to: Duration,
}

impl Excuse {
    fn covers(&self, instance: usize, sent_ns: u64) -> bool {
        self.instance.is_none_or(|own| own == instance)
            && (nanoseconds(self.from)..=nanoseconds(self.to)).contains(&sent_ns)
    }
}

/// How many lost messages are named; the counts tell the rest.
const NAMED_MAX: usize = 20;

/// A message that was lost at an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostMessage {
    pub at_instance: usize,
    pub from_instance: usize,
    pub sender: u32,
    pub subject: Subject,
    pub number: u32,
    pub sent: Duration,
}

/// The outcome of a run, for one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub instances: Vec<Sums>,
    /// Why connections ended, and how many did; those without a cause are marked.
    pub ends: BTreeMap<String, u64>,
    /// The first of the lost messages.
    pub lost: Vec<LostMessage>,
    /// Different messages that were lost, by excuse and then by instance.
    pub messages_lost: Vec<Vec<u64>>,
}

impl Balance {
    pub fn all(&self) -> Sums {
        let mut all = Sums::default();
        self.instances.iter().for_each(|sums| all += *sums);
        all
    }
}

/// Deliveries that are still missing: 0 as soon as everything has arrived.
pub fn missing(ledger: &Ledger) -> u64 {
    let (senders, lives) = (ledger.senders(), ledger.lives());
    let accepted = accepted_of(&senders, &lives);
    lives.iter().map(|life| lost_of(life, &accepted).map(|(_, lost)| count(&lost)).sum::<u64>()).sum()
}

/// Settles the books of one route.
pub fn settle(ledger: &Ledger, route: Route, instances: usize, excuses: &[Excuse]) -> Balance {
    let (senders, lives) = (ledger.senders(), ledger.lives());
    let accepted = accepted_of(&senders, &lives);
    let mut balance = Balance {
        instances: vec![Sums::default(); instances],
        messages_lost: vec![vec![0; instances]; excuses.len()],
        ..Balance::default()
    };
    for (instance, sums) in balance.instances.iter_mut().enumerate() {
        sums.unwanted = ledger.unwanted(route, instance);
    }
    for (sender, accepted) in senders.iter().zip(&accepted).filter(|(sender, _)| sender.subject.route() == route) {
        let sums = &mut balance.instances[sender.instance];
        let taken = count(&accepted.numbers);
        sums.accepted += taken;
        sums.told += u64::from(accepted.sent) - taken;
    }
    let mut lost_messages = LostMessages::new(instances, &accepted);
    for life in lives.iter().filter(|life| life.hears.route() == route) {
        let sums = &mut balance.instances[life.instance];
        // The first that covers it: what was sent before messages flowed again was not lost by what came later.
        let excuse_of = |sent_ns: u64| excuses.iter().position(|excuse| excuse.covers(life.instance, sent_ns));
        for (sender, lost) in lost_of(life, &accepted) {
            let (subject, sent_ns) = (senders[sender].subject, senders[sender].sent_ns());
            for number in lost.into_iter().flatten() {
                let sent_ns = sent_ns[number as usize];
                let excuse = excuse_of(sent_ns);
                sums.lost += 1;
                sums.lost_without_excuse += u64::from(excuse.is_none());
                if !lost_messages.is_first(life.instance, sender, number) {
                    continue;
                }
                sums.messages_lost += 1;
                excuse.into_iter().for_each(|excuse| balance.messages_lost[excuse][life.instance] += 1);
                if balance.lost.len() < NAMED_MAX {
                    let (at_instance, from_instance) = (life.instance, senders[sender].instance);
                    let (sender, sent) = (senders[sender].id, Duration::from_nanos(sent_ns));
                    balance.lost.push(LostMessage { at_instance, from_instance, sender, subject, number, sent });
                }
            }
        }
        let page = life.page();
        sums.delivered += page.delivered;
        sums.duplicated += page.doubled;
        sums.reordered += page.late_sent_ns.len() as u64;
        sums.unordered += page.unordered;
        let unexcused = page.late_sent_ns.iter().filter(|sent_ns| excuse_of(**sent_ns).is_none());
        sums.reordered_without_excuse += unexcused.count() as u64;
        if let Some(end) = page.end.as_ref().filter(|end| end.cause != Cause::Left) {
            let is_without_cause = matches!(end.cause, Cause::None | Cause::Refused);
            sums.disconnected += u64::from(is_without_cause);
            sums.refused += u64::from(end.cause == Cause::Refused);
            let mark = if is_without_cause { " (without cause)" } else { "" };
            *balance.ends.entry(format!("{}{mark}", end.why)).or_default() += 1;
        }
    }
    balance
}

/// Which of a sender's messages were accepted.
struct Accepted {
    subject: Subject,
    sent: u32,
    numbers: Vec<Range<u32>>,
}

impl Accepted {
    /// `heard` is one past the last that anybody heard of the sender.
    fn of(sender: &Sender, heard: u32) -> Accepted {
        let page = sender.life.page();
        let sent = sender.count();
        let up_to = |end: u32| std::iter::once(0..end).collect();
        let heard_back = || page.lines.get(&sender.id).map(|(_, line)| line.arrived()).unwrap_or_default();
        let numbers = match page.end.as_ref().map(|end| end.cause) {
            None => up_to(sent),
            Some(Cause::GoodBye) => up_to(heard),
            Some(_) => heard_back(),
        };
        Accepted { subject: sender.subject, sent, numbers }
    }
}

/// By the place of the sender.
fn accepted_of(senders: &[Arc<Sender>], lives: &[Arc<Life>]) -> Vec<Accepted> {
    let mut heard = vec![0; senders.len()];
    for life in lives {
        for (sender, (_, line)) in &life.page().lines {
            // There may be newer ones by now.
            heard.get_mut(*sender as usize).into_iter().for_each(|end| *end = line.end().max(*end));
        }
    }
    senders.iter().zip(heard).map(|(sender, heard)| Accepted::of(sender, heard)).collect()
}

/// What a life has lost, by the place of the sender.
fn lost_of<'a>(life: &'a Life, accepted: &'a [Accepted]) -> impl Iterator<Item = (usize, Vec<Range<u32>>)> + 'a {
    let page = life.page();
    let stands = page.end.is_none();
    let of_sender = move |(sender, accepted): (usize, &Accepted)| {
        let id = sender as u32;
        let missing = match page.lines.get(&id) {
            Some((_, line)) => line.missing(stands.then_some(accepted.sent)),
            None if stands => std::iter::once(life.baseline_of_new(id)..accepted.sent).collect(),
            None => return None,
        };
        let lost = common(&missing, &accepted.numbers);
        (!lost.is_empty()).then_some((sender, lost))
    };
    let heard = |(_, accepted): &(usize, &Accepted)| life.hears.hears(accepted.subject);
    accepted.iter().enumerate().filter(heard).filter_map(of_sender)
}

/// Which messages are known to be lost at an instance: many sessions may miss the same one.
struct LostMessages(Vec<Vec<Vec<bool>>>);

impl LostMessages {
    fn new(instances: usize, accepted: &[Accepted]) -> LostMessages {
        let none: Vec<Vec<bool>> = accepted.iter().map(|accepted| vec![false; accepted.sent as usize]).collect();
        LostMessages(vec![none; instances])
    }

    fn is_first(&mut self, instance: usize, sender: usize, number: u32) -> bool {
        !std::mem::replace(&mut self.0[instance][sender][number as usize], true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::marker::Marker;
    use crate::chaos::books::End;

    /// Two instances with a connection each; the first one publishes.
    struct Run {
        ledger: Ledger,
        sender: Arc<Sender>,
        other: Arc<Life>,
    }

    impl Run {
        fn new() -> Run {
            let ledger = Ledger::new(2);
            let sender = ledger.sender(&ledger.begin(0, Subject::Broadcast));
            let other = ledger.begin(1, Subject::Broadcast);
            Run { ledger, sender, other }
        }

        fn send(&self, count: usize) -> Vec<Marker> {
            (0..count).map(|_| self.ledger.send(&self.sender).expect("open")).collect()
        }

        fn hears_itself(&self, markers: &[Marker]) {
            markers.iter().for_each(|marker| self.ledger.hear(&self.sender.life, Some(&self.sender), *marker));
        }

        fn other_hears(&self, markers: &[Marker]) {
            markers.iter().for_each(|marker| self.ledger.hear(&self.other, None, *marker));
        }

        fn ends(&self, life: &Life, cause: Cause) {
            let own = std::ptr::eq(life, &*self.sender.life).then_some(&*self.sender);
            self.ledger.end(life, own, End { why: "1006".to_owned(), cause });
        }

        fn settle(&self) -> [Sums; 2] {
            self.settle_with(&[])
        }

        fn settle_with(&self, excuses: &[Excuse]) -> [Sums; 2] {
            let balance = settle(&self.ledger, Route::Broadcast, 2, excuses);
            assert_eq!(missing(&self.ledger), balance.all().lost);
            [balance.instances[0], balance.instances[1]]
        }
    }

    #[test]
    fn what_everybody_heard_is_delivered() {
        let run = Run::new();
        let sent = run.send(3);
        run.hears_itself(&sent);
        run.other_hears(&sent);
        let expected =
            [Sums { accepted: 3, delivered: 3, ..Sums::default() }, Sums { delivered: 3, ..Sums::default() }];
        assert_eq!(run.settle(), expected);
    }

    #[test]
    fn what_a_standing_connection_did_not_get_is_lost() {
        let run = Run::new();
        let sent = run.send(4);
        run.hears_itself(&sent);
        run.other_hears(&[sent[0], sent[3]]);
        let [own, other] = run.settle();
        assert_eq!((own.lost, other.lost, other.messages_lost, other.lost_without_excuse), (0, 2, 2, 2));
    }

    #[test]
    fn a_message_that_many_miss_is_one_message() {
        let run = Run::new();
        let third = run.ledger.begin(1, Subject::Broadcast);
        let sent = run.send(3);
        run.hears_itself(&sent);
        run.other_hears(&sent[..1]);
        run.ledger.hear(&third, None, sent[1]);
        let [_, other] = run.settle();
        assert_eq!((other.lost, other.messages_lost), (4, 3));
    }

    #[test]
    fn a_sender_that_was_cut_off_knows_that_it_does_not_know() {
        let run = Run::new();
        let sent = run.send(3);
        run.hears_itself(&sent[..1]);
        run.other_hears(&sent[..2]);
        run.ends(&run.sender.life, Cause::Instance);
        let [own, other] = run.settle();
        assert_eq!((own.accepted, own.told), (1, 2));
        assert_eq!((other.delivered, other.lost), (2, 0), "what was told may come or not");
    }

    #[test]
    fn what_anybody_heard_of_a_sender_that_was_told_good_bye_was_read_and_all_before_it() {
        let run = Run::new();
        let third = run.ledger.begin(1, Subject::Broadcast);
        let sent = run.send(5);
        run.hears_itself(&sent[..1]);
        run.other_hears(&[sent[0], sent[3]]);
        run.ledger.hear(&third, None, sent[0]);
        run.ends(&run.sender.life, Cause::GoodBye);
        let [own, other] = run.settle();
        assert_eq!((own.accepted, own.told, own.disconnected), (4, 1, 0), "nobody heard the last");
        assert_eq!((other.lost, other.messages_lost), (2 + 3, 3), "a hole, and what another session heard");
    }

    #[test]
    fn a_connection_that_ended_misses_only_what_was_overtaken() {
        let run = Run::new();
        let sent = run.send(5);
        run.hears_itself(&sent);
        run.other_hears(&[sent[0], sent[2]]);
        run.ends(&run.other, Cause::Instance);
        let [_, other] = run.settle();
        assert_eq!((other.lost, other.disconnected), (1, 0));
    }

    #[test]
    fn a_connection_begins_with_a_fresh_baseline() {
        let run = Run::new();
        let before = run.send(3);
        run.hears_itself(&before);
        run.other_hears(&before);
        run.ends(&run.other, Cause::Instance);
        let missed = run.send(2);
        let again = run.ledger.begin(1, Subject::Broadcast);
        let after = run.send(1);
        run.hears_itself(&[missed, after.clone()].concat());
        run.ledger.hear(&again, None, after[0]);
        assert_eq!(run.settle()[1].lost, 0);
        run.hears_itself(&run.send(1));
        assert_eq!(run.settle()[1].lost, 1, "what comes after the baseline is expected");
    }

    #[test]
    fn a_sender_that_nobody_heard_of_is_missed_too() {
        let run = Run::new();
        let late = run.ledger.sender(&run.ledger.begin(0, Subject::Broadcast));
        let marker = run.ledger.send(&late).expect("open");
        run.ledger.hear(&late.life, Some(&late), marker);
        let [own, other] = run.settle();
        assert_eq!((own.lost, other.lost), (1, 1));
    }

    #[test]
    fn doubles_and_wrong_order_are_counted() {
        let run = Run::new();
        let sent = run.send(3);
        run.hears_itself(&sent);
        run.other_hears(&[sent[0], sent[2], sent[1], sent[1], sent[0]]);
        let [_, other] = run.settle();
        assert_eq!((other.delivered, other.duplicated, other.reordered, other.lost), (3, 2, 1, 0));
    }

    #[test]
    fn only_what_was_sent_in_its_time_and_for_its_instance_is_excused() {
        let run = Run::new();
        let sent = run.send(2);
        run.hears_itself(&sent);
        let now = run.ledger.now();
        let excuse = |instance, to| [Excuse { instance, from: Duration::ZERO, to }];
        let unexcused = |excuses: &[Excuse]| run.settle_with(excuses)[1].lost_without_excuse;
        assert_eq!(unexcused(&excuse(None, now)), 0);
        assert_eq!(unexcused(&excuse(Some(1), now)), 0);
        assert_eq!(unexcused(&excuse(Some(0), now)), 2);
        assert_eq!(unexcused(&excuse(None, Duration::ZERO)), 2);
    }

    #[test]
    fn a_loss_is_charged_to_the_first_fault_that_explains_it() {
        let run = Run::new();
        run.hears_itself(&run.send(2));
        let between = run.ledger.now();
        run.hears_itself(&run.send(3));
        let excuse = |instance, to| Excuse { instance, from: Duration::ZERO, to };
        let excuses = [excuse(Some(0), Duration::MAX), excuse(None, between), excuse(Some(1), Duration::MAX)];
        let balance = settle(&run.ledger, Route::Broadcast, 2, &excuses);
        assert_eq!(balance.messages_lost, [[0, 0], [0, 2], [0, 3]]);
    }

    #[test]
    fn ends_without_a_cause_are_disconnects() {
        for (cause, disconnected, refused) in [
            (Cause::Instance, 0, 0),
            (Cause::GoodBye, 0, 0),
            (Cause::Stall, 0, 0),
            (Cause::Refused, 1, 1),
            (Cause::None, 1, 0),
        ] {
            let run = Run::new();
            run.ends(&run.other, cause);
            let sums = run.settle()[1];
            assert_eq!((sums.disconnected, sums.refused), (disconnected, refused), "{cause:?}");
        }
    }
}
