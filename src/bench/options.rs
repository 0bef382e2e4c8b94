//! The arguments of `warren bench`: declared, read, and checked against each other.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::load::{Pace, Plan};
use super::measure::SETTLE;
use super::payload::Content;
use super::server::{Kind, Own, floor};
use super::target::Target;
use super::{mailboxes, presence, topics};
use crate::config::BrokerUri;

/// The longest phase that may be asked for.
const PHASE_SECONDS_MAX: f64 = 86_400.0;

/// What the suite decides by itself, for each of its rows.
const NOT_WITH_SUITE: [&str; 22] = [
    "url",
    "pid",
    "compare",
    "compare-pid",
    "instances",
    "served",
    "path",
    "worker-threads",
    "coalesce-ms",
    "floor",
    "floor-frames",
    "sessions",
    "publishers",
    "rate",
    "window",
    "size",
    "payload",
    "compress",
    "threads",
    "concurrency",
    "connect",
    "serve",
];

/// What `warren bench` is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Measure, and report.
    Measure(Box<Options>),
    /// Measure everything that the documentation shows.
    Suite(Box<Options>),
    /// Measure many topics, beside the broadcast.
    Topics(Box<topics::Options>),
    /// Measure what knowing many users costs.
    Presence(Box<presence::Options>),
    /// Measure what keeping messages for who is away costs.
    Mailboxes(mailboxes::Options),
    /// Be the floor for a measurement, with so many frames in each write.
    Floor { frames: usize },
}

/// What to measure, with what, and where to put the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub work: Work,
    pub warren: Kind,
    pub floor: Option<usize>,
    /// Each with its process, if that is known.
    pub compare: Vec<(Target, Option<u32>)>,
    /// Rounds; the task has a number of its own if none is given.
    pub repeat: Option<usize>,
    pub json: Option<PathBuf>,
    pub html: Option<PathBuf>,
    /// Of the suite's sessions and seconds.
    pub scale: f64,
}

/// The work that every server under comparison is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    pub sessions: usize,
    pub publishers: usize,
    pub pace: Pace,
    pub content: Content,
    pub size: usize,
    /// Have messages sent compressed.
    pub compress: bool,
    /// Between the last handshake and the look at the memory.
    pub settle: Duration,
    pub warmup: Duration,
    pub duration: Duration,
    pub threads: usize,
    pub concurrency: usize,
    /// Stop when all sessions are open and their memory is known.
    pub connect_only: bool,
}

impl Work {
    /// This work on these servers.
    pub fn plan(&self, targets: &[Target]) -> Plan {
        Plan {
            targets: targets.to_vec(),
            sessions: self.sessions,
            publishers: self.publishers,
            pace: self.pace,
            content: self.content,
            size: self.size,
            compress: self.compress,
            threads: self.threads,
            concurrency: self.concurrency,
        }
    }
}

/// Arguments that contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Conflict(pub(super) String);

/// Adds the arguments to clap's command.
pub fn declare(command: clap::Command) -> clap::Command {
    command
        .about("Measure a broadcast server, this one or another, and check that it loses nothing")
        .long_about(
            "Opens many sessions, publishes, checks that every session hears everything once and in order, and \
             reports throughput, latency, CPU and memory. Without a URL it starts a Warren of its own on loopback. \
             Exit code: 0, 1 if anything was lost, doubled or out of order, 2 for wrong arguments.",
        )
        .args_conflicts_with_subcommands(true)
        .subcommand(
            clap::Command::new(floor::COMMAND).hide(true).arg(Arg::new("frames").value_parser(value_parser!(usize))),
        )
        .subcommand(topics::declare(clap::Command::new(topics::COMMAND)))
        .subcommand(presence::declare(clap::Command::new(presence::COMMAND)))
        .subcommand(mailboxes::declare(clap::Command::new(mailboxes::COMMAND)))
        .args(work_arguments().map(|argument| argument.help_heading("Work")))
        .args(server_arguments().map(|argument| argument.help_heading("Servers")))
        .args(report_arguments().map(|argument| argument.help_heading("Report")))
}

fn work_arguments() -> [Arg; 12] {
    [
        number("sessions", "N", "1000").help("Sessions to open"),
        number("publishers", "N", "1").help("Sessions among them that publish"),
        Arg::new("rate")
            .long("rate")
            .value_name("MESSAGES/S")
            .value_parser(positive)
            .help("Open loop: so many messages per second in all, at fixed times from which latency counts"),
        number("window", "MESSAGES", "8")
            .conflicts_with("rate")
            .help("Closed loop, unless --rate is given: messages of each publisher on their way"),
        number("size", "BYTES", "128").help("Payload of a message, at least 48; of JSON, 67"),
        Arg::new("payload")
            .long("payload")
            .value_name("KIND")
            .default_value("filler")
            .value_parser(content)
            .help("What it is: filler, or json, which compresses as an application's messages do"),
        Arg::new("compress")
            .long("compress")
            .action(ArgAction::SetTrue)
            .conflicts_with("floor")
            .help("Ask for compressed messages (permessage-deflate), and take no server that does not agree"),
        seconds("duration", "5").value_parser(measured_phase).help("Measured time, more than 0"),
        seconds("warmup", "1").help("Time before it that counts for nothing"),
        number("threads", "N", "1").help("Threads of the generator"),
        number("concurrency", "N", "256").help("Handshakes under way at a time"),
        Arg::new("connect").long("connect").action(ArgAction::SetTrue).help("Only open sessions; publish nothing"),
    ]
}

fn server_arguments() -> [Arg; 14] {
    let target = |text: &str| text.parse::<Target>();
    [
        Arg::new("url")
            .value_name("URL")
            .num_args(0..)
            .value_parser(target)
            .help("ws://host:port/path of a server that runs already; several share the sessions"),
        Arg::new("pid")
            .long("pid")
            .value_name("PID")
            .action(ArgAction::Append)
            .value_parser(value_parser!(u32))
            .help("Process of that server on this host, for its CPU and memory; repeat for several"),
        Arg::new("broker")
            .long("broker")
            .value_name("URI")
            .conflicts_with("url")
            .value_parser(|text: &str| text.parse::<BrokerUri>())
            .help("RabbitMQ for the Warren that is started [default: its in-process broker]"),
        number("instances", "N", "1").conflicts_with("url").help("Instances to start; more than one need --broker"),
        number("served", "N", "0").conflicts_with("url").help("Instances among them that have sessions; 0 means all"),
        Arg::new("path")
            .long("path")
            .value_name("PATH")
            .default_value("/message")
            .value_parser(|text: &str| match text.starts_with('/') {
                true => Ok(text.to_owned()),
                false => Err("a path begins with a slash"),
            })
            .conflicts_with("url")
            .help("Where sessions are opened on the Warren that is started, such as /message/a.topic"),
        number("worker-threads", "N", "0").conflicts_with("url").help("Their threads; 0 means one per core"),
        number("coalesce-ms", "MS", "0").conflicts_with("url").help("How long their messages wait for others"),
        Arg::new("serve")
            .value_name("ARGUMENT")
            .num_args(0..)
            .last(true)
            .conflicts_with("url")
            .help("Further arguments of `warren serve`, behind --"),
        Arg::new("floor")
            .long("floor")
            .action(ArgAction::SetTrue)
            .help("Measure beside it what this machine's system calls alone take"),
        number("floor-frames", "N", "8")
            .conflicts_with("rate")
            .requires("floor")
            .help("Frames in each write of the floor in a closed loop"),
        Arg::new("compare")
            .long("compare")
            .value_name("URL")
            .action(ArgAction::Append)
            .num_args(1..)
            .value_parser(target)
            .help("Measure another server beside it, which sends each client's text to all"),
        Arg::new("compare-pid")
            .long("compare-pid")
            .value_name("PID")
            .action(ArgAction::Append)
            .num_args(1..)
            .requires("compare")
            .value_parser(value_parser!(u32))
            .help("Process of that server, for CPU and memory; one for each --compare, in their order"),
        Arg::new("repeat")
            .long("repeat")
            .value_name("N")
            .value_parser(value_parser!(u32))
            .help("Rounds, each over all servers in turn; medians are reported [default: 1, with --suite 5]"),
    ]
}

fn report_arguments() -> [Arg; 4] {
    let file = |name: &'static str| Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf));
    [
        file("json").help("Write all numbers there"),
        file("html").help("Write a page with plots there, complete in itself"),
        Arg::new("suite")
            .long("suite")
            .action(ArgAction::SetTrue)
            .conflicts_with_all(NOT_WITH_SUITE)
            .help("Measure everything that docs/benchmarks.md shows, against its targets, as a Markdown table"),
        Arg::new("scale")
            .long("scale")
            .value_name("FACTOR")
            .default_value("1")
            .value_parser(positive)
            .requires("suite")
            .help("Factor for the sessions and seconds of --suite"),
    ]
}

fn content(text: &str) -> Result<Content, String> {
    match text {
        "filler" => Ok(Content::Filler),
        "json" => Ok(Content::Json),
        _ => Err("expected filler or json".to_owned()),
    }
}

pub(super) fn number(name: &'static str, unit: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(unit).default_value(default).value_parser(value_parser!(u32))
}

pub(super) fn seconds(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("SECONDS").default_value(default).value_parser(phase)
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn phase(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=PHASE_SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("expected seconds from 0 to {PHASE_SECONDS_MAX}"))
}

pub(super) fn measured_phase(text: &str) -> Result<Duration, String> {
    phase(text).and_then(|duration| match duration.is_zero() {
        true => Err("nothing is measured in no time".to_owned()),
        false => Ok(duration),
    })
}

/// What the arguments ask for.
pub fn read(matches: &ArgMatches) -> Result<Task, Conflict> {
    if let Some((floor::COMMAND, matches)) = matches.subcommand() {
        return Ok(Task::Floor { frames: matches.get_one("frames").copied().unwrap_or(1) });
    }
    if let Some((topics::COMMAND, matches)) = matches.subcommand() {
        return topics::read(matches).map(|options| Task::Topics(Box::new(options)));
    }
    if let Some((presence::COMMAND, matches)) = matches.subcommand() {
        return presence::read(matches).map(|options| Task::Presence(Box::new(options)));
    }
    if let Some((mailboxes::COMMAND, matches)) = matches.subcommand() {
        return mailboxes::read(matches).map(Task::Mailboxes);
    }
    let options = Box::new(options(matches)?);
    Ok(if matches.get_flag("suite") { Task::Suite(options) } else { Task::Measure(options) })
}

fn options(matches: &ArgMatches) -> Result<Options, Conflict> {
    let work = work(matches)?;
    let frames = match work.pace {
        Pace::Rate(_) => 1,
        // A floor that waits for more frames than may be on their way would wait for ever.
        Pace::Window(window) => count(matches, "floor-frames").min(window as usize * work.publishers).max(1),
    };
    Ok(Options {
        warren: warren(matches)?,
        floor: matches.get_flag("floor").then_some(frames),
        compare: compared(matches)?,
        repeat: matches.get_one::<u32>("repeat").map(|rounds| (*rounds as usize).max(1)),
        json: matches.get_one("json").cloned(),
        html: matches.get_one("html").cloned(),
        scale: matches.get_one("scale").copied().unwrap_or(1.0),
        work,
    })
}

fn work(matches: &ArgMatches) -> Result<Work, Conflict> {
    let pace = match matches.get_one("rate") {
        Some(rate) => Pace::Rate(*rate),
        None => Pace::Window(u32::try_from(at_least(matches, "window", 1)?).unwrap_or(u32::MAX)),
    };
    let content = matches.get_one("payload").copied().unwrap_or(Content::Filler);
    let work = Work {
        sessions: at_least(matches, "sessions", 1)?,
        publishers: at_least(matches, "publishers", 1)?,
        pace,
        content,
        size: at_least(matches, "size", content.bytes_min())?,
        compress: matches.get_flag("compress"),
        settle: SETTLE,
        warmup: matches.get_one("warmup").copied().unwrap_or_default(),
        duration: matches.get_one("duration").copied().unwrap_or_default(),
        threads: at_least(matches, "threads", 1)?,
        concurrency: at_least(matches, "concurrency", 1)?,
        connect_only: matches.get_flag("connect"),
    };
    if work.publishers > work.sessions {
        return Err(Conflict(format!("--publishers {}: there are only {} sessions", work.publishers, work.sessions)));
    }
    if work.threads > work.sessions {
        return Err(Conflict(format!("--threads {}: there are only {} sessions", work.threads, work.sessions)));
    }
    Ok(work)
}

fn warren(matches: &ArgMatches) -> Result<Kind, Conflict> {
    let (targets, pids): (Vec<Target>, Vec<u32>) = (all(matches, "url"), all(matches, "pid"));
    if !targets.is_empty() {
        return Ok(Kind::Running { targets, pids });
    }
    if !pids.is_empty() {
        return Err(Conflict("--pid: without a URL the server is started here, and its process is known".to_owned()));
    }
    let broker: Option<BrokerUri> = matches.get_one("broker").cloned();
    let instances = at_least(matches, "instances", 1)?;
    if instances > 1 && broker.is_none() {
        return Err(Conflict(format!("--instances {instances}: without --broker they would not hear each other")));
    }
    let served = count(matches, "served");
    if served > instances {
        return Err(Conflict(format!("--served {served}: there are only {instances} instances")));
    }
    Ok(Kind::Warren(Own {
        broker,
        instances,
        served,
        path: matches.get_one("path").cloned().unwrap_or_default(),
        worker_threads: count(matches, "worker-threads"),
        coalesce_ms: matches.get_one("coalesce-ms").copied().unwrap_or(0),
        arguments: all(matches, "serve"),
    }))
}

fn count(matches: &ArgMatches, name: &str) -> usize {
    matches.get_one::<u32>(name).map_or(0, |number| *number as usize)
}

pub(super) fn at_least(matches: &ArgMatches, name: &str, least: usize) -> Result<usize, Conflict> {
    let number = count(matches, name);
    if number < least {
        return Err(Conflict(format!("--{name} {number}: expected at least {least}")));
    }
    Ok(number)
}

fn compared(matches: &ArgMatches) -> Result<Vec<(Target, Option<u32>)>, Conflict> {
    let (targets, pids): (Vec<Target>, Vec<u32>) = (all(matches, "compare"), all(matches, "compare-pid"));
    if !pids.is_empty() && pids.len() != targets.len() {
        return Err(Conflict("--compare-pid: one for each --compare, in their order".to_owned()));
    }
    let mut pids = pids.into_iter();
    Ok(targets.into_iter().map(|target| (target, pids.next())).collect())
}

fn all<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Vec<T> {
    matches.get_many::<T>(name).into_iter().flatten().cloned().collect()
}

#[cfg(test)]
mod tests;
