//! Carrying out the script: each fault strikes while messages are on their way, stays, is mended, and is over when
//! messages flow again.

use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::broker::Broker;
use super::instance::Instance;
use super::ledger::Ledger;
use super::script::{Fault, Kind};
use super::session::Orders;
use super::subject::Route;
use super::users::Mail;

/// How often a fault strikes anew that struck while nothing was outstanding.
const TRIES_MAX: u32 = 3;

/// How long to wait for a moment in which something is outstanding.
const MOMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long messages may take to flow again once a fault is mended.
const FLOW_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an instance may take to stop: longer than its `--drain-timeout-ms`.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after that an instance with a queue may take to tell what it has missed: two of the beacons by which it
/// knows how far the others are.
const TELLING_TIME: Duration = Duration::from_secs(2);

/// Between two looks at what happens.
pub const LOOK: Duration = Duration::from_millis(10);

/// What a fault came to. Times are the ledger's, until they are made to count from another start.
#[derive(Clone, Debug)]
pub struct Struck {
    pub fault: Fault,
    pub at: Duration,
    /// Messages sent but not yet heard back by their sender: of the instance that was struck, or of all.
    pub outstanding: u64,
    /// Messages to users that these had not seen then, each for each of its users: on their way, or kept for who is away.
    pub letters: u64,
    /// How often it had struck before, in vain: nothing was outstanding.
    pub in_vain: u32,
    pub mended: Duration,
    /// Every instance heard from every instance something that was sent after the mending.
    pub flowed: Option<Duration>,
    /// Different messages that it took along, by instance; known at the end of the run.
    pub lost: Vec<u64>,
    /// Messages that each instance told to be missing from before the strike until some time after messages flowed again.
    pub told: Vec<u64>,
    /// What else was wrong.
    pub trouble: Option<String>,
}

impl Struck {
    /// Lets the times count from `start`.
    pub fn count_from(&mut self, start: Duration) {
        for time in [&mut self.at, &mut self.mended].into_iter().chain(&mut self.flowed) {
            *time = time.saturating_sub(start);
        }
    }

    /// A fault that hit nothing proves nothing.
    pub fn counts(&self) -> bool {
        self.outstanding > 0
    }
}

/// All that can be broken.
pub struct Striker<'a> {
    pub broker: Broker,
    pub instances: Vec<Instance>,
    pub ledger: &'a Ledger,
    pub mail: &'a Mail,
    pub orders: watch::Sender<Orders>,
    pub sessions: usize,
    pub publishers: usize,
    /// On which messages have to flow.
    pub routes: &'static [Route],
    /// Messages may be lost with the instances' queues, and have to be told then.
    pub has_queues: bool,
}

impl Striker<'_> {
    /// Strikes, mends, and waits until messages flow again; strikes anew if it hit nothing.
    pub async fn carry_out(&mut self, fault: &Fault) -> anyhow::Result<Struck> {
        let mut in_vain = 0;
        let told_before = self.told().await?;
        loop {
            let mut struck = self.strike(fault).await?;
            struck.in_vain = in_vain;
            struck.flowed = self.flowed(struck.mended).await?;
            if struck.counts() || in_vain + 1 == TRIES_MAX {
                if self.has_queues && fault.kind.takes_queues_along() {
                    self.pass(TELLING_TIME).await?;
                }
                let told = self.told().await?.into_iter().zip(told_before);
                struck.told = told.map(|(now, before)| now.saturating_sub(before)).collect();
                return Ok(struck);
            }
            in_vain += 1;
        }
    }

    async fn strike(&mut self, fault: &Fault) -> anyhow::Result<Struck> {
        if let (Kind::InstanceKill | Kind::InstanceDrain, Some(instance)) = (fault.kind, fault.instance) {
            self.instances[instance].ask().await?;
        }
        // The alarm is raised by a command that takes its time; all others strike at the very moment.
        let mut outstanding = match fault.kind {
            Kind::MemoryAlarm => 0,
            _ => self.moment(fault.instance).await,
        };
        let letters = self.mail.outstanding();
        let mut at = self.ledger.now();
        let mut trouble = None;
        match (fault.kind, fault.instance) {
            (Kind::BrokerKill, _) => {
                self.broker.kill().await?;
                sleep(fault.hold).await;
                self.broker.start_again().await?;
            }
            (Kind::BrokerRestart, _) => {
                self.broker.stop().await?;
                sleep(fault.hold).await;
                self.broker.start_again().await?;
            }
            (Kind::MemoryAlarm, _) => {
                self.broker.raise_alarm().await?;
                at = self.ledger.now();
                outstanding = self.moment(None).await;
                sleep(fault.hold).await;
                self.broker.clear_alarm().await?;
            }
            (Kind::StallReaders, _) => {
                self.orders.send_modify(|orders| orders.stalled_from = Some(self.stalled_from(fault)));
                sleep(fault.hold).await;
                self.orders.send_modify(|orders| orders.stalled_from = None);
            }
            (Kind::WireCut | Kind::WireDelay | Kind::WireBlackhole, Some(instance)) => {
                let proxy = &self.instances[instance].proxy;
                match fault.kind {
                    Kind::WireCut => proxy.cut(),
                    Kind::WireBlackhole => proxy.swallow(),
                    _ => proxy.delay(Duration::from_millis(u64::from(fault.extent.unwrap_or(0)))),
                }
                sleep(fault.hold).await;
                proxy.mend();
            }
            (Kind::InstanceKill | Kind::InstanceDrain, Some(instance)) => {
                trouble = end_and_start(&mut self.instances[instance], fault).await?;
            }
            // The script names an instance for each of these.
            (_, None) => {}
        }
        let mended = self.ledger.now();
        Ok(Struck {
            fault: fault.clone(),
            at,
            outstanding,
            letters,
            in_vain: 0,
            mended,
            flowed: None,
            lost: Vec::new(),
            told: Vec::new(),
            trouble,
        })
    }

    /// How many messages each instance has told to be missing so far.
    async fn told(&self) -> anyhow::Result<Vec<u64>> {
        let mut told = Vec::with_capacity(self.instances.len());
        for instance in &self.instances {
            instance.ask().await?;
            told.push(instance.told_missing());
        }
        Ok(told)
    }

    async fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.all_live()?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The next moment in which messages are on their way, and how many; 0 if there is none for long.
    async fn moment(&self, instance: Option<usize>) -> u64 {
        let deadline = Instant::now() + MOMENT_TIMEOUT;
        loop {
            // Before the count is read: what is sent in between wakes it, too.
            let sent = self.ledger.sent.notified();
            let outstanding = self.ledger.outstanding(instance);
            if outstanding > 0 {
                return outstanding;
            }
            tokio::select! {
                () = sent => {}
                () = sleep_until(deadline) => return 0,
            }
        }
    }

    fn stalled_from(&self, fault: &Fault) -> usize {
        let readers = self.sessions - self.publishers;
        self.sessions - (readers * fault.extent.unwrap_or(0) as usize).div_ceil(100)
    }

    /// Waits until messages flow that were sent after `since`; when that was, if they do in time.
    pub async fn flowed(&mut self, since: Duration) -> anyhow::Result<Option<Duration>> {
        let deadline = Instant::now() + FLOW_TIMEOUT;
        while !self.ledger.flows_since(since, self.routes) {
            if Instant::now() > deadline {
                return Ok(None);
            }
            self.all_live()?;
            sleep(LOOK).await;
        }
        Ok(Some(self.ledger.now()))
    }

    /// An error if an instance has ended by itself.
    pub fn all_live(&mut self) -> anyhow::Result<()> {
        self.instances.iter_mut().try_for_each(Instance::lives)
    }
}

/// Ends an instance by force or in good order, and starts it again; what was wrong with its end.
async fn end_and_start(instance: &mut Instance, fault: &Fault) -> anyhow::Result<Option<String>> {
    let drains = fault.kind == Kind::InstanceDrain;
    instance.close_door();
    instance.signal(if drains { Signal::TERM } else { Signal::KILL })?;
    let ended = instance.ended(if drains { DRAIN_TIMEOUT } else { KILL_TIMEOUT }).await?;
    let trouble = match ended {
        None => Some(format!("instance {} did not stop", instance.number + 1)),
        Some(status) if drains && !status.success() => {
            Some(format!("instance {} stopped with {status}", instance.number + 1))
        }
        Some(_) => None,
    };
    sleep(fault.hold).await;
    instance.start().await?;
    Ok(trouble)
}
