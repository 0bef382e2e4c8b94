//! `warren chaos`: breaks the broker, the wires and the instances under load, and counts what the guarantee forbids.
//!
//! It stands beside the server as `warren bench` does: nothing of it runs while Warren serves. It starts a RabbitMQ
//! and instances of its own, and counts by the numbers inside the payloads at its sessions, never by what Warren says
//! of itself. `docs/chaos.md` tells how to use it and how to read it.

mod balance;
mod books;
mod broker;
mod display;
mod instance;
mod ledger;
mod options;
mod order;
mod proxy;
mod report;
mod run;
mod script;
mod seat;
mod session;
mod strike;
mod subject;
mod told;
mod users;
mod verdict;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::bench::interrupt::Interrupt;
use script::Fault;

pub use options::{Conflict, Options, declare, read};

/// Files beside the sessions: proxies, pipes, logs, the broker's tools.
const OTHER_FILES: u64 = 256;

/// Threads that carry the sessions and the wires; the servers under test want the other cores.
const THREADS: usize = 2;

/// Does what was asked. A failure exit means that the guarantee was not kept.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    check_open_files(options)?;
    if let Some(path) = &options.json {
        crate::bench::report::check(path)?;
    }
    let interrupt = Interrupt::listen()?;
    let Options { seed, instances, duration, every, .. } = *options;
    let script = script::draw(seed, &options.faults, instances, duration, every);
    print!("{}", announcement(options, &script));
    let mut directory = Directory::make(options.directory.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            report = run::carry_out(options, &script, &directory.path) => report.map(Some),
            () = interrupted(&interrupt) => Ok(None),
        }
    });
    directory.keeps = match &outcome {
        Ok(report) => report.as_ref().is_some_and(|report| !report.forbidden.is_empty()),
        // Something was started, so somebody will want to see its logs, or to end it.
        Err(_) => broker::data_in(&directory.path).exists(),
    };
    let Some(report) = outcome? else { bail!("interrupted") };
    print!("\n{}", report.text(options));
    if let Some(path) = &options.json {
        crate::bench::report::write(path, &format!("{:#}\n", report.json(options)))?;
    }
    if report.forbidden.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("The logs are in {}.", directory.path.display());
    Ok(ExitCode::FAILURE)
}

/// Before anything is started: so many sessions need as many files, here and in the instances. Without files nothing that
/// was started could even be stopped.
fn check_open_files(options: &Options) -> anyhow::Result<()> {
    let (needed, limit) = (options.sessions as u64 + OTHER_FILES, crate::open_files::raise());
    anyhow::ensure!(
        limit >= needed,
        "{} sessions take {needed} open files of {limit} allowed: raise the hard limit (ulimit -Hn), or take fewer",
        options.sessions
    );
    Ok(())
}

/// What will be broken, before it is.
fn announcement(options: &Options, script: &[Fault]) -> String {
    let mut text = format!("seed {}: the same seed and options give this script of faults again\n", options.seed);
    for fault in script {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:>7.1} s  {fault}", fault.at.as_secs_f64());
    }
    text
}

async fn interrupted(interrupt: &Interrupt) {
    while !interrupt.is_set() {
        tokio::time::sleep(strike::LOOK).await;
    }
}

/// Where logs and the broker's data go. Its drop removes a passing one, unless somebody will want to look into it.
struct Directory {
    path: PathBuf,
    is_passing: bool,
    keeps: bool,
}

impl Directory {
    fn make(asked: Option<&Path>) -> anyhow::Result<Directory> {
        let passing = || std::env::temp_dir().join(format!("warren-chaos-{}", std::process::id()));
        let path = std::path::absolute(asked.map_or_else(passing, Path::to_owned))?;
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Directory { path, is_passing: asked.is_none(), keeps: false })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_passing {
            return;
        }
        if self.keeps {
            // If it is empty it tells nobody anything; else this does nothing.
            let _ = std::fs::remove_dir(&self.path);
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            log::warn!("{} is left: {error}", self.path.display());
        }
    }
}
