//! `docs/protocol.md` says what the codec does: every example and every row of its tables is tried.

use serde_json::Value;

use super::{ErrorCode, Notice, REQUEST_ID_BYTES_MAX, Request, TOPICS_PER_REQUEST_MAX};
use crate::cursor::CURSOR_CHARS_MAX;

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// What stands in the fences that are marked as JSON.
fn examples() -> Vec<&'static str> {
    PAGE.split("```json\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// The rows of the table under this head, each as its cells.
fn rows(head: &str) -> Vec<Vec<&'static str>> {
    let (_, table) = PAGE.split_once(head).expect("the table");
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn every_example_is_what_it_says() {
    let mut kinds = Vec::new();
    for example in examples() {
        let value: Value = serde_json::from_str(example).expect(example);
        let kind = value["type"].as_str().expect(example).to_owned();
        // Its heading stands before it.
        let (before, _) = PAGE.split_once(example).unwrap();
        assert!(before.rsplit("### ").next().unwrap().starts_with(&kind), "{example}");
        if Request::KINDS.contains(&kind.as_str()) {
            let request = Request::parse(example.as_bytes()).expect(example);
            assert_eq!(request.id().map(super::RequestId::as_str), value["id"].as_str());
        } else {
            let notice: Notice<'_> = serde_json::from_str(example).expect(example);
            assert_eq!(serde_json::from_slice::<Value>(&notice.text()).unwrap(), value);
        }
        kinds.push(kind);
    }
    kinds.dedup();
    let all = [&Request::KINDS[..], &["welcome", "message", "gap", "expiring", "ack", "pong", "error"]].concat();
    assert_eq!(kinds, all);
}

#[test]
fn every_code_has_its_row() {
    let codes: Vec<u16> = rows("| code | meaning").iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(codes, ErrorCode::ALL.map(ErrorCode::number));
}

#[test]
fn bad_input_gets_what_it_says() {
    let rows = rows("| request | code");
    assert!(rows.len() > 10);
    for row in rows {
        let [request, code] = row[..] else { panic!("{row:?}") };
        let refusal = Request::parse(request.trim_matches('`').as_bytes()).expect_err(request);
        assert_eq!(refusal.code.number().to_string(), code, "{request}");
    }
}

#[test]
fn the_limits_of_requests_are_told() {
    let said = |number: usize| match number {
        1000 => "1,000".to_owned(),
        number => number.to_string(),
    };
    let limit = |name: &str| rows("| limit |").into_iter().find(|row| row[0].starts_with(name)).expect("a row")[1];
    assert_eq!(limit("`topics_per_request_max`"), said(TOPICS_PER_REQUEST_MAX));
    assert_eq!(limit("bytes of an `id`"), said(REQUEST_ID_BYTES_MAX));
    let refused = Request::parse(&[br#"{"type":""#, "x".repeat(1000).as_bytes(), br#""}"#].concat()).unwrap_err();
    assert!(PAGE.contains(&format!("at most {} characters", refused.explanation.chars().count())));
    assert!(PAGE.contains(&format!("at most {CURSOR_CHARS_MAX} characters")));
}
