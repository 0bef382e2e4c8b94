//! `warren bench`: measures a broadcast server, this one or another, and checks that it loses nothing.
//!
//! One program is generator, judge and measuring stick: the same sessions, payloads and readers for every server, and
//! beside it the floor of the very machine, so that a ratio means something where absolute numbers drift. It shares
//! with the server only the codec of frames and what every command needs; nothing of it runs while Warren serves.
//!
//! `docs/benchmarks.md` tells how to use it and what each number means.

mod check;
pub(crate) mod client;
pub(crate) mod interrupt;
pub(crate) mod load;
mod mailboxes;
pub(crate) mod marker;
mod measure;
mod options;
pub(crate) mod payload;
mod presence;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod server;
mod suite;
pub(crate) mod target;
mod topics;
pub(crate) mod wire;

use std::process::ExitCode;

use interrupt::Interrupt;
use measure::measure;
use options::Options;
use progress::Progress;
use report::{Contender, Report};
use server::Kind;

pub use options::{Conflict, Task, declare, read};
pub use process::stop_with_stdin;

/// Open files of a process beside its sessions: its output, polls, timers, listeners and links to a broker.
const OTHER_FILES: u64 = 64;

/// Does what was asked. A failure exit means that a server lost, doubled or reordered something.
pub fn run(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Floor { frames } => server::floor::run(frames).map(|()| ExitCode::SUCCESS),
        Task::Measure(options) => {
            report::check_files(&options)?;
            check_open_files(options.work.sessions)?;
            let report = rounds(&options, &Interrupt::listen()?)?;
            print!("{}", report::text(&report));
            report.write(&options)?;
            Ok(if report.faults().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Task::Topics(options) => {
            options.json.as_deref().map_or(Ok(()), report::check)?;
            check_open_files(options.sessions)?;
            let table = topics::run(&options, &Interrupt::listen()?)?;
            print!("{}", table.markdown());
            options.json.as_deref().map_or(Ok(()), |path| report::write(path, &format!("{:#}\n", table.json())))?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Presence(options) => {
            options.json.as_deref().map_or(Ok(()), report::check)?;
            let figures = presence::run(&options, &Interrupt::listen()?)?;
            print!("{}", figures.markdown());
            options.json.as_deref().map_or(Ok(()), |path| report::write(path, &format!("{:#}\n", figures.json())))?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Mailboxes(options) => {
            print!("{}", mailboxes::run(&options, &Interrupt::listen()?)?.markdown());
            Ok(ExitCode::SUCCESS)
        }
        Task::Suite(options) => {
            report::check_files(&options)?;
            check_open_files(suite::sessions_max(options.scale))?;
            let table = suite::run(&options, &Interrupt::listen()?)?;
            print!("{}", table.markdown());
            table.write(&options)?;
            Ok(if table.is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// Before anything is measured: so many sessions need as many files, here and in the server that is started.
fn check_open_files(sessions: usize) -> anyhow::Result<()> {
    let (needed, limit) = (sessions as u64 + OTHER_FILES, crate::open_files::raise());
    let advice = "raise the hard limit (ulimit -Hn), or measure fewer";
    anyhow::ensure!(limit >= needed, "{sessions} sessions take {needed} open files of {limit} allowed: {advice}");
    Ok(())
}

/// Measures every server in turn, as often as asked.
fn rounds(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let mut servers: Vec<(Contender, Kind)> = Vec::new();
    let mut add = |name: String, is_floor: bool, kind: Kind| {
        servers.push((Contender { name, is_floor, runs: Vec::new() }, kind));
    };
    if let Some(frames) = options.floor {
        add("floor".to_owned(), true, Kind::Floor { frames });
    }
    add(options.warren.name(), false, options.warren.clone());
    for (target, pid) in &options.compare {
        add(
            target.to_string(),
            false,
            Kind::Running { targets: vec![target.clone()], pids: pid.iter().copied().collect() },
        );
    }
    let mut progress = Progress::new();
    for _ in 0..options.repeat.unwrap_or(1) {
        for (contender, kind) in &mut servers {
            let run = measure(&contender.name, kind, &options.work, &mut progress, interrupt)?;
            contender.runs.push(run);
        }
    }
    progress.clear();
    let contenders = servers.into_iter().map(|(contender, _)| contender).collect();
    Ok(Report { work: options.work.clone(), contenders })
}
