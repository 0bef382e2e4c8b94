//! Programs as child processes: the real `warren`, and the scripts and tools around it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::broker::Cluster;
use super::client::{Client, get_json};
use super::{DEADLINE, eventually, within_deadline};

pub use rustix::process::Signal;

/// The words behind a program's name.
pub type Arguments<'a> = &'a [&'a str];

/// Variables by name.
pub type Environment<'a> = &'a [(&'a str, &'a str)];

/// A child process in a process group of its own. Its drop kills the whole group.
pub struct Process {
    child: Child,
    /// Its pid, and its group's.
    pid: Pid,
    /// Open, if it is fed by the test.
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
}

/// How a process ended, and all that it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A command that gets none of the variables of Warren that the tests' own environment may hold.
pub fn clean(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WARREN_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a stream has said so far; the task ends with the stream.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
}

impl Process {
    /// Starts `program`, with `env` beside what [`clean`] leaves.
    pub fn start(program: impl AsRef<Path>, arguments: Arguments<'_>, env: Environment<'_>) -> Process {
        let mut command = clean(program);
        command.args(arguments).envs(env.iter().copied());
        Self::spawn(command)
    }

    /// The same, but its standard input is what the test feeds it.
    pub fn start_fed(program: impl AsRef<Path>, arguments: Arguments<'_>, env: Environment<'_>) -> Process {
        let mut command = clean(program);
        command.args(arguments).envs(env.iter().copied());
        Self::spawn_reading(command, Stdio::piped())
    }

    /// Starts a command that was made in full.
    pub fn spawn(command: Command) -> Process {
        Self::spawn_reading(command, Stdio::null())
    }

    fn spawn_reading(mut command: Command, input: Stdio) -> Process {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("a process that runs has a pid");
        let stdout = Lines::read(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::read(child.stderr.take().expect("stderr is piped"));
        let stdin = child.stdin.take();
        Process { child, pid, stdin, stdout, stderr }
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the process runs");
    }

    /// Sends a signal to its group, as a terminal does for Ctrl-C.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid, signal).expect("the group has a process");
    }

    /// The first line of stdout that contains `part`.
    pub async fn says(&mut self, part: &str) -> String {
        self.wait_for_line(|process| &process.stdout, part, DEADLINE).await
    }

    /// As [`Process::says`], for programs that take their time.
    pub async fn says_late(&mut self, part: &str) -> String {
        self.wait_for_line(|process| &process.stdout, part, 3 * DEADLINE).await
    }

    /// The first line of stderr that contains `part`.
    pub async fn reports(&mut self, part: &str) -> String {
        self.wait_for_line(|process| &process.stderr, part, DEADLINE).await
    }

    async fn wait_for_line(&mut self, lines: fn(&Process) -> &Lines, part: &str, deadline: Duration) -> String {
        let waiting = async {
            loop {
                // Asked before the lines are read: what it said before its end is then among them.
                let has_ended = !self.is_running() && lines(self).reading.is_finished();
                if let Some(line) = lines(self).find(part) {
                    return Some(line);
                }
                if has_ended {
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(deadline, waiting).await.unwrap_or_default();
        found.unwrap_or_else(|| panic!("no line with {part:?}; it said:\n{}", self.output()))
    }

    /// Writes to its standard input.
    pub async fn feed(&mut self, input: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("its input is the test's");
        within_deadline("it reads", stdin.write_all(input.as_ref())).await.expect("it reads");
    }

    /// Its standard input ends.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Stdout and stderr so far.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout.text(), self.stderr.text())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Ended {
        let status = within_deadline("the process ends", self.child.wait()).await.expect("a child can be waited for");
        self.collect(status).await
    }

    /// As [`Process::ended`], for programs that take their time.
    pub async fn ended_late(mut self) -> Ended {
        let waiting = tokio::time::timeout(3 * DEADLINE, self.child.wait());
        let status = waiting.await.expect("the process ends").expect("a child can be waited for");
        self.collect(status).await
    }

    async fn collect(&mut self, status: ExitStatus) -> Ended {
        for lines in [&mut self.stdout, &mut self.stderr] {
            within_deadline("the end of the output", &mut lines.reading).await.expect("reading does not panic");
        }
        Ended { code: status.code(), stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    /// SIGKILL, as a crash would end it.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        within_deadline("the process ends", self.child.wait()).await.expect("a child can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group lives on as long as one of its processes does; if none does, there is nothing to kill.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Lines {
    fn read(stream: impl AsyncRead + Unpin + Send + 'static) -> Lines {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reading = tokio::spawn({
            let lines = lines.clone();
            async move {
                let mut stream = BufReader::new(stream).lines();
                while let Ok(Some(line)) = stream.next_line().await {
                    lock(&lines).push(line);
                }
            }
        });
        Lines { lines, reading }
    }

    fn find(&self, part: &str) -> Option<String> {
        lock(&self.lines).iter().find(|line| line.contains(part)).cloned()
    }

    fn text(&self) -> String {
        lock(&self.lines).iter().flat_map(|line| [line, "\n"]).collect()
    }
}

fn lock(lines: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `warren` that was built with these tests, with its port.
pub struct Warren {
    pub process: Process,
    pub address: SocketAddr,
}

impl Warren {
    /// Any command line of `warren`.
    pub fn command(arguments: Arguments<'_>, env: Environment<'_>) -> Process {
        Process::start(env!("CARGO_BIN_EXE_warren"), arguments, env)
    }

    /// Runs `warren` to its end.
    pub async fn run(arguments: Arguments<'_>, env: Environment<'_>) -> Ended {
        Self::command(arguments, env).ended().await
    }

    /// The same, with this on its standard input.
    pub async fn run_fed(arguments: Arguments<'_>, env: Environment<'_>, input: impl AsRef<[u8]>) -> Ended {
        let mut process = Process::start_fed(env!("CARGO_BIN_EXE_warren"), arguments, env);
        process.feed(input).await;
        process.end_input();
        process.ended().await
    }

    /// A server on a free port of loopback, unless `arguments` name another one.
    pub async fn serve(arguments: Arguments<'_>, env: Environment<'_>) -> Warren {
        let port = if arguments.contains(&"--port") { &[][..] } else { &["--port", "0"] };
        // Some tests run many, and there are but a few ports that are taken by default.
        let metrics = if arguments.contains(&"--metrics-listen") { &[][..] } else { &["--metrics-listen", "off"] };
        Self::listening(Self::command(&[arguments, &["--host", "127.0.0.1"], port, metrics].concat(), env)).await
    }

    /// Waits until the process has said where it listens.
    pub async fn listening(mut process: Process) -> Warren {
        let line = process.says("Warren is at http://").await;
        let port = line.split_once("/ (").and_then(|(url, _)| url.rsplit_once(':')).expect("a URL with a port").1;
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")));
        Warren { process, address }
    }

    /// A member of a cluster on RabbitMQ, ready.
    pub async fn join(cluster: &Cluster, options: Arguments<'_>) -> Warren {
        let member = ["--prefix", &cluster.prefix];
        let warren = Self::serve(&[&member, options].concat(), &[("WARREN_BROKER", &cluster.url)]).await;
        warren.ready().await;
        warren
    }

    /// The instance's name, as it says itself.
    pub async fn name(&mut self) -> String {
        let line = self.process.says("(instance ").await;
        let (_, rest) = line.split_once("(instance ").expect("the line has it");
        rest.split(')').next().expect("a name").to_owned()
    }

    pub async fn ready(&self) {
        eventually("the instance is ready", || async { get_json(self.address, "/readyz").await.0 == 200 }).await;
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

/// A port of loopback that is free: below those that the kernel gives to outgoing connections, so that it stays free
/// until a program under test takes it.
pub fn free_port() -> u16 {
    let ports = std::iter::repeat_with(|| fastrand::u16(10_000..20_000));
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.take(1_000).find(is_free).expect("a free port")
}

/// A directory of the test's own. Its drop removes it with all that it holds.
pub struct Directory(std::path::PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        // Not below the target directory: the paths of Unix sockets are limited to about a hundred bytes.
        let path = std::env::temp_dir().join(format!("warren-{name}-{}-{:x}", std::process::id(), fastrand::u32(..)));
        std::fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file; the answer is its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the directory can be written to");
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
