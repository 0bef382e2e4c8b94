//! Warren: a WebSocket broadcast server that scales out on RabbitMQ.
//!
//! A session lives on the instance that accepted it. What its client says goes to the [`broker`], and whatever the
//! broker delivers the [`hub`] hands to every [`session`] of the instance: one way out, for local and remote messages
//! alike. `ARCHITECTURE.md` walks one message through these modules.
#![forbid(unsafe_code)]

pub mod app;
pub mod bench;
pub mod chaos;
pub mod cli;
pub mod config;

pub mod http;
pub mod outbox;
pub mod protocol;
pub mod session;

pub mod broker;
pub mod hub;
pub mod presence;

pub mod close;
pub mod cursor;
pub mod identity;
pub mod inbound;
pub mod instance;
pub mod interest;
pub mod logging;
pub mod message;
pub mod metrics;
pub mod open_files;
pub mod place;
pub mod stop;
pub mod terms;
pub mod topic;
pub mod user;
pub mod users;
pub mod watching;

#[cfg(test)]
mod fuzzing;
