//! `warren bench presence`: what knowing many users costs. Users are announced, without sockets, by instances within this
//! process, over its own broker or RabbitMQ: memory for each, changes a second, and how long it takes until all agree.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Arg, ArgMatches, value_parser};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::interrupt::Interrupt;
use super::options::{Conflict, at_least, number};
use super::process::Processes;
use super::progress::grouped;
use crate::app::App;
use crate::broker::DELIVERIES_WAITING_MAX;
use crate::broker::memory::MemoryExchange;
use crate::config::{BrokerChoice, BrokerUri, Config, MetricsListen};
use crate::hub::Hub;
use crate::instance::InstanceName;
use crate::interest::Interest;
use crate::message::{MessageIds, Target, now_unix_ms};
use crate::metrics::{HubMetrics, PresenceMetrics};
use crate::presence::Presence;
use crate::user::UserName;

/// Of `warren bench`.
pub const COMMAND: &str = "presence";

/// Between two looks at what happens.
const LOOK: Duration = Duration::from_millis(1);

/// Whoever does not agree by then never will.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to measure, with what, and where to put the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub users: usize,
    /// Users of each instance that leave, and as many that come, before the other is waited for.
    pub changing: usize,
    pub rounds: usize,
    pub broker: Option<BrokerUri>,
    pub json: Option<PathBuf>,
}

/// Adds the arguments to clap's command.
pub fn declare(command: clap::Command) -> clap::Command {
    command
        .about("Measure what knowing many users costs two instances")
        .long_about(
            "Announces users on two instances within this process, half of them on each, and prints memory per user and \
             instance, the time until both know all of them, the changes a second at which they keep up, and the time \
             until a third one knows all.",
        )
        .args([
            number("users", "N", "200000").help("Users, on both instances together"),
            number("changing", "N", "20000").help("Users of each instance that leave, and as many that come, in a round"),
            number("rounds", "N", "20").help("Rounds of that"),
            Arg::new("broker")
                .long("broker")
                .value_name("URI")
                .value_parser(|text: &str| text.parse::<BrokerUri>())
                .help("RabbitMQ between the instances [default: the in-process broker]"),
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write all numbers there"),
        ])
}

/// What the arguments ask for.
pub fn read(matches: &ArgMatches) -> Result<Options, Conflict> {
    let some = |name| at_least(matches, name, 1);
    let options = Options {
        users: some("users")?,
        changing: some("changing")?,
        rounds: some("rounds")?,
        broker: matches.get_one("broker").cloned(),
        json: matches.get_one("json").cloned(),
    };
    let Options { users, changing, .. } = options;
    if changing > users / 2 {
        return Err(Conflict(format!("--changing {changing}: each instance has only {} users", users / 2)));
    }
    Ok(options)
}

/// What was measured.
pub struct Figures {
    users: usize,
    carrier: &'static str,
    bytes_per_user: Option<f64>,
    agree: Duration,
    changes_per_second: f64,
    newcomer: Duration,
}

impl Figures {
    pub fn markdown(&self) -> String {
        let memory = self.bytes_per_user.map_or("not known".to_owned(), |bytes| format!("{bytes:.0} bytes"));
        let Figures { users, carrier, agree, changes_per_second, newcomer, .. } = self;
        format!(
            "| between the instances | users | memory per user and instance | until both agree | changes a second, kept up \
             with | until a third one knows all |\n| --- | --- | --- | --- | --- | --- |\n| {carrier} | {} | {memory} | \
             {:.2} s | {} | {:.2} s |\n",
            grouped(*users as u64),
            agree.as_secs_f64(),
            grouped(*changes_per_second as u64),
            newcomer.as_secs_f64(),
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "users": self.users, "between": self.carrier, "bytes_per_user_and_instance": self.bytes_per_user,
            "agree_s": self.agree.as_secs_f64(), "changes_per_second": self.changes_per_second,
            "newcomer_s": self.newcomer.as_secs_f64(),
        })
    }
}

/// Measures.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(options, interrupt))
}

async fn measure(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Figures> {
    let cluster = Cluster::new(options)?;
    let pair = [cluster.start(0).await?, cluster.start(1).await?];
    let both: Vec<&Instance> = pair.iter().collect();
    agree(&both, 0, interrupt).await?;
    let half = options.users / 2;
    let before = Processes(vec![std::process::id()]).pss_kib();
    let began = Instant::now();
    for (index, instance) in pair.iter().enumerate() {
        for number in 0..half {
            instance.presence.arrive(&name(index, number)?, number as u64, now_unix_ms());
        }
    }
    agree(&both, 2 * half, interrupt).await?;
    let until_agreed = began.elapsed();
    let after = Processes(vec![std::process::id()]).pss_kib();
    // Each of the two knows all.
    let grown = before.zip(after).map(|(before, after)| after.saturating_sub(before) as f64 * 1024.0);
    let bytes_per_user = grown.map(|bytes| bytes / (2.0 * 2.0 * half as f64));
    let changes_per_second = change(options, &pair, interrupt).await?;
    let began = Instant::now();
    let third = cluster.start(2).await?;
    agree(&[&pair[0], &pair[1], &third], 2 * half, interrupt).await?;
    let carrier = if options.broker.is_some() { "RabbitMQ" } else { "in process" };
    let newcomer = began.elapsed();
    Ok(Figures { users: 2 * half, carrier, bytes_per_user, agree: until_agreed, changes_per_second, newcomer })
}

/// Users leave and others come, on both at once, round by round; how many changes a second that makes.
async fn change(options: &Options, pair: &[Instance; 2], interrupt: &Interrupt) -> anyhow::Result<f64> {
    let (half, changing) = (options.users / 2, options.changing);
    let began = Instant::now();
    for round in 0..options.rounds {
        for (index, instance) in pair.iter().enumerate() {
            for one in 0..changing {
                let leaves = round * changing + one;
                let comes = leaves + half;
                instance.presence.leave(&name(index, leaves)?, leaves as u64);
                instance.presence.arrive(&name(index, comes)?, comes as u64, now_unix_ms());
            }
        }
        let last = (round + 1) * changing - 1 + half;
        for (index, other) in [(0, &pair[1]), (1, &pair[0])] {
            let last = name(index, last)?;
            until("what changed is known", interrupt, || !other.presence.holders(&last).is_empty()).await?;
        }
    }
    let changes = 2 * 2 * changing * options.rounds;
    Ok(changes as f64 / began.elapsed().as_secs_f64())
}

fn name(instance: usize, number: usize) -> anyhow::Result<UserName> {
    Ok(UserName::parse(&format!("user-{instance}-{number:07}"))?)
}

/// Ready when all know that there are so many sessions, and miss nothing.
async fn agree(instances: &[&Instance], sessions: usize, interrupt: &Interrupt) -> anyhow::Result<()> {
    until("all agree", interrupt, || {
        instances.iter().all(|instance| {
            let counts = instance.presence.counts();
            counts.len() == instances.len()
                && counts.iter().map(|(_, count)| count.sessions).sum::<usize>() == sessions
                && instance.presence.is_whole()
        })
    })
    .await
}

async fn until(what: &str, interrupt: &Interrupt, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_so() {
        ensure!(!interrupt.is_set(), "interrupted");
        ensure!(began.elapsed() < PATIENCE, "it did not happen within {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// What the instances have in common.
struct Cluster {
    config: Config,
    exchange: MemoryExchange,
}

/// An instance of which there is nothing but its presence.
struct Instance {
    presence: Presence,
    tasks: [JoinHandle<()>; 2],
}

impl Cluster {
    fn new(options: &Options) -> anyhow::Result<Cluster> {
        let broker = options.broker.clone().map_or(BrokerChoice::Memory, |uri| BrokerChoice::Amqp(vec![uri]));
        let prefix = format!("bench-presence-{}", std::process::id()).parse().context("a prefix of its own")?;
        let config = Config {
            host: [127, 0, 0, 1].into(),
            port: 0,
            metrics_listen: MetricsListen::Off,
            broker,
            prefix,
            ..Config::default()
        };
        Ok(Cluster { config, exchange: MemoryExchange::default() })
    }

    async fn start(&self, index: usize) -> anyhow::Result<Instance> {
        let instance = Some(InstanceName::parse(&format!("bench-{}_{index}", std::process::id()))?);
        let app = App::bind(Config { instance, ..self.config.clone() })?.with_exchange(self.exchange.clone());
        let ids = MessageIds::new(app.incarnation().clone());
        let presence = Presence::new(ids.clone(), PresenceMetrics::default());
        let interest = Arc::new(Interest::by_keys());
        let hub = Hub::start(1, interest.clone(), HubMetrics::default());
        let (deliveries, mut delivered) = mpsc::channel(DELIVERIES_WAITING_MAX);
        let (broker, _mailboxes, _refused) = app.broker(deliveries, interest, &ids)?;
        let mut link = broker.link();
        tokio::time::timeout(PATIENCE, link.wait_for(|link| link.is_up())).await.context("the broker")??;
        let heard = presence.clone();
        let own = app.instance().clone();
        let hearing = tokio::spawn(async move {
            while let Some(delivered) = delivered.recv().await {
                for (message, _) in &delivered.messages {
                    match &message.target {
                        Target::Peers => heard.take(message),
                        Target::Peer(name) if *name == own => heard.take(message),
                        _ => {}
                    }
                }
            }
        });
        let running = tokio::spawn(presence.clone().run(broker, hub));
        Ok(Instance { presence, tasks: [hearing, running] })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_users_are_measured() {
        let options = Options { users: 1000, changing: 100, rounds: 3, broker: None, json: None };
        let figures = run(&options, &Interrupt::default()).expect("measured");
        assert!(figures.changes_per_second > 0.0 && figures.agree > Duration::ZERO);
        assert!(figures.markdown().contains("| in process | 1,000 |"), "{}", figures.markdown());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, named) in [("--users 10 --changing 6", "--changing 6"), ("--rounds 0", "--rounds 0")] {
            let words = ["presence"].into_iter().chain(line.split_whitespace());
            let matches = declare(clap::Command::new(COMMAND)).try_get_matches_from(words).expect("known arguments");
            assert!(read(&matches).expect_err(line).to_string().contains(named), "{line}");
        }
    }
}
