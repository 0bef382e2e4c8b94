//! A connection over which mailboxes are read, each through a channel of its own. Nothing is published here: while RabbitMQ is
//! short of memory or disk it reads nothing from who publishes, and acknowledgements must not wait for that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ErrorKind, Event};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::{Asked, pause};
use crate::broker::rabbitmq::connection::{CLOSED_CHANNELS_MAX, Endpoints, open_channel, release};
use crate::broker::rabbitmq::envelope;
use crate::broker::rabbitmq::link::{Complaints, Trouble, is_of_one_channel};
use crate::broker::rabbitmq::poison;
use crate::broker::rabbitmq::topology::{Names, is_code};
use crate::broker::{LETTERS_UNACKNOWLEDGED_MAX, Letter, MailboxName, Reader};
use crate::message::{Message, MessageId, now_unix_ms};
use crate::metrics::Dropped;
use crate::user::UserName;

/// Pauses before a mailbox that was seen and cannot be found is tried again: after a crash RabbitMQ lets us in before all
/// queues are back (seen with 3.10.8: "home node is down or inaccessible").
const ABSENT_PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// Time to close a connection in good order.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// Readings that begin at a time: others wait, so that acknowledgements do not.
const BEGINNING_MAX: usize = 64;

/// For how long one that begins keeps others waiting: where the queue's node hangs or is cut off from ours, RabbitMQ answers when it
/// is back or taken for down, after about a minute (`net_ticktime`).
const TURN_MAX: Duration = Duration::from_secs(1);

/// What a line is told.
pub enum Order {
    /// Of a new number.
    Begin(u64, OneReading),
    End(u64),
}

/// What all lines work with.
pub struct Settings {
    pub broker: super::Settings,
    pub names: Names,
    /// Who is told of readings that ended by themselves.
    pub asked: mpsc::UnboundedSender<Asked>,
}

/// A new line. It ends when what it is told by is dropped.
pub fn begin(settings: Arc<Settings>) -> mpsc::UnboundedSender<Order> {
    let (orders, orders_out) = mpsc::unbounded_channel();
    let endpoints = Endpoints::new(&settings.broker, "mailboxes");
    let line = Line { endpoints, settings, orders: orders_out, readings: HashMap::new(), unreadable: 0 };
    tokio::spawn(line.run());
    orders
}

struct Line {
    endpoints: Endpoints,
    settings: Arc<Settings>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Whatever becomes of the connection.
    readings: HashMap<u64, OneReading>,
    /// How many of the last connections broke over what came.
    unreadable: u32,
}

/// A mailbox that is read.
#[derive(Clone)]
pub struct OneReading {
    pub user: UserName,
    pub reader: Arc<dyn Reader>,
}

/// Why a reading has ended.
enum Over {
    Asked,
    Gone,
    Unreadable,
    NoRoom,
}

type UnderWay = FuturesUnordered<BoxFuture<'static, (u64, Result<Over, lapin::Error>)>>;

/// The readings over one connection.
struct Open {
    connection: Arc<Object>,
    beginning: Arc<Semaphore>,
    under_way: UnderWay,
    /// Dropped, each ends its reading.
    ends: HashMap<u64, oneshot::Sender<()>>,
}

impl Line {
    async fn run(mut self) {
        let mut complaints = Complaints::of("a connection for mailboxes");
        loop {
            let connected = tokio::select! {
                connected = self.endpoints.connect() => connected,
                () = take_orders(&mut self.orders, &mut self.readings) => return,
            };
            let trouble = match connected {
                Ok(connection) => match self.serve(connection).await {
                    Some(trouble) => trouble,
                    None => return,
                },
                Err(trouble) => trouble,
            };
            complaints.about(&trouble);
            self.unreadable = if trouble.is_unreadable() { self.unreadable + 1 } else { 0 };
            let suspects = if self.unreadable >= poison::SUSPICIOUS_AFTER { self.mailboxes() } else { Vec::new() };
            let (endpoints, metrics) = (&mut self.endpoints, &self.settings.broker.metrics);
            let mending = async {
                if !suspects.is_empty() {
                    poison::remove(endpoints, suspects, LETTERS_UNACKNOWLEDGED_MAX, metrics).await;
                }
                pause().await;
            };
            tokio::select! {
                () = mending => {}
                () = take_orders(&mut self.orders, &mut self.readings) => return,
            }
        }
    }

    fn mailboxes(&self) -> Vec<ShortString> {
        self.readings.values().map(|one| mailbox_of(&one.user, &self.settings.names)).collect()
    }

    /// Reads over one connection until that is lost. Nothing if the line is of no more use.
    async fn serve(&mut self, connection: Object) -> Option<Trouble> {
        let connection = Arc::new(connection);
        let mut events = std::pin::pin!(connection.events_listener());
        let beginning = Arc::new(Semaphore::new(BEGINNING_MAX));
        let mut open =
            Open { connection: connection.clone(), beginning, under_way: UnderWay::new(), ends: HashMap::new() };
        self.readings.iter().for_each(|(number, one)| open.begin(*number, one, &self.settings));
        let trouble = self.work(&mut open, &mut events).await;
        // Before the readings are dropped: lapin would cancel their consumers, and newer letters pass what these hold.
        let closing = connection.close(200, "done".into());
        let _: Result<Result<(), lapin::Error>, _> = timeout(CLOSING_MAX, closing).await;
        drop(open);
        release(connection).await;
        trouble
    }

    async fn work(&mut self, open: &mut Open, events: &mut (impl Stream<Item = Event> + Unpin)) -> Option<Trouble> {
        let mut closed_channels = 0;
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Event::Error(error)) if !is_of_one_channel(&error) => return Some(error.into()),
                    Some(Event::Error(_)) => {
                        closed_channels += 1;
                        if closed_channels > CLOSED_CHANNELS_MAX {
                            return Some(Trouble::passing("the numbers of its channels are used up"));
                        }
                    }
                    Some(_) => {}
                    None => return Some(Trouble::passing("the connection ended")),
                },
                Some((number, over)) = open.under_way.next(), if !open.under_way.is_empty() => match over {
                    Ok(over) => {
                        open.ends.remove(&number);
                        self.over(number, over);
                    }
                    Err(error) => return Some(error.into()),
                },
                order = self.orders.recv() => {
                    let order = order?;
                    match &order {
                        Order::Begin(number, one) => open.begin(*number, one, &self.settings),
                        Order::End(number) => drop(open.ends.remove(number)),
                    }
                    note(&mut self.readings, order);
                }
            }
        }
    }

    fn over(&mut self, number: u64, over: Over) {
        let told = match over {
            Over::Asked => return,
            Over::Gone => Asked::Gone(number),
            Over::Unreadable => Asked::Unreadable(number),
            Over::NoRoom => Asked::NoRoom(number),
        };
        // Whoever has ended it meanwhile does not wait to hear that.
        if self.readings.remove(&number).is_some() {
            let _ = self.settings.asked.send(told);
        }
    }
}

/// Takes note of what is ordered while there is no connection. Ready when the line is of no more use.
async fn take_orders(orders: &mut mpsc::UnboundedReceiver<Order>, readings: &mut HashMap<u64, OneReading>) {
    while let Some(order) = orders.recv().await {
        note(readings, order);
    }
}

fn note(readings: &mut HashMap<u64, OneReading>, order: Order) {
    match order {
        Order::Begin(number, one) => drop(readings.insert(number, one)),
        Order::End(number) => drop(readings.remove(&number)),
    }
}

fn mailbox_of(user: &UserName, names: &Names) -> ShortString {
    names.mailbox(&MailboxName::of_user(user.clone()))
}

impl Open {
    fn begin(&mut self, number: u64, one: &OneReading, settings: &Arc<Settings>) {
        let (end, is_ended) = oneshot::channel();
        self.ends.insert(number, end);
        let (connection, beginning) = (self.connection.clone(), self.beginning.clone());
        let (one, settings) = (one.clone(), settings.clone());
        self.under_way.push(Box::pin(async move {
            (number, over(begin_and_read(&connection, &beginning, &one, &settings, is_ended).await))
        }));
    }
}

async fn begin_and_read(
    connection: &Object,
    beginning: &Semaphore,
    one: &OneReading,
    settings: &Settings,
    mut is_ended: oneshot::Receiver<()>,
) -> Result<Over, lapin::Error> {
    let mut pauses = ABSENT_PAUSES.into_iter();
    loop {
        let turn = tokio::select! {
            biased;
            _ = &mut is_ended => return Ok(Over::Asked),
            turn = beginning.acquire() => turn,
        };
        let pause = match consume(connection, mailbox_of(&one.user, &settings.names), turn).await {
            Ok((channel, mail)) => return read(&channel, mail, one, settings, is_ended).await,
            Err(error) if is_code(&error, 404) => pauses.next().ok_or(error)?,
            Err(error) => return Err(error),
        };
        tokio::select! {
            () = sleep(pause) => {}
            _ = &mut is_ended => return Ok(Over::Asked),
        }
    }
}

/// A consumer, and its channel. `turn` is given up when others have waited long enough for it.
async fn consume<Turn>(
    connection: &Object,
    mailbox: ShortString,
    turn: Turn,
) -> Result<(Channel, lapin::Consumer), lapin::Error> {
    let mut consuming = std::pin::pin!(async {
        let channel = open_channel(connection).await?;
        channel.basic_qos(LETTERS_UNACKNOWLEDGED_MAX, BasicQosOptions::default()).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let mail = channel.basic_consume(mailbox, "".into(), options, arguments).await?;
        Ok((channel, mail))
    });
    let soon = timeout(TURN_MAX, &mut consuming).await;
    drop(turn);
    match soon {
        Ok(answer) => answer,
        Err(_) => consuming.await,
    }
}

/// Hands over what comes, and acknowledges, until the reading is ended or the mailbox is gone. What is not acknowledged by
/// then goes back with the channel.
async fn read(
    channel: &Channel,
    mut mail: lapin::Consumer,
    one: &OneReading,
    settings: &Settings,
    mut is_ended: oneshot::Receiver<()>,
) -> Result<Over, lapin::Error> {
    // What is acknowledged after the channel is gone reaches nobody, and comes again.
    let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
    let over = loop {
        tokio::select! {
            biased;
            Some(tag) = acknowledged.recv() => channel.basic_ack(tag, BasicAckOptions { multiple: false }).await?,
            _ = &mut is_ended => break Over::Asked,
            delivery = mail.next() => match delivery.transpose()? {
                Some(delivery) => {
                    let tag = delivery.delivery_tag;
                    match opened(delivery, &one.user, settings) {
                        Some(message) => {
                            let acknowledge = acknowledge.clone();
                            one.reader.take(Letter::new(message, move || {
                                let _ = acknowledge.send(tag);
                            }));
                        }
                        None => channel.basic_ack(tag, BasicAckOptions { multiple: false }).await?,
                    }
                }
                // The broker has ended it.
                None => break Over::Gone,
            },
        }
    };
    channel.close(200, "read".into()).await?;
    Ok(over)
}

/// What there is to hand over of a delivery.
fn opened(delivery: Delivery, user: &UserName, settings: &Settings) -> Option<Message> {
    let fits = delivery.data.len() <= settings.broker.message_bytes_max;
    if !fits {
        settings.broker.metrics.dropped(Dropped::Oversized);
    }
    let message = envelope::open_letter(delivery, &settings.names, user).filter(|_| fits)?;
    if message.terms.as_ref().is_some_and(|terms| terms.is_expired(now_unix_ms())) {
        return None;
    }
    let id = message.id.clone().unwrap_or_else(|| MessageId::of_content(message.published_ms, &message.payload));
    Some(Message { id: Some(id), ..message })
}

/// What the end of one channel says of its mailbox; any other error is the connection's.
fn over(ended: Result<Over, lapin::Error>) -> Result<Over, lapin::Error> {
    match ended {
        Err(error) if matches!(error.kind(), ErrorKind::ChannelsLimitReached) => Ok(Over::NoRoom),
        Err(error) if is_code(&error, 404) => Ok(Over::Gone),
        // The broker closed it while something was on its way there; if the connection is gone, that tells of itself.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidChannel(_)) => {
            Ok(Over::Gone)
        }
        Err(error) if is_of_one_channel(&error) => {
            // Without RabbitMQ's text: it names the user.
            log::warn!("a mailbox cannot be read, and is left alone for some time");
            Ok(Over::Unreadable)
        }
        ended => ended,
    }
}
