//! Configuration: from the command line, the environment and a file to one checked [`Config`].
//!
//! Owns the options and how they are written, documented and refused. Refuses to start anything, to end the process
//! and to look at the process's own arguments or environment: it is handed both, so that a test can hand it others.
//! Invariant: a [`Config`] that exists was checked completely, and neither it nor an error about it shows a password.
//!
//! A new option is one row in `options.rs`; a new subcommand is one row in `command.rs`.

mod access;
mod api_keys;
mod broker;
mod checks;
mod command;
mod environment;
mod error;
mod format;
mod identity;
mod load;
mod names;
mod options;
mod render;
mod scraping;
mod table;

#[cfg(test)]
mod tests;

pub use access::{AllowedOrigins, InvalidOrigin, Origin};
pub use api_keys::{ApiKeys, InvalidApiKeys};
pub use broker::{BrokerChoice, BrokerUri, InvalidBrokerUri};
pub use command::{Command, STOP_WITH_STDIN, from_args};
pub use error::Exit;
pub use identity::{Anonymous, CookieName, NotACookie, UnknownPolicy};
pub use names::{InvalidLogFilter, InvalidPrefix, LogFilter, Prefix};
pub use options::Config;
pub use render::{markdown, sample};
pub use scraping::MetricsListen;
