//! What is rendered is what `docs/metrics.md` says and what the files in `deploy/` ask for.

mod broker;
mod deploy;
mod documentation;
mod exposition;

use self::exposition::Exposition;
use super::*;
use crate::broker::LinkState;

fn metrics() -> Metrics {
    Metrics::new(&InstanceName::parse("10.0.0.5_8080").unwrap())
}

fn link(publishing: LinkState, consuming: LinkState) -> Link {
    Link { kind: "rabbitmq", publishing, consuming, attachments: 1 }
}

fn read(metrics: &Metrics) -> Exposition {
    read_with(metrics, &link(LinkState::Up, LinkState::Up))
}

fn read_with(metrics: &Metrics, link: &Link) -> Exposition {
    Exposition::parse(&metrics.render(&Readings { outbox_bytes: 0, link }))
}

#[test]
fn it_ends_as_the_format_says() {
    let text = metrics().render(&Readings { outbox_bytes: 0, link: &link(LinkState::Up, LinkState::Up) });
    assert!(text.ends_with("\n# EOF\n"), "{text}");
}

#[test]
fn names_follow_the_conventions() {
    for family in read(&metrics()).families {
        let name = &family.name;
        assert!(name.starts_with("warren_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(!name.contains("_ms") && !name.contains("_kib"), "base units: {name}");
        assert!(!family.help.is_empty() && family.help.ends_with('.'), "{name}: {}", family.help);
        if family.kind == "histogram" {
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
}

#[test]
fn the_instance_says_who_it_is() {
    let build = [("version", env!("CARGO_PKG_VERSION")), ("name", "10.0.0.5_8080")];
    assert_eq!(read(&metrics()).value("warren_build_info", &build), Some(1.0));
}

#[test]
fn latencies_go_to_their_histograms() {
    let metrics = metrics();
    let now = std::time::Instant::now();
    metrics.hub.latencies(now, None);
    metrics.hub.latencies(now, Some(now - std::time::Duration::from_secs(20)));
    let exposition = read(&metrics);
    assert_eq!(exposition.value("warren_fan_out_seconds_count", &[]), Some(2.0));
    assert_eq!(exposition.value("warren_end_to_end_seconds_count", &[]), Some(1.0));
    assert_eq!(exposition.value("warren_end_to_end_seconds_bucket", &[("le", "10.0")]), Some(0.0));
    assert_eq!(exposition.value("warren_end_to_end_seconds_bucket", &[("le", "30.0")]), Some(1.0));
}
