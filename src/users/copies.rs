//! Messages for the sessions that a user has on one instance, on their way there.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Whereabouts;
use crate::broker::{Broker, NotAccepted, Receipt, Settle};
use crate::instance::InstanceName;
use crate::message::{Message, Target};
use crate::metrics::LetterMetrics;

/// One message to one instance.
pub struct Copy {
    pub instance: InstanceName,
    pub message: Message,
    /// Who is told what became of it.
    pub told: Arc<dyn Settle>,
    /// Its share of the room for what no mailbox bounds.
    pub _room: Option<Arc<OwnedSemaphorePermit>>,
}

/// Hands copies to the broker one after the other, which keeps their order.
pub struct Copies;

impl Copies {
    pub fn start(
        broker: Arc<dyn Broker>,
        whereabouts: Arc<dyn Whereabouts>,
        metrics: LetterMetrics,
    ) -> mpsc::UnboundedSender<Copy> {
        // Bounded by what readers may hold, for each letter waits for its copies, and by the room for the rest.
        let (copies, mut waiting) = mpsc::unbounded_channel::<Copy>();
        tokio::spawn(async move {
            while let Some(Copy { instance, message, told, _room }) = waiting.recv().await {
                let is_copy = matches!(message.target, Target::UserAt(..));
                let (whereabouts, metrics) = (whereabouts.clone(), is_copy.then(|| metrics.clone()));
                let noticing = Noticing { instance, whereabouts, metrics, told };
                broker.publish(message, Receipt::to(Arc::new(noticing))).await;
            }
        });
        copies
    }
}

/// Passes on what became of a copy; an instance that is gone is told to who knows of instances.
struct Noticing {
    instance: InstanceName,
    whereabouts: Arc<dyn Whereabouts>,
    /// What counts it, if it is a copy.
    metrics: Option<LetterMetrics>,
    told: Arc<dyn Settle>,
}

impl Settle for Noticing {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        if let Some(metrics) = &self.metrics {
            metrics.copied(outcome.is_ok());
        }
        if outcome == Err(NotAccepted::NoInstance) {
            self.whereabouts.is_gone(&self.instance);
        }
        self.told.settled(outcome);
    }
}

/// One message to several instances, of which its sender is told once: accepted if any was.
pub struct Sending(Mutex<State>);

struct State {
    left: usize,
    best: Result<(), NotAccepted>,
    receipt: Option<Receipt>,
}

impl Sending {
    pub fn of(copies: usize, receipt: Receipt) -> Arc<dyn Settle> {
        let best = Err(NotAccepted::NotConnected);
        Arc::new(Sending(Mutex::new(State { left: copies, best, receipt: Some(receipt) })))
    }
}

impl Settle for Sending {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.left -= 1;
        match (state.best, outcome) {
            (_, Ok(())) => state.best = Ok(()),
            (Err(NotAccepted::NotConnected), Err(why)) if why != NotAccepted::NoInstance => state.best = Err(why),
            _ => {}
        }
        if state.left == 0 {
            let (best, receipt) = (state.best, state.receipt.take());
            drop(state);
            if let Some(receipt) = receipt {
                receipt.settle(best);
            }
        }
    }
}
