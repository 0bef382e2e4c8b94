//! `warren bench` as its users run it, against servers that keep their promise and servers that do not.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::process::{Signal, Warren};
use crate::support::{eventually, within_deadline};

/// How often the `n`th message is sent on to each session.
type Copies = fn(n: usize) -> usize;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_keeps_its_promise_passes_with_sane_numbers() {
    let json = temporary("passes.json");
    let html = temporary("passes.html");
    let output = bench(&["--sessions", "20", "--json", &json, "--html", &html]).await;
    assert!(output.status.success(), "{output:?}");
    let report = read_json(&json);
    assert_eq!(report["ok"], true, "{report}");
    let run = &report["servers"][0]["runs"][0];
    assert_eq!(run["sessions"], 20);
    let traffic = &run["traffic"];
    let count = |name: &str| traffic[name].as_u64().expect("a count");
    assert!(count("messages") > 0);
    assert_eq!(count("deliveries"), count("messages") * 20);
    let latency = |name: &str| traffic["latency"][name].as_f64().expect("a latency");
    assert!(latency("p50_us") > 0.0 && latency("p50_us") <= latency("p99_us"));
    assert!(latency("p99_us") <= latency("max_us"));
    assert!(run["memory"]["idle_kib"].as_u64() > Some(0), "{run}");
    let page = std::fs::read_to_string(&html).expect("the page");
    assert!(page.contains("<polyline") && page.contains("<rect") && !page.contains("{{"));
    let _ = std::fs::remove_file(html);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_floor_stands_beside_with_a_ratio() {
    let json = temporary("floor.json");
    let output = bench(&["--sessions", "10", "--rate", "100", "--floor", "--repeat", "2", "--json", &json]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("/ floor"), "{output:?}");
    let report = read_json(&json);
    assert_eq!(report["servers"][0]["is_floor"], true);
    assert_eq!(report["servers"][1]["runs"].as_array().map(Vec::len), Some(2));
    let ratio = report["servers"][1]["ratios_to_floor"]["deliveries_per_second"].as_f64().expect("a ratio");
    assert!((0.5..2.0).contains(&ratio), "both kept the rate, but {ratio}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_stand_beside_the_broadcast() {
    let json = temporary("topics.json");
    let work = ["topics", "--topics", "40", "--subscribers", "3", "--sessions", "12", "--publishers", "2"];
    let briefly = ["--warmup", "0.1", "--duration", "0.3", "--json", &json];
    let mut command = crate::support::process::clean(env!("CARGO_BIN_EXE_warren"));
    command.arg("bench").args(work).args(briefly).stdin(Stdio::null()).kill_on_drop(true);
    let output = within_deadline("the run", command.output()).await.expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(table.lines().count(), 6, "{table}");
    let report = read_json(&json);
    let of = |case: usize, name: &str| report["cases"][case]["medians"][name].as_f64().expect("a number");
    for (case, fan_out) in [(0, 3.0), (1, 3.0), (2, 3.0), (3, 12.0)] {
        let (messages, deliveries) = (of(case, "messages_per_second"), of(case, "deliveries_per_second"));
        assert!(messages > 0.0 && (deliveries / messages - fan_out).abs() < 0.01, "{report:#}");
    }
    let error = crate::support::process::clean(env!("CARGO_BIN_EXE_warren"))
        .args(["bench", "topics", "--sessions", "9"])
        .output()
        .await
        .expect("the program runs");
    assert_eq!(error.status.code(), Some(2), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_messages_take_fewer_bytes_and_are_checked_like_others() {
    let work = ["--sessions", "10", "--publishers", "2", "--size", "1024", "--payload", "json"];
    let run = async |name: &str, more: &[&str]| {
        let json = temporary(name);
        let output = bench(&[&work[..], more, &["--json", &json]].concat()).await;
        assert!(output.status.success(), "{output:?}");
        read_json(&json)["servers"][0]["runs"][0].clone()
    };
    let (plain, compressed) = (run("plain.json", &[]).await, run("compressed.json", &["--compress"]).await);
    let bytes = |run: &Value| run["traffic"]["wire_bytes_per_delivery"].as_f64().expect("a number");
    assert_eq!(bytes(&plain), 1024.0 + 4.0, "a header of four bytes");
    assert!((200.0..600.0).contains(&bytes(&compressed)), "{compressed}");
    assert_eq!(plain["compressed_deliveries"], 0);
    assert!(compressed["compressed_deliveries"].as_u64() >= compressed["traffic"]["deliveries"].as_u64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_compress_is_found_out() {
    let address = defective_server(|_| 1).await;
    let output = bench(&["--sessions", "3", "--compress", &format!("ws://{address}/")]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("3 sessions refused"), "{report}");
    assert!(report.contains("the server does not agree to permessage-deflate"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_writes_its_table_as_markdown_as_json_and_as_a_page() {
    let (json, html) = (temporary("suite.json"), temporary("suite.html"));
    let arguments = ["bench", "--suite", "--scale", "0.01", "--repeat", "1", "--json", &json, "--html", &html];
    let ended = Warren::command(&arguments, &[]).ended_late().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let rows = read_json(&json)["rows"].as_array().expect("rows").clone();
    assert_eq!(ended.stdout.lines().count(), rows.len() + 2, "{}", ended.stdout);
    let row = |what: &str| {
        let is_it = |row: &&Value| row["what"].as_str().is_some_and(|name| name.contains(what));
        rows.iter().find(is_it).unwrap_or_else(|| panic!("no row with {what:?}"))
    };
    assert!(row("one write each")["note"].as_str().is_some_and(|note| note.contains("in process (no --broker)")));
    assert_eq!(row("on RabbitMQ")["measured"], Value::Null);
    let saved = row("bytes on the wire")["measured"].as_f64().expect("a number");
    assert!((0.2..0.6).contains(&saved), "{saved}");
    assert!(row("deliveries of 16 KiB, in process")["measured"].as_f64() > Some(0.0));
    let page = std::fs::read_to_string(&html).expect("the page");
    let _ = std::fs::remove_file(html);
    assert_eq!(page.matches("<div class=\"row").count(), rows.len());
    assert!(page.contains("no targets at this size") && !page.contains("{{"));
    assert!(rows.iter().all(|row| row["reached"].is_null()), "a small run reaches and misses nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_floor_runs_also_where_messages_are_large_and_joined() {
    let json = temporary("large.json");
    let output = bench(&["--sessions", "20", "--floor", "--size", "16384", "--json", &json]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read_json(&json)["ok"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loses_is_found_out() {
    finds("deliveries lost", |n| usize::from(n % 10 != 5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_doubles_is_found_out() {
    finds("deliveries doubled", |n| if n % 10 == 5 { 2 } else { 1 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_found_out() {
    let address = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its address");
    let output = bench(&["--sessions", "3", &format!("ws://{address}/")]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 sessions refused"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_says_nothing_is_found_out() {
    // The kernel accepts; nobody reads.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let json = temporary("silent.json");
    let address = silent.local_addr().expect("its address");
    let output = bench(&["--sessions", "3", "--json", &json, &format!("ws://{address}/")]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("3 handshakes never answered"), "{report}");
    assert!(report.contains("1 measurements without any message"), "{report}");
    assert_eq!(read_json(&json)["ok"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_that_the_server_does_not_take_ends_the_run() {
    let address = deaf_server().await;
    let output = bench(&["--sessions", "1", "--rate", "1000000", "--size", "65536", &format!("ws://{address}/")]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot send at this rate"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_beyond_the_generator_ends_with_the_phase() {
    let output = bench(&["--sessions", "1", "--rate", "1000000000"]).await;
    let has_report = String::from_utf8_lossy(&output.stdout).contains("deliveries/s");
    let is_too_fast = String::from_utf8_lossy(&output.stderr).contains("cannot send at this rate");
    assert!(has_report || is_too_fast, "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_that_make_no_sense_exit_with_2() {
    let output = bench(&["--sessions", "1", "--publishers", "2"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--publishers 2"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_it_started_do_not_outlive_it_when_it_is_killed() {
    for (server, flags) in [("floor", &["--floor"][..]), ("warren", &[])] {
        let arguments = [&["bench", "--sessions", "2", "--warmup", "60"], flags].concat();
        let mut bench = Warren::command(&arguments, &[]);
        bench.reports(&format!("{server}: warming up")).await;
        let children = children_of(bench.pid());
        assert_eq!(children.len(), 1, "{server}: {children:?}");
        bench.signal(Signal::KILL);
        eventually(&format!("{server} is gone"), || async { !is_running(children[0]) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_said_before_anything_is_measured() {
    for (arguments, why) in [
        (&["--json", "/nowhere/at/all.json"][..], "cannot write /nowhere/at/all.json"),
        (&["--pid", "4294967295", "ws://127.0.0.1:9/"], "--pid 4294967295: there is no such process"),
        (&["--sessions", "4000000000"], "open files"),
    ] {
        let output = bench(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why) && !said.contains("opening"), "{said}");
    }
}

async fn finds(defect: &str, copies: Copies) {
    let address = defective_server(copies).await;
    let output = bench(&["--sessions", "3", "--rate", "100", &format!("ws://{address}/")]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(defect), "{output:?}");
}

/// Runs the program for a moment.
async fn bench(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_warren"));
    command.arg("bench").args(["--duration", "0.5", "--warmup", "0.1"]).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    within_deadline("the run", command.output()).await.expect("the program runs")
}

/// Sends each text to all, but some not once. The first messages only ask who hears and are passed on as they are.
async fn defective_server(copies: Copies) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (texts, _) = broadcast::channel::<Message>(4096);
    let texts = Arc::new(texts);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let texts = texts.clone();
            tokio::spawn(async move {
                let (mut out, mut incoming) = accept_async(stream).await.expect("a handshake").split();
                let mut others = texts.subscribe();
                tokio::spawn(async move {
                    while let Ok(text) = others.recv().await {
                        if out.send(text).await.is_err() {
                            return;
                        }
                    }
                });
                let mut count = 0;
                while let Some(Ok(message)) = incoming.next().await {
                    for _ in 0..copies(count).min(usize::from(message.is_text()) * 2) {
                        let _ = texts.send(message.clone());
                    }
                    count += 1;
                }
            });
        }
    });
    address
}

/// Answers the first message, by which the session knows that it hears, and reads no more.
async fn deaf_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a session");
        let mut session = accept_async(stream).await.expect("a handshake");
        let probe = session.next().await.expect("a message").expect("a whole one");
        session.send(probe).await.expect("an open session");
        std::future::pending::<()>().await;
    });
    address
}

/// The processes that `pid`'s first thread started.
fn children_of(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a living process");
    children.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

/// A zombie, whose adoptive parent has not looked yet, does not run.
fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

fn temporary(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}-{name}", std::process::id()));
    path.to_str().expect("a path of text").to_owned()
}

fn read_json(path: &str) -> Value {
    let text = std::fs::read_to_string(path).expect("the report");
    let _ = std::fs::remove_file(path);
    serde_json::from_str(&text).expect("JSON")
}
