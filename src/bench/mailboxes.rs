//! `warren bench mailboxes`: what it costs to keep messages for users who are away. An instance within this process, without
//! sockets, writes to each of them, and reads what waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Arg, ArgMatches};
use tokio::sync::mpsc;

use super::interrupt::Interrupt;
use super::options::{Conflict, at_least, number};
use super::progress::grouped;
use crate::app::App;
use crate::broker::{Broker, DELIVERIES_WAITING_MAX, Letter, Mailboxes, NotAccepted, Reader, Reading, Receipt, Settle};
use crate::config::{BrokerChoice, BrokerUri, Config, MetricsListen};
use crate::interest::Interest;
use crate::message::{Message, MessageIds, PayloadKind, Target, now_unix_ms};
use crate::user::UserName;

/// Of `warren bench`.
pub const COMMAND: &str = "mailboxes";

/// Between two looks at what happens.
const LOOK: Duration = Duration::from_millis(1);

/// What does not go on for so long never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// A text as people write it.
const TEXT: &str = "The order 17 has left our warehouse in Rotterdam and will be with you on Thursday before noon, at the \
                    address that you gave.";

/// What to measure, and with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub users: usize,
    pub broker: Option<BrokerUri>,
    /// Leave what was made, so that what it takes can be looked at.
    pub keep: bool,
}

/// Adds the arguments to clap's command.
pub fn declare(command: clap::Command) -> clap::Command {
    command
        .about("Measure what keeping messages for users who are away costs")
        .long_about(
            "Writes to users none of whom has a mailbox, which makes one for each, writes to them again, and then has all of \
             them come and read. Prints how many of each there were a second.",
        )
        .args([
            number("users", "N", "10000").help("Users who are away"),
            Arg::new("broker")
                .long("broker")
                .value_name("URI")
                .value_parser(|text: &str| text.parse::<BrokerUri>())
                .help("RabbitMQ that keeps the messages [default: the in-process broker]"),
            Arg::new("keep")
                .long("keep")
                .action(clap::ArgAction::SetTrue)
                .help("Only write: leave the mailboxes as they are, for an hour"),
        ])
}

/// What the arguments ask for.
pub fn read(matches: &ArgMatches) -> Result<Options, Conflict> {
    let users = at_least(matches, "users", 1)?;
    Ok(Options { users, broker: matches.get_one("broker").cloned(), keep: matches.get_flag("keep") })
}

/// What was measured: so many a second.
pub struct Figures {
    users: usize,
    kept_by: &'static str,
    first: f64,
    again: f64,
    read: Option<f64>,
}

impl Figures {
    pub fn markdown(&self) -> String {
        let rate = |value: f64| grouped(value as u64);
        let read = self.read.map_or("-".to_owned(), |read| format!("{}/s", rate(read)));
        format!(
            "| kept by | users who are away | first message, which makes the mailbox | the next | users who come and read |\n\
             | --- | --- | --- | --- | --- |\n| {} | {} | {}/s | {}/s | {read} |\n",
            self.kept_by,
            grouped(self.users as u64),
            rate(self.first),
            rate(self.again),
        )
    }
}

/// Measures.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(options, interrupt))
}

async fn measure(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Figures> {
    let keeper = Keeper::start(options).await?;
    let names = (0..options.users).map(|number| UserName::parse(&format!("user-{number:07}")));
    let names: Vec<UserName> = names.collect::<Result<_, _>>()?;
    let users = options.users as f64;
    let first = users / keeper.write(&names, interrupt).await?.as_secs_f64();
    let again = users / keeper.write(&names, interrupt).await?.as_secs_f64();
    let read = if options.keep { None } else { Some(users / keeper.read(&names, interrupt).await?.as_secs_f64()) };
    let kept_by = if options.broker.is_some() { "RabbitMQ" } else { "the process" };
    Ok(Figures { users: options.users, kept_by, first, again, read })
}

/// An instance of which there is nothing but its broker and its mailboxes.
struct Keeper {
    broker: Arc<dyn Broker>,
    mailboxes: Arc<dyn Mailboxes>,
    ids: MessageIds,
}

/// Counts what was settled.
#[derive(Default)]
struct Tally {
    kept: AtomicUsize,
    refused: Mutex<Option<NotAccepted>>,
}

impl Settle for Tally {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        match outcome {
            Ok(()) => drop(self.kept.fetch_add(1, Ordering::Relaxed)),
            Err(why) => *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why),
        }
    }
}

/// Acknowledges whatever comes.
#[derive(Default)]
struct Desk(AtomicU64);

impl Reader for Desk {
    fn take(&self, letter: Letter) {
        letter.acknowledge();
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Keeper {
    async fn start(options: &Options) -> anyhow::Result<Keeper> {
        let broker = options.broker.clone().map_or(BrokerChoice::Memory, |uri| BrokerChoice::Amqp(vec![uri]));
        let config = Config {
            host: [127, 0, 0, 1].into(),
            port: 0,
            metrics_listen: MetricsListen::Off,
            broker,
            prefix: format!("bench-mailboxes-{}", std::process::id()).parse().context("a prefix of its own")?,
            // What is left goes by itself.
            unread_age_s: 3600,
            mailbox_idle_s: 3600,
            ..Config::default()
        };
        let app = App::bind(config)?;
        let ids = MessageIds::new(app.incarnation().clone());
        let (deliveries, mut delivered) = mpsc::channel(DELIVERIES_WAITING_MAX);
        let (broker, mailboxes, _refused) = app.broker(deliveries, Arc::new(Interest::by_keys()), &ids)?;
        tokio::spawn(async move { while delivered.recv().await.is_some() {} });
        let mut link = broker.link();
        tokio::time::timeout(PATIENCE, link.wait_for(|link| link.is_up())).await.context("the broker")??;
        Ok(Keeper { broker, mailboxes, ids })
    }

    /// Writes to each; the answer is how long it took until all is kept.
    async fn write(&self, users: &[UserName], interrupt: &Interrupt) -> anyhow::Result<Duration> {
        let (began, tally) = (Instant::now(), Arc::new(Tally::default()));
        for user in users {
            let message = Message {
                id: Some(self.ids.next()),
                target: Target::User(user.clone()),
                kind: PayloadKind::Text,
                published_ms: now_unix_ms(),
                terms: None,
                payload: TEXT.into(),
            };
            self.broker.publish(message, Receipt::to(tally.clone())).await;
        }
        until(interrupt, || tally.kept.load(Ordering::Relaxed), users.len()).await?;
        if let Some(why) = *tally.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            bail!("a message was not kept: {why}");
        }
        Ok(began.elapsed())
    }

    /// Has all of them come and read both messages.
    async fn read(&self, users: &[UserName], interrupt: &Interrupt) -> anyhow::Result<Duration> {
        let (began, desk) = (Instant::now(), Arc::new(Desk::default()));
        let readings: Vec<Reading> = users.iter().map(|user| self.mailboxes.read(user.clone(), desk.clone())).collect();
        until(interrupt, || desk.0.load(Ordering::Relaxed) as usize, 2 * users.len()).await?;
        drop(readings);
        Ok(began.elapsed())
    }
}

/// Ready when the count is reached.
async fn until(interrupt: &Interrupt, count: impl Fn() -> usize, wanted: usize) -> anyhow::Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let now = count();
        if now >= wanted {
            return Ok(());
        }
        if now > last {
            (last, moved) = (now, Instant::now());
        }
        ensure!(!interrupt.is_set(), "interrupted");
        ensure!(moved.elapsed() < PATIENCE, "it got no further than {now} of {wanted}");
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_gives_figures() {
        let options = Options { users: 50, broker: None, keep: false };
        let figures = run(&options, &Interrupt::default()).unwrap();
        assert!(figures.first > 0.0 && figures.again > 0.0 && figures.read.is_some_and(|read| read > 0.0));
        assert!(figures.markdown().contains("| the process | 50 |"), "{}", figures.markdown());
    }
}
