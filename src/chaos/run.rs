//! One run, from the start of the broker to the settled books.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::balance::{self, Balance};
use super::broker::Broker;
use super::display::Display;
use super::instance::Instance;
use super::ledger::Ledger;
use super::options::Options;
use super::proxy::Proxy;
use super::report::{Memory, Report};
use super::script::Fault;
use super::session::{Orders, Session, Shared, connected};
use super::strike::{LOOK, Striker, Struck};
use super::subject::{Role, Route};
use super::users::{self, Key};
use super::verdict;

/// Time for all sessions to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// By then an instance holds what it needs; what it takes more later is growth.
const EARLY_MEMORY: Duration = Duration::from_secs(120);

/// Messages flow for at least this long after the last fault.
const AFTERMATH: Duration = Duration::from_secs(2);

/// Between two looks at what is still missing.
const SETTLE_LOOK: Duration = Duration::from_millis(100);

struct Run<'a> {
    /// First of all, so that they end before the instances: nobody is left to be surprised by those.
    _sessions: JoinSet<()>,
    _users: JoinSet<()>,
    options: &'a Options,
    striker: Striker<'a>,
    display: Display,
    connected: Arc<AtomicUsize>,
    /// Memory after two minutes, and in which run of the instance that was.
    early_memory: Vec<(Option<u64>, usize)>,
    /// When messages began to flow, by the clock and in the ledger's time.
    began: (Instant, Duration),
}

/// Starts everything, breaks it, and settles the books. All that it started ends with it.
pub async fn carry_out(options: &Options, script: &[Fault], directory: &Path) -> anyhow::Result<Report> {
    let ledger = Arc::new(Ledger::new(options.instances));
    let display = Display::start(ledger.clone(), options.duration);
    display.phase("starting RabbitMQ");
    let broker = Broker::start(directory, options.node_script.as_deref()).await?;
    display.phase("starting the instances");
    let key = Key::make(directory)?;
    let instances = start_instances(options, &broker, &key, directory).await?;
    let (orders, followed) = watch::channel(Orders::default());
    let shared = Shared { ledger: ledger.clone(), orders: followed, connected: Arc::default() };
    let _sessions = open_sessions(options, &instances, &shared);
    let mail = users::books(options);
    let doors = instances.iter().map(|instance| instance.door.subscribe()).collect();
    let _users = users::start(options, &key, &doors, &shared.orders, &mail)?;
    let (sessions, publishers) = (options.sessions, options.publishers);
    let (routes, has_queues) = (options.routes(), options.has_queues());
    let (ledger, mail) = (&*ledger, &*mail);
    let striker = Striker { broker, instances, ledger, mail, orders, sessions, publishers, routes, has_queues };
    let connected = shared.connected;
    let began = (Instant::now(), ledger.now());
    let mut run = Run { _sessions, _users, options, striker, display, connected, early_memory: Vec::new(), began };
    run.begin().await?;
    let faults = run.follow(script).await?;
    run.settle().await?;
    Ok(run.report(faults))
}

async fn start_instances(
    options: &Options,
    broker: &Broker,
    key: &Key,
    directory: &Path,
) -> anyhow::Result<Vec<Instance>> {
    let mut arguments = options.serve.clone();
    if options.users > 0 {
        arguments.extend(key.arguments());
    }
    if let Some(delivery) = options.delivery {
        arguments.extend(["--delivery".to_owned(), delivery.to_string()]);
    }
    let mut instances = Vec::new();
    for number in 0..options.instances {
        let proxy = Proxy::to(broker.address()).await.context("a proxy")?;
        let url = broker.url_through(proxy.address)?;
        let log = directory.join(format!("instance-{}.log", number + 1));
        let mut instance = Instance::new(number, proxy, url, arguments.clone(), log);
        instance.start().await?;
        instances.push(instance);
    }
    Ok(instances)
}

/// The first sessions publish; all are spread over the instances in turn.
fn open_sessions(options: &Options, instances: &[Instance], shared: &Shared) -> JoinSet<()> {
    let mut sessions = JoinSet::new();
    for number in 0..options.sessions {
        let instance = number % instances.len();
        let role = Role::of(number, instances.len(), options.publishers, options.topics);
        let door = instances[instance].door.subscribe();
        sessions.spawn(Session::new(number, instance, role, door, shared, options.interval()).run());
    }
    sessions
}

impl Run<'_> {
    /// Waits until every session is connected and messages flow.
    async fn begin(&mut self) -> anyhow::Result<()> {
        self.display.phase(format!("connecting {} sessions", self.options.sessions));
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        while connected(&self.connected) < self.options.sessions || !self.striker.mail.all_arrived() {
            self.striker.all_live()?;
            if Instant::now() > deadline {
                let count = connected(&self.connected);
                bail!("only {count} of {} sessions could be connected, or not every user", self.options.sessions);
            }
            sleep(LOOK).await;
        }
        self.began = (Instant::now(), self.striker.ledger.now());
        self.striker.orders.send_modify(|orders| orders.publishes = true);
        self.display.phase("publishing");
        let flowed = self.striker.flowed(self.began.1).await?;
        flowed.map(drop).context("no messages flow, though nothing was broken yet")
    }

    /// Breaks what the script says, and publishes until the time is over.
    async fn follow(&mut self, script: &[Fault]) -> anyhow::Result<Vec<Struck>> {
        let mut faults = Vec::new();
        for fault in script {
            self.pass_until(self.began.0 + fault.at).await?;
            self.display.phase(fault.to_string());
            faults.push(self.striker.carry_out(fault).await?);
            self.display.phase("publishing");
        }
        self.pass_until((self.began.0 + self.options.duration).max(Instant::now() + AFTERMATH)).await?;
        Ok(faults)
    }

    async fn pass_until(&mut self, time: Instant) -> anyhow::Result<()> {
        while Instant::now() < time {
            self.striker.all_live()?;
            if self.early_memory.is_empty() && self.began.0.elapsed() > EARLY_MEMORY {
                self.early_memory = self.memory();
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn memory(&self) -> Vec<(Option<u64>, usize)> {
        self.striker.instances.iter().map(Instance::pss_kib).collect()
    }

    /// Publishes no more, and waits until everything has arrived and everybody is back, as long as that may take.
    async fn settle(&mut self) -> anyhow::Result<()> {
        self.display.phase("waiting for what is missing");
        self.striker.orders.send_modify(|orders| {
            orders.publishes = false;
            orders.is_settling = true;
        });
        // Whoever has not heard of it yet, too.
        self.striker.ledger.close();
        let deadline = Instant::now() + self.options.settle;
        let all = self.options.sessions;
        while Instant::now() < deadline
            && (connected(&self.connected) < all
                || balance::missing(self.striker.ledger) > 0
                || self.striker.mail.outstanding() > 0)
        {
            self.striker.all_live()?;
            sleep(SETTLE_LOOK).await;
        }
        for instance in &self.striker.instances {
            instance.ask().await?;
        }
        Ok(())
    }

    fn report(&self, mut faults: Vec<Struck>) -> Report {
        let Run { options, striker, .. } = self;
        let excuses = verdict::excuses(&faults);
        let settled = |route| (route, balance::settle(striker.ledger, route, options.instances, &excuses));
        let mut balances: Vec<(Route, Balance)> = options.routes().iter().copied().map(settled).collect();
        verdict::charge(options, &mut faults, &balances);
        faults.iter_mut().for_each(|struck| struck.count_from(self.began.1));
        let all_lost = balances.iter_mut().flat_map(|(_, balance)| &mut balance.lost);
        all_lost.for_each(|lost| lost.sent = lost.sent.saturating_sub(self.began.1));
        let not_back = options.sessions.saturating_sub(connected(&self.connected));
        let mail = (options.users > 0).then(|| striker.mail.sums());
        let mut forbidden = verdict::forbidden(options, &balances, &faults, not_back);
        forbidden.extend(mail.iter().flat_map(verdict::of_users));
        let memory = self.memory().into_iter().enumerate().map(|(index, (end_kib, run))| {
            let early = self.early_memory.get(index).filter(|(_, early_run)| *early_run == run);
            Memory { early_kib: early.and_then(|(kib, _)| *kib), end_kib }
        });
        let told_missing = striker.instances.iter().map(Instance::told_missing).collect();
        Report { faults, balances, mail, told_missing, memory: memory.collect(), forbidden }
    }
}
