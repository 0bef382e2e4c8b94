//! The command line: which command is meant and what its arguments are.
//!
//! `warren` alone serves, so that the options of `serve` are taken with and without its name.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};

use super::error::{Error, Exit, did_you_mean};
use super::format::Shape;
use super::load::{self, Flags};
use super::options::{Config, config_row, rows};
use super::render;
use super::table::OptionRow;
use crate::{bench, chaos, cli};

/// Widest line of the help.
const HELP_COLUMNS_MAX: usize = 100;

/// Hidden: for a server that must not outlive the program that started it. No option, as it is nothing to configure.
pub const STOP_WITH_STDIN: &str = "stop-with-stdin";

/// Name of the flag that turns `warren config` to Markdown.
const MARKDOWN: &str = "markdown";

/// What the user wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Run the server; if `stops_with_stdin`, until standard input ends.
    Serve { config: Box<Config>, stops_with_stdin: bool },
    /// Measure a server.
    Bench(bench::Task),
    /// Break a cluster on purpose, and count.
    Chaos(Box<chaos::Options>),
    /// Be a client.
    Client(cli::Task),
    /// Print the documented sample file.
    PrintSample,
    /// Print the options as Markdown tables.
    PrintMarkdown,
}

/// The environment that was handed in.
type Environment = Vec<(OsString, OsString)>;

/// A command with a name of its own: how clap knows it, and what its arguments come to.
struct Subcommand {
    name: &'static str,
    declare: fn(clap::Command) -> clap::Command,
    read: fn(&ArgMatches, Environment) -> Result<Command, Error>,
}

const SUBCOMMANDS: [Subcommand; 7] = [
    Subcommand { name: "serve", declare: declare_serve, read: read_serve },
    Subcommand { name: "publish", declare: cli::declare_publish, read: read_publish },
    Subcommand { name: "subscribe", declare: cli::declare_subscribe, read: read_subscribe },
    Subcommand { name: "token", declare: cli::declare_token, read: read_token },
    Subcommand { name: "bench", declare: bench::declare, read: read_bench },
    Subcommand { name: "chaos", declare: chaos::declare, read: read_chaos },
    Subcommand { name: "config", declare: declare_config, read: read_config },
];

/// What `args`, the first of them the program's name, and `env` ask for. Reads the files they name; else it looks at
/// nothing and starts nothing.
pub fn from_args(
    args: impl IntoIterator<Item = OsString>,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Command, Exit> {
    let matches = command_line().try_get_matches_from(args).map_err(|error| exit_of(&error))?;
    let named = matches.subcommand().and_then(|(name, matches)| {
        let subcommand = SUBCOMMANDS.iter().find(|subcommand| subcommand.name == name)?;
        Some((subcommand.read, matches))
    });
    let (read, matches) = named.unwrap_or((read_serve, &matches));
    Ok(read(matches, env.collect())?)
}

fn command_line() -> clap::Command {
    let subcommands = SUBCOMMANDS.iter().map(|subcommand| (subcommand.declare)(clap::Command::new(subcommand.name)));
    let root = clap::Command::new("warren")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket broadcast server that scales out on RabbitMQ. Without a command it serves.")
        .max_term_width(HELP_COLUMNS_MAX)
        .args_conflicts_with_subcommands(true)
        .subcommands(subcommands);
    with_options(root)
}

fn declare_serve(command: clap::Command) -> clap::Command {
    with_options(command.about("Run the server (the same as no command)"))
}

fn read_serve(matches: &ArgMatches, env: Environment) -> Result<Command, Error> {
    let values_of = |row: OptionRow| {
        let values = matches.get_many::<OsString>(row.name)?;
        Some((row.name, values.cloned().collect()))
    };
    let flags: Flags = rows().into_iter().chain([config_row()]).filter_map(values_of).collect();
    let config = Box::new(load::load(&flags, env)?);
    Ok(Command::Serve { config, stops_with_stdin: matches.get_flag(STOP_WITH_STDIN) })
}

fn read_publish(matches: &ArgMatches, env: Environment) -> Result<Command, Error> {
    Ok(Command::Client(cli::Task::Publish(cli::read_publish(matches, env)?)))
}

fn read_subscribe(matches: &ArgMatches, env: Environment) -> Result<Command, Error> {
    Ok(Command::Client(cli::Task::Subscribe(cli::read_subscribe(matches, env)?)))
}

fn read_token(matches: &ArgMatches, env: Environment) -> Result<Command, Error> {
    Ok(Command::Client(cli::Task::Token(Box::new(cli::read_token(matches, env)?))))
}

fn read_bench(matches: &ArgMatches, _: Environment) -> Result<Command, Error> {
    Ok(Command::Bench(bench::read(matches)?))
}

fn read_chaos(matches: &ArgMatches, _: Environment) -> Result<Command, Error> {
    Ok(Command::Chaos(Box::new(chaos::read(matches)?)))
}

fn declare_config(command: clap::Command) -> clap::Command {
    let markdown = Arg::new(MARKDOWN).long(MARKDOWN).action(ArgAction::SetTrue);
    command
        .about("Print a sample of the configuration file, with every option, its default and the reason for it")
        .arg(markdown.help("Print Markdown tables instead, for documentation"))
}

fn read_config(matches: &ArgMatches, _: Environment) -> Result<Command, Error> {
    Ok(if matches.get_flag(MARKDOWN) { Command::PrintMarkdown } else { Command::PrintSample })
}

/// Adds the options of the table, under their headings.
fn with_options(command: clap::Command) -> clap::Command {
    command
        .next_line_help(true)
        .arg(Arg::new(STOP_WITH_STDIN).long(STOP_WITH_STDIN).action(ArgAction::SetTrue).hide(true))
        .arg(argument(&config_row()))
        .args(rows().iter().map(|row| argument(row).help_heading(row.heading)))
        .after_help(
            "A flag holds before its environment variable, the variable before the file, the file before the default. \
             `warren config` prints a sample file with the reason for each default.",
        )
}

fn argument(row: &OptionRow) -> Arg {
    // A list's flag may be given several times, one item each: then its singular reads better.
    let singular =
        row.flag().trim_start_matches('-').strip_suffix('s').filter(|_| row.shape == Shape::List).map(str::to_owned);
    let argument = Arg::new(row.name)
        .aliases(singular)
        .long(row.flag().trim_start_matches('-').to_owned())
        .value_name(row.placeholder)
        .value_parser(clap::value_parser!(OsString))
        .help(render::help(row));
    match row.shape {
        Shape::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        // A negative number is to be refused as a value rather than as a flag.
        Shape::Number | Shape::Bytes => argument.allow_negative_numbers(true),
        Shape::Text => argument,
        Shape::List => argument.action(ArgAction::Append),
    }
}

/// Help and version as clap writes them; an error as one line.
fn exit_of(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::answer(error.to_string()),
        _ => Exit::usage(&(headline(&error.to_string()) + &did_you_mean(suggestion(error)))),
    }
}

/// The first line of clap's message. A stray argument in it may be a URI with a password: it is cut off.
fn headline(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
    match line.split_once("://") {
        Some((before, _)) => format!("{before}://***' (cut, as it may hold a password)"),
        None => line.to_owned(),
    }
}

fn suggestion(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::SuggestedArg).or(error.get(ContextKind::SuggestedSubcommand))? {
        ContextValue::String(name) => Some(name),
        ContextValue::Strings(names) => names.first().map(String::as_str),
        _ => None,
    }
}
