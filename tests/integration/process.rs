//! The program `warren` as its users and its operators see it: what it prints, how it ends, what it hears.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::broker::{Cluster, PrivateNode};
use crate::support::client::{exchange, get_json};
use crate::support::eventually;
use crate::support::http::request;
use crate::support::process::{Arguments, Directory, Ended, Environment, Signal, Warren, free_port};

const PASSWORD: &str = "hunter2-s3cret";
const PAYLOAD: &str = "for the clients alone";

impl Ended {
    /// A refusal: nothing on stdout, and one line on stderr, which is the answer.
    fn refusal(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        let line = self.stderr.strip_suffix('\n').expect("a line on stderr");
        assert!(!line.contains('\n'), "one line is enough: {self:?}");
        line
    }
}

// --- Being started --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn it_says_where_its_page_is_and_serves_it_there() {
    let mut warren = Warren::listening(Warren::command(&[], &[("WARREN_PORT", "0")])).await;
    let port = warren.address.port();
    let line = warren.process.says("Warren is at").await;
    assert!(line.starts_with(&format!("Warren is at http://localhost:{port}/ (instance ")), "{line}");
    assert!(line.ends_with(&format!("_{port}). Stop it with Ctrl-C.")), "{line}");

    let request = format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    let page = exchange(warren.address, request.as_bytes()).await.expect("an answer");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("<title>Warren</title>"), "{page}");
}

#[tokio::test]
async fn port_0_takes_any_free_port() {
    let (one, two) = (Warren::serve(&[], &[]).await, Warren::serve(&["serve"], &[]).await);
    assert_ne!(one.address, two.address);
    for warren in [one, two] {
        assert_eq!(get_json(warren.address, "/healthz").await.0, 200);
    }
}

#[tokio::test]
async fn help_tells_of_every_command_and_option() {
    for arguments in [&["--help"][..], &["-h"], &["help"], &["serve", "--help"]] {
        let help = Warren::run(arguments, &[]).await;
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{help:?}");
        for part in ["--port <PORT>", "[default: 8080]", "WARREN_BROKER", "memory"] {
            assert!(help.stdout.contains(part), "{part} in {help:?}");
        }
        // However its lines are broken.
        let words = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        let promise = "keeps those for users: memory, for one process alone, with which all that is kept ends";
        assert!(words.contains(promise), "{help:?}");
        let widest = help.stdout.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?} columns in {help:?}");
    }
}

#[tokio::test]
async fn version_is_that_of_the_package() {
    let version = Warren::run(&["--version"], &[]).await;
    assert_eq!((version.code, version.stdout.as_str()), (Some(0), concat!("warren ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[tokio::test]
async fn config_prints_the_sample_file_which_changes_nothing() {
    let sample = Warren::run(&["config"], &[]).await;
    assert_eq!((sample.code, sample.stderr.as_str()), (Some(0), ""));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("warren.sample.toml");
    let kept = std::fs::read_to_string(&path).expect("the repository has the sample");
    assert_eq!(sample.stdout, kept, "`warren config > warren.sample.toml` brings it up to date");

    Warren::serve(&["--config", path.to_str().expect("a path in UTF-8")], &[]).await;
}

// --- Being refused --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_command_line_that_is_wrong_ends_with_2_and_says_why() {
    let cases: [(Arguments, &str); 8] = [
        (&["--prot", "9000"], "error: unexpected argument '--prot' found; did you mean --port?"),
        (&["serv"], "error: unrecognized subcommand 'serv'; did you mean serve?"),
        (&["--port", "x"], "error: --port: \"x\" is not allowed; expected a whole number from 0 to 65535"),
        (&["--port", "65536"], "error: --port: \"65536\" is not allowed; expected a whole number from 0 to 65535"),
        (&["--port", "-1"], "error: --port: \"-1\" is not allowed; expected a whole number from 0 to 65535"),
        (&["--host", "localhost"], "error: --host: \"localhost\" is not allowed; expected an IP address"),
        (
            &["--config", "none.toml"],
            "error: --config: cannot read \"none.toml\": No such file or directory (os error 2)",
        ),
        (
            &["--broker", "amqps://127.0.0.1", "--broker-ca-file", "none.pem"],
            "error: --broker-ca-file: cannot read \"none.pem\": No such file or directory (os error 2)",
        ),
    ];
    for (arguments, line) in cases {
        assert_eq!(Warren::run(arguments, &[]).await.refusal(2), line, "{arguments:?}");
    }
}

#[tokio::test]
async fn an_environment_that_is_wrong_ends_with_2_and_says_why() {
    let unknown = Warren::run(&[], &[("WARREN_PROT", "9000")]).await;
    assert_eq!(unknown.refusal(2), "error: unknown environment variable WARREN_PROT; did you mean WARREN_PORT?");
    let bad = Warren::run(&[], &[("WARREN_PORT", "x")]).await;
    assert_eq!(bad.refusal(2), "error: WARREN_PORT: \"x\" is not allowed; expected a whole number from 0 to 65535");
}

#[tokio::test]
async fn a_file_that_is_wrong_ends_with_2_and_says_where() {
    let directory = Directory::new("config");
    for (text, why) in [
        ("prot = 1\n", ": unknown key \"prot\"; did you mean port?"),
        ("port = \"x\"\n", ":port: \"x\" is not allowed"),
        ("\nport = = 1\n", ", line 2, column 8: not valid TOML: "),
    ] {
        let file = directory.write("warren.toml", text);
        let ended = Warren::run(&["--config", &file], &[]).await;
        let expected = format!("error: {file}{why}");
        assert!(ended.refusal(2).starts_with(&expected), "{expected} in {ended:?}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_ends_with_1_and_names_the_option() {
    let holder = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = holder.local_addr().expect("a bound port").port();
    let ended = Warren::run(&["--host", "127.0.0.1", "--port", &port.to_string()], &[]).await;
    let line = ended.refusal(1);
    let expected = format!("warren: --port {port}: cannot listen on 127.0.0.1:{port}: ");
    assert!(line.starts_with(&expected), "{expected} in {line}");
    assert_eq!(line.matches("os error").count(), 1, "the cause is told once: {line}");
}

#[tokio::test]
async fn a_metrics_address_that_is_taken_ends_with_1_and_names_the_option() {
    let holder = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = holder.local_addr().expect("a bound port").to_string();
    let ended = Warren::run(&["--host", "127.0.0.1", "--port", "0", "--metrics-listen", &address], &[]).await;
    let line = ended.refusal(1);
    assert!(line.starts_with(&format!("warren: --metrics-listen {address}: cannot listen on {address}: ")), "{line}");
}

#[tokio::test]
async fn instances_beside_each_other_have_metrics_each_without_being_told() {
    let mut addresses = BTreeSet::new();
    let mut running = Vec::new();
    for _ in 0..2 {
        let command = Warren::command(&["--host", "127.0.0.1", "--port", "0"], &[]);
        let mut warren = Warren::listening(command).await;
        let line = warren.process.reports("metrics are at http://127.0.0.1:").await;
        let (_, rest) = line.split_once("metrics are at http://").expect("the line has it");
        let address: SocketAddr = rest.strip_suffix("/metrics").and_then(|text| text.parse().ok()).expect(rest);
        let name = warren.name().await;
        let shown = request(address, "GET /metrics", &[]).await.body;
        assert!(shown.contains(&format!("name=\"{name}\"")), "{name} in {shown}");
        addresses.insert(address);
        running.push(warren);
    }
    assert_eq!(addresses.len(), 2, "each has its own");
}

#[tokio::test]
async fn an_address_of_another_host_ends_with_1_and_names_the_option() {
    // RFC 5737 reserves 203.0.113.0/24 for documentation: no host has it.
    let ended = Warren::run(&["--host", "203.0.113.1", "--port", "0"], &[]).await;
    let line = ended.refusal(1);
    assert!(line.starts_with("warren: --host 203.0.113.1: cannot listen on 203.0.113.1:0: "), "{line}");
    assert_eq!(line.matches("os error").count(), 1, "the cause is told once: {line}");
}

// --- Options from outside -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_flag_holds_before_the_environment_and_the_environment_before_the_file() {
    let directory = Directory::new("precedence");
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let [flag, variable, key] = [0, 1, 2].map(|index| ports[index].to_string());
    let file = directory.write("warren.toml", &format!("host = \"127.0.0.1\"\nport = {key}\n"));
    let from_file: Environment = &[("WARREN_CONFIG", &file)];
    let from_both: Environment = &[("WARREN_CONFIG", &file), ("WARREN_PORT", &variable)];
    let cases: [(Arguments, Environment, u16); 3] =
        [(&[], from_file, ports[2]), (&[], from_both, ports[1]), (&["--port", &flag], from_both, ports[0])];
    for (arguments, env, port) in cases {
        let warren = Warren::listening(Warren::command(arguments, env)).await;
        assert_eq!(warren.address.port(), port);
        assert_eq!(get_json(warren.address, "/healthz").await.0, 200);
    }
}

#[tokio::test]
async fn variables_of_the_scripts_are_not_taken_for_options() {
    let mut variables = BTreeSet::new();
    for folder in ["scripts", "rabbitmq"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for file in std::fs::read_dir(&folder).expect("the repository has this folder") {
            let text = std::fs::read_to_string(file.expect("an entry").path()).expect("a text");
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            variables.extend(
                words.filter(|word| word.len() > "WARREN_".len() && word.starts_with("WARREN_")).map(str::to_owned),
            );
        }
    }
    // Those that a script sets for the server, or leaves to whoever has set them.
    for option in ["BROKER", "JWT_KEY_FILE", "JWT_JWKS"] {
        assert!(variables.remove(&format!("WARREN_{option}")), "{option}: {variables:?}");
    }
    for variable in &variables {
        let warren = Warren::serve(&[], &[(variable, "x")]).await;
        assert_eq!(get_json(warren.address, "/healthz").await.0, 200, "{variable}");
    }
}

// --- Logs and secrets -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_log_line_stands_alone_with_its_time_and_level() {
    // All that a filter can ask for.
    const LOG: &str = "trace,lapin=trace";
    let cluster = Cluster::shared();
    let env = [("WARREN_BROKER", cluster.url.as_str()), ("WARREN_PREFIX", &cluster.prefix), ("WARREN_LOG", LOG)];
    let warren = Warren::serve(&[], &env).await;
    warren.ready().await;
    let mut client = warren.connect().await;
    client.send(PAYLOAD).await;
    client.receives(&[PAYLOAD]).await;
    drop(client);
    warren.process.signal(Signal::TERM);
    let ended = warren.process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.lines().count() >= 4, "start, link, end: {ended:?}");
    for line in ended.stderr.lines() {
        assert!(is_log_line(line), "{line:?} in\n{}", ended.stderr);
    }
    assert_hidden(PAYLOAD, &ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 1, "stdout tells where the page is, and no more: {ended:?}");
}

/// `[2026-01-02T03:04:05Z INFO  warren::app] words`
fn is_log_line(line: &str) -> bool {
    let Some((head, words)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else { return false };
    let parts: Vec<&str> = head.split_whitespace().collect();
    let is_time = |time: &str| {
        time.len() == 20
            && time.bytes().zip(*b"0000-00-00T00:00:00Z").all(|(byte, like)| match like {
                b'0' => byte.is_ascii_digit(),
                like => byte == like,
            })
    };
    let is_level = |level: &str| ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level);
    matches!(parts[..], [time, level, _] if is_time(time) && is_level(level)) && !words.is_empty()
}

#[tokio::test]
async fn a_password_is_shown_nowhere_while_it_runs() {
    let shared = shared_host();
    let nobody = format!("127.0.0.1:{}", free_port());
    for (log, host) in [("trace", shared.as_str()), ("trace,lapin=trace", &shared), ("lapin=debug,info", &nobody)] {
        let uri = format!("amqp://ann:{PASSWORD}@{host}");
        let env = [("WARREN_BROKER", uri.as_str()), ("WARREN_LOG", log)];
        let mut warren = Warren::serve(&[], &env).await;
        let line = warren.process.reports("broker link (consuming) down").await;
        assert!(line.contains(host) && !line.contains("ann"), "it is told which broker, and not as whom: {line}");
        let (status, readiness) = get_json(warren.address, "/readyz").await;
        assert_eq!(status, 503, "{readiness}");
        assert!(!readiness.to_string().contains("ann"), "{readiness}");
        assert_hidden(PASSWORD, &readiness.to_string());
        warren.process.signal(Signal::TERM);
        let ended = warren.process.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_hidden(PASSWORD, &ended.stderr);
        assert_hidden(PASSWORD, &ended.stdout);
    }
}

#[tokio::test]
async fn a_password_is_shown_nowhere_when_it_is_refused() {
    let directory = Directory::new("secret");
    let good = format!("amqp://ann:{PASSWORD}@127.0.0.1");
    let bad = format!("amqp://ann:{PASSWORD}@127.0.0.1:99999");
    let flag = format!("--broker={bad}");
    let file = directory.write("warren.toml", &format!("broker = \"{bad}\"\n"));
    let cut_off = directory.write("cut-off.toml", &format!("broker = \"{good}\n"));
    let cases: [(Arguments, Environment); 9] = [
        (&["--broker", &bad], &[]),
        (&[&flag], &[]),
        (&["--config", &file], &[]),
        (&["--config", &cut_off], &[]),
        (&[], &[("WARREN_BROKER", &bad)]),
        (&["--instance", &good], &[]),
        (&[&good], &[]),
        (&["--broker", &good, "--broker-ca-file", "x.pem"], &[]),
        (&["--port", "x"], &[("WARREN_BROKER", &good)]),
    ];
    for (arguments, env) in cases {
        let ended = Warren::run(arguments, env).await;
        assert_hidden(PASSWORD, ended.refusal(2));
    }
    let help = Warren::run(&["--help"], &[("WARREN_BROKER", &good)]).await;
    assert_hidden(PASSWORD, &help.stdout);
}

/// `secret` stands nowhere in `text`: neither in the clear nor as the bytes of a frame.
fn assert_hidden(secret: &str, text: &str) {
    let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    for form in [secret.to_owned(), bytes.join(", ")] {
        let line = text.lines().find(|line| line.contains(&form));
        assert!(line.is_none(), "{secret:?} is shown: {}", line.unwrap_or_default());
    }
}

/// Host and port of the RabbitMQ that the tests share.
fn shared_host() -> String {
    let url: url::Url = Cluster::shared().url.parse().expect("AMQP_URL is a URL");
    format!("{}:{}", url.host_str().expect("AMQP_URL has a host"), url.port().unwrap_or(5672))
}

// --- Being stopped --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_signal_ends_it_with_0_after_a_close_frame_to_each_session() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let warren = Warren::serve(&[], &[]).await;
        let mut clients = [warren.connect().await, warren.connect().await];
        warren.process.signal(signal);
        for client in &mut clients {
            let frame = client.closed().await.expect("a close frame");
            assert_eq!(u16::from(frame.code), 1001, "{frame:?}");
        }
        drop(clients);
        let ended = warren.process.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains(&format!("{name}: stopping")), "{ended:?}");
        assert!(ended.stderr.trim_end().ends_with("stopped"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    // Ten minutes are patience enough for the first signal: within the test's deadline only the second can end it.
    let patience = ["--close-timeout-ms", "600000", "--drain-timeout-ms", "600000"];
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::INT), (Signal::TERM, Signal::INT)] {
        let mut warren = Warren::serve(&patience, &[]).await;
        let _silent = silent_session(&warren).await;
        warren.process.signal(first);
        warren.process.reports("stopping; another signal stops at once").await;
        eventually("the session is being closed", || async { get_json(warren.address, "/healthz").await.0 == 0 }).await;
        assert!(warren.process.is_running(), "it waits for the session");
        warren.process.signal(second);
        let ended = warren.process.ended().await;
        assert_eq!(ended.code, Some(130), "{ended:?}");
        assert!(ended.stderr.contains("stopped at once"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_session_that_does_not_answer_delays_the_end_no_longer_than_the_drain_timeout() {
    let warren = Warren::serve(&["--close-timeout-ms", "600000", "--drain-timeout-ms", "300"], &[]).await;
    let _silent = silent_session(&warren).await;
    warren.process.signal(Signal::TERM);
    let ended = warren.process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("1 sessions did not close within --drain-timeout-ms 300"), "{ended:?}");
}

/// A session whose client never reads nor answers anything.
async fn silent_session(warren: &Warren) -> TcpStream {
    let mut stream = TcpStream::connect(warren.address).await.expect("a connection");
    let request = format!(
        "GET /message HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        warren.address
    );
    stream.write_all(request.as_bytes()).await.expect("an open connection");
    eventually("the session is there", || async { get_json(warren.address, "/healthz").await.1["sessions"] == 1 })
        .await;
    stream
}

// --- With a broker --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn two_processes_hear_each_other_through_rabbitmq() {
    let cluster = Cluster::shared();
    let arguments = ["--prefix", cluster.prefix.as_str()];
    let env = [("WARREN_BROKER", cluster.url.as_str())];
    let (one, two) = (Warren::serve(&arguments, &env).await, Warren::serve(&arguments, &env).await);
    one.ready().await;
    two.ready().await;
    let (mut ann, mut bob) = (one.connect().await, two.connect().await);
    ann.send("from ann").await;
    ann.receives(&["from ann"]).await;
    bob.receives(&["from ann"]).await;
    bob.send("from bob").await;
    ann.receives(&["from bob"]).await;
    bob.receives(&["from bob"]).await;
}

#[tokio::test]
async fn a_broker_that_is_down_is_told_and_waited_for() {
    let uri = format!("amqp://127.0.0.1:{}", free_port());
    let mut warren = Warren::serve(&["--broker", &uri], &[]).await;
    for side in ["publishing", "consuming"] {
        let line = warren.process.reports(&format!("broker link ({side}) down")).await;
        assert!(
            line.contains(" WARN ") && line.contains(uri.trim_start_matches("amqp://")) && line.contains("refused"),
            "{line}"
        );
    }
    let (status, readiness) = get_json(warren.address, "/readyz").await;
    assert_eq!((status, &readiness["status"]), (503, &"broker_unavailable".into()), "{readiness}");
    assert_eq!(get_json(warren.address, "/healthz").await.0, 200, "it lives all the same");
    assert!(warren.process.is_running());
}

#[tokio::test]
async fn a_name_that_another_instance_bears_ends_it_with_1() {
    let cluster = Cluster::shared();
    let name = format!("{}-twin", cluster.prefix);
    let arguments = ["--prefix", cluster.prefix.as_str(), "--instance", name.as_str()];
    let env = [("WARREN_BROKER", cluster.url.as_str())];
    let first = Warren::serve(&arguments, &env).await;
    first.ready().await;
    let second = Warren::serve(&arguments, &env).await.process.ended().await;
    assert_eq!(second.code, Some(1), "{second:?}");
    let line = second.stderr.lines().find(|line| line.starts_with("warren: ")).expect("a line that tells why");
    assert!(line.contains(&name) && line.contains("--instance"), "{line}");
    first.ready().await;
}

// --- TLS ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_broker_is_reached_over_tls_if_the_ca_file_vouches_for_it() {
    let directory = Directory::new("tls");
    let (ours, other) = (authority("ours"), authority("other"));
    let (port, conf) = tls_listener(&directory, &ours);
    let node = PrivateNode::start_with("tls", Some(conf)).await;
    let uri = format!("amqps://guest:guest@127.0.0.1:{port}/%2f");
    let env = [("WARREN_BROKER", uri.as_str())];
    let ca_file = directory.write("ours.pem", &ours.pem());
    let other_file = directory.write("other.pem", &other.pem());

    let trusting = Warren::serve(&["--broker-ca-file", &ca_file], &env).await;
    trusting.ready().await;
    let mut client = trusting.connect().await;
    client.send("over TLS").await;
    client.receives(&["over TLS"]).await;
    let connections = node.ctl(&["-q", "list_connections", "port", "ssl"]).await;
    assert!(connections.contains(&format!("{port}\ttrue")), "{connections}");

    for arguments in [&["--broker-ca-file", &other_file][..], &[]] {
        let mut doubting = Warren::serve(arguments, &env).await;
        let line = doubting.process.reports("broker link (consuming) down").await;
        assert!(line.contains("certificate"), "{line}");
        // It goes on trying, and goes on being refused.
        doubting.process.reports("broker link (publishing) down").await;
        let (status, readiness) = get_json(doubting.address, "/readyz").await;
        assert_eq!(status, 503, "{readiness}");
        assert!(readiness["broker"].to_string().contains("certificate"), "{readiness}");
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// A port, and RabbitMQ's configuration for TLS on it with a certificate of `authority`.
fn tls_listener(directory: &Directory, authority: &CertifiedIssuer<'_, KeyPair>) -> (u16, std::path::PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("valid names");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    let port = free_port();
    let conf = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\n\
         ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
         ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
        directory.write("server-ca.pem", &authority.pem()),
        directory.write("server.pem", &certificate.pem()),
        directory.write("server.key", &key.serialize_pem()),
    );
    (port, directory.write("tls.conf", &conf).into())
}
