//! Asking all instances something, and waiting for their answers for a moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::hub::Counted;
use crate::instance::InstanceName;

/// How long answers are waited for.
pub const GATHER_TIMEOUT: Duration = Duration::from_secs(1);

/// Questions under way at a time.
const GATHERINGS_MAX: usize = 16;

/// There are as many questions under way as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many questions are under way")]
pub struct TooManyQuestions;

/// The questions that are under way, by their tickets.
#[derive(Default)]
pub struct Gatherings {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Gathering>>,
}

struct Gathering {
    expected: BTreeSet<InstanceName>,
    answers: BTreeMap<InstanceName, Counted>,
    is_complete: Arc<Notify>,
}

/// One question. Its drop ends the waiting.
pub struct Asked<'a> {
    gatherings: &'a Gatherings,
    pub ticket: u64,
    is_complete: Arc<Notify>,
}

impl Gatherings {
    /// Answers of these are waited for, and of nobody else.
    pub fn open(&self, expected: BTreeSet<InstanceName>) -> Result<Asked<'_>, TooManyQuestions> {
        let is_complete = Arc::new(Notify::new());
        if expected.is_empty() {
            is_complete.notify_one();
        }
        let ticket = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.lock();
        if open.len() >= GATHERINGS_MAX {
            return Err(TooManyQuestions);
        }
        let gathering = Gathering { expected, answers: BTreeMap::new(), is_complete: is_complete.clone() };
        open.insert(ticket, gathering);
        Ok(Asked { gatherings: self, ticket, is_complete })
    }

    /// Takes an answer, if it is waited for.
    pub fn answer(&self, name: InstanceName, ticket: u64, counted: Counted) {
        let mut open = self.lock();
        let Some(gathering) = open.get_mut(&ticket) else { return };
        if gathering.expected.remove(&name) {
            gathering.answers.insert(name, counted);
        }
        if gathering.expected.is_empty() {
            gathering.is_complete.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Gathering>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked<'_> {
    /// The answers, and who did not answer in time.
    pub async fn gather(self) -> (BTreeMap<InstanceName, Counted>, BTreeSet<InstanceName>) {
        let _ = tokio::time::timeout(GATHER_TIMEOUT, self.is_complete.notified()).await;
        let gathering = self.gatherings.lock().remove(&self.ticket);
        gathering.map(|gathering| (gathering.answers, gathering.expected)).unwrap_or_default()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.gatherings.lock().remove(&self.ticket);
    }
}
