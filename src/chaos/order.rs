//! Whether all sessions see one order, whoever sent: one for the broadcast, and one for each topic.
//!
//! Connections that stood before anything was sent hear everything, so they give each message its place when the first of
//! them hears it. Whoever later hears two messages the other way round has seen another order.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::subject::Subject;

/// A sender, and the number of its message.
type Message = (u32, u32);

/// The order of what was heard so far.
#[derive(Default)]
pub struct Order(Mutex<HashMap<Subject, HashMap<Message, u64>>>);

impl Order {
    /// The place of a message among those of its subject, from 1; `None` if none of those that give places has heard it.
    pub fn place(&self, subject: Subject, message: Message, gives_places: bool) -> Option<u64> {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = orders.entry(subject).or_default();
        let next = places.len() as u64 + 1;
        match places.get(&message) {
            Some(place) => Some(*place),
            None if gives_places => Some(*places.entry(message).or_insert(next)),
            None => None,
        }
    }
}
