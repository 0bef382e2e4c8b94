//! `warren publish` and `warren subscribe`: clients for a terminal and for scripts, over HTTP like everybody else's;
//! and `warren token`, which makes a token for them.
//!
//! Nothing of the server depends on them, and of the server they know its port. What goes wrong is told in one line on
//! standard error, and by the exit code: 0, or 1 if a message was not published or the server cannot be heard.

mod error;
mod events;
mod options;
mod publish;
mod secret;
mod server;
mod show;
mod subscribe;
mod token;

use std::process::ExitCode;

pub use error::Error;
pub use options::{
    API_KEY_VARIABLE, Conflict, Publishing, Subscribing, TOKEN_VARIABLE, declare_publish, declare_subscribe,
    read_publish, read_subscribe,
};
pub use token::{Making, declare as declare_token, read as read_token};

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Publish(Publishing),
    Subscribe(Subscribing),
    Token(Box<Making>),
}

/// Does it.
pub fn run(task: Task) -> Result<ExitCode, Error> {
    // A second thread, so that Ctrl-C is heard while the first waits for whoever reads standard output.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(Error::Runtime)?;
    let done = match task {
        Task::Publish(publishing) => runtime.block_on(publish::run(&publishing)),
        Task::Subscribe(subscribing) => runtime.block_on(subscribe::run(&subscribing)),
        Task::Token(making) => token::run(&making),
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Who reads no more has heard enough.
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}
