//! Making mailboxes, and what else is done with one at a time: each on a channel of its own, since RabbitMQ closes the
//! channel on which something goes wrong.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use deadpool_lapin::Object;
use futures_util::future::join_all;
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

/// Time to make so many. RabbitMQ answers for one whose node hangs only when that is back or taken for down.
const MAKING_MAX: Duration = Duration::from_secs(4);

/// Makes the mailboxes of all of these; the answer is whose stand. An error is the connection's.
pub async fn make_all(
    connection: &Object,
    names: &Names,
    bounds: MailboxBounds,
    mailboxes: Vec<MailboxName>,
) -> Result<HashSet<MailboxName>, lapin::Error> {
    let mut made = HashSet::new();
    for some in mailboxes.chunks(AT_A_TIME) {
        let channel = open_channel(connection).await?;
        let all = join_all(some.iter().map(|name| declare(&channel, names, bounds, name)));
        if timeout(MAKING_MAX, all).await.is_ok_and(|all| all.iter().all(Result::is_ok)) {
            made.extend(some.iter().cloned());
            channel.close(200, "made".into()).await?;
            continue;
        }
        // Whichever failed, or is not answered for, took the others with it.
        drop(channel);
        let each = some.iter().map(|name| timeout(MAKING_MAX, make(connection, names, bounds, name)));
        for (name, outcome) in some.iter().zip(join_all(each).await) {
            match outcome {
                Ok(outcome) => made.extend(outcome?.is_ok().then(|| name.clone())),
                Err(_) => log::warn!("a mailbox cannot be made: its node does not answer"),
            }
        }
        // If it is the connection that does not answer, neither is this, and whoever wants the mailboxes gives it up.
        open_channel(connection).await?.close(200, "made".into()).await?;
    }
    Ok(made)
}

/// Makes one mailbox, unless it stands. The outer error is the connection's.
async fn make(
    connection: &Object,
    names: &Names,
    bounds: MailboxBounds,
    mailbox: &MailboxName,
) -> Result<Result<(), lapin::Error>, lapin::Error> {
    let channel = open_channel(connection).await?;
    match declare(&channel, names, bounds, mailbox).await {
        Ok(()) => Ok(Ok(channel.close(200, "made".into()).await?)),
        // It may stand with other bounds, those of an earlier configuration or of an operator; or there are as many queues as
        // the virtual host may have.
        Err(error) if is_code(&error, 406) => {
            let channel = open_channel(connection).await?;
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            match channel.queue_declare(names.mailbox(mailbox), options, FieldTable::default()).await {
                Ok(_) => Ok(Ok(channel.close(200, "seen".into()).await?)),
                Err(_) => Ok(Err(refused(error))),
            }
        }
        Err(error) => Ok(Err(refused(error))),
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
