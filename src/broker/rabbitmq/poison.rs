//! Messages that lapin cannot parse: it ends the connection over a routing key or a property that is not UTF-8.
//!
//! In a queue that outlives the connection such a message would come again and again, to one instance after the other, and
//! nothing behind it would ever come. So after some tries it is looked for and thrown away, with nothing else.

use std::time::Duration;

use deadpool_lapin::Object;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Event};

use super::connection::{Endpoints, discard};
use super::link::{Trouble, is_of_one_channel};
use super::topology::is_code;
use crate::metrics::{BrokerMetrics, Dropped};

/// So many connections in a row must have broken over what came: one may have broken over anything.
pub const SUSPICIOUS_AFTER: u32 = 3;

/// Time to look through one queue: its node may be cut off from ours.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks at the first `depth` messages of each of these queues, and removes the first that cannot be parsed of each.
pub async fn remove(endpoints: &mut Endpoints, queues: Vec<ShortString>, depth: u16, metrics: &BrokerMetrics) {
    let mut queues = queues.into_iter();
    while queues.len() > 0 {
        let Ok(connection) = endpoints.connect().await else { return };
        let poisoned = search(&connection, &mut queues, depth).await;
        discard(connection).await;
        let Some((queue, before)) = poisoned else { continue };
        let Ok(connection) = endpoints.connect().await else { return };
        if readable(&connection, &queue, before, IsRemoved::TheNext)
            .await
            .is_err_and(|(_, trouble)| trouble.is_unreadable())
        {
            metrics.dropped(Dropped::Unreadable);
            log::error!("a message that is not UTF-8 in its properties was thrown away");
        }
        discard(connection).await;
    }
}

/// Searches one queue after the other until the connection breaks; the one in which something cannot be parsed, and how many
/// messages are before it.
async fn search(
    connection: &Object,
    queues: &mut impl Iterator<Item = ShortString>,
    depth: u16,
) -> Option<(ShortString, u16)> {
    for queue in queues {
        match readable(connection, &queue, depth, IsRemoved::No).await {
            Ok(()) => {}
            Err((before, trouble)) if trouble.is_unreadable() => return Some((queue, before)),
            Err((_, trouble)) => {
                // Another time. The next ones are searched over another connection.
                log::debug!("a queue cannot be searched for what cannot be read: {trouble}");
                return None;
            }
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsRemoved {
    No,
    /// The one behind those that are looked at.
    TheNext,
}

/// Looks at up to `count` messages, which all go back with the channel. How many could be read, and what is wrong if
/// that is not all of them.
async fn readable(
    connection: &Object,
    queue: &ShortString,
    count: u16,
    removes: IsRemoved,
) -> Result<(), (u16, Trouble)> {
    let mut read = 0;
    let mut events = connection.events_listener();
    let broken = async {
        loop {
            match events.next().await {
                Some(Event::Error(error)) if !is_of_one_channel(&error) => return error.into(),
                Some(_) => {}
                None => return Trouble::passing("the connection ended"),
            }
        }
    };
    // A get that was answered by a message with a property that cannot be parsed never ends (lapin 4.12.3).
    tokio::select! {
        biased;
        outcome = look(connection, queue, count, removes, &mut read) => outcome.map_err(Trouble::from),
        trouble = broken => Err(trouble),
        // What was taken out must be put back, however long that takes.
        () = tokio::time::sleep(LOOK_TIMEOUT), if removes == IsRemoved::No => Err(Trouble::passing("no answer")),
    }
    .map_err(|trouble| (read, trouble))
}

async fn look(
    connection: &Object,
    queue: &ShortString,
    count: u16,
    removes: IsRemoved,
    read: &mut u16,
) -> Result<(), lapin::Error> {
    let channel = connection.create_channel().await?;
    let get = async |no_ack| channel.basic_get(queue.clone(), BasicGetOptions { no_ack }).await;
    while *read < count {
        match get(false).await {
            Ok(Some(_)) => *read += 1,
            Ok(None) => break,
            // It has gone meanwhile.
            Err(error) if is_code(&error, 404) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    if removes == IsRemoved::TheNext
        && let Some(readable) = get(true).await?
    {
        // Somebody reads there meanwhile, and what we look for has moved.
        put_back(&channel, queue, readable.delivery).await?;
    }
    channel.close(200, "looked".into()).await
}

/// Behind all else: a letter out of its turn is better than none.
async fn put_back(channel: &Channel, queue: &ShortString, message: Delivery) -> Result<(), lapin::Error> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions::default();
    let publishing = channel.basic_publish("".into(), queue.clone(), options, &message.data, message.properties);
    if publishing.await?.await?.is_nack() {
        log::error!("a message was lost in the search for one that cannot be read");
    }
    Ok(())
}
