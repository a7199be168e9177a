//! What a section of the benchmark returns: figures, each with its samples, its limit and its
//! target.

use std::time::Duration;

use crate::quantiles::Quantiles;

/// What a figure is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Millis,
    Micros,
    Seconds,
    /// Microseconds of CPU per transaction.
    MicrosEach,
    Megabytes,
    Percent,
    Count,
    Times,
    Bytes,
}

impl Unit {
    /// As it stands behind a number.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Millis => "ms",
            Self::Micros => "µs",
            Self::Seconds => "s",
            Self::MicrosEach => "µs/tx",
            Self::Megabytes => "MB",
            Self::Percent => "%",
            Self::Count => "",
            Self::Times => "×",
            Self::Bytes => "B",
        }
    }
}

/// What a figure should reach.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// This many times the peer.
    TimesPeer(f64),
    /// Not more than this many times the peer.
    AtMostTimesPeer(f64),
    /// Not more than this above the peer.
    AbovePeer(f64),
}

/// What a figure is compared with: a limit of the machine, or another system.
#[derive(Debug, Clone)]
pub struct Peer {
    pub name: String,
    pub samples: Vec<f64>,
}

/// One measured quantity, with a sample for each repeat.
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: String,
    pub unit: Unit,
    pub samples: Vec<f64>,
    pub peer: Option<Peer>,
    pub target: Option<Target>,
}

/// Median, least and greatest of samples.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one sample; of none, all are 0.
    pub fn of(samples: &[f64]) -> Self {
        let sorted = Quantiles::new(samples.to_vec());
        Self { median: sorted.at(0.5), min: sorted.at(0.0), max: sorted.at(1.0) }
    }
}

impl Figure {
    /// The median over that of the peer.
    pub fn ratio(&self) -> Option<f64> {
        let peer = Spread::of(&self.peer.as_ref()?.samples).median;
        (peer > 0.0).then(|| Spread::of(&self.samples).median / peer)
    }

    /// Whether the median reaches the target; `None` without one, or without the peer it needs.
    pub fn is_reached(&self) -> Option<bool> {
        let median = Spread::of(&self.samples).median;
        let peer = self.peer.as_ref().map(|peer| Spread::of(&peer.samples).median);
        Some(match self.target? {
            Target::AtLeast(least) => median >= least,
            Target::AtMost(most) => median <= most,
            Target::TimesPeer(times) => median >= times * peer?,
            Target::AtMostTimesPeer(times) => median <= times * peer?,
            Target::AbovePeer(most) => median - peer? <= most,
        })
    }
}

/// A line of a plot: `(x, y)`.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A plot over the rate.
#[derive(Debug, Clone)]
pub struct Plot {
    /// File name without extension.
    pub file: &'static str,
    pub title: String,
    pub x: String,
    pub y: String,
    pub series: Vec<Series>,
}

/// Rows that belong together, beside the figures.
#[derive(Debug, Clone)]
pub struct Table {
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// What one section found.
#[derive(Debug, Default)]
pub struct Section {
    pub name: &'static str,
    /// One line: what is measured and how.
    pub title: String,
    pub figures: Vec<Figure>,
    pub tables: Vec<Table>,
    pub notes: Vec<String>,
    pub plots: Vec<Plot>,
    /// Violated invariants: any makes the benchmark fail.
    pub violations: Vec<String>,
    /// How long it took to find all of this.
    pub took: Duration,
}

impl Section {
    /// An empty one.
    pub fn new(name: &'static str, title: impl Into<String>) -> Self {
        Self { name, title: title.into(), ..Self::default() }
    }

    /// Adds a sample to the figure of this name, which the first sample creates.
    pub fn sample(&mut self, name: &str, unit: Unit, value: f64) -> &mut Figure {
        let known = self.figures.iter().position(|figure| figure.name == name);
        let index = known.unwrap_or_else(|| {
            let (samples, peer, target) = (Vec::new(), None, None);
            self.figures.push(Figure { name: name.to_owned(), unit, samples, peer, target });
            self.figures.len() - 1
        });
        let figure = &mut self.figures[index];
        figure.samples.push(value);
        figure
    }

    /// Adds a sample of p50, p95 and p99 of latencies, in milliseconds.
    pub fn sample_latency(&mut self, name: &str, latency: &Quantiles) {
        for (quantile, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            self.sample(&format!("{name}, {quantile}"), Unit::Millis, latency.at(share));
        }
    }

    /// The figure of this name, where it was measured.
    pub fn figure(&mut self, name: &str) -> Option<&mut Figure> {
        self.figures.iter_mut().find(|figure| figure.name == name)
    }

    /// The samples of this figure; none where it was not measured.
    pub fn samples(&self, name: &str) -> Vec<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        figure.map(|figure| figure.samples.clone()).unwrap_or_default()
    }

    /// Sets the target of a figure, where it was measured.
    pub fn target(&mut self, name: &str, target: Target) {
        if let Some(figure) = self.figure(name) {
            figure.target = Some(target);
        }
    }

    /// Sets what a figure is compared with, where both were measured.
    pub fn peer(&mut self, name: &str, peer: &str, samples: &[f64]) {
        if let Some(figure) = self.figure(name)
            && !samples.is_empty()
        {
            figure.peer = Some(Peer { name: peer.to_owned(), samples: samples.to_vec() });
        }
    }
}
