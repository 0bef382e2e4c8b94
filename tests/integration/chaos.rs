//! `warren chaos` as its users run it: it breaks things, counts, and says whether the guarantee was kept. And it has to
//! find builds that do not keep it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Time for a run: its own, and that of the broker's starts, on a machine that is busy with other tests.
const RUN_TIMEOUT: Duration = Duration::from_secs(180);

/// What the guarantee has to stand. Each kind of fault is in one of them.
const FAULTS_WITH_STREAM: &[&str] = &["broker-kill", "wire-cut", "memory-alarm", "instance-drain", "stall-readers"];
const FAULTS_WITH_QUEUE: &[&str] = &["broker-kill", "broker-restart", "wire-blackhole", "wire-delay", "instance-kill"];

/// Enough for messages to be on their way at any moment.
const LOAD: [&str; 10] =
    ["--sessions", "40", "--publishers", "8", "--rate", "200", "--letters", "40", "--duration", "10"];

/// In which faulty builds are found: a broker that is killed has messages on their way; behind a wire that swallows all,
/// everything is until the cut is noticed.
const FAULTS_THAT_FIND_OUT: [&str; 4] = ["--seed", "1", "--faults", "broker-kill:1,wire-blackhole:1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_stream_nothing_is_lost_whatever_breaks() {
    let report = keeps_the_guarantee("stream", FAULTS_WITH_STREAM).await;
    let all = &report["all"];
    assert_eq!((&all["lost"], &all["reordered"]), (&Value::from(0), &Value::from(0)), "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_queues_every_loss_is_told_whatever_breaks() {
    let report = keeps_the_guarantee("queue", FAULTS_WITH_QUEUE).await;
    let (mut all_lost, mut all_told) = (0, 0);
    for fault in report["faults"].as_array().expect("the faults") {
        let [lost, told] = ["messages_lost", "messages_told_missing"].map(|name| counts(&fault[name]));
        assert!(lost.iter().zip(&told).all(|(lost, told)| told >= lost), "{report:#}");
        all_lost += lost.iter().sum::<u64>();
        all_told += told.iter().sum::<u64>();
    }
    assert_eq!(all_lost, report["all"]["messages_lost"], "{report:#}");
    // What the others said behind the wire that swallows everything is missed there; some of it may come late, when the
    // broker is lost soon after and publishers send again what they keep.
    assert!(all_told > 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_does_not_publish_again_is_found_out() {
    let all = is_found_out("no-republishing", "stream").await["all"].take();
    // It tells no sender, so only counting at the listeners can find it out.
    assert!(all["lost"].as_u64() > Some(0), "{all:#}");
    assert_eq!(all["disconnected"], 0, "{all:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_does_not_drop_doubles_is_found_out() {
    let all = is_found_out("no-dropping-of-doubles", "queue").await["all"].take();
    assert!(all["duplicated"].as_u64() > Some(0), "{all:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_does_not_end_subscriptions_is_found_out() {
    let all = is_found_out("no-unsubscribing", "queue").await["all"].take();
    assert!(all["unwanted"].as_u64() > Some(0), "{all:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_does_not_keep_what_users_miss_is_found_out() {
    let to_users = is_found_out("no-keeping", "stream").await["to_users"].take();
    assert!(to_users["accepted"].as_u64() > Some(0) && to_users["lost"].as_u64() > Some(0), "{to_users:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rabbitmq_it_says_what_is_missing() {
    let directory = temporary("no-broker");
    let script = directory.join("node");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(&script, "#!/bin/sh\nexit 1\n").expect("a script");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let output = chaos(own_build(), &["--node-script", text(&script)]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("RabbitMQ is not installed"), "{output:?}");
    let _ = std::fs::remove_dir_all(directory);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_that_make_no_sense_exit_with_2() {
    for arguments in [["--faults", "fire"], ["--instances", "9"], ["--publishers", "1"]] {
        let output = chaos(own_build(), &arguments).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(arguments[0]), "{output:?}");
    }
}

/// Strikes with each of `faults` once; the report.
async fn keeps_the_guarantee(delivery: &str, faults: &[&str]) -> Value {
    let json = temporary(delivery).with_extension("json");
    let once: Vec<String> = faults.iter().map(|fault| format!("{fault}:1")).collect();
    let script = ["--seed", "1", "--faults", &once.join(",")];
    let report_to = ["--delivery", delivery, "--json", text(&json)];
    let output = chaos(own_build(), &[&LOAD[..], &script, &report_to].concat()).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout.contains("seed 1:") && stdout.contains("The guarantee was kept."), "{stdout}");
    let report = read(&json);
    let struck = report["faults"].as_array().expect("the faults");
    assert_eq!(struck.len(), faults.len(), "{report:#}");
    assert!(struck.iter().all(|fault| fault["outstanding"].as_u64() > Some(0)), "{report:#}");
    let all = &report["all"];
    assert!(all["accepted"].as_u64() > Some(500) && all["delivered"].as_u64() > Some(500 * 20), "{report:#}");
    for never in ["duplicated", "unwanted", "disconnected"] {
        assert_eq!(all[never], 0, "{report:#}");
    }
    // Nothing excuses what a user did not see; the program itself has counted that, and more.
    let to_users = &report["to_users"];
    assert!(to_users["accepted"].as_u64() > Some(100) && to_users["lost"] == 0, "{report:#}");
    assert!(to_users["seen"].as_u64() > to_users["accepted"].as_u64(), "some is for the whole group: {report:#}");
    for route in ["broadcast", "topics"] {
        assert!(report["by_route"][route]["accepted"].as_u64() > Some(200), "{report:#}");
    }
    // The instance that was killed or drained had sessions, and they came back.
    assert!(report["ends"].as_object().is_some_and(|ends| !ends.is_empty()), "{report:#}");
    report
}

/// Runs a build with a fault; its report.
async fn is_found_out(fault: &str, delivery: &str) -> Value {
    let builds =
        std::env::var_os("FAULTY_BUILDS").expect("FAULTY_BUILDS has builds: run `make test`, which makes them");
    let (json, logs) = (temporary(fault).with_extension("json"), temporary(fault));
    let report_to = ["--delivery", delivery, "--json", text(&json), "--directory", text(&logs)];
    let arguments = [&LOAD[..], &FAULTS_THAT_FIND_OUT, &report_to].concat();
    let output = chaos(Path::new(&builds).join(fault), &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("FORBIDDEN: "), "{output:?}");
    let _ = std::fs::remove_dir_all(logs);
    read(&json)
}

fn counts(list: &Value) -> Vec<u64> {
    list.as_array().into_iter().flatten().map(|count| count.as_u64().expect("a count")).collect()
}

fn own_build() -> PathBuf {
    env!("CARGO_BIN_EXE_warren").into()
}

/// Runs the program. Unless it is told another, its directory is a passing one, and kept if the run fails.
async fn chaos(program: PathBuf, arguments: &[&str]) -> Output {
    let mut command = crate::support::process::clean(program);
    command.arg("chaos").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(RUN_TIMEOUT, command.output()).await.expect("the run ends in time").expect("the program runs")
}

fn temporary(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}-{name}", std::process::id()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the report");
    let _ = std::fs::remove_file(path);
    serde_json::from_str(&text).expect("JSON")
}
