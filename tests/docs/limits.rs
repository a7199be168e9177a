//! Every limit that `docs/limits.md` names is the code's.
//!
//! A row of a table whose `setting` column names settings begins with their defaults, in their
//! order. Other rows end in a comment that names what they state: a constant below `src`, as
//! `<!-- auth.rs MAX_KEY_BYTES -->`, or a value of the OpenAPI document, as
//! `<!-- openapi /paths/… -->`.

use quartet::config::Config;
use serde_json::Value;

use crate::{
    files,
    quantity::{self, Quantity},
    read,
};

/// The cells of each row of each table, with the row's comment.
fn rows(text: &str) -> Vec<(Vec<String>, Option<String>)> {
    let rows = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    rows.map(|row| {
        let (row, comment) = match row.split_once("<!--") {
            Some((row, comment)) => (row, Some(comment.trim_end_matches("-->").trim().to_owned())),
            None => (row, None),
        };
        let cells = row.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        (cells.collect(), comment)
    })
    .collect()
}

fn default_of(name: &str) -> Option<Quantity> {
    let ending = format!("_{name}");
    let doc = Config::reference().into_iter().find(|doc| doc.variable.ends_with(&ending));
    let doc = doc.unwrap_or_else(|| panic!("docs/limits.md: there is no setting {name}"));
    quantity::first(doc.default)
}

/// What a row's comment names.
fn referenced(reference: &str) -> Quantity {
    let (name, constant) = reference.split_once(' ').expect("`file.rs NAME`");
    if name == "openapi" {
        let document: Value = serde_json::from_str(&read("openapi/quartet.json")).unwrap();
        let value = document.pointer(constant).and_then(Value::as_f64);
        return Quantity::Number(value.unwrap_or_else(|| panic!("no number at {constant}")));
    }
    let start = format!("const {constant}: ");
    let mut values = Vec::new();
    for file in files("src", &[".rs"]) {
        if !file.ends_with(name) {
            continue;
        }
        for line in read(&file).lines().filter(|line| line.contains(&start)) {
            let (_, value) = line.split_once(" = ").expect("a value");
            values.push(evaluate(value.trim_end_matches(';')));
        }
    }
    assert_eq!(
        values.len(),
        1,
        "docs/limits.md names {reference:?}, which is not exactly one constant of src: {values:?}. \
         Name the constant that the row states."
    );
    values[0]
}

/// A number, a product of numbers, a duration of them, or one that is not zero.
fn evaluate(value: &str) -> Quantity {
    let (call, product) = value.split_once('(').unwrap_or(("", value));
    let product = product.split(')').next().unwrap_or(product).replace('_', "");
    let factors = product.split(" * ").map(|factor| factor.parse::<f64>().expect("a number"));
    let number: f64 = factors.product();
    match call {
        "" | "NonZeroU32::new" => Quantity::Number(number),
        "Duration::from_secs" => Quantity::Seconds(number),
        "Duration::from_millis" => Quantity::Seconds(number / 1_000.0),
        "TimeDelta::hours" => Quantity::Seconds(number * 3_600.0),
        call => panic!("{call}"),
    }
}

#[test]
fn every_limit_is_the_codes() {
    let (mut settings, mut constants) = (0, 0);
    for (cells, comment) in rows(&read("docs/limits.md")) {
        let [what, limit, rest @ ..] = &cells[..] else { panic!("{cells:?}") };
        let stated = quantity::all(limit);
        let named = rest.first().map_or("", String::as_str).split('`').skip(1).step_by(2);
        for (index, name) in named.enumerate() {
            let Some(default) = default_of(name) else { continue };
            settings += 1;
            assert_eq!(
                stated.get(index),
                Some(&default),
                "docs/limits.md, {what:?}: the default of {name} is another one than in {limit:?}"
            );
        }
        if let Some(reference) = comment {
            constants += 1;
            let value = referenced(&reference);
            let same = stated.iter().any(|stated| match (stated, value) {
                (Quantity::Bytes(stated), Quantity::Number(value)) => *stated == value,
                (stated, value) => *stated == value,
            });
            assert!(same, "docs/limits.md, {what:?}: {reference} is {value:?}, not {limit:?}");
        }
    }
    assert!(settings > 12 && constants > 35, "{settings} settings, {constants} constants");
}
