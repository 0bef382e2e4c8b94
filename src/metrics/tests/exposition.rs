//! The text format, read back.

use std::collections::{BTreeMap, BTreeSet};

pub struct Family {
    pub name: String,
    pub kind: String,
    pub help: String,
}

pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

pub struct Exposition {
    pub families: Vec<Family>,
    pub samples: Vec<Sample>,
}

impl Exposition {
    pub fn parse(text: &str) -> Exposition {
        let (mut families, mut samples) = (Vec::new(), Vec::new());
        let mut help = String::new();
        for line in text.lines() {
            let words = line.splitn(4, ' ').collect::<Vec<_>>();
            match words[..] {
                ["#", "HELP", _, text] => help = text.to_owned(),
                ["#", "TYPE", name, kind] => {
                    families.push(Family { name: name.into(), kind: kind.into(), help: std::mem::take(&mut help) });
                }
                ["#", ..] => {}
                _ => samples.push(Sample::parse(line)),
            }
        }
        Exposition { families, samples }
    }

    /// The only sample of this name with these labels among its own.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.with_labels(name, labels);
        let value = found.next().map(|sample| sample.value);
        assert!(found.next().is_none(), "more than one {name} with {labels:?}");
        value
    }

    pub fn with_labels<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let fits = move |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|own| own == value))
        };
        self.samples.iter().filter(fits)
    }

    /// The family's name as its samples bear it, and queries with them.
    pub fn shown_name(family: &Family) -> String {
        match family.kind.as_str() {
            "counter" => format!("{}_total", family.name),
            "info" => format!("{}_info", family.name),
            _ => family.name.clone(),
        }
    }

    /// Names and values of a family's labels, but for those that every histogram and the version have.
    pub fn label_words(&self, family: &Family) -> BTreeSet<String> {
        let name = Self::shown_name(family);
        let samples = self.samples.iter().filter(|sample| sample.name == name);
        samples
            .flat_map(|sample| &sample.labels)
            .flat_map(|(label, value)| match family.kind.as_str() {
                "info" => vec![label.clone()],
                _ => vec![label.clone(), value.clone()],
            })
            .collect()
    }
}

impl Sample {
    /// `name{label="value",…} 1`; no value here has a quote or a comma in it.
    fn parse(line: &str) -> Sample {
        let (head, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        let label = |pair: &str| {
            let (label, value) = pair.split_once("=\"").expect("a label");
            (label.to_owned(), value.trim_end_matches('"').to_owned())
        };
        let pairs = labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        Sample { name: name.to_owned(), labels: pairs.map(label).collect(), value }
    }
}
