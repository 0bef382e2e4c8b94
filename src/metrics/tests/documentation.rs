//! `docs/metrics.md` and the exposition say the same.

use std::collections::BTreeMap;

use super::exposition::Exposition;
use super::{metrics, read};

/// Type, labels' words and meaning of each metric that the tables list.
fn rows() -> BTreeMap<String, (String, Vec<String>, String)> {
    let text = include_str!("../../../docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `warren_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("four cells: {row}") };
        let mut words: Vec<String> = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        words.sort();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), words, meaning.to_owned()))
    })
    .collect()
}

#[test]
fn every_metric_is_documented_as_it_is() {
    let exposition = read(&metrics());
    let mut rows = rows();
    for family in &exposition.families {
        let name = Exposition::shown_name(family);
        let (kind, words, meaning) = rows.remove(&name).unwrap_or_else(|| panic!("docs/metrics.md lacks {name}"));
        assert_eq!(kind, family.kind, "{name}");
        assert_eq!(words, exposition.label_words(family).into_iter().collect::<Vec<_>>(), "labels of {name}");
        assert_eq!(meaning, family.help, "{name}");
    }
    assert!(rows.is_empty(), "docs/metrics.md has what does not exist: {:?}", rows.keys());
}
