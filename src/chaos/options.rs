//! The arguments of `warren chaos`: declared, read, and checked against each other.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::script::Choice;
use super::subject::Route;
use crate::broker::Delivery;

/// The longest time that may be asked for.
const SECONDS_MAX: f64 = 86_400.0;

/// What to break, under which load, and where to put the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub seed: u64,
    pub sessions: usize,
    pub publishers: usize,
    pub instances: usize,
    /// Topics that half of the publishers publish to; with 0 there is only the broadcast.
    pub topics: usize,
    /// Users to whom others write; with 0 there are none.
    pub users: usize,
    /// Messages to users per second, of all writers together.
    pub letters: f64,
    /// Messages per second, of all publishers together.
    pub rate: f64,
    pub duration: Duration,
    /// Time for everything to arrive after the last message was sent.
    pub settle: Duration,
    /// Between two faults, if the script does not say how many there are.
    pub every: Duration,
    pub faults: Choice,
    /// How instances are told to receive the broadcast; not handed to them unless it was given.
    pub delivery: Option<Delivery>,
    /// Senders may be refused, as the rate is beyond what instances keep while the broker is away.
    pub allow_refusals: bool,
    pub json: Option<PathBuf>,
    /// For logs and the broker's data; a passing one if `None`.
    pub directory: Option<PathBuf>,
    pub node_script: Option<PathBuf>,
    /// Further arguments of the instances.
    pub serve: Vec<String>,
}

/// Arguments that contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Conflict(String);

/// Adds the arguments to clap's command.
pub fn declare(command: clap::Command) -> clap::Command {
    command
        .about("Break the broker, the wires and the instances under load, and count what is lost")
        .long_about(
            "Starts a RabbitMQ and instances of its own, opens sessions, publishes numbered messages, and meanwhile \
             breaks things by a script that the seed decides. Counts at the sessions what was lost, doubled and \
             reordered, and who was disconnected. Exit code: 0, 1 if anything was that the guarantee forbids, 2 for \
             wrong arguments.",
        )
        .args(load_arguments().map(|argument| argument.help_heading("Load")))
        .args(fault_arguments().map(|argument| argument.help_heading("Faults")))
        .args(server_arguments().map(|argument| argument.help_heading("Servers")))
        .args(report_arguments().map(|argument| argument.help_heading("Report")))
}

fn load_arguments() -> [Arg; 8] {
    [
        number("sessions", "N", "200").help("Sessions, spread over the instances"),
        number("publishers", "N", "8").help("Sessions among them that publish"),
        number("topics", "N", "4").help(
            "Topics to which every other publisher publishes; sessions listen to one, to all, or come and go. 0: only the \
             broadcast",
        ),
        number("users", "N", "8").help(
            "Users who come and go on all instances, and to whom others write, by name and as a group. 0: none",
        ),
        rate("rate", "100").help("Messages of all publishers together"),
        rate("letters", "20").help("Messages to users, of all who write to them together"),
        seconds("duration", "90").help("Time in which messages are published and things break"),
        seconds("settle", "30").help("Time for everything to arrive after that, at most"),
    ]
}

fn fault_arguments() -> [Arg; 3] {
    [
        Arg::new("seed")
            .long("seed")
            .value_name("N")
            .value_parser(value_parser!(u64))
            .help("The same seed and options give the same faults [default: by chance; it is printed]"),
        Arg::new("faults")
            .long("faults")
            .value_name("LIST")
            .default_value("all")
            .value_parser(|text: &str| text.parse::<Choice>())
            .help(
                "What may break: broker-kill, broker-restart, wire-cut, wire-delay, wire-blackhole, memory-alarm, \
                 instance-kill, instance-drain, stall-readers, separated by commas; or exactly how often each, as in \
                 broker-kill:3,wire-cut:2",
            ),
        seconds("every", "8").help("Between two faults, on average; without effect where --faults has counts"),
    ]
}

fn server_arguments() -> [Arg; 5] {
    [
        Arg::new("instances")
            .long("instances")
            .value_name("N")
            .default_value("2")
            .value_parser(value_parser!(u32).range(2..=3))
            .help("Instances to start: 2 or 3"),
        Arg::new("delivery")
            .long("delivery")
            .value_name("WAY")
            .value_parser(value_parser!(Delivery))
            .help("Handed to the instances, and which guarantee they are held to: queue or stream [default: queue]"),
        Arg::new("allow-refusals")
            .long("allow-refusals")
            .action(ArgAction::SetTrue)
            .help("Senders may be closed with 1013: for a rate beyond what instances keep while the broker is away"),
        Arg::new("node-script")
            .long("node-script")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .help("Starts and stops the broker [default: rabbitmq/node as of this program's build]"),
        Arg::new("serve")
            .value_name("ARGUMENT")
            .num_args(0..)
            .last(true)
            .help("Further arguments of `warren serve`, behind --"),
    ]
}

fn report_arguments() -> [Arg; 2] {
    let path = |name: &'static str| Arg::new(name).long(name).value_parser(value_parser!(PathBuf));
    [
        path("json").value_name("FILE").help("Write all numbers there"),
        path("directory")
            .value_name("DIR")
            .help("Logs and the broker's data go there and stay [default: a passing one, kept if the run fails]"),
    ]
}

fn number(name: &'static str, unit: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(unit).default_value(default).value_parser(value_parser!(u32))
}

fn rate(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("MESSAGES/S").default_value(default).value_parser(positive)
}

fn seconds(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("SECONDS").default_value(default).value_parser(span)
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (1.0..=SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("expected seconds from 1 to {SECONDS_MAX}"))
}

/// What the arguments ask for.
pub fn read(matches: &ArgMatches) -> Result<Options, Conflict> {
    let count = |name: &str| matches.get_one::<u32>(name).map_or(0, |number| *number as usize);
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let time = |name: &str| matches.get_one::<Duration>(name).copied().unwrap_or_default();
    let options = Options {
        seed: matches.get_one("seed").copied().unwrap_or_else(|| u64::from(fastrand::u32(..))),
        sessions: count("sessions"),
        publishers: count("publishers"),
        instances: count("instances"),
        topics: count("topics"),
        users: count("users"),
        letters: matches.get_one("letters").copied().unwrap_or_default(),
        rate: matches.get_one("rate").copied().unwrap_or_default(),
        duration: time("duration"),
        settle: time("settle"),
        every: time("every"),
        faults: matches.get_one("faults").cloned().unwrap_or(Choice::Among(Vec::new())),
        delivery: matches.get_one("delivery").copied(),
        allow_refusals: matches.get_flag("allow-refusals"),
        json: path("json"),
        directory: path("directory"),
        node_script: path("node-script"),
        serve: matches.get_many("serve").into_iter().flatten().cloned().collect(),
    };
    options.check()
}

impl Options {
    fn check(self) -> Result<Options, Conflict> {
        let Options { sessions, publishers, instances, topics, .. } = self;
        if publishers < instances {
            let why = "each instance needs a session that publishes, to show that messages flow from it";
            return Err(Conflict(format!("--publishers {publishers}: {why}")));
        }
        if topics > 0 && publishers < 2 * instances {
            let why =
                "each instance needs one for the broadcast and one for topics, unless --topics 0 leaves those out";
            return Err(Conflict(format!("--publishers {publishers}: {why}")));
        }
        if publishers + instances > sessions {
            let why = format!("with {publishers} that publish, none would be left on each instance that only listens");
            return Err(Conflict(format!("--sessions {sessions}: {why}")));
        }
        Ok(self)
    }

    pub fn delivery(&self) -> Delivery {
        self.delivery.unwrap_or(Delivery::Queue)
    }

    /// The routes on which there are messages.
    pub fn routes(&self) -> &'static [Route] {
        if self.topics > 0 { &Route::ALL } else { &[Route::Broadcast] }
    }

    /// Whether there are messages that wait in queues of instances, and may be lost with them.
    pub fn has_queues(&self) -> bool {
        self.delivery() == Delivery::Queue
    }

    /// Between two messages of one publisher.
    pub fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.publishers as f64 / self.rate)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { instances, sessions, publishers, topics, users, letters, rate, duration, .. } = self;
        let (seconds, delivery) = (duration.as_secs_f64(), self.delivery());
        write!(
            f,
            "{instances} instances on RabbitMQ, delivery by {delivery}; {sessions} sessions, {publishers} of them \
             publishing {rate} messages/s together for {seconds} s, to the broadcast and {topics} topics; {users} users, \
             to whom {letters} messages/s are written"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::script::Kind;

    fn parse(line: &str) -> Result<Options, String> {
        let command = declare(clap::Command::new("chaos"));
        let words = ["chaos"].into_iter().chain(line.split_whitespace());
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        read(&matches).map_err(|conflict| conflict.to_string())
    }

    #[test]
    fn without_arguments_everything_breaks_at_random() {
        let options = parse("").expect("the defaults are allowed");
        assert_eq!(options.faults, Choice::Among(Kind::ALL.to_vec()));
        assert_eq!((options.sessions, options.instances, options.delivery), (200, 2, None));
        assert_eq!(options.delivery(), Delivery::Queue);
        assert!(options.has_queues() && options.topics > 0);
        assert_eq!(options.interval(), Duration::from_millis(80));
    }

    #[test]
    fn each_argument_arrives() {
        let line = "--seed 7 --sessions 30 --publishers 3 --instances 3 --topics 0 --rate 50 --duration 20 --settle 5 \
                    --delivery stream --faults broker-kill:3,wire-cut:2 --allow-refusals --json a --directory b \
                    --node-script c --every 60 -- --log debug";
        let options = parse(line).expect("allowed");
        let seconds = Duration::from_secs;
        assert_eq!((options.seed, options.sessions, options.publishers, options.instances), (7, 30, 3, 3));
        assert_eq!((options.duration, options.settle, options.every), (seconds(20), seconds(5), seconds(60)));
        assert_eq!((options.rate, options.delivery), (50.0, Some(Delivery::Stream)));
        assert!(!options.has_queues(), "there are no topics");
        assert_eq!(options.routes(), [Route::Broadcast]);
        assert_eq!(options.faults, Choice::Exactly(vec![(Kind::BrokerKill, 3), (Kind::WireCut, 2)]));
        assert!(options.allow_refusals);
        assert_eq!(
            [options.json, options.directory, options.node_script].map(Option::unwrap_or_default),
            [PathBuf::from("a"), PathBuf::from("b"), PathBuf::from("c")]
        );
        assert_eq!(options.serve, ["--log", "debug"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, named) in [
            ("--instances 4", "--instances"),
            ("--instances 1", "--instances"),
            ("--publishers 1", "--publishers 1"),
            ("--publishers 3", "--publishers 3"),
            ("--sessions 9 --publishers 8", "--sessions 9"),
            ("--faults fire", "--faults"),
            ("--delivery pigeon", "--delivery"),
            ("--rate 0", "--rate"),
            ("--duration 0", "--duration"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
