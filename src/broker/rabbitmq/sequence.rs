//! Sequence numbers: a publisher counts its messages per route, a receiver drops doubles and sees losses by them.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;

use super::route::Route;
use crate::place::Partition;

/// Pairs of publisher and route that a receiver remembers; past it the one unheard for longest is forgotten.
const ROUTES_MAX: usize = 10_000;

/// A jump of more than this is nobody's loss but somebody's invention: a program that writes numbers of its own under an
/// instance's name must not make all that follows look like doubles.
const GAP_MAX: u64 = 1 << 20;

/// Such numbers in a row, each a little above the one before, after which they are believed all the same: a receiver that
/// was away for long has missed so many, and would never again tell a double or a loss.
const BELIEVED_AFTER: u8 = 3;

/// Gaps of a route that a receiver remembers, to tell a late message from a double; past it the oldest is forgotten.
const GAPS_MAX: usize = 64;

/// The publisher's side: the next number of each route, from 1.
#[derive(Debug)]
pub struct Numbers {
    last: HashMap<Route, u64>,
}

impl Default for Numbers {
    /// The broadcast is known from the start, so that beacons give receivers their baseline before the first message.
    fn default() -> Numbers {
        Numbers { last: HashMap::from([(Route::Broadcast, 0)]) }
    }
}

impl Numbers {
    pub fn next(&mut self, route: &Route) -> u64 {
        match self.last.get_mut(route) {
            Some(last) => {
                *last += 1;
                *last
            }
            None => {
                self.last.insert(route.clone(), 1);
                1
            }
        }
    }

    /// As they were before the first of these.
    pub fn before(&self, places: impl Iterator<Item = (Route, u64)>) -> Numbers {
        let mut last = self.last.clone();
        for (route, number) in places {
            let reached = last.entry(route).or_default();
            *reached = (*reached).min(number.saturating_sub(1));
        }
        Numbers { last }
    }

    /// Where what was numbered is kept.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        self.last.keys().filter_map(Route::partition)
    }

    /// Each route with its last number.
    pub fn iter(&self) -> impl Iterator<Item = (&Route, u64)> {
        self.last.iter().map(|(route, last)| (route, *last))
    }
}

/// What a number says about the message that bears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The next one, or the first that was heard of its route.
    Expected,
    /// That many before it are missing.
    AfterGap(u64),
    /// One that was missing: refused at first, and published again after its successors.
    Late,
    /// It was here before.
    Double,
    /// No number that this publisher can have reached; it says nothing.
    Implausible,
}

/// The receiver's side.
#[derive(Debug, Default)]
pub struct Tracker {
    /// By publisher, then route.
    heard: HashMap<Box<str>, HashMap<Route, Heard>>,
    routes: usize,
    /// Counts what was heard: the time by which routes grow old.
    now: u64,
    /// Counts the times after which messages may be missing without anything wrong: see [`Tracker::expect_gaps`].
    interruptions: u64,
}

#[derive(Debug)]
struct Heard {
    number: u64,
    at: u64,
    /// [`Tracker::interruptions`] when it was heard.
    interruptions: u64,
    /// What is missing below `number`, oldest first.
    missing: VecDeque<RangeInclusive<u64>>,
    /// The last implausible number, and how many there were in a row.
    implausible: (u64, u8),
    /// The next number ahead is a baseline: see [`Tracker::rebase`].
    is_rebased: bool,
}

impl Heard {
    fn skip_to(&mut self, number: u64) {
        self.missing.push_back(self.number + 1..=number - 1);
        self.number = number;
        self.forget_gaps();
    }

    /// Filling a gap in its middle makes two of it.
    fn forget_gaps(&mut self) {
        while self.missing.len() > GAPS_MAX {
            self.missing.pop_front();
        }
    }

    /// Whether a number far ahead is to be believed by now.
    fn believes(&mut self, number: u64) -> bool {
        let (last, times) = self.implausible;
        let goes_on = times > 0 && (last..=last.saturating_add(GAP_MAX)).contains(&number);
        self.implausible = (number, if goes_on { times + 1 } else { 1 });
        self.implausible.1 >= BELIEVED_AFTER
    }

    /// Whether `number` was missing; no longer.
    fn fill(&mut self, number: u64) -> bool {
        let missing = &mut self.missing;
        let Some(index) = missing.iter().position(|range| range.contains(&number)) else { return false };
        let (first, last) = missing.remove(index).map_or((1, 0), RangeInclusive::into_inner);
        let rest = [first..=number - 1, number + 1..=last];
        for range in rest.into_iter().rev().filter(|range| !range.is_empty()) {
            missing.insert(index, range);
        }
        self.forget_gaps();
        true
    }
}

impl Tracker {
    /// A receiver that joins a route takes the first number that it sees as its baseline.
    pub fn place(&mut self, incarnation: &str, route: &Route, number: u64) -> Rank {
        let Some(last) = self.find(incarnation, route) else {
            self.remember(incarnation, route, number);
            return Rank::Expected;
        };
        if number <= last.number {
            return if last.fill(number) { Rank::Late } else { Rank::Double };
        }
        if std::mem::replace(&mut last.is_rebased, false) {
            last.number = number;
            return Rank::Expected;
        }
        let missing = number - last.number - 1;
        if missing > GAP_MAX && !last.believes(number) {
            return Rank::Implausible;
        }
        last.implausible = (0, 0);
        if missing == 0 {
            last.number = number;
            return Rank::Expected;
        }
        last.skip_to(number);
        Rank::AfterGap(missing)
    }

    /// Whether the number is further on than the next one of a route that is known.
    pub fn is_ahead(&self, incarnation: &str, route: &Route, number: u64) -> bool {
        let last = self.heard.get(incarnation).and_then(|routes| routes.get(route));
        last.is_some_and(|last| {
            let ahead = number > last.number + 1 && number - last.number - 1 <= GAP_MAX;
            ahead && last.interruptions == self.interruptions && !last.is_rebased
        })
    }

    /// Messages may be missing for good: the next number of each route is the next, whatever it leaves out.
    pub fn expect_gaps(&mut self) {
        self.interruptions += 1;
    }

    /// The publisher says that it has reached `number`: how many are missing of which nothing else has told.
    pub fn reached(&mut self, incarnation: &str, route: &Route, number: u64) -> u64 {
        let Some(last) = self.find(incarnation, route) else {
            self.remember(incarnation, route, number);
            return 0;
        };
        if number >= last.number && std::mem::replace(&mut last.is_rebased, false) {
            last.number = number;
            return 0;
        }
        let missing = number.saturating_sub(last.number);
        if missing == 0 || missing > GAP_MAX && !last.believes(number) {
            return 0;
        }
        last.implausible = (0, 0);
        last.skip_to(number + 1);
        last.number = number;
        missing
    }

    /// What was sent on a route for some time was not meant to come: what comes next is a baseline again, but what was heard
    /// before stays known.
    pub fn rebase(&mut self, route: &Route) {
        self.heard.values_mut().filter_map(|routes| routes.get_mut(route)).for_each(|heard| heard.is_rebased = true);
    }

    /// What was known of a route, whoever publishes on it: what comes next is a baseline again.
    pub fn forget(&mut self, route: &Route) {
        self.heard.values_mut().for_each(|routes| drop(routes.remove(route)));
        self.heard.retain(|_, routes| !routes.is_empty());
        self.routes = self.heard.values().map(HashMap::len).sum();
    }

    /// What is known of a route that is heard now.
    fn find(&mut self, incarnation: &str, route: &Route) -> Option<&mut Heard> {
        self.now += 1;
        let heard = self.heard.get_mut(incarnation)?.get_mut(route)?;
        heard.at = self.now;
        heard.interruptions = self.interruptions;
        Some(heard)
    }

    fn remember(&mut self, incarnation: &str, route: &Route, number: u64) {
        if self.routes >= ROUTES_MAX {
            self.forget_older_half();
        }
        self.routes += 1;
        let (at, interruptions) = (self.now, self.interruptions);
        let heard =
            Heard { number, at, interruptions, missing: VecDeque::new(), implausible: (0, 0), is_rebased: false };
        self.heard.entry(incarnation.into()).or_default().insert(route.clone(), heard);
    }

    /// Half at once, so that the search costs little per message.
    fn forget_older_half(&mut self) {
        let mut times: Vec<u64> = self.heard.values().flat_map(HashMap::values).map(|heard| heard.at).collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        for routes in self.heard.values_mut() {
            routes.retain(|_, heard| heard.at >= median);
        }
        self.heard.retain(|_, routes| !routes.is_empty());
        self.routes = self.heard.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;

    fn topic(name: &str) -> Route {
        Route::Key(Topic::parse(name).unwrap().key())
    }

    #[test]
    fn numbers_count_per_route() {
        let mut numbers = Numbers::default();
        assert_eq!([numbers.next(&Route::Broadcast), numbers.next(&Route::Broadcast)], [1, 2]);
        assert_eq!([numbers.next(&topic("a")), numbers.next(&topic("b")), numbers.next(&topic("a"))], [1, 1, 2]);
        let before = numbers.before([(Route::Broadcast, 2), (topic("a"), 1), (topic("a"), 2)].into_iter());
        assert_eq!([Route::Broadcast, topic("a"), topic("b")].map(|route| before.last[&route]), [1, 0, 1]);
    }

    #[test]
    fn the_first_is_the_baseline_then_doubles_and_gaps_show() {
        let mut tracker = Tracker::default();
        let mut place = |number| tracker.place("x", &Route::Broadcast, number);
        assert_eq!(place(41), Rank::Expected);
        assert_eq!(place(42), Rank::Expected);
        assert_eq!(place(42), Rank::Double);
        assert_eq!(place(40), Rank::Double);
        assert_eq!(place(45), Rank::AfterGap(2));
        assert_eq!(place(46), Rank::Expected);
    }

    #[test]
    fn what_was_missing_is_late_once() {
        let mut tracker = Tracker::default();
        let mut place = |number| tracker.place("x", &Route::Broadcast, number);
        assert_eq!([place(1), place(6)], [Rank::Expected, Rank::AfterGap(4)]);
        assert_eq!([place(4), place(4), place(1)], [Rank::Late, Rank::Double, Rank::Double]);
        assert_eq!([place(2), place(5), place(3), place(3)], [Rank::Late, Rank::Late, Rank::Late, Rank::Double]);
        assert_eq!(place(7), Rank::Expected);
    }

    #[test]
    fn a_publisher_that_falls_silent_tells_how_far_it_was() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.reached("x", &Route::Broadcast, 3), 0, "a baseline");
        assert_eq!(tracker.place("x", &Route::Broadcast, 4), Rank::Expected);
        assert_eq!(tracker.reached("x", &Route::Broadcast, 4), 0);
        assert_eq!(tracker.reached("x", &Route::Broadcast, 6), 2);
        assert_eq!(tracker.reached("x", &Route::Broadcast, 6), 0, "told once");
        assert_eq!(tracker.place("x", &Route::Broadcast, 6), Rank::Late);
        assert_eq!(tracker.place("x", &Route::Broadcast, 7), Rank::Expected);
        assert_eq!(tracker.reached("x", &Route::Broadcast, 7 + GAP_MAX + 1), 0, "implausible");
    }

    #[test]
    fn gaps_that_are_remembered_are_bounded() {
        let mut tracker = Tracker::default();
        let mut place = |number| tracker.place("x", &Route::Broadcast, number);
        for number in 0..2 * GAPS_MAX as u64 {
            place(1 + 2 * number);
        }
        assert_eq!([place(2), place(4 * GAPS_MAX as u64 - 2)], [Rank::Double, Rank::Late]);
        // One large gap becomes many when it is filled here and there.
        let begin = 10_000;
        place(begin);
        for number in (5_000..9_000).step_by(2) {
            place(number);
        }
        let heard = &tracker.heard["x"][&Route::Broadcast];
        assert!(heard.missing.len() <= GAPS_MAX);
    }

    #[test]
    fn an_invented_number_does_not_move_the_baseline() {
        let mut tracker = Tracker::default();
        let mut place = |number| tracker.place("x", &Route::Broadcast, number);
        assert_eq!([place(41), place(u64::MAX), place(42)], [Rank::Expected, Rank::Implausible, Rank::Expected]);
        assert_eq!([place(43 + GAP_MAX), place(42)], [Rank::AfterGap(GAP_MAX), Rank::Double]);
    }

    #[test]
    fn who_missed_more_than_seems_possible_finds_its_way_back_and_tells() {
        let mut tracker = Tracker::default();
        let far = 10 * GAP_MAX;
        let mut place = |number| tracker.place("x", &Route::Broadcast, number);
        assert_eq!([place(7), place(far), place(far + 1)], [Rank::Expected, Rank::Implausible, Rank::Implausible]);
        assert_eq!(place(far + 2), Rank::AfterGap(far + 2 - 8));
        assert_eq!([place(far + 3), place(far + 3), place(far)], [Rank::Expected, Rank::Double, Rank::Late]);
        let reached = [2, 2, 3].map(|times| tracker.reached("x", &Route::Broadcast, times * far));
        assert_eq!(reached, [0, 0, 0], "a jump back and forth says nothing");
        let reached = [30, 30, 30].map(|times| tracker.reached("x", &Route::Broadcast, times * far));
        assert_eq!(reached, [0, 0, 30 * far - (far + 3)]);
    }

    #[test]
    fn after_an_interruption_nothing_is_ahead() {
        let mut tracker = Tracker::default();
        tracker.place("x", &Route::Broadcast, 1);
        assert!(tracker.is_ahead("x", &Route::Broadcast, 5));
        tracker.expect_gaps();
        assert!(!tracker.is_ahead("x", &Route::Broadcast, 5));
        assert_eq!(tracker.place("x", &Route::Broadcast, 5), Rank::AfterGap(3));
        assert!(tracker.is_ahead("x", &Route::Broadcast, 7), "once");
    }

    #[test]
    fn publishers_and_routes_do_not_mix() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.place("x", &Route::Broadcast, 7), Rank::Expected);
        assert_eq!(tracker.place("y", &Route::Broadcast, 1), Rank::Expected);
        assert_eq!(tracker.place("x", &topic("a"), 1), Rank::Expected);
        assert_eq!(tracker.place("x", &Route::Broadcast, 8), Rank::Expected);
    }

    #[test]
    fn a_route_that_did_not_come_for_some_time_has_a_new_baseline_and_its_doubles_are_known() {
        let mut tracker = Tracker::default();
        assert_eq!(["x", "y"].map(|publisher| tracker.place(publisher, &topic("a"), 5)), [Rank::Expected; 2]);
        tracker.rebase(&topic("a"));
        assert!(!tracker.is_ahead("x", &topic("a"), 9));
        assert_eq!(
            [5, 9, 9, 8].map(|number| tracker.place("x", &topic("a"), number)),
            [Rank::Double, Rank::Expected, Rank::Double, Rank::Double]
        );
        assert_eq!(tracker.place("x", &topic("a"), 11), Rank::AfterGap(1));
        assert_eq!((tracker.reached("y", &topic("a"), 7), tracker.reached("y", &topic("a"), 8)), (0, 1));
    }

    #[test]
    fn a_route_that_was_forgotten_has_a_new_baseline() {
        let mut tracker = Tracker::default();
        for publisher in ["x", "y"] {
            tracker.place(publisher, &topic("a"), 1);
            tracker.place(publisher, &topic("b"), 1);
        }
        tracker.forget(&topic("a"));
        assert_eq!(tracker.routes, 2);
        assert_eq!(tracker.place("x", &topic("a"), 9), Rank::Expected);
        assert_eq!(tracker.place("x", &topic("b"), 3), Rank::AfterGap(1));
    }

    #[test]
    fn memory_is_bounded_and_the_busy_are_kept() {
        let mut tracker = Tracker::default();
        for count in 1..=3 * ROUTES_MAX as u64 {
            tracker.place(&format!("publisher {count}"), &Route::Broadcast, 1);
            assert_eq!(tracker.place("busy", &Route::Broadcast, count), Rank::Expected);
            assert!(tracker.routes <= ROUTES_MAX);
        }
        assert_eq!(tracker.place("busy", &Route::Broadcast, 3 * ROUTES_MAX as u64), Rank::Double);
    }

    #[test]
    fn memory_is_bounded_where_only_beacons_come() {
        let mut tracker = Tracker::default();
        for count in 1..=3 * ROUTES_MAX as u64 {
            tracker.reached(&format!("publisher {count}"), &Route::Broadcast, 1);
            tracker.reached("quiet", &Route::Broadcast, 1);
            assert!(tracker.routes <= ROUTES_MAX);
        }
        assert_eq!(tracker.reached("quiet", &Route::Broadcast, 3), 2, "it was heard all the time");
    }
}
