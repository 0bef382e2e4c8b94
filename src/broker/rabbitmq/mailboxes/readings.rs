//! Who of the users here has a mailbox that is to be read, and over which connection: whoever has one is put on a line with
//! room. No I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Asked;
use super::errands::{Errand, Look};
use super::line::Order;
use crate::broker::Reader;
use crate::broker::rabbitmq::link::interval;
use crate::user::UserName;

/// How often it is looked whether mailboxes stand that did not: word of one may have been lost, and a node that was away brings
/// its own back without a word.
const LOOK_INTERVAL: Duration = Duration::from_secs(45);

/// How long a mailbox is left alone that could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// Readings on one line, each with a channel. RabbitMQ allows 2,047 on a connection (`channel_max`,
/// <https://www.rabbitmq.com/docs/channels#channel-max>) unless told otherwise, and some may be closing still.
const READINGS_PER_LINE: usize = 1000;

/// All readings here.
pub struct Readings {
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
    readings_max: usize,
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
                if let Some(one) = self.all.get_mut(&number) {
                    one.not_before = Some(Instant::now() + UNREADABLE_PAUSE);
                }
            }
            Asked::NoRoom(number) => {
                if let Some(line) = self.take_off(number) {
                    line.readings_max = line.readings.max(1);
                }
                self.look_again(number);
            }
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
                let look = Look { user: one.user.clone(), reading: number, number: one.look };
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
            let _ = line.orders.send(Order::Begin(number, user, reader));
            let state = State::OnLine(line.number);
            self.all.entry(number).and_modify(|one| one.state = state);
        } else if was == State::LookingAgain {
            self.look_again(number);
        }
    }

    fn end(&mut self, number: u64) {
        if let Some(line) = self.take_off(number) {
            let _ = line.orders.send(Order::End(number));
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
        // One stays for who comes next.
        let mut is_first = true;
        self.lines.retain(|line| std::mem::take(&mut is_first) || line.readings > 0);
        let with_room = self.lines.iter().position(|line| line.readings < line.readings_max);
        let index = with_room.unwrap_or_else(|| {
            self.lines_made += 1;
            let orders = (self.begin_line)();
            let line = Line { number: self.lines_made, readings: 0, readings_max: READINGS_PER_LINE, orders };
            self.lines.push(line);
            self.lines.len() - 1
        });
        &mut self.lines[index]
    }
}

#[cfg(test)]
mod tests;
