//! What is done with mailboxes beside reading them: looking whether they stand, memberships, taking what is asked for.
//!
//! On a connection of its own, since some of it publishes: while RabbitMQ is short of memory or disk it reads nothing from such
//! a connection, and acknowledgements must not wait for that.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Event};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::{Asked, Change, making, pause};
use crate::broker::rabbitmq::connection::{CLOSED_CHANNELS_MAX, Endpoints, release};
use crate::broker::rabbitmq::envelope;
use crate::broker::rabbitmq::link::{Complaints, Trouble, interval, is_of_one_channel};
use crate::broker::rabbitmq::outstanding::{Outcome, Outstanding, Published};
use crate::broker::rabbitmq::topology::{Names, declare_cluster};
use crate::broker::{MailboxBounds, MailboxName, NotAccepted, Reader, Wanted};
use crate::message::Message;
use crate::user::UserName;

/// Looks that are under way at a time.
const LOOKS_MAX: usize = 256;

/// Things that are done at a time, each with a channel of its own. Those at a mailbox whose node hangs are among them until that
/// is back or taken for down.
const AT_A_TIME: usize = 256;

/// Time for the broker to answer a look, while it answers later ones: it waits for a mailbox whose node hangs, and what was
/// asked later is settled only after that.
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);

/// Time for the broker to answer anything; then the connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub enum Errand {
    Look(Look),
    Other(Other),
}

/// What somebody waits for.
pub enum Other {
    Change(Change, oneshot::Sender<Result<(), NotAccepted>>),
    Take(MailboxName, usize, Wanted, oneshot::Sender<Result<Vec<Message>, NotAccepted>>),
}

impl Other {
    /// Nobody waits for it any more: whoever did asks again.
    fn is_over(&self) -> bool {
        match self {
            Other::Change(_, done) => done.is_closed(),
            Other::Take(_, _, _, taken) => taken.is_closed(),
        }
    }
}

/// Whether a user's mailbox stands, for a reading.
pub struct Look {
    pub user: UserName,
    /// Gone when the reading has ended: then nobody is left who wants to know.
    pub reader: Weak<dyn Reader>,
    pub reading: u64,
    /// Which of the reading's looks it is.
    pub number: u64,
}

impl Published for Look {
    fn is(&self, _returned: &Delivery) -> bool {
        // The routing key says all; another look at the same has the same outcome.
        true
    }
}

/// Does all that, whatever becomes of connections.
pub struct Errands {
    pub endpoints: Endpoints,
    pub names: Names,
    pub bounds: MailboxBounds,
    pub orders: mpsc::UnboundedReceiver<Errand>,
    /// Who is told what was seen.
    pub asked: mpsc::UnboundedSender<Asked>,
    pub waiting: Waiting,
}

/// What was not begun so far.
#[derive(Default)]
pub struct Waiting {
    looks: VecDeque<Look>,
    others: VecDeque<Other>,
}

/// What is under way over one connection.
struct UnderWay {
    connection: Arc<Object>,
    channel: Channel,
    looks: Outstanding<Look>,
    others: FuturesUnordered<BoxFuture<'static, ()>>,
    /// The broker reads nothing from us.
    is_blocked: bool,
    /// How many the broker has closed: whoever asks in vain for what waits in a mailbox costs one.
    closed_channels: usize,
}

impl Errands {
    /// Works until it is dropped, or nobody is left who asks.
    pub async fn run(mut self) {
        let mut complaints = Complaints::of("the connection for errands to mailboxes");
        loop {
            let connected = tokio::select! {
                connected = self.endpoints.connect() => connected,
                () = self.waiting.gather(&mut self.orders) => return,
            };
            let trouble = match connected {
                Ok(connection) => self.serve(connection).await,
                Err(trouble) => trouble,
            };
            complaints.about(&trouble);
            tokio::select! {
                () = pause() => {}
                () = self.waiting.gather(&mut self.orders) => return,
            }
        }
    }

    async fn serve(&mut self, connection: Object) -> Trouble {
        let connection = Arc::new(connection);
        let mut events = std::pin::pin!(connection.events_listener());
        let begun = timeout(ANSWER_TIMEOUT, UnderWay::begin(connection.clone(), &self.names)).await;
        let trouble = match begun.unwrap_or_else(|_| Err(Trouble::passing("no answer"))) {
            Ok(mut under_way) => {
                let trouble = self.work(&mut under_way, &mut events).await;
                // They are looked at again over the next connection; behind the others, for they may hang.
                self.waiting.looks.extend(under_way.looks.drain());
                trouble
            }
            Err(trouble) => {
                self.endpoints.skip();
                trouble
            }
        };
        release(connection).await;
        trouble
    }

    async fn work(
        &mut self,
        under_way: &mut UnderWay,
        events: &mut (impl futures_util::Stream<Item = Event> + Unpin),
    ) -> Trouble {
        let mut patrol = interval(LOOK_TIMEOUT / 4);
        // When a look was answered last, or can have been asked first.
        let mut answered = Instant::now();
        loop {
            if under_way.looks.is_empty() {
                answered = Instant::now();
            }
            let is_worn = under_way.closed_channels > CLOSED_CHANNELS_MAX;
            if is_worn && under_way.looks.is_empty() && under_way.others.is_empty() {
                return Trouble::passing("the numbers of its channels are used up");
            }
            if !is_worn {
                under_way.begin_what_waits(&mut self.waiting, &self.names, self.bounds);
            }
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(_)) => under_way.is_blocked = true,
                    Some(Event::ConnectionUnblocked) => {
                        under_way.is_blocked = false;
                        under_way.looks.postpone(Instant::now() + LOOK_TIMEOUT);
                        answered = Instant::now();
                    }
                    Some(Event::Error(error)) if !is_of_one_channel(&error) => return error.into(),
                    Some(Event::Error(_)) => under_way.closed_channels += 1,
                    Some(_) => {}
                    None => return Trouble::passing("the connection ended"),
                },
                settled = poll_fn(|cx| under_way.looks.poll_settled(cx)) => match settled {
                    Ok(settled) => {
                        answered = Instant::now();
                        // A full mailbox refuses even that.
                        settled.into_iter().for_each(|(look, outcome)| self.tell(look, outcome != Outcome::Returned));
                    }
                    Err(error) => return error.into(),
                },
                Some(()) = under_way.others.next(), if !under_way.others.is_empty() => {}
                _ = patrol.tick() => {
                    if under_way.looks.is_late() && under_way.looks.is_answered_behind() {
                        answered = Instant::now();
                        under_way.looks.give_up_late().into_iter().for_each(|look| self.tell(look, false));
                        // There may be another behind it.
                        patrol.reset_immediately();
                    } else if under_way.looks.is_late() && !under_way.is_blocked && answered.elapsed() > ANSWER_TIMEOUT {
                        return Trouble::passing("a look at a mailbox is not answered");
                    }
                }
                Some(errand) = self.orders.recv() => self.waiting.push(errand),
            }
        }
    }

    fn tell(&self, look: Look, stands: bool) {
        // The task that reads ends with the instance.
        let _ = self.asked.send(Asked::Looked { reading: look.reading, look: look.number, stands });
    }
}

impl UnderWay {
    async fn begin(connection: Arc<Object>, names: &Names) -> Result<UnderWay, Trouble> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        declare_cluster(&channel, names).await?;
        let (looks, others) = (Outstanding::default(), FuturesUnordered::new());
        Ok(UnderWay { connection, channel, looks, others, is_blocked: false, closed_channels: 0 })
    }

    /// As much as there is room for.
    fn begin_what_waits(&mut self, waiting: &mut Waiting, names: &Names, bounds: MailboxBounds) {
        while self.looks.len() < LOOKS_MAX
            && let Some(look) = waiting.looks.pop_front()
        {
            self.look(look, names);
        }
        while self.others.len() < AT_A_TIME
            && let Some(other) = waiting.others.pop_front()
        {
            if !other.is_over() {
                self.others.push(Box::pin(do_other(other, self.connection.clone(), names.clone(), bounds)));
            }
        }
    }

    /// By a message that goes at once unless somebody reads there, and comes back if nothing is there.
    fn look(&mut self, look: Look, names: &Names) {
        let (channel, queue) = (self.channel.clone(), names.mailbox(&MailboxName::of_user(look.user.clone())));
        let key = queue.clone();
        let looking = async move {
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            channel.basic_publish(ShortString::default(), queue, options, &[], envelope::look()).await
        };
        self.looks.begin(looking, Some((look, key)), Instant::now() + LOOK_TIMEOUT);
    }
}

impl Waiting {
    fn push(&mut self, errand: Errand) {
        match errand {
            Errand::Look(look) => {
                if self.looks.len() == self.looks.capacity() {
                    self.looks.retain(|look| look.reader.strong_count() > 0);
                }
                self.looks.push_back(look);
            }
            Errand::Other(other) => {
                if self.others.len() == self.others.capacity() {
                    self.others.retain(|other| !other.is_over());
                }
                self.others.push_back(other);
            }
        }
    }

    /// Keeps what is asked for while there is no connection. Ready when nobody is left who asks.
    async fn gather(&mut self, orders: &mut mpsc::UnboundedReceiver<Errand>) {
        while let Some(errand) = orders.recv().await {
            self.push(errand);
        }
    }
}

async fn do_other(other: Other, connection: Arc<Object>, names: Names, bounds: MailboxBounds) {
    // Whoever has asked may have given up meanwhile.
    match other {
        Other::Change(change, done) => {
            let outcome = making::change(&connection, &names, bounds, &change).await;
            let _ = done.send(outcome.map_err(no_mailbox));
        }
        Other::Take(mailbox, looked_at_max, wanted, taken) => {
            let is_awaited = || !taken.is_closed();
            let outcome = making::take(&connection, &names, &mailbox, looked_at_max, &wanted, is_awaited).await;
            let _ = taken.send(outcome.map_err(no_mailbox));
        }
    }
}

fn no_mailbox(error: lapin::Error) -> NotAccepted {
    log::debug!("a mailbox cannot be reached: {error}");
    NotAccepted::NoMailbox
}
