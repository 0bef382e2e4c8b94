//! Making mailboxes, and what else is done with one at a time: each on a channel of its own, since RabbitMQ closes the
//! channel on which something goes wrong.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use deadpool_lapin::Object;
use futures_util::future::{join_all, try_join_all};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::timeout;

use super::Change;
use crate::broker::rabbitmq::connection::open_channel;
use crate::broker::rabbitmq::envelope;
use crate::broker::rabbitmq::topology::{Names, is_code};
use crate::broker::{MailboxBounds, MailboxName, Wanted};
use crate::message::Message;
use crate::user::UserName;

/// For so long messages are taken at one go: who asked waits little longer.
const TAKING_MAX: Duration = Duration::from_secs(3);

/// Mailboxes that are made at a time.
const AT_A_TIME: usize = 64;

/// Time to make so many, or one. RabbitMQ answers for one whose node hangs only when that is back or taken for down.
const MAKING_MAX: Duration = Duration::from_secs(4);

/// Time after which no more are begun; their senders are told.
const ALL_MAX: Duration = Duration::from_secs(15);

/// Makes the mailboxes of all of these; the answer is whose stand. An error is the connection's.
pub async fn make_all(
    connection: &Object,
    names: &Names,
    bounds: MailboxBounds,
    mailboxes: Vec<MailboxName>,
) -> Result<HashSet<MailboxName>, lapin::Error> {
    let began = Instant::now();
    let mut made = HashSet::new();
    for some in mailboxes.chunks(AT_A_TIME).take_while(|_| began.elapsed() < ALL_MAX) {
        let channel = open_channel(connection).await?;
        let (all, of_whom) = (some.to_vec(), names.clone());
        let declaring = answer(async move {
            try_join_all(all.iter().map(|name| declare(&channel, &of_whom, bounds, name))).await?;
            channel.close(200, "made".into()).await
        });
        if declaring.await.is_ok() {
            made.extend(some.iter().cloned());
            continue;
        }
        // Whichever failed, or is not answered for, took the others with it.
        let each = join_all(some.iter().map(|name| make(connection, names, bounds, name))).await;
        for (name, outcome) in some.iter().zip(each) {
            made.extend(outcome?.is_ok().then(|| name.clone()));
        }
        // If it is the connection that does not answer, neither is this, and whoever wants the mailboxes gives it up.
        open_channel(connection).await?.close(200, "made".into()).await?;
    }
    Ok(made)
}

/// The answer to what is asked over one channel, if it comes in time. Else it is waited for by itself: a channel must not be
/// dropped before, for where an error crosses its end lapin (4.12.3) takes it for the connection's.
async fn answer(asking: impl Future<Output = Result<(), lapin::Error>> + Send + 'static) -> Result<(), lapin::Error> {
    match timeout(MAKING_MAX, tokio::spawn(asking)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Makes one mailbox, unless it stands. The outer error is the connection's.
async fn make(
    connection: &Object,
    names: &Names,
    bounds: MailboxBounds,
    mailbox: &MailboxName,
) -> Result<Result<(), lapin::Error>, lapin::Error> {
    let channel = open_channel(connection).await?;
    let (of_whom, name) = (names.clone(), mailbox.clone());
    let declaring = answer(async move {
        declare(&channel, &of_whom, bounds, &name).await?;
        channel.close(200, "made".into()).await
    });
    match declaring.await {
        // It may stand with other bounds, those of an earlier configuration or of an operator; or there are as many queues as
        // the virtual host may have.
        Err(error) if is_code(&error, 406) => {
            let (channel, queue) = (open_channel(connection).await?, names.mailbox(mailbox));
            let looking = answer(async move {
                let options = QueueDeclareOptions { passive: true, ..Default::default() };
                channel.queue_declare(queue, options, FieldTable::default()).await?;
                channel.close(200, "seen".into()).await
            });
            Ok(looking.await.map_err(|_| refused(error)))
        }
        outcome => Ok(outcome.map_err(refused)),
    }
}

/// Says so, without the mailbox: its name is a user's.
fn refused(error: lapin::Error) -> lapin::Error {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => log::warn!("a mailbox cannot be made (AMQP {})", error.get_id()),
        _ => log::warn!("a mailbox cannot be made: {error}"),
    }
    error
}

/// Classic: what is kept in it is on one node's disk, and a queue that mostly stands empty costs least so. When full it
/// refuses (`reject-publish`), so that the sender is told.
async fn declare(
    channel: &Channel,
    names: &Names,
    bounds: MailboxBounds,
    mailbox: &MailboxName,
) -> Result<(), lapin::Error> {
    let number = |value: u128| AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    arguments.insert("x-max-length".into(), number(bounds.messages_max as u128));
    arguments.insert("x-max-length-bytes".into(), number(bounds.bytes_max as u128));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments.insert("x-message-ttl".into(), number(bounds.age_max.as_millis()));
    arguments.insert("x-expires".into(), number(bounds.lease().as_millis()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(names.mailbox(mailbox), options, arguments).await?;
    Ok(())
}

/// Tells every instance that a mailbox stands.
pub async fn tell(channel: &Channel, names: &Names, user: &UserName) -> Result<(), lapin::Error> {
    let (properties, options) = (envelope::mailbox_made(user), BasicPublishOptions::default());
    channel.basic_publish(names.peers.clone(), ShortString::default(), options, &[], properties).await?;
    Ok(())
}

/// Begins or ends a membership.
pub async fn change(
    connection: &Object,
    names: &Names,
    bounds: MailboxBounds,
    change: &Change,
) -> Result<(), lapin::Error> {
    let mailbox = MailboxName::of_user(change.user.clone());
    let (queue, key) = (names.mailbox(&mailbox), ShortString::from(change.group.as_str()));
    if !change.joins {
        let channel = open_channel(connection).await?;
        return channel.queue_unbind(queue, names.groups.clone(), key, FieldTable::default()).await;
    }
    make(connection, names, bounds, &mailbox).await??;
    let channel = open_channel(connection).await?;
    let options = QueueBindOptions::default();
    channel.queue_bind(queue, names.groups.clone(), key, options, FieldTable::default()).await?;
    tell(&channel, names, &change.user).await?;
    channel.close(200, "joined".into()).await
}

/// Takes what is wanted out of a mailbox. What is taken is acknowledged in a transaction, so that it is gone for certain
/// when it is answered.
pub async fn take(
    connection: &Object,
    names: &Names,
    mailbox: &MailboxName,
    looked_at_max: usize,
    wanted: &Wanted,
    is_awaited: impl Fn() -> bool,
) -> Result<Vec<Message>, lapin::Error> {
    let channel = open_channel(connection).await?;
    channel.tx_select().await?;
    let began = Instant::now();
    let (mut taken, mut tags) = (Vec::new(), Vec::new());
    for _ in 0..looked_at_max {
        if began.elapsed() > TAKING_MAX {
            break;
        }
        let got = match channel.basic_get(names.mailbox(mailbox), BasicGetOptions::default()).await {
            Ok(Some(got)) => got.delivery,
            Ok(None) => break,
            // There is no mailbox.
            Err(error) if is_code(&error, 404) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let tag = got.delivery_tag;
        match envelope::open_letter(got, names, &mailbox.user) {
            Some(message) if !wanted(&message) => {}
            Some(message) => {
                tags.push(tag);
                taken.push(message);
            }
            // A look whether there is a mailbox.
            None => tags.push(tag),
        }
    }
    for tag in tags {
        channel.basic_ack(tag, BasicAckOptions { multiple: false }).await?;
    }
    if !is_awaited() {
        // Nobody would hear of it: all of it goes back with the channel.
        channel.close(200, "nobody waits".into()).await?;
        return Ok(Vec::new());
    }
    channel.tx_commit().await?;
    // From here on it is taken. What was looked at and not taken goes back to its place with the channel.
    let _ = channel.close(200, "taken".into()).await;
    Ok(taken)
}
