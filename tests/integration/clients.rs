//! `warren publish` and `warren subscribe`, as they are called in a terminal and in scripts.

use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::support::broker::Cluster;
use crate::support::eventually;
use crate::support::instance::{Instance, config};
use crate::support::post::notify;
use crate::support::process::{Arguments, Directory, Ended, Process, Signal, Warren, clean, free_port};
use crate::support::sessions_become;

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// FIPS 180-2's example.
const KEY: &str = "abc";
const KEY_HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

async fn publish(url: &str, arguments: Arguments<'_>) -> Ended {
    Warren::run(&[&["publish", "--url", url], arguments].concat(), &[]).await
}

/// A subscriber whose subscriptions are in force.
async fn subscribe(url: &str, arguments: Arguments<'_>) -> Process {
    let mut process = Warren::command(&[&["subscribe", "--url", url], arguments].concat(), &[]);
    process.reports("listening at").await;
    process
}

/// The id that was printed.
fn published(ended: &Ended) -> &str {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    ended.stdout.trim_end()
}

/// What a line shows behind its time.
fn said(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').expect("a time");
    assert!(time.ends_with('Z') && time.len() == "2026-07-25T16:26:04.113Z".len(), "{line}");
    rest
}

/// Publishes through one server, and listens at the other.
async fn messages_pass_between(one: &Warren, two: &Warren) {
    let mut orders = subscribe(&two.url(), &["orders.*", "news"]).await;
    let json = subscribe(&two.url(), &["orders.#", "--broadcast", "--json", "--count", "2"]).await;
    let shipped = publish(&one.url(), &["/orders/17", "shipped\nat last"]).await;
    let id = published(&shipped).to_owned();
    let line = orders.says("shipped").await;
    assert_eq!(said(&line), "orders.17 shipped\\nat last");
    published(&publish(&one.url(), &["--broadcast", "to all"]).await);
    let ended = json.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let heard: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (&heard[0]["id"], &heard[0]["topic"], &heard[0]["text"]),
        (&id.into(), &"orders.17".into(), &"shipped\nat last".into())
    );
    assert_eq!((&heard[1]["broadcast"], &heard[1]["text"]), (&true.into(), &"to all".into()));
    assert_eq!(heard.len(), 2);
}

#[tokio::test]
async fn what_one_command_publishes_another_prints() {
    let warren = Warren::serve(&[], &[]).await;
    messages_pass_between(&warren, &warren).await;
}

#[tokio::test]
async fn what_one_command_publishes_another_prints_on_another_instance() {
    let cluster = Cluster::shared();
    for delivery in ["queue", "stream"] {
        let one = Warren::join(&cluster, &["--delivery", delivery]).await;
        let two = Warren::join(&cluster, &["--delivery", delivery]).await;
        messages_pass_between(&one, &two).await;
    }
}

#[tokio::test]
async fn a_message_may_come_from_standard_input() {
    let warren = Warren::serve(&[], &[]).await;
    let url = warren.url();
    let mut client = crate::support::client::Client::subscribe(warren.address, "a").await;
    for input in [&b"text, and its line end\n"[..], b"", b"\x00\xff"] {
        published(&Warren::run_fed(&["publish", "a", "--url", &url], &[], input).await);
        let expected = String::from_utf8(input.to_vec()).map_or_else(|_| Message::binary(input), Message::text);
        assert_eq!(client.receive().await, expected);
    }
    let mut lines = Process::start_fed(WARREN, &["publish", "a", "--lines", "--url", &url], &[]);
    for line in ["one", "two"] {
        lines.feed(format!("{line}\n")).await;
        client.receives(&[line]).await;
    }
    lines.feed("the last").await;
    lines.end_input();
    client.receives(&["the last"]).await;
    let ended = lines.ended().await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 3), "{ended:?}");
}

#[tokio::test]
async fn what_was_not_published_is_told_with_the_reason() {
    let warren = Warren::serve(&["--message-bytes-max", "10"], &[]).await;
    let url = warren.url();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (arguments, code, reason) in [
        (&["publish", "a", "far too long a message", "--url", &url][..], 1, "413"),
        (&["publish", "a", "b", "--url", &nobody], 1, "cannot connect to 127.0.0.1"),
        (&["publish", "a..b", "c", "--url", &url], 2, "a word between two separators is missing"),
        (&["publish", "--url", &url], 2, "--broadcast"),
        (&["subscribe", "a..b", "--url", &url], 2, "a word between two separators is missing"),
        (&["subscribe", "a", "--url", &nobody], 1, "cannot connect to 127.0.0.1"),
        (&["subscribe", "a", "--url", "https://localhost"], 2, "only http:// is spoken here"),
    ] {
        let ended = Warren::run(arguments, &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(reason) && ended.stderr.lines().count() == 1, "{arguments:?}: {ended:?}");
    }
    let ended = Warren::run_fed(&["publish", "a", "--lines", "--url", &url], &[], "short\nfar too long\nshort").await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(1), 1), "{ended:?}");
    assert!(ended.stderr.contains("line 2: 413"), "{ended:?}");
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let ended = publish(&url, &["a", "b", "--timeout", "0.2"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("no answer within 0.2 s: it is not known"), "{ended:?}");
}

#[tokio::test]
async fn a_key_comes_from_a_file_or_the_environment() {
    let directory = Directory::new("client-keys");
    let keys = directory.write("keys", &format!("shop {KEY_HASH}\n"));
    let file = directory.write("key", &format!("{KEY}\n"));
    // The variable is the clients': a server does not stumble over it.
    let warren = Warren::serve(&["--api-keys-file", &keys], &[("WARREN_API_KEY", KEY)]).await;
    let url = warren.url();
    published(&publish(&url, &["a", "b", "--api-key-file", &file]).await);
    published(&Warren::run(&["publish", "a", "b", "--url", &url], &[("WARREN_API_KEY", KEY)]).await);
    let ended = publish(&url, &["a", "b"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("401") && ended.stderr.contains("An API key or a token is required"), "{ended:?}");
}

// --- listening ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_lost_server_is_told_and_waited_for() {
    let port = free_port().to_string();
    let flags = ["--port", &port, "--retry-after-max-ms", "100"];
    let warren = Warren::serve(&flags, &[]).await;
    let url = warren.url();
    let mut listener = subscribe(&url, &["a", "--count", "2"]).await;
    published(&publish(&url, &["a", "before"]).await);
    listener.says("before").await;
    warren.process.kill().await;
    listener.reports("the server has ended the stream").await;
    listener.reports("cannot connect").await;
    let _warren = Warren::serve(&flags, &[]).await;
    // What was said to an instance that is alone is gone with it.
    listener.reports("messages may be missing here").await;
    published(&publish(&url, &["a", "after"]).await);
    let ended = listener.ended().await;
    assert_eq!(
        (ended.code, ended.stdout.lines().map(said).collect::<Vec<_>>()),
        (Some(0), vec!["a before", "a after"])
    );
}

/// The same port as often as it is taken; meanwhile something is said through the other instance.
#[tokio::test]
async fn what_was_said_to_streams_meanwhile_comes_and_with_queues_is_told_to_be_missing() {
    let cluster = Cluster::shared();
    for (delivery, heard) in
        [("stream", &["a before", "a meanwhile", "a after"][..]), ("queue", &["a before", "a after"])]
    {
        let port = free_port().to_string();
        let flags = ["--delivery", delivery, "--port", &port, "--retry-after-max-ms", "100"];
        let other = Warren::join(&cluster, &["--delivery", delivery]).await;
        let warren = Warren::join(&cluster, &flags).await;
        let count = heard.len().to_string();
        let mut listener = subscribe(&warren.url(), &["a", "--count", &count]).await;
        published(&publish(&other.url(), &["a", "before"]).await);
        listener.says("before").await;
        warren.process.kill().await;
        listener.reports("the server has ended the stream").await;
        published(&publish(&other.url(), &["a", "meanwhile"]).await);
        let _warren = Warren::join(&cluster, &flags).await;
        listener.reports("listening again").await;
        published(&publish(&other.url(), &["a", "after"]).await);
        let ended = listener.ended().await;
        assert_eq!((ended.code, ended.stdout.lines().map(said).collect::<Vec<_>>()), (Some(0), heard.to_vec()));
        assert_eq!(ended.stderr.contains("missing"), delivery == "queue", "{ended:?}");
    }
}

#[tokio::test]
async fn silence_is_a_loss() {
    let warren = Warren::serve(&["--ping-interval-ms", "60000", "--retry-after-max-ms", "50"], &[]).await;
    let mut listener = subscribe(&warren.url(), &["a", "--idle-timeout", "0.2"]).await;
    listener.reports("nothing was heard for 0.2 s").await;
    listener.reports("listening again").await;
}

#[tokio::test]
async fn ctrl_c_ends_it_without_complaint() {
    let warren = Warren::serve(&[], &[]).await;
    for signal in [Signal::INT, Signal::TERM] {
        let listener = subscribe(&warren.url(), &[]).await;
        sessions_become(warren.address, 1).await;
        listener.signal(signal);
        assert_eq!(listener.ended().await.code, Some(0));
        sessions_become(warren.address, 0).await;
    }
}

#[tokio::test]
async fn whoever_reads_no_more_ends_it_quietly() {
    let instance = Instance::start(config()).await;
    let url = format!("http://{}", instance.address);
    let mut command = clean("sh");
    command.args(["-c", "\"$0\" subscribe a --url \"$1\" | head -n 1; echo \"done\"", WARREN, &url]);
    let pipeline = Process::spawn(command);
    sessions_become(instance.address, 1).await;
    // `head` is gone at some time after the first; then a line finds nobody.
    eventually("the pipeline ends", async || {
        notify(instance.address, "a", "x").await;
        pipeline.output().contains("done")
    })
    .await;
    let ended = pipeline.ended().await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 2), "{ended:?}");
    assert!(ended.stderr.lines().all(|line| line.contains("listening at")), "{ended:?}");
}

/// `script` gives a program a terminal to write to.
#[tokio::test]
async fn a_terminal_gets_colours_unless_it_wants_none() {
    let warren = Warren::serve(&[], &[]).await;
    let listen = format!("{WARREN} subscribe a --count 1 --url {}", warren.url());
    for (no_colour, expected) in [("", true), ("1", false)] {
        let mut terminal = Process::start("script", &["-qec", &listen, "/dev/null"], &[("NO_COLOR", no_colour)]);
        terminal.says("listening at").await;
        published(&publish(&warren.url(), &["a", "\u{1b}[31mred"]).await);
        let ended = terminal.ended().await;
        let line = ended.stdout.lines().find(|line| line.contains("red")).expect("the message");
        assert_eq!(line.contains("\u{1b}["), expected, "{line:?}");
        assert!(line.contains("\\u{1b}[31mred"), "{line:?}");
    }
}
