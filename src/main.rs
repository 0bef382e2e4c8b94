//! The `warren` command: configuration, build, run, signal, drain.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use warren::app::App;
use warren::config::{self, Command, Config};
use warren::logging;

/// Measured with 10,000 and 18,000 idle sessions: 0.75 KiB each, where glibc's allocator takes 0.97.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match config::from_args(std::env::args_os(), std::env::vars_os()) {
        Ok(Command::Serve { config, stops_with_stdin }) => {
            if stops_with_stdin {
                warren::bench::stop_with_stdin();
            }
            match serve(*config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("warren: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        Ok(Command::Bench(task)) => judge(|| warren::bench::run(task)),
        Ok(Command::Chaos(options)) => judge(|| warren::chaos::run(&options)),
        Ok(Command::Client(task)) => judge(|| Ok(warren::cli::run(task)?)),
        Ok(Command::PrintSample) => print(&config::sample()),
        Ok(Command::PrintMarkdown) => print(&config::markdown()),
        Err(exit) => exit.report(),
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    logging::start(config.log.as_str());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.worker_threads > 0 {
        runtime.worker_threads(config.worker_threads);
    }
    let runtime = runtime.enable_all().build().context("cannot start the worker threads")?;
    runtime.block_on(async {
        let shutdown = shutdown()?;
        let app = App::bind(config)?;
        // Whoever does not listen to this may still want the server.
        let _ = writeln!(
            std::io::stdout(),
            "Warren is at {} (instance {}). Stop it with Ctrl-C.",
            app.url(),
            app.instance()
        );
        app.run(shutdown).await?;
        log::info!("stopped");
        Ok(())
    })
}

/// For commands that judge: their answer is the exit code.
fn judge(verdict: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    logging::start("warn");
    verdict().unwrap_or_else(|error| {
        eprintln!("warren: {error:#}");
        ExitCode::FAILURE
    })
}

/// Ready at the first SIGTERM or SIGINT; the second ends the process at once.
fn shutdown() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    Ok(async move {
        // Not awaited among a log line's arguments: those are left alone while the line's level is off.
        let first = next().await;
        log::info!("{first}: stopping; another signal stops at once");
        tokio::spawn(async move {
            let second = next().await;
            log::warn!("{second}: stopped at once");
            std::process::exit(130);
        });
    })
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
