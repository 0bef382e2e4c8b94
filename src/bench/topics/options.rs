//! The arguments of `warren bench topics`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, value_parser};

use crate::bench::options::{Conflict, at_least, measured_phase, number, seconds};
use crate::bench::server::Own;
use crate::config::BrokerUri;
use crate::protocol::json::TOPICS_PER_REQUEST_MAX;

/// What to measure, with what, and where to put the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub topics: usize,
    /// Sessions that subscribe to each topic.
    pub subscribers: usize,
    /// Sessions that listen, among which the subscriptions are spread.
    pub sessions: usize,
    /// Sessions beside them that publish.
    pub publishers: usize,
    /// Messages of each publisher that have not reached everybody yet.
    pub window: usize,
    pub size: usize,
    pub warmup: Duration,
    pub duration: Duration,
    pub threads: usize,
    pub repeat: usize,
    pub own: Own,
    pub json: Option<PathBuf>,
}

impl Options {
    pub fn subscriptions(&self) -> usize {
        self.topics * self.subscribers
    }
}

/// Adds the arguments to clap's command.
pub fn declare(command: clap::Command) -> clap::Command {
    command
        .about("Measure many topics with some subscribers each, beside the broadcast")
        .long_about(
            "Starts Warren, subscribes sessions of warren.v1.json to many topics, and publishes to topics of chance; then \
             the same with the broadcast, to as many sessions as a topic has and to all of them. Prints memory per \
             subscription, messages per second and CPU per delivery as a Markdown table. Exit code: 0, 1 if anything \
             was lost, 2 for wrong arguments.",
        )
        .args([
            number("topics", "N", "100000").help("Topics"),
            number("subscribers", "N", "10").help("Sessions that subscribe to each"),
            number("sessions", "N", "2000").help("Sessions that listen, with an equal share of the subscriptions each"),
            number("publishers", "N", "8").help("Sessions beside them that publish"),
            number("window", "MESSAGES", "16").help("Messages of each publisher that have not reached everybody yet"),
            number("size", "BYTES", "128").help("Text of a message"),
            seconds("duration", "5").value_parser(measured_phase).help("Measured time, more than 0"),
            seconds("warmup", "1").help("Time before it that counts for nothing"),
            number("threads", "N", "1").help("Threads of the generator"),
            number("repeat", "N", "1").help("Rounds, of which medians are reported"),
            Arg::new("broker")
                .long("broker")
                .value_name("URI")
                .value_parser(|text: &str| text.parse::<BrokerUri>())
                .help("RabbitMQ for the Warren that is started [default: its in-process broker]"),
            number("instances", "N", "1").help("Instances to start; more than one need --broker"),
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write all numbers there"),
            Arg::new("serve")
                .value_name("ARGUMENT")
                .num_args(0..)
                .last(true)
                .help("Further arguments of `warren serve`, behind --"),
        ])
}

/// What the arguments ask for.
pub fn read(matches: &ArgMatches) -> Result<Options, Conflict> {
    let some = |name| at_least(matches, name, 1);
    let span = |name: &str| matches.get_one(name).copied().unwrap_or_default();
    let own = Own {
        broker: matches.get_one("broker").cloned(),
        instances: some("instances")?,
        arguments: matches.get_many("serve").into_iter().flatten().cloned().collect(),
        ..Own::default()
    };
    if own.instances > 1 && own.broker.is_none() {
        let instances = own.instances;
        return Err(Conflict(format!("--instances {instances}: without --broker they would not hear each other")));
    }
    let options = Options {
        topics: some("topics")?,
        subscribers: some("subscribers")?,
        sessions: some("sessions")?,
        publishers: some("publishers")?,
        window: some("window")?,
        size: some("size")?,
        warmup: span("warmup"),
        duration: span("duration"),
        threads: some("threads")?,
        repeat: some("repeat")?,
        own,
        json: matches.get_one("json").cloned(),
    };
    options.check()
}

impl Options {
    fn check(self) -> Result<Options, Conflict> {
        let Options { sessions, subscribers, .. } = self;
        if subscribers > sessions {
            return Err(Conflict(format!("--subscribers {subscribers}: there are only {sessions} sessions")));
        }
        let each = self.subscriptions().div_ceil(sessions);
        // One request each; and what a session may have by default.
        if each > TOPICS_PER_REQUEST_MAX {
            let why = format!("each would subscribe to {each} topics, and {TOPICS_PER_REQUEST_MAX} are allowed");
            return Err(Conflict(format!("--sessions {sessions}: {why}")));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let words = ["topics"].into_iter().chain(line.split_whitespace());
        let matches = declare(clap::Command::new("topics")).try_get_matches_from(words);
        read(&matches.map_err(|error| error.to_string())?).map_err(|conflict| conflict.to_string())
    }

    #[test]
    fn without_arguments_it_is_a_million_subscriptions() {
        let options = parse("").expect("the defaults are allowed");
        assert_eq!((options.subscriptions(), options.sessions), (1_000_000, 2_000));
        let options = parse("--topics 10 --broker amqp://h --instances 2 -- --delivery stream").expect("allowed");
        assert_eq!((options.topics, options.own.instances), (10, 2));
        assert_eq!(options.own.arguments, ["--delivery", "stream"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, named) in [
            ("--sessions 900", "--sessions 900"),
            ("--subscribers 5 --sessions 4 --topics 1", "only 4 sessions"),
            ("--topics 0", "--topics 0"),
            ("--instances 2", "without --broker"),
            ("--duration 0", "nothing is measured"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
