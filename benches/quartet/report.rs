//! The report: tables on the terminal, `RESULTS.md` and the plots in a directory.

use std::{fmt::Write as _, fs, path::Path};

use crate::{
    error::{BenchError, Doing},
    number::number,
    plot,
    section::{Figure, Section, Spread, Table, Target},
};

/// Heads of the columns of [`cells`].
const HEADS: [&str; 5] = ["", "median", "min–max", "compared", "target"];

/// The target of a figure, and whether it is reached.
fn target(figure: &Figure, judged: bool) -> String {
    let symbol = figure.unit.symbol();
    let Some(target) = figure.target else { return String::new() };
    let text = match target {
        Target::AtLeast(least) => format!("≥ {} {symbol}", number(least)),
        Target::AtMost(most) => format!("≤ {} {symbol}", number(most)),
        Target::TimesPeer(times) => format!("≥ {} ×", number(times)),
        Target::AtMostTimesPeer(times) => format!("≤ {} ×", number(times)),
        Target::AbovePeer(most) => format!("≤ {} {symbol} above", number(most)),
    };
    let verdict = match figure.is_reached() {
        _ if !judged => "not judged",
        Some(true) => "reached",
        Some(false) => "NOT reached",
        None => "not compared",
    };
    // A plain number has no symbol.
    format!("{}: {verdict}", text.trim_end())
}

/// The cells of a figure: name, median, spread, comparison, target.
fn cells(figure: &Figure, judged: bool) -> [String; 5] {
    let spread = Spread::of(&figure.samples);
    let range = match figure.samples.len() {
        0 | 1 => String::new(),
        _ => format!("{}–{}", number(spread.min), number(spread.max)),
    };
    let compared = match (&figure.peer, figure.ratio()) {
        (Some(peer), Some(ratio)) => {
            let median = Spread::of(&peer.samples).median;
            format!("{ratio:.2} × {} ({})", peer.name, number(median))
        }
        _ => String::new(),
    };
    let value = format!("{} {}", number(spread.median), figure.unit.symbol());
    let value = value.trim_end().to_owned();
    [figure.name.clone(), value, range, compared, target(figure, judged)]
}

/// Prints one section; `judged` is whether its figures mean anything.
pub fn print(section: &Section, judged: bool) {
    println!("\n{}: {}", section.name, section.title);
    let heads = HEADS.map(str::to_owned).to_vec();
    let rows = section.figures.iter().map(|figure| cells(figure, judged).to_vec());
    print_rows(&heads, &rows.collect::<Vec<_>>());
    for table in &section.tables {
        println!();
        print_rows(&table.heads, &table.rows);
    }
    for note in &section.notes {
        println!("  {note}");
    }
    for violation in &section.violations {
        println!("  VIOLATED {violation}");
    }
    println!("  in {:.0} s", section.took.as_secs_f64());
}

/// Prints aligned columns; those without a character are left out.
fn print_rows(heads: &[String], rows: &[Vec<String>]) {
    let lines: Vec<&[String]> =
        std::iter::once(heads).chain(rows.iter().map(Vec::as_slice)).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    for line in lines {
        let mut text = "  ".to_owned();
        for (cell, width) in line.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{cell:width$}  ");
        }
        println!("{}", text.trim_end());
    }
}

/// Writes `RESULTS.md` and the plots.
pub fn write(
    directory: &Path,
    setting: &[(String, String)],
    sections: &[Section],
    judged: bool,
) -> Result<(), BenchError> {
    fs::create_dir_all(directory).doing("create the directory for the results")?;
    let mut text =
        "# Results\n\nWritten by the command below; the median of the repeats, with the \
        least and the greatest. Everything runs on one machine: Quartet, Postgres, and the load \
        generator with the simulated third party and client.\n"
            .to_owned();
    table(&mut text, &["", ""], setting.iter().map(|(name, value)| [name, value]));
    let took: f64 = sections.iter().map(|section| section.took.as_secs_f64()).sum();
    // Writing to a `String` cannot fail.
    let _ = write!(text, "\nAll sections together took {:.0} minutes.\n", took / 60.0);
    targets(&mut text, sections, judged);
    for section in sections {
        // Writing to a `String` cannot fail.
        let (title, name, took) = (&section.title, section.name, section.took.as_secs_f64());
        let _ = write!(text, "\n## {title}\n\n`--only {name}`, {took:.0} s\n");
        for plot in &section.plots {
            let file = format!("{}.svg", plot.file);
            fs::write(directory.join(&file), plot::svg(plot)).doing(format!("write {file}"))?;
            let _ = write!(text, "\n![{}]({file})\n", plot.title);
        }
        table(&mut text, &HEADS, section.figures.iter().map(|figure| cells(figure, judged)));
        for Table { heads, rows } in &section.tables {
            let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
            table(&mut text, &heads, rows.iter());
        }
        for note in &section.notes {
            let _ = write!(text, "\n{note}.\n");
        }
        for violation in &section.violations {
            let _ = write!(text, "\nVIOLATED: {violation}\n");
        }
    }
    fs::write(directory.join("RESULTS.md"), text).doing("write RESULTS.md")
}

/// Every target, in one place.
fn targets(text: &mut String, sections: &[Section], judged: bool) {
    text.push_str("\n## Targets\n");
    let figures = sections.iter().flat_map(|section| {
        let figures = section.figures.iter().filter(|figure| figure.target.is_some());
        figures.map(|figure| {
            let [name, median, _, compared, target] = cells(figure, judged);
            [format!("{}: {name}", section.name), median, compared, target]
        })
    });
    table(text, &["", "median", "compared", "target"], figures);
}

fn table<Cell: AsRef<str>>(
    text: &mut String,
    heads: &[&str],
    rows: impl Iterator<Item = impl AsRef<[Cell]>>,
) {
    // Writing to a `String` cannot fail.
    let _ = write!(text, "\n| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        let cells = row.as_ref().iter().map(|cell| cell.as_ref().replace('|', "\\|"));
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}
