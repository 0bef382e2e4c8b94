//! What the arguments of `warren bench` mean, and which are refused.

use super::*;

fn parse(line: &str) -> Result<Task, String> {
    let command = declare(clap::Command::new("bench"));
    let words = ["bench"].into_iter().chain(line.split_whitespace());
    let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
    read(&matches).map_err(|conflict| conflict.to_string())
}

fn options(line: &str) -> Options {
    match parse(line) {
        Ok(Task::Measure(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn nothing_means_a_warren_of_its_own_in_a_closed_loop() {
    let options = options("");
    assert_eq!(options.warren, Kind::Warren(Own::default()));
    assert_eq!((options.work.sessions, options.work.size), (1000, 128));
    assert_eq!((options.work.pace, options.floor, options.repeat), (Pace::Window(8), None, None));
}

#[test]
fn json_and_compression_are_asked_for() {
    let options = options("--payload json --compress --coalesce-ms 2");
    assert_eq!((options.work.content, options.work.compress), (Content::Json, true));
    assert_eq!(options.warren, Kind::Warren(Own { coalesce_ms: 2, ..Own::default() }));
}

#[test]
fn urls_and_pids_name_servers_that_run() {
    let line = "ws://127.0.0.1:1/a ws://127.0.0.1:2/b --pid 7 --pid 8 --compare ws://127.0.0.1:3/ --compare-pid 9";
    let options = options(line);
    let Kind::Running { targets, pids } = options.warren else { panic!("not running") };
    assert_eq!((targets.len(), pids, options.compare[0].1), (2, vec![7, 8], Some(9)));
}

#[test]
fn the_floor_writes_single_frames_at_a_rate_and_never_waits_past_the_window() {
    assert_eq!(options("--floor --rate 20").floor, Some(1));
    assert_eq!(options("--floor").floor, Some(8));
    assert_eq!(options("--floor --window 4").floor, Some(4));
    assert_eq!(options("--floor --window 16 --floor-frames 2").floor, Some(2));
}

#[test]
fn the_suite_and_the_hidden_floor_are_tasks() {
    assert!(matches!(parse("--suite --scale 0.1"), Ok(Task::Suite(options)) if options.scale == 0.1));
    assert_eq!(parse("floor-server 3"), Ok(Task::Floor { frames: 3 }));
}

#[test]
fn the_suite_ignores_no_argument() {
    let with_value = |name: &str| match name {
        "url" => "ws://h/".to_owned(),
        "compare" => "--compare ws://h/".to_owned(),
        "compare-pid" => "--compare ws://h/ --compare-pid 2".to_owned(),
        "payload" => "--payload json".to_owned(),
        "path" => "--path /message/a".to_owned(),
        "floor" | "compress" | "connect" => format!("--{name}"),
        "floor-frames" => "--floor --floor-frames 2".to_owned(),
        _ => format!("--{name} 2"),
    };
    for name in NOT_WITH_SUITE {
        let line = match name {
            "serve" => "--suite -- --delivery stream".to_owned(),
            _ => format!("{} --suite", with_value(name)),
        };
        let error = parse(&line).expect_err(&line);
        assert!(error.contains("cannot be used with"), "{line}: {error}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, word) in [
        ("--sessions 0", "--sessions 0"),
        ("--sessions x", "--sessions"),
        ("--size 47", "at least 48"),
        ("--size 66 --payload json", "at least 67"),
        ("--payload xml", "filler or json"),
        ("--compress --floor", "cannot be used with"),
        ("--suite --compress", "cannot be used with"),
        ("--floor --floor-frames 2 --rate 5", "cannot be used with"),
        ("--floor-frames 2", "--floor"),
        ("--scale 2", "--suite"),
        ("--duration 0", "nothing is measured"),
        ("--publishers 5 --sessions 4", "only 4 sessions"),
        ("--threads 5 --sessions 4", "only 4 sessions"),
        ("--rate 0", "above 0"),
        ("--rate NaN", "above 0"),
        ("--rate 5 --window 3", "cannot be used with"),
        ("--duration -1", "unexpected argument"),
        ("--duration inf", "expected seconds"),
        ("--instances 2", "without --broker"),
        ("--served 2", "only 1 instances"),
        ("--path a.topic", "begins with a slash"),
        ("--pid 1", "without a URL"),
        ("ws://h/ --broker amqp://h", "cannot be used with"),
        ("--compare http://h/", "only ws://"),
        ("--compare-pid 1", "--compare"),
        ("--compare ws://h/ --compare ws://i/ --compare-pid 1", "one for each --compare"),
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(word), "{line}: {error}");
    }
}
