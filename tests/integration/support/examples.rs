//! Programs that stand in the documentation, run as they stand there.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// The one block of `language` in `docs/amqp.md`.
pub fn documented(language: &str) -> String {
    let page = include_str!("../../../docs/amqp.md");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block of it");
    let (program, after) = rest.split_once("```").expect("its end");
    assert!(!after.contains(&format!("```{language}\n")), "only one");
    program.to_owned()
}

/// Names and keys of topics as `docs/amqp.md` lists them.
pub fn documented_keys() -> Vec<(String, String)> {
    let page = include_str!("../../../docs/amqp.md");
    let (_, table) = page.split_once("| topic | key |\n").expect("the table");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        (cells[0].to_owned(), cells[1].to_owned())
    };
    rows.map(cells).collect()
}

/// Writes a program to a passing file and runs it; what it prints. `name` is the file's, and the test's alone.
pub async fn run(mut interpreter: Command, program: &str, name: &str, arguments: &[&str]) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("example-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join(name);
    std::fs::write(&path, program).expect("the program");
    // So that arguments are UTF-8 wherever the tests run.
    interpreter.env("LC_ALL", "C.UTF-8").arg(&path).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let running = super::within_deadline(name, interpreter.output());
    let output = running.await.unwrap_or_else(|error| panic!("{interpreter:?}: {error}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let _ = std::fs::remove_dir_all(&directory);
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A Python that has pika: the one that `make test` provides, else one that is made where it is not there yet, which takes
/// the package index.
pub async fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("PYTHON") {
        return python.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/environment");
    let output = Command::new(script).stdin(Stdio::null()).output().await.expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().into()
}
