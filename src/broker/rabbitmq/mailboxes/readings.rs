//! Who of the users here has a mailbox that is to be read, and over which connection: whoever has one is put on a line with
//! room. No I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Asked;
use super::errands::{Errand, Look};
use super::line::{self, Order};
use crate::broker::Reader;
use crate::broker::rabbitmq::link::interval;
use crate::user::UserName;

/// How often it is looked whether mailboxes stand that did not, or whose node did not answer: word of one may have been lost, and
/// a node that was away brings its own back without a word.
const LOOK_INTERVAL: Duration = Duration::from_secs(45);

/// How long a mailbox is left alone that could not be read, until the next look at all.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// How long nothing more is put on a line that had no channel left.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// Readings on one line, each with a channel. RabbitMQ allows 2,047 on a connection (`channel_max`,
/// <https://www.rabbitmq.com/docs/channels#channel-max>) unless told otherwise, and some may be closing still.
const READINGS_PER_LINE: usize = 1000;

/// All readings here.
pub struct Readings {
    /// By their numbers, which are random and never used again.
    all: HashMap<u64, OneReading>,
    by_user: HashMap<UserName, u64>,
    lines: Vec<Line>,
    lines_made: u64,
    begin_line: Box<dyn FnMut() -> mpsc::UnboundedSender<Order> + Send>,
    errands: mpsc::UnboundedSender<Errand>,
}

struct OneReading {
    user: UserName,
    reader: Arc<dyn Reader>,
    state: State,
    /// How often it was looked for.
    look: u64,
    /// It could not be read before.
    not_before: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody looks whether there is a mailbox.
    Looking,
    /// The same, and it was made since.
    LookingAgain,
    Absent,
    /// On the line of this number.
    OnLine(u64),
}

/// A connection that reads; dropped, it ends.
struct Line {
    number: u64,
    readings: usize,
    /// It has no channel left, whatever was agreed, or some are closing still.
    full_until: Option<Instant>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Readings {
    /// `begin_line` makes a line.
    pub fn new(
        begin_line: impl FnMut() -> mpsc::UnboundedSender<Order> + Send + 'static,
        errands: mpsc::UnboundedSender<Errand>,
    ) -> Readings {
        let (all, by_user, lines) = (HashMap::new(), HashMap::new(), Vec::new());
        Readings { all, by_user, lines, lines_made: 0, begin_line: Box::new(begin_line), errands }
    }

    /// Serves until it is dropped; its lines end with it.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Asked>) {
        let mut look_due = interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                _ = look_due.tick() => self.look_at_absent(),
                Some(asked) = orders.recv() => self.answer(asked),
            }
        }
    }

    fn answer(&mut self, asked: Asked) {
        match asked {
            Asked::Read(user, number, reader) => {
                self.by_user.insert(user.clone(), number);
                let one = OneReading { user, reader, state: State::Absent, look: 0, not_before: None };
                self.all.insert(number, one);
                self.look_again(number);
            }
            Asked::Looked { reading, look, stands } => self.looked(reading, look, stands),
            Asked::End(number) => self.end(number),
            Asked::Made(user) => {
                if let Some(number) = self.by_user.get(&user).copied() {
                    self.all.entry(number).and_modify(|one| one.not_before = None);
                    self.look_again(number);
                }
            }
            Asked::LookAgain => self.look_at_absent(),
            Asked::Gone(number) => {
                self.take_off(number);
                self.look_again(number);
            }
            Asked::Unreadable(number) => {
                self.take_off(number);
                self.leave_alone(number);
            }
            Asked::NoRoom(number) => match self.take_off(number) {
                Some(line) if line.readings > 0 => {
                    line.full_until = Some(Instant::now() + FULL_PAUSE);
                    self.look_again(number);
                }
                // Not even for one: another line would have none either.
                _ => self.leave_alone(number),
            },
        }
    }

    /// Looks for what is not known to stand, or could not be read.
    fn look_at_absent(&mut self) {
        let all: Vec<u64> = self.all.keys().copied().collect();
        all.into_iter().for_each(|number| self.look_again(number));
    }

    /// Has somebody look for a mailbox, unless it is read: whatever was seen before, it may stand now.
    fn look_again(&mut self, number: u64) {
        let Some(one) = self.all.get_mut(&number) else { return };
        match one.state {
            State::Absent if one.not_before.is_none_or(|time| time <= Instant::now()) => {
                one.state = State::Looking;
                one.look += 1;
                let reader = Arc::downgrade(&one.reader);
                let look = Look { user: one.user.clone(), reader, reading: number, number: one.look };
                // The task ends with the instance.
                let _ = self.errands.send(Errand::Look(look));
            }
            State::Looking => one.state = State::LookingAgain,
            State::Absent | State::LookingAgain | State::OnLine(_) => {}
        }
    }

    fn looked(&mut self, number: u64, look: u64, stands: bool) {
        let Some(one) = self.all.get_mut(&number).filter(|one| one.look == look) else { return };
        if !matches!(one.state, State::Looking | State::LookingAgain) {
            return;
        }
        let was = std::mem::replace(&mut one.state, State::Absent);
        if stands {
            let (user, reader) = (one.user.clone(), one.reader.clone());
            let line = self.line_with_room();
            line.readings += 1;
            // A line ends when it is dropped.
            let _ = line.orders.send(Order::Begin(number, line::OneReading { user, reader }));
            let state = State::OnLine(line.number);
            self.all.entry(number).and_modify(|one| one.state = state);
        } else if was == State::LookingAgain {
            self.look_again(number);
        }
    }

    fn leave_alone(&mut self, number: u64) {
        let until = Instant::now() + UNREADABLE_PAUSE;
        self.all.entry(number).and_modify(|one| one.not_before = Some(until));
    }

    fn end(&mut self, number: u64) {
        if let Some(line) = self.take_off(number) {
            let _ = line.orders.send(Order::End(number));
            self.drop_empty_lines();
        }
        if let Some(one) = self.all.remove(&number)
            && self.by_user.get(&one.user) == Some(&number)
        {
            self.by_user.remove(&one.user);
        }
    }

    /// A reading is on its line no more.
    fn take_off(&mut self, number: u64) -> Option<&mut Line> {
        let one = self.all.get_mut(&number)?;
        let State::OnLine(on) = std::mem::replace(&mut one.state, State::Absent) else { return None };
        let line = self.lines.iter_mut().find(|line| line.number == on)?;
        line.readings -= 1;
        Some(line)
    }

    /// The first one with room, so that the last ones empty.
    fn line_with_room(&mut self) -> &mut Line {
        self.drop_empty_lines();
        let index = self.lines.iter().position(Line::has_room).unwrap_or_else(|| {
            self.lines_made += 1;
            let orders = (self.begin_line)();
            self.lines.push(Line { number: self.lines_made, readings: 0, full_until: None, orders });
            self.lines.len() - 1
        });
        &mut self.lines[index]
    }

    /// One stays for who comes next.
    fn drop_empty_lines(&mut self) {
        let mut is_first = true;
        self.lines.retain(|line| std::mem::take(&mut is_first) || line.readings > 0);
    }
}

impl Line {
    fn has_room(&self) -> bool {
        self.readings < READINGS_PER_LINE && self.full_until.is_none_or(|time| time <= Instant::now())
    }
}

#[cfg(test)]
mod tests;
