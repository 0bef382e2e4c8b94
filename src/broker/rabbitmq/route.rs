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
}

impl From<&Target> for Route {
    fn from(target: &Target) -> Route {
        match target {
            Target::Broadcast => Route::Broadcast,
            Target::Topic(topic) => Route::Key(topic.key()),
            Target::Instance(name) => Route::Instance(name.clone()),
        }
    }
}
