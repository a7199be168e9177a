//! Plots as SVG, written by hand: rate across, milliseconds up, on a logarithmic scale.
//!
//! Colours and the transparent ground are readable on light and dark pages.

use std::fmt::Write as _;

use crate::{
    number::{grouped, number},
    section::{Plot, Series},
};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 58.0;
/// Of lines, by their order.
const COLOURS: [&str; 4] = ["#2f81c7", "#d97706", "#2e9e6b", "#b0489a"];
const INK: &str = "#7d8590";
/// Marks within a power of ten.
const MARKS: [f64; 3] = [1.0, 2.0, 5.0];

/// The scales of one plot.
struct Scales {
    x_max: f64,
    /// Decimal logarithms of the least and greatest value shown.
    y: (f64, f64),
}

impl Scales {
    fn of(series: &[Series]) -> Self {
        let points = || series.iter().flat_map(|series| &series.points);
        let x = points().map(|point| point.0).fold(1.0, f64::max);
        let least = points().map(|point| point.1).fold(f64::INFINITY, f64::min).max(0.01);
        let most = points().map(|point| point.1).fold(0.1, f64::max);
        let least = if least.is_finite() { least } else { 0.1 };
        // From mark to mark, so that the first and last lines are labelled.
        let below = marks(-3, 6).filter(|mark| *mark <= least).fold(0.01, f64::max);
        let above = marks(-3, 6).filter(|mark| *mark >= most).fold(f64::INFINITY, f64::min);
        Self { x_max: x * 1.03, y: (below.log10(), above.max(below * 2.0).log10()) }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let (least, most) = self.y;
        let share = (value.max(1e-3).log10() - least) / (most - least);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

fn marks(from: i32, to: i32) -> impl Iterator<Item = f64> {
    (from..to).flat_map(|power| MARKS.map(|mark| mark * 10_f64.powi(power)))
}

/// A round step that divides `most` into four to eight parts.
fn step(most: f64) -> f64 {
    let rough = most / 5.0;
    marks(-1, 8).find(|mark| *mark >= rough).unwrap_or(rough)
}

/// The plot as a complete SVG document.
pub fn svg(plot: &Plot) -> String {
    let scales = Scales::of(&plot.series);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" font-family="system-ui, sans-serif" font-size="13" fill="{INK}">
<text x="{LEFT}" y="24" font-size="16" font-weight="600">{title}</text>
"#,
        title = plot.title,
    );
    grid(&mut svg, &scales);
    axis_titles(&mut svg, plot);
    for (index, series) in plot.series.iter().enumerate() {
        line(&mut svg, &scales, series, index);
    }
    svg.push_str("</svg>\n");
    svg
}

// Writing to a `String` cannot fail; the results below are dropped for that reason.

fn grid(svg: &mut String, scales: &Scales) {
    let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
    let (least, most) = scales.y;
    let shown = |mark: &f64| mark.log10() >= least - 1e-9 && mark.log10() <= most + 1e-9;
    for mark in marks(-3, 6).filter(shown) {
        let y = scales.y(mark);
        let _ = writeln!(
            svg,
            r#"<path d="M{left} {y:.1}H{right}" stroke="{INK}" stroke-opacity="0.25"/><text x="{text}" y="{base:.1}" text-anchor="end">{mark}</text>"#,
            text = left - 8.0,
            base = y + 4.5,
        );
    }
    let step = step(scales.x_max);
    let mut mark = 0.0;
    while mark <= scales.x_max {
        let x = scales.x(mark);
        let _ = writeln!(
            svg,
            r#"<path d="M{x:.1} {bottom}v5" stroke="{INK}"/><text x="{x:.1}" y="{base}" text-anchor="middle">{text}</text>"#,
            base = bottom + 20.0,
            text = grouped(mark),
        );
        mark += step;
    }
    let _ =
        writeln!(svg, r#"<path d="M{left} {TOP}V{bottom}H{right}" fill="none" stroke="{INK}"/>"#);
}

fn axis_titles(svg: &mut String, plot: &Plot) {
    let (x, y) = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
    let _ = writeln!(
        svg,
        r#"<text x="{x}" y="{base}" text-anchor="middle">{}</text><text transform="translate(18 {y}) rotate(-90)" text-anchor="middle">{}</text>"#,
        plot.x,
        plot.y,
        base = HEIGHT - 14.0,
    );
}

fn line(svg: &mut String, scales: &Scales, series: &Series, index: usize) {
    let colour = COLOURS[index % COLOURS.len()];
    let points: Vec<String> = series
        .points
        .iter()
        .map(|(x, y)| format!("{:.1},{:.1}", scales.x(*x), scales.y(*y)))
        .collect();
    let _ = writeln!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>"#,
        points.join(" ")
    );
    for ((x, y), point) in series.points.iter().zip(&points) {
        let (cx, cy) = point.split_once(',').unwrap_or_default();
        let _ = writeln!(
            svg,
            r#"<circle cx="{cx}" cy="{cy}" r="3.5" fill="{colour}"><title>{name}: {value} ms at {rate}/s</title></circle>"#,
            name = series.name,
            value = number(*y),
            rate = number(*x),
        );
    }
    let x = LEFT + index as f64 * 90.0;
    let _ = writeln!(
        svg,
        r#"<path d="M{x} 45h22" stroke="{colour}" stroke-width="2.5"/><text x="{text}" y="49.5">{name}</text>"#,
        text = x + 28.0,
        name = series.name,
    );
}
