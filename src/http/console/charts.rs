//! Line charts as SVG, pure: two series of figures, one a minute.
//!
//! The SVG holds shapes alone and is stretched to whatever width there is; scales, legend and the
//! table that says the same in words are text of the page around it.

use std::fmt::Write;

use chrono::{DateTime, Utc};

/// Width and height of the drawing, in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// A chart, ready for its template.
#[derive(Debug)]
pub struct Chart {
    pub id: &'static str,
    pub title: &'static str,
    /// The whole in one sentence, for those who do not see it.
    pub summary: String,
    pub names: [&'static str; 2],
    /// SVG path data of the two lines.
    pub lines: [String; 2],
    /// Path data of the grid.
    pub grid: String,
    /// The scale, from the top to the bottom.
    pub scale: [String; 3],
    /// Times along the bottom.
    pub times: Vec<String>,
    /// Minute and the figures in words, newest first.
    pub rows: Vec<[String; 3]>,
}

/// A minute's figures; `None` where nothing was measured in it.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub minute: DateTime<Utc>,
    pub values: [Option<f64>; 2],
}

/// What a chart is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    pub id: &'static str,
    pub title: &'static str,
    pub names: [&'static str; 2],
    /// How a figure is written.
    pub write: fn(f64) -> String,
}

impl Chart {
    /// Draws `points`, oldest first.
    pub fn draw(subject: Subject, points: &[Point]) -> Self {
        let Subject { id, title, names, write } = subject;
        let values = points.iter().flat_map(|point| point.values).flatten();
        let top = round_up(values.fold(0.0, f64::max));
        let words = |value: Option<f64>| value.map_or("–".to_owned(), write);
        let rows = points.iter().rev().map(|point| {
            let [one, two] = point.values.map(words);
            [clock(point.minute), one, two]
        });
        let quarter = points.len().saturating_sub(1);
        let times = if points.is_empty() { 0..0 } else { 0..5 };
        let times = times.map(|step| clock(points[quarter * step / 4].minute));
        Self {
            id,
            title,
            summary: summary(subject, points),
            names,
            lines: [0, 1].map(|series| line(points, series, top)),
            grid: [0.0, HEIGHT / 2.0, HEIGHT].map(|y| format!("M0 {y}H{WIDTH}")).concat(),
            scale: [write(top), write(top / 2.0), write(0.0)],
            times: times.collect(),
            rows: rows.collect(),
        }
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(String::is_empty)
    }
}

fn clock(minute: DateTime<Utc>) -> String {
    minute.format("%H:%M").to_string()
}

/// The least round number that is not below `value`; 1 at least.
fn round_up(value: f64) -> f64 {
    if value <= 1.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let step =
        [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0].into_iter().find(|step| step * power >= value);
    step.unwrap_or(10.0) * power
}

/// A line through the measured minutes, with gaps where nothing was measured. A minute on its own
/// is a short stroke, or it would not be seen.
fn line(points: &[Point], series: usize, top: f64) -> String {
    let step = WIDTH / points.len().saturating_sub(1).max(1) as f64;
    let mut path = String::new();
    let mut drawing = false;
    for (index, point) in points.iter().enumerate() {
        let Some(value) = point.values[series] else {
            drawing = false;
            continue;
        };
        let (x, y) = (step * index as f64, HEIGHT - HEIGHT * (value / top).clamp(0.0, 1.0));
        let alone = points.get(index + 1).is_none_or(|next| next.values[series].is_none());
        // Writing into a string does not fail.
        let _ = match (drawing, alone) {
            (true, _) => write!(path, "L{x:.1} {y:.1}"),
            (false, false) => write!(path, "M{x:.1} {y:.1}"),
            (false, true) => write!(path, "M{x:.1} {y:.1}h2"),
        };
        drawing = true;
    }
    path
}

fn summary(subject: Subject, points: &[Point]) -> String {
    let mut sentences = Vec::new();
    for (series, name) in subject.names.into_iter().enumerate() {
        let mut measured =
            points.iter().filter_map(|point| Some((point.minute, point.values[series]?)));
        let highest = measured.clone().max_by(|one, other| one.1.total_cmp(&other.1));
        if let (Some((at, highest)), Some((_, last))) = (highest, measured.next_back()) {
            let (highest, last) = ((subject.write)(highest), (subject.write)(last));
            sentences.push(format!("{name}: at most {highest} at {}, last {last}.", clock(at)));
        }
    }
    if sentences.is_empty() { "Nothing was measured.".to_owned() } else { sentences.join(" ") }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    const SUBJECT: Subject = Subject {
        id: "test",
        title: "Test",
        names: ["a", "b"],
        write: |value| format!("{value:.0}"),
    };

    fn points(values: &[[Option<f64>; 2]]) -> Vec<Point> {
        let begin = DateTime::from_timestamp(1_795_000_020, 0).unwrap();
        let minute = |index| begin + TimeDelta::minutes(index as i64);
        values
            .iter()
            .enumerate()
            .map(|(i, values)| Point { minute: minute(i), values: *values })
            .collect()
    }

    #[test]
    fn lines_span_the_chart_and_leave_gaps() {
        let values = [[Some(10.0), None], [Some(5.0), None], [None, Some(3.0)], [Some(0.0), None]];
        let chart = Chart::draw(SUBJECT, &points(&values));
        assert_eq!(chart.lines, ["M0.0 0.0L200.0 50.0M600.0 100.0h2", "M400.0 70.0h2"]);
        assert_eq!(chart.scale, ["10", "5", "0"]);
        assert_eq!(chart.rows[0], ["11:10", "0", "–"]);
        assert_eq!(chart.summary, "a: at most 10 at 11:07, last 0. b: at most 3 at 11:09, last 3.");
    }

    #[test]
    fn nothing_measured_is_said() {
        for chart in [Chart::draw(SUBJECT, &[]), Chart::draw(SUBJECT, &points(&[[None, None]]))] {
            assert!(chart.is_empty());
            assert_eq!(chart.summary, "Nothing was measured.");
        }
    }

    #[test]
    fn scales_are_round() {
        for (value, top) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 1.5), (34.0, 40.0), (500.0, 500.0), (801.0, 1_000.0)]
        {
            assert_eq!(round_up(value), top, "{value}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_drawn_stays_inside(
            values in proptest::collection::vec(
                (proptest::option::of(0.0f64..1e9), proptest::option::of(0.0f64..1e9)), 0..70,
            ),
        ) {
            let values: Vec<_> = values.into_iter().map(|(one, two)| [one, two]).collect();
            let chart = Chart::draw(SUBJECT, &points(&values));
            for line in &chart.lines {
                for pair in line.split(['M', 'L']).filter(|pair| !pair.is_empty()) {
                    let (x, y) = pair.trim_end_matches("h2").split_once(' ').unwrap();
                    prop_assert!((0.0..=WIDTH).contains(&x.parse().unwrap()));
                    prop_assert!((0.0..=HEIGHT).contains(&y.parse().unwrap()));
                }
            }
            prop_assert_eq!(chart.rows.len(), values.len());
        }
    }
}
