//! What is done with mailboxes beside reading them: looking whether they stand, memberships, taking what is asked for.
//!
//! On a connection of its own, since some of it publishes: while RabbitMQ is short of memory or disk it reads nothing from such
//! a connection, and acknowledgements must not wait for that.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
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
use tokio::time::Instant;

use super::{Asked, Change, making, pause};
use crate::broker::rabbitmq::connection::{CLOSED_CHANNELS_MAX, Endpoints, discard};
use crate::broker::rabbitmq::envelope;
use crate::broker::rabbitmq::link::{Trouble, interval, is_of_one_channel};
use crate::broker::rabbitmq::outstanding::{Outcome, Outstanding, Published};
use crate::broker::rabbitmq::topology::{Names, declare_cluster};
use crate::broker::{MailboxBounds, MailboxName, NotAccepted, Wanted};
use crate::message::Message;
use crate::user::UserName;

/// Looks that are under way at a time.
const LOOKS_MAX: usize = 256;

/// Things that are done at a time, each with a channel of its own.
const AT_A_TIME: usize = 32;

/// Time for the broker to answer a look; then the connection is given up.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

pub enum Errand {
    Look(Look),
    Change(Change, oneshot::Sender<Result<(), NotAccepted>>),
    Take(MailboxName, usize, Wanted, oneshot::Sender<Result<Vec<Message>, NotAccepted>>),
}

impl Errand {
    /// Nobody waits for it any more: whoever did asks again.
    fn is_over(&self) -> bool {
        match self {
            Errand::Look(_) => false,
            Errand::Change(_, done) => done.is_closed(),
            Errand::Take(_, _, _, taken) => taken.is_closed(),
        }
    }
}

/// Whether a user's mailbox stands, for a reading.
pub struct Look {
    pub user: UserName,
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
    /// What was not begun so far.
    pub waiting: VecDeque<Errand>,
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
        loop {
            let connected = tokio::select! {
                connected = self.endpoints.connect() => connected,
                () = gather(&mut self.orders, &mut self.waiting) => return,
            };
            let trouble = match connected {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    let trouble = self.serve(connection.clone()).await;
                    if let Some(connection) = Arc::into_inner(connection) {
                        discard(connection).await;
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            log::debug!("the connection for errands to mailboxes is lost: {trouble}");
            tokio::select! {
                () = pause() => {}
                () = gather(&mut self.orders, &mut self.waiting) => return,
            }
        }
    }

    async fn serve(&mut self, connection: Arc<Object>) -> Trouble {
        let mut events = std::pin::pin!(connection.events_listener());
        let mut under_way = match UnderWay::begin(connection.clone(), &self.names).await {
            Ok(under_way) => under_way,
            Err(error) => {
                self.endpoints.skip();
                return error.into();
            }
        };
        let trouble = self.work(&mut under_way, &mut events).await;
        // They are looked at again over the next connection.
        let looks: Vec<Look> = under_way.looks.drain().collect();
        looks.into_iter().rev().for_each(|look| self.waiting.push_front(Errand::Look(look)));
        trouble
    }

    async fn work(
        &mut self,
        under_way: &mut UnderWay,
        events: &mut (impl futures_util::Stream<Item = Event> + Unpin),
    ) -> Trouble {
        let mut patrol = interval(LOOK_TIMEOUT / 4);
        loop {
            let is_worn = under_way.closed_channels > CLOSED_CHANNELS_MAX;
            if is_worn && under_way.looks.is_empty() && under_way.others.is_empty() {
                return Trouble::passing("the numbers of its channels are used up");
            }
            while !is_worn
                && under_way.has_room()
                && let Some(errand) = self.waiting.pop_front()
            {
                under_way.begin_one(errand, &self.names, self.bounds);
            }
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(_)) => under_way.is_blocked = true,
                    Some(Event::ConnectionUnblocked) => {
                        under_way.is_blocked = false;
                        under_way.looks.postpone(Instant::now() + LOOK_TIMEOUT);
                    }
                    Some(Event::Error(error)) if !is_of_one_channel(&error) => return error.into(),
                    Some(Event::Error(_)) => under_way.closed_channels += 1,
                    Some(_) => {}
                    None => return Trouble::passing("the connection ended"),
                },
                settled = poll_fn(|cx| under_way.looks.poll_settled(cx)) => match settled {
                    Ok(settled) => settled.into_iter().for_each(|(look, outcome)| self.tell(look, outcome)),
                    Err(error) => return error.into(),
                },
                Some(()) = under_way.others.next(), if !under_way.others.is_empty() => {}
                _ = patrol.tick() => {
                    if under_way.looks.is_late() && !under_way.is_blocked {
                        return Trouble::passing("a look at a mailbox is not answered");
                    }
                }
                Some(errand) = self.orders.recv() => self.waiting.push_back(errand),
            }
        }
    }

    fn tell(&self, look: Look, outcome: Outcome) {
        // A full mailbox refuses even that.
        let stands = outcome != Outcome::Returned;
        // The task that reads ends with the instance.
        let _ = self.asked.send(Asked::Looked { reading: look.reading, look: look.number, stands });
    }
}

impl UnderWay {
    async fn begin(connection: Arc<Object>, names: &Names) -> Result<UnderWay, lapin::Error> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        declare_cluster(&channel, names).await?;
        let (looks, others) = (Outstanding::default(), FuturesUnordered::new());
        Ok(UnderWay { connection, channel, looks, others, is_blocked: false, closed_channels: 0 })
    }

    fn has_room(&self) -> bool {
        self.looks.len() < LOOKS_MAX && self.others.len() < AT_A_TIME
    }

    fn begin_one(&mut self, errand: Errand, names: &Names, bounds: MailboxBounds) {
        let (connection, names) = (self.connection.clone(), names.clone());
        match errand {
            over if over.is_over() => {}
            Errand::Look(look) => self.look(look, &names),
            Errand::Change(change, done) => self.others.push(Box::pin(async move {
                let outcome = making::change(&connection, &names, bounds, &change).await;
                let _ = done.send(outcome.map_err(no_mailbox));
            })),
            Errand::Take(mailbox, looked_at_max, wanted, taken) => self.others.push(Box::pin(async move {
                let is_awaited = || !taken.is_closed();
                let taking = making::take(&connection, &names, &mailbox, looked_at_max, &wanted, is_awaited);
                let outcome = taking.await;
                let _ = taken.send(outcome.map_err(no_mailbox));
            })),
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

/// Keeps what is asked for while there is no connection, without what is asked for in vain. Ready when nobody is left who asks.
async fn gather(orders: &mut mpsc::UnboundedReceiver<Errand>, waiting: &mut VecDeque<Errand>) {
    while let Some(errand) = orders.recv().await {
        waiting.push_back(errand);
        if waiting.len() == waiting.capacity() {
            waiting.retain(|errand| !errand.is_over());
        }
    }
}

fn no_mailbox(error: lapin::Error) -> NotAccepted {
    log::debug!("a mailbox cannot be reached: {error}");
    NotAccepted::NoMailbox
}
