//! What was handed to lapin and is not settled: the confirms that are awaited, oldest first.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures_util::FutureExt;
use lapin::{Confirmation, PublisherConfirm};
use tokio::time::Instant;

use super::spool::Entry;

/// Messages whose confirms are awaited. Those that wait for each other's order are in one.
#[derive(Default)]
pub struct Outstanding(VecDeque<One>);

pub type Settled = (Entry, Confirmation);

struct One {
    progress: Progress,
    /// None for a beacon.
    entry: Option<Entry>,
    deadline: Instant,
}

enum Progress {
    Writing(Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send>>),
    Confirming(PublisherConfirm),
}

impl Progress {
    /// lapin queues the frames at the first poll, and its answer comes when they are written. Waiting for that would
    /// cost a write and two thread switches a message: without it, what is ready together is written together.
    fn begin(writing: impl Future<Output = lapin::Result<PublisherConfirm>> + Send + 'static) -> Progress {
        let mut writing: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(writing);
        // The oldest outstanding message alone is waited for; the others need not wake anybody.
        match writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(confirm)) => Progress::Confirming(confirm),
            Poll::Ready(Err(error)) => Progress::failed(error),
            Poll::Pending => Progress::Writing(writing),
        }
    }

    fn failed(error: lapin::Error) -> Progress {
        Progress::Writing(Box::pin(std::future::ready(Err(error))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<lapin::Result<Confirmation>> {
        loop {
            match self {
                Progress::Writing(writing) => *self = Progress::Confirming(ready!(writing.as_mut().poll(cx))?),
                Progress::Confirming(confirm) => return confirm.poll_unpin(cx),
            }
        }
    }
}

impl Outstanding {
    /// Begins to write, and to wait for the confirm until `deadline`.
    pub fn begin(
        &mut self,
        writing: impl Future<Output = lapin::Result<PublisherConfirm>> + Send + 'static,
        entry: Option<Entry>,
        deadline: Instant,
    ) {
        self.0.push_back(One { progress: Progress::begin(writing), entry, deadline });
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The messages, beacons left out.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter_map(|one| one.entry.as_ref())
    }

    /// Gives up waiting for all of them.
    pub fn drain(&mut self) -> impl Iterator<Item = Entry> {
        self.0.drain(..).filter_map(|one| one.entry)
    }

    /// Whether the oldest should have been confirmed by now.
    pub fn is_late(&self) -> bool {
        self.0.front().is_some_and(|front| front.deadline <= Instant::now())
    }

    /// Gives up waiting for the oldest, if it is late.
    pub fn give_up_late(&mut self) -> Option<Entry> {
        if self.is_late() { self.0.pop_front()?.entry } else { None }
    }

    pub fn postpone(&mut self, deadline: Instant) {
        self.0.iter_mut().for_each(|one| one.deadline = deadline);
    }

    /// The oldest whose outcome is known; pending if there is none. The broker mostly confirms in order; one confirmed
    /// early waits for those before it.
    pub fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<lapin::Result<Vec<Settled>>> {
        let mut settled = Vec::new();
        let mut any = false;
        while let Some(front) = self.0.front_mut() {
            let Poll::Ready(confirmation) = front.progress.poll(cx) else { break };
            match confirmation {
                Ok(confirmation) => {
                    let entry = self.0.pop_front().and_then(|front| front.entry);
                    settled.extend(entry.map(|entry| (entry, confirmation)));
                    any = true;
                }
                Err(error) if any => {
                    // Told the next time: what is settled by now comes first.
                    front.progress = Progress::failed(error);
                    break;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if any { Poll::Ready(Ok(settled)) } else { Poll::Pending }
    }
}
