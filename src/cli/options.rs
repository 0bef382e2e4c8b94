//! The arguments of `warren publish` and `warren subscribe`: declared and read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::secret;
use super::server::Server;
use crate::topic::{Pattern, Topic};

/// The longest time that may be asked for.
const SECONDS_MAX: f64 = 86_400.0;

/// The variable that may hold the API key.
pub const API_KEY_VARIABLE: &str = "WARREN_API_KEY";

/// The variable that may hold a user's token.
pub const TOKEN_VARIABLE: &str = "WARREN_TOKEN";

/// What `warren publish` is to do.
#[derive(Clone, PartialEq)]
pub struct Publishing {
    pub server: Server,
    /// The broadcast, if `None`.
    pub topic: Option<Topic>,
    pub source: Source,
    pub api_key: Option<String>,
    pub timeout: Duration,
}

/// Where messages come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Argument(String),
    /// All of standard input is one message.
    Input,
    /// Each line of it is one.
    Lines,
}

/// What `warren subscribe` is to do.
#[derive(Clone, PartialEq)]
pub struct Subscribing {
    pub server: Server,
    pub patterns: Vec<Pattern>,
    pub broadcast: bool,
    /// One JSON object a line.
    pub json: bool,
    /// Messages after which it ends.
    pub count: Option<u64>,
    pub timeout: Duration,
    /// Silence after which the connection counts as lost.
    pub idle_timeout: Duration,
    pub token: Option<String>,
}

impl std::fmt::Debug for Subscribing {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Subscribing { server, patterns, broadcast, .. } = self;
        let mut shown = f.debug_struct("Subscribing");
        shown.field("server", server).field("patterns", patterns).field("broadcast", broadcast).finish()
    }
}

impl std::fmt::Debug for Publishing {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Publishing { server, topic, source, .. } = self;
        f.debug_struct("Publishing").field("server", server).field("topic", topic).field("source", source).finish()
    }
}

/// Arguments that contradict each other, or name what cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Conflict(String);

impl Conflict {
    pub(super) fn new(explanation: String) -> Conflict {
        Conflict(explanation)
    }
}

/// Adds the arguments of `warren publish` to clap's command.
pub fn declare_publish(command: clap::Command) -> clap::Command {
    command
        .about("Publish a message to a topic, or to everybody")
        .long_about(
            "Publishes a message through a running server and prints its id once the broker has confirmed it. Exit code: \
             0, 1 if that is not so, 2 for wrong arguments.",
        )
        .args([
            Arg::new("topic")
                .value_name("TOPIC")
                .help("Words between dots or slashes, such as orders.17"),
            Arg::new("message").value_name("MESSAGE").allow_hyphen_values(true).help(
                "The message [default: all of standard input, byte for byte; what is not UTF-8 is sent as binary]",
            ),
            switch("broadcast").help("To everybody on /message instead of a topic; what follows is the message"),
            switch("lines").help("Each line of standard input is a message, published when it comes"),
            Arg::new("api-key-file")
                .long("api-key-file")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help(format!("File with the API key, or a token with the role publish, where the server asks for one [or: {API_KEY_VARIABLE}]")),
            url(),
            seconds("timeout", "30").help("Time for the broker's confirmation of each message"),
        ])
}

/// Adds the arguments of `warren subscribe`.
pub fn declare_subscribe(command: clap::Command) -> clap::Command {
    command
        .about("Print the messages of topics, or of the broadcast, as they come")
        .long_about(
            "Prints what is published from now on, a line for each message: when, to which topic, and the text. Control \
             characters are shown as escapes, bytes in base64. A lost connection is replaced, which standard error tells. \
             Exit code: 0, 1 if the server cannot be reached at first or refuses, 2 for wrong arguments.",
        )
        .args([
            Arg::new("topic")
                .value_name("TOPIC")
                .num_args(0..)
                .value_parser(|text: &str| Pattern::parse(text))
                .help("Topics, also with * for one word and # for any number [default: the broadcast]"),
            switch("broadcast").help("The broadcast beside the topics"),
            switch("json").help("Print JSON, one object a line"),
            Arg::new("count")
                .long("count")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..))
                .help("End after so many messages"),
            Arg::new("token-file")
                .long("token-file")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help(format!("File with a user's token, where the server asks for one [or: {TOKEN_VARIABLE}]")),
            url(),
            seconds("timeout", "30").help("Time for each attempt to connect"),
            seconds("idle-timeout", "75").help(
                "Silence after which the connection counts as lost; above the server's --ping-interval-ms, at which it \
                 says something",
            ),
        ])
}

fn url() -> Arg {
    Arg::new("url")
        .long("url")
        .value_name("URL")
        .default_value("http://localhost:8080")
        .help("The server, over plain HTTP")
}

fn switch(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

fn seconds(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("SECONDS").default_value(default).value_parser(span)
}

fn span(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("expected seconds from 0.1 to {SECONDS_MAX}"))
}

/// What the arguments of `warren publish` ask for.
pub fn read_publish(
    matches: &ArgMatches,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Publishing, Conflict> {
    let (topic, message) = addressed(matches)?;
    let source = match (message, matches.get_flag("lines")) {
        (Some(_), true) => {
            return Err(Conflict("--lines: the messages come from standard input: give none".to_owned()));
        }
        (Some(message), false) => Source::Argument(message),
        (None, true) => Source::Lines,
        (None, false) => Source::Input,
    };
    let api_key = secret::read("--api-key-file", file(matches, "api-key-file"), API_KEY_VARIABLE, env)?;
    Ok(Publishing { server: server(matches)?, topic, source, api_key, timeout: time(matches, "timeout") })
}

/// Topic and message. Without a topic the first argument is the message.
fn addressed(matches: &ArgMatches) -> Result<(Option<Topic>, Option<String>), Conflict> {
    let message = matches.get_one::<String>("message").cloned();
    let topic = matches.get_one::<String>("topic");
    if !matches.get_flag("broadcast") {
        let Some(text) = topic else { return Err(Conflict("give a topic, or --broadcast".to_owned())) };
        let topic = Topic::parse(text).map_err(|reason| Conflict(format!("{text:?}: {reason}")))?;
        return Ok((Some(topic), message));
    }
    match (topic, message) {
        (Some(_), Some(_)) => Err(Conflict("--broadcast: give no topic, it goes to everybody".to_owned())),
        (message, None) => Ok((None, message.cloned())),
        (None, Some(message)) => Ok((None, Some(message))),
    }
}

/// What the arguments of `warren subscribe` ask for.
pub fn read_subscribe(
    matches: &ArgMatches,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Subscribing, Conflict> {
    Ok(Subscribing {
        server: server(matches)?,
        patterns: matches.get_many::<Pattern>("topic").unwrap_or_default().cloned().collect(),
        broadcast: matches.get_flag("broadcast"),
        json: matches.get_flag("json"),
        count: matches.get_one::<u64>("count").copied(),
        timeout: time(matches, "timeout"),
        idle_timeout: time(matches, "idle-timeout"),
        token: secret::read("--token-file", file(matches, "token-file"), TOKEN_VARIABLE, env)?,
    })
}

fn file<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a Path> {
    matches.get_one::<PathBuf>(name).map(PathBuf::as_path)
}

/// Not shown in the error: there might be a password in it.
fn server(matches: &ArgMatches) -> Result<Server, Conflict> {
    let text = matches.get_one::<String>("url").expect("it has a default");
    Server::parse(text).map_err(|reason| Conflict(format!("--url: {reason}")))
}

fn time(matches: &ArgMatches, name: &str) -> Duration {
    matches.get_one::<Duration>(name).copied().expect("it has a default")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Declare = fn(clap::Command) -> clap::Command;

    fn matches(declare: Declare, words: &[&str]) -> Result<ArgMatches, String> {
        let words = ["warren"].iter().chain(words);
        declare(clap::Command::new("warren")).try_get_matches_from(words).map_err(|error| error.to_string())
    }

    fn publishing(words: &[&str]) -> Result<Publishing, String> {
        read_publish(&matches(declare_publish, words)?, []).map_err(|conflict| conflict.to_string())
    }

    #[test]
    fn a_message_is_an_argument_or_comes_from_standard_input() {
        let topic = |name| Some(Topic::parse(name).unwrap());
        let argument = |text: &str| Source::Argument(text.to_owned());
        for (words, expected_topic, source) in [
            (&["a.b", "hello"][..], topic("a.b"), argument("hello")),
            (&["/a/b", ""], topic("a.b"), argument("")),
            (&["a", "-1"], topic("a"), argument("-1")),
            (&["a"], topic("a"), Source::Input),
            (&["a", "--lines"], topic("a"), Source::Lines),
            (&["--broadcast", "not a topic"], None, argument("not a topic")),
            (&["--broadcast"], None, Source::Input),
            (&["--broadcast", "--lines"], None, Source::Lines),
        ] {
            let publishing = publishing(words).expect("allowed");
            assert_eq!((publishing.topic, publishing.source), (expected_topic, source), "{words:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (words, named) in [
            (&[][..], "--broadcast"),
            (&["a..b", "x"], "a..b"),
            (&["a.*", "x"], "a.*"),
            (&["a", "x", "--broadcast"], "--broadcast"),
            (&["a", "x", "--lines"], "--lines"),
            (&["a", "x", "--timeout", "0"], "--timeout"),
            (&["a", "x", "--url", "https://localhost"], "--url"),
            (&["a", "x", "--url", "localhost:8080"], "--url"),
            (&["a", "x", "--api-key-file", "/nowhere/key"], "/nowhere/key"),
        ] {
            let error = publishing(words).expect_err("refused");
            assert!(error.contains(named), "{words:?}: {error}");
        }
        for words in [&["a..b"][..], &["--count", "0"], &["--idle-timeout", "x"]] {
            assert!(matches(declare_subscribe, words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_key_comes_from_the_environment_and_is_shown_nowhere() {
        let of = |value: &str| {
            let env = [(OsString::from(API_KEY_VARIABLE), OsString::from(value))];
            read_publish(&matches(declare_publish, &["a", "b"]).unwrap(), env)
        };
        let publishing = of("secret\n").expect("allowed");
        assert_eq!(publishing.api_key.as_deref(), Some("secret"));
        assert!(!format!("{publishing:?}").contains("secret"));
        for wrong in ["", "two words", "ü"] {
            let error = of(wrong).expect_err("refused").to_string();
            assert!(error.starts_with(API_KEY_VARIABLE), "{error}");
        }
    }

    #[test]
    fn each_argument_of_subscribe_arrives() {
        let words = ["a.*", "/b", "--broadcast", "--json", "--count", "3", "--timeout", "1", "--idle-timeout", "2.5"];
        let env = [(OsString::from(TOKEN_VARIABLE), OsString::from("secret"))];
        let subscribing = read_subscribe(&matches(declare_subscribe, &words).unwrap(), env).unwrap();
        assert_eq!(subscribing.token.as_deref(), Some("secret"));
        assert!(!format!("{subscribing:?}").contains("secret"));
        let patterns: Vec<_> = subscribing.patterns.iter().map(Pattern::as_str).collect();
        assert_eq!(patterns, ["a.*", "b"]);
        assert!(subscribing.broadcast && subscribing.json);
        assert_eq!((subscribing.count, subscribing.timeout), (Some(3), Duration::from_secs(1)));
        assert_eq!(subscribing.idle_timeout, Duration::from_millis(2500));
    }
}
