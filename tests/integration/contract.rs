//! What every broker promises, the same cases against each.

use warren::broker::memory::MemoryExchange;

use crate::support::broker::Cluster;
use crate::support::instance::Carrier;

/// One test per case and broker.
macro_rules! contract {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::Carrier::Memory(super::MemoryExchange::default())).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::Carrier::RabbitMq(super::Cluster::shared())).await;
            })*
        }
    };
}

contract! {
    a_text_reaches_everyone_on_every_instance_once
}

async fn a_text_reaches_everyone_on_every_instance_once(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut sender = instances[0].connect().await;
    let mut others = instances[0].connect_many(2).await;
    others.extend(instances[1].connect_many(3).await);
    for text in ["one", "two", "three"] {
        sender.send(text).await;
    }
    sender.receives(&["one", "two", "three"]).await;
    for other in &mut others {
        other.receives(&["one", "two", "three"]).await;
    }
}
