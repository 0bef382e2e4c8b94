//! Going on where a client was, on whichever instance: what came behind its cursor, and then what comes.
//!
//! What lies further back than the log of this instance is read from where the broker keeps it; what is in the log, from
//! there; what has come meanwhile is given on the way in. Each time the client's own cursor moves along, so that it can
//! break off anywhere, and go on there. What is gone is told.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::Session;
use crate::close::CloseReason;
use crate::cursor::Cursor;
use crate::hub::{Behind, Expected, Format, Gone, Known, Last, Look, Membership, Record, Wish, encode};
use crate::message::now_unix_ms;
use crate::place::{Partition, Position};
use crate::protocol::events;
use crate::protocol::json::Notice;
use crate::topic::Pattern;

/// Bytes that wait for a client, past which nothing more of the past is read for it.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Time for this instance to read what the client has heard elsewhere already, and for the broker's past to get on.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest time for which the broker's past is read for one client. Who has not taken all by then is told to go on from
/// where it is: only some read at a time.
const READING_MAX: Duration = Duration::from_secs(30);

/// How long a client waits for its turn to read.
const TURN_MAX: Duration = Duration::from_secs(30);

/// Time for a client to take what waits for it, past which it gives its turn to others meanwhile.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Why nobody can go on now. What was given until then was right, and so is the client's cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    #[error("the broker does not give what came meanwhile: try again")]
    Unread,
    #[error("the session ends")]
    Over,
}

/// A session that came to go on where it was.
pub(super) struct Returning {
    pub membership: Membership,
    wish: Wish,
    expected: Option<Expected>,
    since: Cursor,
}

impl Returning {
    /// What it wishes for counts as wanted from now on.
    pub fn new(membership: Membership, broadcast: bool, patterns: Vec<Pattern>, since: Cursor) -> Returning {
        let wish = Wish::new(broadcast, &patterns);
        let expected = Some(membership.expect(patterns));
        Returning { membership, wish, expected, since }
    }
}

impl Session {
    pub(super) async fn return_to(&self, returning: &mut Returning) -> Result<(), NotNow> {
        let Returning { membership, wish, expected, since } = returning;
        let Some(expected) = expected.take() else { return Ok(()) };
        let is_events = self.format.is_events();
        let last = move |at: &Cursor| is_events.then(|| events::place(&at.to_string()));
        self.go_on(membership, wish.clone(), expected, Some(*since), Box::new(last)).await
    }

    /// Gives the client what it wishes for and came behind `since`, then `last`, and lets it hear what comes.
    pub(super) async fn go_on(
        &self,
        membership: &mut Membership,
        wish: Wish,
        mut expected: Expected,
        since: Option<Cursor>,
        last: Last,
    ) -> Result<(), NotNow> {
        let (mut behind, mut last) = (None, last);
        let mut catch_up = since.map(|cursor| CatchUp { session: self, wish: wish.clone(), cursor, gone: Vec::new() });
        loop {
            if let Some(catch_up) = &mut catch_up {
                behind = Some(catch_up.run(membership).await?);
            }
            match membership.enter(wish.clone(), expected, behind, last).await {
                Ok(()) => return Ok(()),
                Err(gone) => Gone { expected, last } = gone,
            }
        }
    }

    /// Ready when the client has read some of what waits for it.
    async fn has_room(&self) -> Result<(), NotNow> {
        // The session's task, which this is a part of, is woken then, and when it is to end.
        let may_go_on = || !self.waits_for_much() || self.is_over();
        poll_fn(|_| if may_go_on() { Poll::Ready(()) } else { Poll::Pending }).await;
        // Nothing else is read of it meanwhile, not even its pongs; but it reads.
        self.heard();
        if self.is_over() { Err(NotNow::Over) } else { Ok(()) }
    }

    /// Sends one message of the past.
    fn give(&self, record: &Record, cursor: &mut Cursor) {
        self.outbox.replay(&[encode(record, self.format, cursor)]);
    }

    fn waits_for_much(&self) -> bool {
        self.outbox.waiting_bytes() >= WAITING_BYTES_MAX
    }
}

/// One client on its way back.
struct CatchUp<'a> {
    session: &'a Session,
    wish: Wish,
    /// How far it has heard.
    cursor: Cursor,
    /// Of these it was told that something is gone.
    gone: Vec<Partition>,
}

/// What is to be done with the log.
enum Step {
    /// All that came behind the cursor is there, as far as it is anywhere.
    Give,
    /// It is to be looked at again: the cursor has moved, or what is waited for may have come.
    LookAgain,
}

impl CatchUp<'_> {
    /// Gives the client what it wishes for and came behind the cursor, up to about now.
    async fn run(&mut self, membership: &Membership) -> Result<Behind, NotNow> {
        let began = Instant::now();
        loop {
            if self.session.is_over() {
                return Err(NotNow::Over);
            }
            let look = membership.look(self.cursor).await.ok_or(NotNow::Over)?;
            if let Step::LookAgain = self.prepare(&look, began).await? {
                continue;
            }
            if self.give_all(&look) {
                return Ok(Behind { number: look.excerpt.end(), cursor: self.cursor });
            }
            // Without the log meanwhile, which else would be kept for as long as a client likes.
            drop(look);
            self.session.has_room().await?;
        }
    }

    /// Gives what the log has. False if there was no room for all.
    fn give_all(&mut self, look: &Look) -> bool {
        let CatchUp { session, wish, cursor, .. } = self;
        for record in look.excerpt.wished(wish, *cursor) {
            session.give(record, cursor);
            if session.waits_for_much() {
                return false;
            }
        }
        for partition in wish.partitions() {
            if let Some(position) = look.at.position(partition) {
                cursor.set(partition, position);
            }
        }
        true
    }

    /// Sees to it that what came behind the cursor is in the log, or told to be gone.
    async fn prepare(&mut self, look: &Look, began: Instant) -> Result<Step, NotNow> {
        for partition in self.wish.partitions() {
            let Some(position) = self.cursor.position(partition) else {
                // The client has not listened there: it begins now.
                self.begin(partition, look.at.position(partition));
                continue;
            };
            match look.known(partition) {
                Some(Known::Whole) => continue,
                Some(Known::Ahead) if look.at.position(partition).is_some() && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    return Ok(Step::LookAgain);
                }
                Some(Known::Older) if self.read_back(partition, position, look).await? => return Ok(Step::LookAgain),
                Some(Known::Older | Known::Ahead | Known::Foreign) | None => {}
            }
            self.tell_gap(partition)?;
            self.begin(partition, look.oldest(partition).or(look.at.position(partition)));
        }
        Ok(Step::Give)
    }

    /// From here on it is heard; from what comes next, where nothing was read yet.
    fn begin(&mut self, partition: Partition, position: Option<Position>) {
        match position {
            Some(position) => self.cursor.set(partition, position),
            None => self.cursor.unset(partition),
        }
    }

    /// Gives what the broker keeps of a partition, up to where the log begins, or as much as the client takes in time.
    /// False if that was nothing.
    async fn read_back(&mut self, partition: Partition, behind: Position, look: &Look) -> Result<bool, NotNow> {
        let age = self.cursor.age(now_unix_ms() / 1000);
        let reading = timeout(TURN_MAX, self.session.sessions.broker().read_back(partition, behind, age)).await;
        let Some(mut kept) = reading.map_err(|_| NotNow::Unread)? else { return Ok(false) };
        let target = look.at.position(partition).map_or(0, |position| position.offset);
        let (until, mut got_on) = (Instant::now() + READING_MAX, Instant::now());
        while self.offset(partition) < target {
            let delivered = timeout_at(until.min(got_on + PATIENCE), kept.recv()).await;
            let delivered = delivered.ok().flatten().ok_or(NotNow::Unread)?;
            if self.session.is_over() {
                return Err(NotNow::Over);
            }
            let before = self.offset(partition);
            if !delivered.gaps.is_empty() {
                self.tell_gap(partition)?;
            }
            for (message, place) in delivered.messages {
                let Some(place) = place else { continue };
                let record = Record { message, place };
                if !record.is_behind(&self.cursor) || !self.wish.includes(&record.message.target) {
                    continue;
                }
                self.session.give(&record, &mut self.cursor);
                if self.session.waits_for_much() && timeout(ROOM_PATIENCE, self.session.has_room()).await.is_err() {
                    // Others may want to read.
                    drop(kept);
                    self.session.has_room().await?;
                    return Ok(true);
                }
            }
            for reached in delivered.readings.iter().filter_map(|reading| reading.reached) {
                if self.offset(partition) < reached.offset {
                    self.cursor.set(partition, reached);
                }
            }
            if self.offset(partition) > before {
                got_on = Instant::now();
            }
        }
        Ok(self.offset(partition) > behind.offset)
    }

    fn offset(&self, partition: Partition) -> u64 {
        self.cursor.position(partition).map_or(0, |position| position.offset)
    }

    /// What the client has not heard of a partition is gone. A plain session cannot be told, and ends.
    fn tell_gap(&mut self, partition: Partition) -> Result<(), NotNow> {
        if self.gone.contains(&partition) {
            return Ok(());
        }
        self.gone.push(partition);
        let notice = Notice::gone(partition);
        match self.session.format {
            Format::Json | Format::JsonDeflated => self.session.tell(&notice),
            Format::Events => self.session.post(&notice.event()),
            Format::Plain | Format::PlainDeflated => {
                self.session.close(CloseReason::Gone);
                return Err(NotNow::Over);
            }
        }
        Ok(())
    }
}
