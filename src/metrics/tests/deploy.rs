//! The dashboard and the alert rules in `deploy/` parse, and ask only for what an instance shows.

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::exposition::{Exposition, Family};
use super::{metrics, read};

const DASHBOARD: &str = include_str!("../../../deploy/grafana/warren.json");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");

/// Words of a query that are no metrics, though no bracket follows them.
const KEYWORDS: [&str; 8] = ["by", "without", "on", "ignoring", "and", "or", "unless", "bool"];

/// Labels that Prometheus adds to what it scrapes, and variables of the dashboard in their places.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// What Prometheus itself says of each target.
const OWN_METRICS: [&str; 1] = ["up"];

/// A metric in a query, with the label matchers `label="value"` behind it.
#[derive(Debug, PartialEq)]
struct Asked {
    metric: String,
    labels: Vec<(String, String)>,
}

/// Every metric that a query names.
fn asked(query: &str) -> Vec<Asked> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric() || "_$\"[".contains(c)) {
        rest = &rest[start..];
        let (skipped, word) = match rest.as_bytes()[0] {
            b'[' => (rest.find(']').expect("a range ends") + 1, ""),
            b'"' => (rest[1..].find('"').expect("a string ends") + 2, ""),
            _ => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_$.:".contains(c)));
                let end = end.unwrap_or(rest.len());
                (end, &rest[..end])
            }
        };
        rest = &rest[skipped..];
        let behind = rest.trim_start();
        if KEYWORDS.contains(&word) {
            // The labels that it groups or matches by.
            if behind.starts_with('(') {
                rest = &behind[behind.find(')').expect("a list ends") + 1..];
            }
        } else if word.starts_with(|c: char| c.is_ascii_alphabetic()) && !is_call(behind) {
            let selector = rest.strip_prefix('{').map(|selector| selector.split_once('}').expect("a selector ends"));
            found.push(Asked {
                metric: word.to_owned(),
                labels: selector.map_or(Vec::new(), |(inner, _)| labels(inner)),
            });
            rest = selector.map_or(rest, |(_, after)| after);
        }
    }
    found
}

/// Whether what stands before `behind` is a function: `rate(…`, `sum by (…`.
fn is_call(behind: &str) -> bool {
    behind.starts_with('(') || behind.starts_with("by ") || behind.starts_with("without ")
}

fn labels(selector: &str) -> Vec<(String, String)> {
    let matchers = selector.split(',').filter_map(|matcher| matcher.split_once("=\""));
    matchers.map(|(label, value)| (label.trim().to_owned(), value.trim_end_matches('"').to_owned())).collect()
}

/// Whether the exposition has what is asked for.
fn exists(exposition: &Exposition, asked: &Asked) -> bool {
    let labels = asked.labels.iter().map(|(label, value)| (label.as_str(), value.as_str()));
    let labels: Vec<_> = labels.filter(|(label, _)| !TARGET_LABELS.contains(label)).collect();
    OWN_METRICS.contains(&asked.metric.as_str()) || exposition.with_labels(&asked.metric, &labels).next().is_some()
}

fn assert_all_exist<'a>(queries: impl IntoIterator<Item = &'a str>) -> Vec<Asked> {
    let exposition = read(&metrics());
    let mut all = Vec::new();
    for query in queries {
        let asked = asked(query);
        assert!(!asked.is_empty(), "no metric in {query}");
        for asked in &asked {
            assert!(exists(&exposition, asked), "{asked:?} does not exist: {query}");
        }
        all.extend(asked);
    }
    all
}

fn rules(alerts: &Yaml) -> Vec<&Yaml> {
    let groups = alerts["groups"].as_vec().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_vec().expect("rules")).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("the dashboard is JSON")
}

#[test]
fn alerts_ask_for_what_exists() {
    let alerts = YamlLoader::load_from_str(ALERTS).expect("the rules are YAML");
    let [alerts] = &alerts[..] else { panic!("one document") };
    let rules = rules(alerts);
    for rule in &rules {
        for part in [&rule["alert"], &rule["annotations"]["summary"], &rule["annotations"]["description"]] {
            assert!(part.as_str().is_some_and(|text| !text.is_empty()), "{rule:?}");
        }
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("warning" | "critical")), "{rule:?}");
    }
    assert_all_exist(rules.iter().map(|rule| rule["expr"].as_str().expect("an expression")));
}

#[test]
fn the_dashboard_asks_for_what_exists_and_shows_all_of_it() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let asked = assert_all_exist(targets.map(|target| target["expr"].as_str().expect("an expression")));
    let is_shown = |family: &Family| {
        let name = Exposition::shown_name(family);
        asked.iter().any(|asked| asked.metric == name || asked.metric == format!("{name}_bucket"))
    };
    let families = read(&metrics()).families;
    let hidden: Vec<_> = families.iter().filter(|family| !is_shown(family)).map(|family| &family.name).collect();
    assert!(hidden.is_empty(), "no panel shows {hidden:?}");
}

#[test]
fn the_dashboard_can_be_imported_anywhere() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null(), "Grafana gives it an id");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    assert_eq!(variables[0]["type"], "datasource");
    let exposition = read(&metrics());
    for variable in &variables[1..] {
        let query = variable["definition"].as_str().expect("a query");
        let (_, inner) = query.split_once("label_values(").expect("the values of a label");
        let metric = inner.split(['{', ',']).next().expect("a metric");
        assert!(exposition.with_labels(metric, &[]).next().is_some(), "{metric}");
    }
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
    }
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len());
}

#[test]
fn what_does_not_exist_is_found_out() {
    let query =
        "sum by (reason) (rate(waren_sessions{job=\"$job\"}[5m])) / on (job) clamp_min(warren_sessions, 10) > 1e3";
    let [first, second] = &asked(query)[..] else { panic!("{:?}", asked(query)) };
    assert_eq!((first.metric.as_str(), second.metric.as_str()), ("waren_sessions", "warren_sessions"));
    let exposition = read(&metrics());
    assert!(!exists(&exposition, first) && exists(&exposition, second));
    let [slow, sloth] = ["too_slow", "too_sloth"].map(|reason| {
        let asked = asked(&format!("warren_sessions_closed_total{{reason=\"{reason}\",job=\"x\"}}"));
        exists(&exposition, &asked[0])
    });
    assert!(slow && !sloth);
}
