//! Each of the broker's families is moved by its own method.

use std::time::{Duration, Instant};

use super::{link, metrics, read, read_with};
use crate::broker::LinkState;
use crate::metrics::{BrokerMetrics, Direction, Dropped};

/// What moves, the series' name behind `warren_broker_`, its labels, and what it is then.
type Case = (fn(&BrokerMetrics), &'static str, &'static [(&'static str, &'static str)], f64);

#[test]
fn what_happens_is_counted_where_it_belongs() {
    let cases: [Case; 13] = [
        (|m| m.published(3), "published_total", &[], 3.0),
        (|m| m.confirmed(2), "confirmed_total", &[], 2.0),
        (|m| m.nacked(1), "nacked_total", &[], 1.0),
        (|m| m.returned(4), "returned_total", &[], 4.0),
        (|m| m.republished(5), "republished_total", &[], 5.0),
        (|m| m.unconfirmed(6), "unconfirmed_messages", &[], 6.0),
        (|m| m.missing(7), "missing_messages_total", &[], 7.0),
        (|m| m.possible_gap(), "possible_gaps_total", &[], 1.0),
        (|m| m.duplicate(), "duplicates_dropped_total", &[], 1.0),
        (|m| m.dropped(Dropped::Oversized), "dropped_total", &[("reason", "oversized")], 1.0),
        (|m| m.reconnected(Direction::Publishing), "reconnects_total", &[("direction", "publishing")], 1.0),
        (|m| m.reconnected(Direction::Consuming), "reconnects_total", &[("direction", "consuming")], 1.0),
        (|m| m.spool(8, 0, None), "spool_messages", &[], 8.0),
    ];
    for (moves, name, labels, expected) in cases {
        let metrics = metrics();
        let before = read(&metrics);
        moves(&metrics.broker);
        let after = read(&metrics);
        let name = format!("warren_broker_{name}");
        assert_eq!(before.value(&name, labels), Some(0.0), "{name} is there from the start");
        assert_eq!(after.value(&name, labels), Some(expected), "{name}");
        let moved = after.samples.iter().zip(&before.samples).filter(|(after, before)| after.value != before.value);
        assert_eq!(moved.count(), 1, "{name} alone has moved");
    }
}

#[test]
fn the_spools_age_grows_until_it_is_empty() {
    let metrics = metrics();
    metrics.broker.spool(2, 300, Some(Instant::now() - Duration::from_secs(7)));
    let waiting = read(&metrics);
    assert_eq!(waiting.value("warren_broker_spool_messages", &[]), Some(2.0));
    assert_eq!(waiting.value("warren_broker_spool_bytes", &[]), Some(300.0));
    let age = |exposition: &super::Exposition| exposition.value("warren_broker_spool_oldest_age_seconds", &[]);
    assert!(age(&waiting) >= Some(7.0));
    assert!(age(&read(&metrics)) > age(&waiting), "it is read anew each time");
    metrics.broker.spool(0, 0, None);
    assert_eq!(age(&read(&metrics)), Some(0.0));
}

#[test]
fn each_direction_is_in_one_state() {
    let metrics = metrics();
    let states = [
        ("connecting", LinkState::Connecting),
        ("up", LinkState::Up),
        ("blocked", LinkState::Blocked { reason: "low on memory".into() }),
        ("down", LinkState::Down { reason: "refused".into(), permanent: false }),
    ];
    for (publishing, state) in &states {
        for (consuming, other) in &states {
            let exposition = read_with(&metrics, &link(state.clone(), other.clone()));
            for (direction, now) in [("publishing", publishing), ("consuming", consuming)] {
                for (named, _) in &states {
                    let labels = [("direction", direction), ("state", *named)];
                    let expected = if named == now { 1.0 } else { 0.0 };
                    assert_eq!(exposition.value("warren_broker_link", &labels), Some(expected), "{labels:?}");
                }
            }
        }
    }
}
