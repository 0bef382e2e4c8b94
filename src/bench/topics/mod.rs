//! `warren bench topics`: what many topics with some subscribers each cost, beside the broadcast.
//!
//! Each case has servers of its own, started afresh. Memory is looked at before and after the subscriptions; CPU around the
//! measured phase, which ends when everything has arrived.

mod load;
mod options;
mod table;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::measure::SETTLE;
use super::progress::Progress;
use super::server::{Kind, Server};
use load::{Load, Said, Work, topic};
use table::Figures;

pub use options::{Options, declare, read};
pub use table::Table;

/// Of `warren bench`.
pub const COMMAND: &str = "topics";

/// Between two looks at what happens.
const LOOK: Duration = Duration::from_millis(2);

/// Without a delivery for this long, what has not come counts as lost.
const STALL: Duration = Duration::from_secs(5);

/// Who hears what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Topics,
    /// To so many sessions, all that there are; of `warren.v1.json` as with topics, or plain.
    Broadcast {
        sessions: usize,
        speaks_json: bool,
    },
}

impl Case {
    fn name(self, options: &Options) -> String {
        let Options { topics, subscribers, .. } = options;
        match self {
            Case::Topics => format!("{topics} topics, {subscribers} subscribers each"),
            Case::Broadcast { sessions, speaks_json: true } => format!("broadcast to {sessions} JSON sessions"),
            Case::Broadcast { sessions, speaks_json: false } => format!("broadcast to {sessions} plain sessions"),
        }
    }

    fn sessions(self, options: &Options) -> usize {
        match self {
            Case::Topics => options.sessions,
            Case::Broadcast { sessions, .. } => sessions,
        }
    }

    fn work(self, options: &Options) -> Work {
        let (said, fan_out) = match self {
            Case::Topics => (Said::ToTopics(options.topics), options.subscribers),
            Case::Broadcast { sessions, .. } => (Said::ToEverybody, sessions),
        };
        let window = (options.window * options.publishers) as u64;
        Work { said, hears_json: self.speaks_json(), fan_out: fan_out as u64, window, size: options.size }
    }

    fn speaks_json(self) -> bool {
        !matches!(self, Case::Broadcast { speaks_json: false, .. })
    }

    /// What a session of JSON asks for.
    fn subscription(self, options: &Options, session: usize) -> Value {
        match self {
            Case::Topics => json!({ "type": "subscribe", "id": "1", "topics": topics_of(options, session) }),
            Case::Broadcast { .. } => json!({ "type": "subscribe", "id": "1", "broadcast": true }),
        }
    }
}

/// Measures every case in turn, as often as asked.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Table> {
    let broadcast = |sessions, speaks_json| Case::Broadcast { sessions, speaks_json };
    let Options { subscribers, sessions, .. } = *options;
    let cases = [Case::Topics, broadcast(subscribers, true), broadcast(subscribers, false), broadcast(sessions, false)];
    let mut rows: Vec<(String, Vec<Figures>)> = cases.map(|case| (case.name(options), Vec::new())).into();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(options.threads).enable_all().build()?;
    let mut progress = Progress::new();
    for _ in 0..options.repeat {
        for (case, (name, runs)) in cases.into_iter().zip(&mut rows) {
            progress.begin(name.clone());
            let server = Server::start(&Kind::Warren(options.own.clone()))?;
            let mut run = Run { options, case, server: &server, progress: &mut progress, interrupt };
            runs.push(runtime.block_on(run.measure()).with_context(|| name.clone())?);
        }
    }
    progress.clear();
    Ok(Table { rows, options: options.clone() })
}

/// One case under way.
struct Run<'a> {
    options: &'a Options,
    case: Case,
    server: &'a Server,
    progress: &'a mut Progress,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    async fn measure(&mut self) -> anyhow::Result<Figures> {
        let Run { options, case, server, .. } = *self;
        let addresses: Vec<SocketAddr> =
            server.targets.iter().map(|target| target.resolve()).collect::<std::io::Result<_>>()?;
        let (is_of_topics, sessions) = (case == Case::Topics, case.sessions(options));
        let mut listeners = load::open(&addresses, sessions, case.speaks_json()).await?;
        let before_kib = self.settled_kib().await;
        if case.speaks_json() {
            listeners = load::subscribe(listeners, |session| case.subscription(options, session)).await?;
        }
        let after_kib = self.settled_kib().await;
        let publishers = load::open(&addresses, options.publishers, true).await?;
        let mut load = Load::begin(listeners, publishers, case.work(options));
        self.phase(&mut load, options.warmup).await?;
        let cpu_before = server.processes.cpu();
        let (began, counted) = (Instant::now(), (load.counts.published(), load.counts.delivered()));
        self.phase(&mut load, options.duration).await?;
        let seconds = began.elapsed().as_secs_f64();
        let cpu = server.processes.cpu().zip(cpu_before).and_then(|(after, before)| after.since(before));
        Ok(Figures {
            sessions,
            subscriptions: is_of_topics.then(|| options.subscriptions()),
            memory_kib: before_kib.zip(after_kib),
            messages: load.counts.published() - counted.0,
            deliveries: load.counts.delivered() - counted.1,
            seconds,
            cpu,
        })
    }

    async fn settled_kib(&self) -> Option<u64> {
        tokio::time::sleep(SETTLE).await;
        self.server.processes.pss_kib()
    }

    /// Publishes for so long, and waits until everything has arrived.
    async fn phase(&mut self, load: &mut Load, duration: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + duration;
        load.publish(true);
        while Instant::now() < deadline {
            self.look(load, duration).await?;
        }
        load.publish(false);
        let fan_out = self.case.work(self.options).fan_out;
        let (mut delivered, mut at) = (load.counts.delivered(), Instant::now());
        // A publisher that looked before may send one more.
        self.look(load, duration).await?;
        loop {
            let due = load.counts.published() * fan_out;
            match load.counts.delivered() {
                now if now == due => return Ok(()),
                now if now > due => bail!("{} deliveries too many", now - due),
                now if now > delivered => (delivered, at) = (now, Instant::now()),
                now if at.elapsed() > STALL => bail!("{} deliveries were lost", due - now),
                _ => {}
            }
            self.look(load, duration).await?;
        }
    }

    async fn look(&mut self, load: &mut Load, duration: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(LOOK).await;
        self.progress.renew_until(duration, load.counts.delivered());
        anyhow::ensure!(!self.interrupt.is_set(), "interrupted");
        load.check()
    }
}

/// What a session subscribes to: subscriptions go round, so that those of a topic are in neighbouring sessions, and on all
/// instances.
fn topics_of(options: &Options, session: usize) -> Vec<String> {
    let own = (session..options.subscriptions()).step_by(options.sessions);
    own.map(|subscription| topic(subscription / options.subscribers)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_topic_has_its_subscribers_and_no_session_has_one_twice() {
        let command = declare(clap::Command::new(COMMAND));
        let line = ["topics", "--topics", "70", "--subscribers", "10", "--sessions", "12"];
        let options = read(&command.try_get_matches_from(line).expect("arguments")).expect("options");
        let mut subscribers = BTreeMap::<String, BTreeSet<usize>>::new();
        for session in 0..options.sessions {
            for topic in topics_of(&options, session) {
                assert!(subscribers.entry(topic).or_default().insert(session));
            }
        }
        assert_eq!(subscribers.len(), 70);
        assert!(subscribers.values().all(|sessions| sessions.len() == 10));
    }
}
