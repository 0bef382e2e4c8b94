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

/// Time for this instance to read what the client has heard elsewhere already, and for each answer of the broker.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest time for which the broker's past is read for one client. Who has not taken all by then goes on from where it
/// is: few read at a time, and nobody who is slow may keep the others from it.
const READING_MAX: Duration = Duration::from_secs(30);

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
        let (mut behind, mut last, began) = (None, last, Instant::now());
        loop {
            if let Some(cursor) = behind.map(|behind: Behind| behind.cursor).or(since) {
                behind = Some(self.catch_up(membership, &wish, cursor, began).await?);
            }
            match membership.enter(wish.clone(), expected, behind, last).await {
                Ok(()) => return Ok(()),
                Err(gone) => Gone { expected, last } = gone,
            }
        }
    }

    /// Gives the client what it wishes for and came behind `cursor`, up to about now.
    async fn catch_up(
        &self,
        membership: &Membership,
        wish: &Wish,
        mut cursor: Cursor,
        began: Instant,
    ) -> Result<Behind, NotNow> {
        loop {
            let look = membership.look(cursor).await.ok_or(NotNow::Over)?;
            let mut is_ready = true;
            for partition in wish.partitions() {
                is_ready &= self.reach_log(&look, partition, wish, &mut cursor, began).await?;
            }
            if !is_ready {
                continue;
            }
            if !self.give_all(&look, wish, &mut cursor) {
                // Without the log meanwhile, which else would be kept for as long as a client likes.
                drop(look);
                self.has_room().await?;
                continue;
            }
            return Ok(Behind { number: look.excerpt.end(), cursor });
        }
    }

    /// Gives the client what the log has. False if there was no room for all.
    fn give_all(&self, look: &Look, wish: &Wish, cursor: &mut Cursor) -> bool {
        for record in look.excerpt.wished(wish, *cursor) {
            self.give(record, cursor);
            if self.waits_for_much() {
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

    /// Sees to it that what came behind the cursor in a partition is in the log. False if it is to be looked again.
    async fn reach_log(
        &self,
        look: &Look,
        partition: Partition,
        wish: &Wish,
        cursor: &mut Cursor,
        began: Instant,
    ) -> Result<bool, NotNow> {
        let Some(position) = cursor.position(partition) else {
            // The client has not listened there: it begins now.
            if let Some(now) = look.at.position(partition) {
                cursor.set(partition, now);
            }
            return Ok(look.at.position(partition).is_none());
        };
        match look.known(partition) {
            Some(Known::Whole) => return Ok(true),
            Some(Known::Ahead) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(LOOK_INTERVAL).await;
                return if self.is_over() { Err(NotNow::Over) } else { Ok(false) };
            }
            Some(Known::Older) if self.read_back(partition, position, wish, cursor, look).await? => return Ok(false),
            Some(Known::Older | Known::Ahead | Known::Foreign) | None => {}
        }
        self.tell_gap(partition)?;
        if let Some(oldest) = look.oldest(partition) {
            cursor.set(partition, oldest);
        }
        Ok(false)
    }

    /// Gives the client what the broker keeps of a partition, up to where the log begins. False if it keeps nothing.
    async fn read_back(
        &self,
        partition: Partition,
        position: Position,
        wish: &Wish,
        cursor: &mut Cursor,
        look: &Look,
    ) -> Result<bool, NotNow> {
        let age = cursor.age(now_unix_ms() / 1000);
        let until = Instant::now() + READING_MAX;
        let reading = timeout(PATIENCE, self.sessions.broker().read_back(partition, position, age)).await;
        let Some(mut kept) = reading.map_err(|_| NotNow::Unread)? else { return Ok(false) };
        let target = look.at.position(partition).map_or(0, |position| position.offset);
        while cursor.position(partition).is_some_and(|position| position.offset < target) {
            let delivered = timeout(PATIENCE, kept.recv()).await;
            let delivered = delivered.ok().flatten().ok_or(NotNow::Unread)?;
            if !delivered.gaps.is_empty() {
                self.tell_gap(partition)?;
            }
            for (message, place) in delivered.messages {
                let Some(place) = place else { continue };
                let record = Record { message, place };
                if record.is_behind(cursor) && wish.includes(&record.message.target) {
                    self.give(&record, cursor);
                    if self.waits_for_much() {
                        timeout_at(until, self.has_room()).await.map_err(|_| NotNow::Unread)??;
                    }
                }
            }
            for reached in delivered.readings.iter().filter_map(|reading| reading.reached) {
                if cursor.position(partition).is_none_or(|position| position.offset < reached.offset) {
                    cursor.set(partition, reached);
                }
            }
        }
        Ok(true)
    }

    /// Sends one message of the past.
    fn give(&self, record: &Record, cursor: &mut Cursor) {
        self.outbox.replay(&[encode(record, self.format, cursor)]);
    }

    fn waits_for_much(&self) -> bool {
        self.outbox.waiting_bytes() >= WAITING_BYTES_MAX
    }

    /// Ready when the client has read some.
    async fn has_room(&self) -> Result<(), NotNow> {
        // The session's task, which this is a part of, is woken then.
        let is_over = || !self.waits_for_much() || self.has_ended();
        poll_fn(|_| if is_over() { Poll::Ready(()) } else { Poll::Pending }).await;
        // Nothing else is read of it meanwhile, not even its pongs; but it reads.
        self.heard();
        if self.is_over() { Err(NotNow::Over) } else { Ok(()) }
    }

    /// What the client has not heard of a partition is gone. A plain session cannot be told, and ends.
    fn tell_gap(&self, partition: Partition) -> Result<(), NotNow> {
        let notice = Notice::gone(partition);
        match self.format {
            Format::Json | Format::JsonDeflated => self.tell(&notice),
            Format::Events => self.post(&notice.event()),
            Format::Plain | Format::PlainDeflated => {
                self.close(CloseReason::Gone);
                return Err(NotNow::Over);
            }
        }
        Ok(())
    }
}
