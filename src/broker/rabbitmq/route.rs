//! On which way a message travels: what is numbered together, and arrives in order.

use crate::instance::InstanceName;
use crate::message::Target;
use crate::place::Partition;
use crate::topic::TopicKey;

/// A publisher counts the messages of each route by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Broadcast,
    /// All topics of one key.
    Key(TopicKey),
    Instance(InstanceName),
}

impl Route {
    /// Where what travels on it is kept, if it is.
    pub fn partition(&self) -> Option<Partition> {
        match self {
            Route::Broadcast => Some(Partition::BROADCAST),
            Route::Key(key) => Some(Partition::of_key(*key)),
            Route::Instance(_) => None,
        }
    }

    /// `None` for what nobody numbers: what is said to backends, and their answers to one session.
    pub fn to(target: &Target) -> Option<Route> {
        match target {
            Target::Broadcast => Some(Route::Broadcast),
            Target::Topic(topic) => Some(Route::Key(topic.key())),
            Target::Instance(name) => Some(Route::Instance(name.clone())),
            Target::Session(_)
            | Target::Backends(_)
            | Target::User(_)
            | Target::Unread(_)
            | Target::Group(_)
            | Target::UserAt(..)
            | Target::Peers
            | Target::Peer(_) => None,
        }
    }
}
