//! The example backends, as separate programs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::sync::OnceCell;

use super::broker::Cluster;
use super::eventually;
use super::process::{Process, Signal, clean};

/// In which language the example is written.
#[derive(Clone, Copy, Debug)]
pub enum Language {
    Rust,
    Python,
}

/// A member of the group `example`.
pub struct Backend {
    pub process: Process,
    name: String,
}

impl Backend {
    /// Starts one and waits until it takes messages; a piece of work lasts for `work_ms`.
    pub async fn start(language: Language, cluster: &Cluster, name: &str, work_ms: u32) -> Backend {
        let mut command = match language {
            Language::Rust => clean(program().await),
            Language::Python => {
                let mut command = clean(python());
                command.arg(in_repository("examples/backend.py"));
                command
            }
        };
        command.arg(name).env("AMQP_URL", &cluster.url).env("WARREN_PREFIX", &cluster.prefix);
        command.env("WORK_MS", work_ms.to_string());
        let mut process = Process::spawn(command);
        process.says(&format!("{name}: ready")).await;
        Backend { process, name: name.to_owned() }
    }

    /// The ids behind `verb` in what it said, in its order.
    pub fn ids(&self, verb: &str) -> Vec<String> {
        let start = format!("{}: {verb} ", self.name);
        let output = self.process.output();
        let of_lines = output.lines().filter_map(|line| line.strip_prefix(&start));
        of_lines.map(|rest| rest.split([' ', ',', ':']).next().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until it has said `verb` of this id so often.
    pub async fn says_of(&self, verb: &str, id: &str, times: usize) {
        let what = format!("{} says {times} times that it {verb} {id}", self.name);
        eventually(&what, || async { self.ids(verb).iter().filter(|one| *one == id).count() == times }).await;
    }

    /// SIGKILL, to this process alone; what it had said can still be read.
    pub fn dies(&self) {
        self.process.signal(Signal::KILL);
    }

    /// Ctrl-C; it ends in good order.
    pub async fn stop(self) {
        self.process.signal(Signal::INT);
        let ended = self.process.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.ends_with(&format!("{}: stopped\n", self.name)), "{ended:?}");
    }
}

/// The example in Rust, built with these tests' profile if it is not yet.
pub async fn program() -> &'static Path {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAM
        .get_or_init(|| async {
            let mut build = clean(env!("CARGO"));
            // What cargo tells these tests of their own package would make dependencies look changed.
            for (name, _) in std::env::vars_os() {
                if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
                    build.env_remove(name);
                }
            }
            build.args(["build", "--locked", "--quiet", "--example", "backend"]);
            build.current_dir(in_repository("")).stdin(Stdio::null());
            let output = build.output().await.expect("cargo runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            // Beside the tests' own program, two folders up.
            let tests = std::env::current_exe().expect("a program");
            let target = tests.ancestors().nth(3).expect("a target directory");
            target.join("debug/examples/backend")
        })
        .await
}

/// The Python that has pika.
pub fn python() -> PathBuf {
    let missing = "PYTHON names a Python with pika: run `make test`, or set it to what tests/python/environment prints";
    std::env::var_os("PYTHON").expect(missing).into()
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
