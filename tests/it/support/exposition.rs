//! A strict reader of Prometheus's text format 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

/// One family of an exposition.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The family's name, or with `_bucket`, `_sum` or `_count`.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A whole answer of `/metrics`.
#[derive(Debug, Clone)]
pub struct Exposition(pub BTreeMap<String, Family>);

impl Exposition {
    /// Reads `text`; panics at whatever the format does not allow.
    #[track_caller]
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                let family = Family { help: help.to_owned(), ..Family::default() };
                assert!(families.insert(name.to_owned(), family).is_none(), "twice: {line}");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert_eq!(name, current, "TYPE follows HELP: {line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                families.get_mut(name).unwrap().kind = kind.to_owned();
            } else {
                let sample = Sample::read(line);
                let family = families.get_mut(&current).expect(line);
                let suffixes: &[&str] = match family.kind.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let known = suffixes.iter().any(|end| sample.name == format!("{current}{end}"));
                assert!(known, "{line} is no part of {current}");
                let same =
                    |other: &Sample| other.name == sample.name && other.labels == sample.labels;
                assert!(!family.samples.iter().any(same), "twice: {line}");
                family.samples.push(sample);
            }
        }
        for (name, family) in &families {
            family.check(name);
        }
        Self(families)
    }

    /// The sum of the samples of this name that have all of these labels; `None` without any.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let samples = self.0.values().flat_map(|family| &family.samples);
        let found: Vec<f64> = samples
            .filter(|sample| sample.name == name && sample.has(labels))
            .map(|sample| sample.value)
            .collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// Names of the samples, each with its labels.
    pub fn names(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for sample in self.0.values().flat_map(|family| &family.samples) {
            names.entry(sample.name.clone()).or_default().extend(sample.labels.keys().cloned());
        }
        names
    }
}

impl Family {
    fn check(&self, name: &str) {
        assert!(!self.kind.is_empty() && !self.help.is_empty(), "{name} is described");
        assert!(!self.samples.is_empty(), "{name} has samples");
        assert_eq!(name.ends_with("_total"), self.kind == "counter", "{name}");
        if self.kind != "histogram" {
            return;
        }
        for count in self.samples.iter().filter(|sample| sample.name.ends_with("_count")) {
            let mut last = (f64::NEG_INFINITY, 0.0);
            for bucket in &self.samples {
                let mut labels = bucket.labels.clone();
                let Some(bound) = labels.remove("le") else { continue };
                if labels != count.labels {
                    continue;
                }
                let bound = number(&bound);
                assert!(bound > last.0 && bucket.value >= last.1, "{name} {bound} grows");
                last = (bound, bucket.value);
            }
            assert_eq!(last, (f64::INFINITY, count.value), "{name} ends with +Inf");
        }
    }
}

impl Sample {
    fn read(line: &str) -> Self {
        let end = line.find(['{', ' ']).expect(line);
        let name = &line[..end];
        assert!(is_name(name), "{line}");
        let mut labels = BTreeMap::new();
        let mut rest = &line[end..];
        if let Some(mut inner) = rest.strip_prefix('{') {
            while !inner.starts_with('}') {
                let (label, after) = inner.split_once("=\"").expect(line);
                assert!(is_name(label) && !label.contains(':'), "{line}");
                let (value, after) = quoted(after);
                assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
                inner = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &inner[1..];
        }
        let value = rest.strip_prefix(' ').expect(line);
        Self { name: name.to_owned(), labels, value: number(value) }
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|own| own == value))
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    chars.next().is_some_and(first) && chars.all(|c| first(c) || c.is_ascii_digit())
}

/// A label's value up to its quote, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => value.push('\n'),
                Some(c @ ('\\' | '"')) => value.push(c),
                other => panic!("escape {other:?}"),
            },
            c => value.push(c),
        }
    }
    panic!("a value without an end: {text}")
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        text => text.parse().unwrap_or_else(|_| panic!("{text} is no number")),
    }
}
