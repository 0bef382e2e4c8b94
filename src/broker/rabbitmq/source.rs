//! A queue or a stream that is consumed: its deliveries in batches of what is ready, and the acks for them.

use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::{FieldTable, ShortString};

use super::link::Trouble;

/// Messages handed on, and then acknowledged, at once; the hub joins what waits. With those that wait for the hub a slow
/// instance holds about 500 messages of at most `--message-bytes-max`.
const BATCH_MESSAGES_MAX: usize = 32;

/// Messages that the broker sends ahead of our acks. Measured: no faster above. So many of the largest messages that the
/// broker takes (`max_message_size`: 16 MiB in `rabbitmq/rabbitmq.conf`) lapin may hold at worst, for each source.
pub const PREFETCH: u16 = 300;

/// Acks are sent for this many at once; so they cost about 8 % against no acks at all.
const ACK_EVERY: u64 = 100;

pub type Batch = Vec<Result<Delivery, lapin::Error>>;

/// One consumer, with a channel of its own choosing.
pub struct Source {
    channel: Channel,
    deliveries: ReadyChunks<lapin::Consumer>,
    last_tag: u64,
    acked_tag: u64,
}

impl Source {
    /// Consumes the instance's own queue.
    pub async fn queue(channel: Channel, queue: ShortString) -> Result<Source, lapin::Error> {
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        Source::consume(channel, queue, options, FieldTable::default()).await
    }

    /// Reads a stream, as others do at the same time.
    pub async fn stream(channel: Channel, stream: ShortString, from: FieldTable) -> Result<Source, lapin::Error> {
        Source::consume(channel, stream, BasicConsumeOptions::default(), from).await
    }

    /// With acks: `no_ack` would ignore the prefetch and pile everything up in this process.
    async fn consume(
        channel: Channel,
        queue: ShortString,
        options: BasicConsumeOptions,
        arguments: FieldTable,
    ) -> Result<Source, lapin::Error> {
        let deliveries = channel.basic_consume(queue, "".into(), options, arguments).await?;
        let deliveries = deliveries.ready_chunks(BATCH_MESSAGES_MAX);
        Ok(Source { channel, deliveries, last_tag: 0, acked_tag: 0 })
    }

    /// What is ready, at least one.
    pub async fn next(&mut self) -> Result<Batch, Trouble> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Batch, Trouble>> {
        let next = self.deliveries.poll_next_unpin(cx);
        next.map(|batch| batch.ok_or_else(|| Trouble::passing("the broker cancelled the consumer")))
    }

    /// Consumes no more.
    pub async fn end(self) -> Result<(), lapin::Error> {
        self.channel.close(200, "nobody wants it any more".into()).await
    }

    /// What came up to `tag` is dealt with.
    pub async fn taken(&mut self, tag: u64) -> Result<(), lapin::Error> {
        self.last_tag = tag.max(self.last_tag);
        if self.last_tag - self.acked_tag >= ACK_EVERY { self.acknowledge().await } else { Ok(()) }
    }

    /// Acknowledges what was dealt with.
    pub async fn acknowledge(&mut self) -> Result<(), lapin::Error> {
        if self.last_tag > self.acked_tag {
            self.channel.basic_ack(self.last_tag, BasicAckOptions { multiple: true }).await?;
            self.acked_tag = self.last_tag;
        }
        Ok(())
    }
}
