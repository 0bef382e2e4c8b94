//! `make cluster`, `make demo` and `make stop`, as somebody uses them who has just cloned the repository.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::backend;
use crate::support::broker::{Alien, Cluster};
use crate::support::client::{Client, get_json};
use crate::support::eventually;
use crate::support::json::JsonClient;
use crate::support::post::{JSON, post};
use crate::support::process::{Directory, Process, Signal, clean, free_port};

/// A checkout of its own, so that a cluster which runs in the real one neither disturbs nor is disturbed, and two free
/// ports. Its drop stops what still runs in it.
struct Checkout {
    directory: Directory,
    ports: [u16; 2],
}

impl Checkout {
    fn new(name: &str) -> Checkout {
        let directory = Directory::new(name);
        for part in ["Makefile", "scripts", "rabbitmq", ".ci"] {
            let original = Path::new(env!("CARGO_MANIFEST_DIR")).join(part);
            symlink(original, directory.path().join(part)).expect("a link");
        }
        let first = free_port();
        let second = std::iter::repeat_with(free_port).find(|port| *port != first).expect("there are many");
        Checkout { directory, ports: [first, second] }
    }

    /// A command in this checkout: with the broker of `cluster`, or with none.
    fn command(&self, cluster: Option<&Cluster>, program: &str, arguments: &[&str]) -> Command {
        let mut command = clean(program);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("WARREN_PORTS", self.ports.map(|port| port.to_string()).join(" "))
            .env("WARREN_BIN", env!("CARGO_BIN_EXE_warren"))
            .env("WARREN_HOST", "127.0.0.1")
            .env("WARREN_METRICS_LISTEN", "127.0.0.1:0");
        match cluster {
            Some(cluster) => command.env("AMQP_URL", &cluster.url).env("WARREN_PREFIX", &cluster.prefix),
            None => command.env_remove("AMQP_URL"),
        };
        command
    }

    fn start(&self, cluster: Option<&Cluster>, program: &str, arguments: &[&str]) -> Process {
        Process::spawn(self.command(cluster, program, arguments))
    }

    /// Starts the script by itself and waits until the cluster is ready.
    async fn cluster(&self, cluster: Option<&Cluster>) -> Process {
        let mut process = self.start(cluster, "scripts/cluster", &[]);
        process.says("The cluster is ready").await;
        process
    }

    async fn connect(&self) -> [Client; 2] {
        let [one, two] = self.ports.map(|port| Client::connect(([127, 0, 0, 1], port).into()));
        [one.await, two.await]
    }

    async fn assert_ready(&self) {
        for port in self.ports {
            assert_eq!(get_json(([127, 0, 0, 1], port).into(), "/readyz").await.0, 200, "port {port}");
        }
    }

    async fn assert_stopped(&self) {
        for port in self.ports {
            assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "nobody listens on port {port}");
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let mut stop = std::process::Command::new("scripts/cluster");
        let _ = stop.arg("stop").current_dir(self.directory.path()).stderr(Stdio::null()).status();
    }
}

/// What was said in one exchange reaches both sides.
async fn assert_chatting(clients: &mut [Client; 2]) {
    for (sender, text) in [(0, "from the first"), (1, "from the second")] {
        clients[sender].send(text).await;
        for client in clients.iter_mut() {
            client.receives(&[text]).await;
        }
    }
}

#[tokio::test]
async fn make_cluster_runs_two_instances_until_ctrl_c() {
    let (checkout, broker) = (Checkout::new("make-cluster"), Cluster::shared());
    let mut make = checkout.start(Some(&broker), "make", &["cluster"]);
    make.says("The cluster is ready").await;
    checkout.assert_ready().await;
    for port in checkout.ports {
        make.says(&format!("  http://127.0.0.1:{port}/")).await;
        let line = make.says(&format!("{port} | [")).await;
        assert!(line.starts_with(&format!("{port} | [")), "the port comes first: {line:?}");
        let metrics = make.says(&format!("  http://127.0.0.1:{port}/  (metrics: ")).await;
        assert!(metrics.ends_with("/metrics)"), "{metrics:?}");
    }
    let mut clients = checkout.connect().await;
    assert_chatting(&mut clients).await;
    for port in checkout.ports {
        let address = ([127, 0, 0, 1], port).into();
        let signed_in = post(address, "/api/sign-in", &[JSON], r#"{"user": "alice"}"#).await;
        assert_eq!(signed_in.status, 200, "port {port}: {}", signed_in.body);
        assert_eq!(get_json(address, "/api/presence").await.0, 200, "without a token, on port {port}");
    }

    make.signal_group(Signal::INT);
    for client in &mut clients {
        assert_eq!(client.closed().await.map(|frame| frame.code.into()), Some(1001_u16));
    }
    drop(clients);
    let ended = make.ended().await;
    checkout.assert_stopped().await;
    for port in checkout.ports {
        let last = ended.stdout.lines().rfind(|line| line.starts_with(&format!("{port} | ")));
        assert!(last.is_some_and(|line| line.ends_with("stopped")), "port {port}, in order: {ended:?}");
    }
    Alien::connect(&broker.url).await;
}

#[tokio::test]
async fn make_demo_shows_the_way_from_a_client_to_one_backend_and_back_to_all() {
    let (checkout, broker) = (Checkout::new("make-demo"), Cluster::shared());
    let mut command = checkout.command(Some(&broker), "make", &["demo"]);
    command.env("BACKEND_BIN", backend::program().await);
    let mut make = Process::spawn(command);
    make.says("The cluster is ready").await;
    for backend in ["one", "two"] {
        make.says(&format!("{backend} | {backend}: ready")).await;
    }
    for port in checkout.ports {
        make.says(&format!("  ws://127.0.0.1:{port}/message/answers  ws://127.0.0.1:{port}/message/topic/to-frontend"))
            .await;
    }
    let [asking, elsewhere] = checkout.ports.map(|port| JsonClient::connect(([127, 0, 0, 1], port).into()));
    let (mut asking, mut elsewhere) = (asking.await, elsewhere.await);
    asking.subscribe(&["answers"]).await;
    elsewhere.subscribe(&["answers"]).await;
    let id = asking.send_to("/app/test", "hello").await;
    let heard = elsewhere.message().await;
    assert!(heard["text"].as_str().is_some_and(|text| text.ends_with(" did hello")), "{heard}");
    let mut answers = [asking.message().await, asking.message().await];
    answers.sort_by_key(|answer| answer["direct"] == true);
    assert_eq!((&answers[0]["topic"], &answers[1]["direct"]), (&"answers".into(), &true.into()));
    assert!(answers.iter().all(|answer| answer["text"] == heard["text"]), "{answers:?}");
    let handled = || make.output().matches(&format!("handled {id} to test")).count();
    eventually("it is logged", || async { handled() > 0 }).await;
    elsewhere.subscribe(&["/topic/to-frontend"]).await;
    for _ in 0..2 {
        let greeting = elsewhere.message().await;
        assert!(greeting["text"].as_str().is_some_and(|text| text.contains(" is here and has handled ")));
    }
    assert_eq!(handled(), 1, "by one");

    make.signal_group(Signal::INT);
    let ended = make.ended().await;
    checkout.assert_stopped().await;
    for backend in ["one", "two"] {
        let last = ended.stdout.lines().rfind(|line| line.starts_with(&format!("{backend} | ")));
        assert_eq!(last, Some(format!("{backend} | {backend}: stopped").as_str()), "{ended:?}");
        let pid_file = checkout.directory.path().join(format!("target/cluster/backend-{backend}.pid"));
        assert!(!pid_file.exists());
    }
    Alien::connect(&broker.url).await;
}

#[tokio::test]
async fn make_stop_ends_it_from_another_terminal() {
    let (checkout, broker) = (Checkout::new("make-stop"), Cluster::shared());
    let cluster = checkout.cluster(Some(&broker)).await;
    let stop = checkout.start(None, "make", &["stop"]).ended_late().await;
    assert_eq!(stop.code, Some(0), "{stop:?}");
    let ended = cluster.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    checkout.assert_stopped().await;
    Alien::connect(&broker.url).await;

    let again = checkout.start(None, "make", &["stop"]).ended().await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("no cluster of this checkout runs"), "{again:?}");
}

#[tokio::test]
async fn a_second_cluster_of_a_checkout_is_refused_and_the_first_runs_on() {
    let (checkout, broker) = (Checkout::new("twice"), Cluster::shared());
    let first = checkout.cluster(Some(&broker)).await;
    let second = checkout.start(Some(&broker), "scripts/cluster", &[]).ended().await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert_eq!(second.stderr.lines().count(), 1, "{second:?}");
    assert!(second.stderr.contains(&format!("runs already (pid {})", first.pid())), "{second:?}");
    checkout.assert_ready().await;
    assert_chatting(&mut checkout.connect().await).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_nothing_is_started() {
    let (checkout, broker) = (Checkout::new("taken"), Cluster::shared());
    let [free, taken] = checkout.ports;
    let _holder = TcpListener::bind(("127.0.0.1", taken)).await.expect("a free port");
    let ended = checkout.start(Some(&broker), "scripts/cluster", &[]).ended().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains(&format!("port {taken} is taken; nothing was started")), "{ended:?}");
    assert!(TcpStream::connect(("127.0.0.1", free)).await.is_err(), "nobody listens on port {free}");
    assert!(!checkout.directory.path().join("target").exists(), "nothing was started");
}

#[tokio::test]
async fn the_death_of_one_instance_is_told_and_ends_the_other() {
    let (checkout, broker) = (Checkout::new("death"), Cluster::shared());
    let cluster = checkout.cluster(Some(&broker)).await;
    let [port, _] = checkout.ports;
    let pid_file = checkout.directory.path().join(format!("target/cluster/{port}.pid"));
    let pid = std::fs::read_to_string(pid_file).expect("the pid is on record").trim().parse().expect("a number");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("the instance runs");
    let ended = cluster.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&format!("cluster: the instance on port {port} died\n")), "{ended:?}");
    checkout.assert_stopped().await;
}

#[tokio::test]
async fn without_a_broker_it_starts_one_and_stops_it_too() {
    let checkout = Checkout::new("alone");
    let mut cluster = checkout.start(None, "scripts/cluster", &[]);
    cluster.says_late("The cluster is ready").await;
    assert_chatting(&mut checkout.connect().await).await;
    // A RabbitMQ that runs on its usual port is taken instead, and left running.
    let found = cluster.output().contains("using the RabbitMQ on 127.0.0.1:5672");
    assert_ne!(cluster.output().contains("started a private RabbitMQ in target/rabbitmq/cluster"), found);

    cluster.signal_group(Signal::INT);
    let ended = cluster.ended_late().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    checkout.assert_stopped().await;
    if found {
        Alien::connect("amqp://guest:guest@127.0.0.1:5672/%2f").await;
    } else {
        let status = checkout.start(None, "rabbitmq/node", &["status", "target/rabbitmq/cluster"]).ended().await;
        assert_eq!((status.code, status.stdout.as_str()), (Some(1), "stopped\n"), "{status:?}");
    }
}
