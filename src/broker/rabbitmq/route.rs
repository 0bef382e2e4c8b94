//! On which way a message travels: what is numbered together, and arrives in order.

use crate::instance::InstanceName;
use crate::message::Target;
use crate::topic::TopicKey;

/// A publisher counts the messages of each route by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Broadcast,
    /// All topics of one key.
    Key(TopicKey),
    Instance(InstanceName),
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
