//! Which readings are put on which line, without a broker.

use std::sync::Mutex;

use super::*;
use crate::broker::Letter;

struct Nobody;

impl Reader for Nobody {
    fn take(&self, _letter: Letter) {}
}

/// Readings, what their lines are told, and what is looked for.
struct Bench {
    readings: Readings,
    lines: Arc<Mutex<Vec<mpsc::UnboundedReceiver<Order>>>>,
    errands: mpsc::UnboundedReceiver<Errand>,
}

impl Bench {
    fn new() -> Bench {
        let (errands, looks) = mpsc::unbounded_channel();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let begun = lines.clone();
        let begin_line = move || {
            let (orders, orders_out) = mpsc::unbounded_channel();
            begun.lock().expect("no panic").push(orders_out);
            orders
        };
        Bench { readings: Readings::new(begin_line, errands), lines, errands: looks }
    }

    fn read(&mut self, name: &str, number: u64) {
        self.readings.answer(Asked::Read(user(name), number, Arc::new(Nobody)));
    }

    /// The next mailbox that is looked for.
    fn look(&mut self) -> Option<Look> {
        match self.errands.try_recv().ok()? {
            Errand::Look(look) => Some(look),
            Errand::Other(_) => panic!("only looks are asked for"),
        }
    }

    /// Answers the next look.
    fn looked(&mut self, stands: bool) {
        let look = self.look().expect("a look");
        self.readings.answer(Asked::Looked { reading: look.reading, look: look.number, stands });
    }

    /// What lines were told since the last call: `+1` and `-1` for the begin and end of reading 1, with their line.
    fn told(&self) -> Vec<(usize, String)> {
        let mut told = Vec::new();
        for (line, orders) in self.lines.lock().expect("no panic").iter_mut().enumerate() {
            while let Ok(order) = orders.try_recv() {
                told.push((
                    line,
                    match order {
                        Order::Begin(number, ..) => format!("+{number}"),
                        Order::End(number) => format!("-{number}"),
                    },
                ));
            }
        }
        told
    }

    /// Whether a line has ended.
    fn is_over(&self, line: usize) -> bool {
        self.lines.lock().expect("no panic")[line].is_closed()
    }
}

fn user(name: &str) -> UserName {
    UserName::parse(name).expect("a name")
}

fn on(line: usize, order: &str) -> (usize, String) {
    (line, order.to_owned())
}

#[tokio::test]
async fn who_has_a_mailbox_is_read_until_the_end() {
    let mut bench = Bench::new();
    bench.read("carol", 1);
    assert_eq!(bench.told(), [], "nobody knows yet whether there is a mailbox");
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "+1")]);
    bench.readings.answer(Asked::LookAgain);
    bench.readings.answer(Asked::Made(user("carol")));
    assert!(bench.look().is_none(), "it is read");
    bench.readings.answer(Asked::End(1));
    assert_eq!(bench.told(), [on(0, "-1")]);
    assert!(bench.readings.all.is_empty() && bench.readings.by_user.is_empty());
}

#[tokio::test]
async fn what_is_made_while_somebody_looks_is_looked_for_again() {
    let mut bench = Bench::new();
    bench.read("carol", 1);
    bench.readings.answer(Asked::Made(user("carol")));
    bench.looked(false);
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "+1")]);
    // Answers to looks of before count for nothing.
    bench.readings.answer(Asked::Looked { reading: 1, look: 1, stands: true });
    bench.readings.answer(Asked::Looked { reading: 1, look: 2, stands: true });
    assert_eq!(bench.told(), []);
}

#[tokio::test]
async fn a_mailbox_that_goes_is_looked_for() {
    let mut bench = Bench::new();
    bench.read("carol", 1);
    bench.looked(true);
    bench.readings.answer(Asked::Gone(1));
    bench.looked(false);
    assert_eq!(bench.told(), [on(0, "+1")]);
    bench.readings.answer(Asked::Made(user("carol")));
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "+1")]);
    // Its line hears of the end, which came together with the last good-bye.
    bench.readings.answer(Asked::End(1));
    bench.readings.answer(Asked::Gone(1));
    assert_eq!(bench.told(), [on(0, "-1")]);
    assert!(bench.look().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_left_alone_until_it_is_made_or_time_has_passed() {
    let mut bench = Bench::new();
    bench.read("carol", 1);
    bench.looked(true);
    bench.readings.answer(Asked::Unreadable(1));
    bench.readings.answer(Asked::LookAgain);
    assert!(bench.look().is_none(), "too soon");
    bench.readings.answer(Asked::Made(user("carol")));
    bench.looked(true);
    bench.readings.answer(Asked::Unreadable(1));
    tokio::time::advance(UNREADABLE_PAUSE).await;
    bench.readings.answer(Asked::LookAgain);
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "+1"), on(0, "+1"), on(0, "+1")]);
}

#[tokio::test]
async fn more_readings_take_more_lines_and_fewer_give_them_up() {
    let mut bench = Bench::new();
    let count = READINGS_PER_LINE as u64 + 1;
    for number in 0..count {
        bench.read(&format!("user{number}"), number);
        bench.looked(true);
    }
    let told = bench.told();
    assert_eq!(told.iter().filter(|(line, _)| *line == 0).count(), READINGS_PER_LINE);
    assert_eq!(told.last(), Some(&on(1, &format!("+{}", count - 1))));
    // The empty second one goes, and who comes when there is room on the first again takes that.
    bench.readings.answer(Asked::End(count - 1));
    assert!(!bench.is_over(0) && bench.is_over(1));
    bench.readings.answer(Asked::End(0));
    bench.read("late", count);
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "-0"), on(0, &format!("+{count}")), on(1, &format!("-{}", count - 1))]);
    assert!(!bench.is_over(0) && bench.is_over(1));
}

#[tokio::test(start_paused = true)]
async fn a_line_without_more_channels_is_given_no_more_for_some_time() {
    let mut bench = Bench::new();
    for (name, number) in [("alice", 1), ("bob", 2)] {
        bench.read(name, number);
        bench.looked(true);
    }
    bench.readings.answer(Asked::NoRoom(2));
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "+1"), on(0, "+2"), on(1, "+2")]);
    tokio::time::advance(FULL_PAUSE).await;
    bench.read("carol", 3);
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "+3")]);
}

#[tokio::test(start_paused = true)]
async fn who_is_alone_on_a_line_without_channels_waits() {
    let mut bench = Bench::new();
    bench.read("alice", 1);
    bench.looked(true);
    bench.readings.answer(Asked::NoRoom(1));
    assert!(bench.look().is_none(), "another line would have no more");
    tokio::time::advance(UNREADABLE_PAUSE).await;
    bench.readings.answer(Asked::LookAgain);
    bench.looked(true);
    assert_eq!(bench.told(), [on(0, "+1"), on(0, "+1")]);
}
