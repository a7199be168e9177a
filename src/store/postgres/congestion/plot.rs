//! The picture of both rules in `docs/limits.md`: what is answered, over time, while the writer
//! stalls twice and callers that are refused soon come back.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    pace_bound::PaceBound,
    simulation::{PresentRule, Rule, Simulation, capacity, ms},
};

/// Of the capacity.
const LOAD: f64 = 0.7;
/// After a refusal.
const PAUSE: Duration = Duration::from_millis(50);
/// When the writer stalls and for how long, in ms.
const STALLS: [(u64, u64); 2] = [(3_000, 300), (15_000, 1_000)];
const LASTS: u64 = 27_000;
/// One point of a line is what was answered in this time, in ms.
const STEP: u64 = 500;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 52.0;
const MAX_BATCH: f64 = 4_000.0;
/// Readable on light and dark pages, as the ground is transparent.
const INK: &str = "#7d8590";
const COLOURS: [&str; 2] = ["#d97706", "#2f81c7"];

/// What is answered in a second, step by step.
fn answered<R: Rule>() -> Vec<f64> {
    let mut simulation = Simulation::<R>::new(Instant::now());
    let steps = (0..LASTS).step_by(STEP as usize);
    let rates = steps.map(|at| {
        if let Some((_, lasts)) = STALLS.iter().find(|(begins, _)| *begins == at) {
            simulation.stall(ms(*lasts));
        }
        let seen = simulation.open_loop_that_comes_back(LOAD * capacity(), PAUSE, ms(STEP));
        seen.done as f64 / ms(STEP).as_secs_f64()
    });
    rates.collect()
}

fn x(ms: u64) -> f64 {
    LEFT + ms as f64 / LASTS as f64 * (WIDTH - LEFT - RIGHT)
}

fn y(rate: f64) -> f64 {
    HEIGHT - BOTTOM - rate / MAX_BATCH * (HEIGHT - TOP - BOTTOM)
}

// Writing to a `String` cannot fail; the results are dropped for that reason.
fn svg() -> String {
    let title = "Posts answered in a second (simulated): 70 % of the capacity, two stalls";
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" "#
    );
    let _ = writeln!(
        svg,
        r#"aria-label="{title}" font-family="system-ui, sans-serif" font-size="13" fill="{INK}">"#
    );
    let _ =
        writeln!(svg, r#"<text x="{LEFT}" y="24" font-size="16" font-weight="600">{title}</text>"#);
    let note = format!(
        "A caller that is refused comes back after {} ms. Grey: the writer stalls.",
        PAUSE.as_millis()
    );
    let _ = writeln!(svg, r#"<text x="{LEFT}" y="46">{note}</text>"#);
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (begins, lasts) in STALLS {
        let (from, width) = (x(begins), x(begins + lasts) - x(begins));
        let height = bottom - TOP;
        let _ = writeln!(
            svg,
            r#"<rect x="{from:.1}" y="{TOP}" width="{width:.1}" height="{height}" opacity="0.3"/>"#
        );
    }
    for rate in [0.0, 1_000.0, 2_000.0, 3_000.0, 4_000.0] {
        let at = y(rate);
        let _ = write!(
            svg,
            r#"<path d="M{LEFT} {at:.1}H{right}" stroke="{INK}" stroke-opacity="0.25"/>"#
        );
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{:.1}" text-anchor="end">{rate}</text>"#,
            LEFT - 8.0,
            at + 4.5,
        );
    }
    for second in (0..=LASTS / 1_000).step_by(3) {
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{}" text-anchor="middle">{second} s</text>"#,
            x(second * 1_000),
            bottom + 20.0,
        );
    }
    let lines = [
        ("a bound by the pace", answered::<PaceBound>()),
        ("Quartet's rule", answered::<PresentRule>()),
    ];
    for (index, ((name, rates), colour)) in lines.iter().zip(COLOURS).enumerate() {
        let points = rates.iter().enumerate().map(|(step, rate)| {
            let middle = step as u64 * STEP + STEP / 2;
            format!("{:.1},{:.1}", x(middle), y(*rate))
        });
        let points: Vec<String> = points.collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.5"/>"#,
            points.join(" ")
        );
        let left = LEFT + index as f64 * 170.0;
        let _ = write!(svg, r#"<path d="M{left} 65h22" stroke="{colour}" stroke-width="2.5"/>"#);
        let _ = writeln!(svg, r#"<text x="{}" y="69.5">{name}</text>"#, left + 28.0);
    }
    svg.push_str("</svg>\n");
    svg
}

#[test]
fn the_picture_of_both_rules_is_what_the_simulation_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images/admission.svg");
    let svg = svg();
    if std::env::var_os("QUARTET_TEST_WRITE").is_some() {
        fs::write(&path, &svg).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == svg, "`just admission-plot` writes docs/images/admission.svg");
}
