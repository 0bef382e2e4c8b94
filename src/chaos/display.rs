//! What is going on, while it does: the bar follows the clock, the count is that of deliveries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ledger::Ledger;
use crate::bench::progress::Progress;

/// Between two renewals.
const RENEWAL: Duration = Duration::from_millis(100);

/// Its drop ends it.
pub struct Display {
    phase: watch::Sender<String>,
    showing: JoinHandle<()>,
}

impl Display {
    pub fn start(ledger: Arc<Ledger>, duration: Duration) -> Display {
        let (phase, phases) = watch::channel(String::new());
        Display { phase, showing: tokio::spawn(show(phases, ledger, duration)) }
    }

    /// Something else begins.
    pub fn phase(&self, phase: impl Into<String>) {
        self.phase.send_replace(phase.into());
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.showing.abort();
    }
}

async fn show(mut phases: watch::Receiver<String>, ledger: Arc<Ledger>, duration: Duration) {
    let mut progress = Progress::new();
    let began = Instant::now();
    let mut ticks = tokio::time::interval(RENEWAL);
    loop {
        tokio::select! {
            changed = phases.changed() => match changed {
                Ok(()) => progress.begin(phases.borrow_and_update().clone()),
                Err(_) => return,
            },
            _ = ticks.tick() => {
                let done = began.elapsed().as_secs_f64() / duration.as_secs_f64();
                progress.renew(done, ledger.delivered());
            }
        }
    }
}
