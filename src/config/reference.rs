//! The page `docs/configuration.md`, made from the calls that read the settings.
//!
//! `just configuration` writes it; a test of `tests/docs` compares it. A setting is documented by
//! the call that reads it and nowhere else.

use std::fmt::Write as _;

use super::{
    Config,
    settings::SettingDoc,
    variable::{LEVEL, PREFIX},
};

const INTRODUCTION: &str = "\
# Configuration

<!-- Made from src/config by `just configuration`; do not edit. -->

Settings come from environment variables and, optionally, from a TOML file (`--config FILE`); the
environment wins. In the file `QUARTET_POLL__FIRST` is `first` under `[poll]`, and `DATABASE_URL` is
`database_url`. An empty value counts as unset. Durations carry a unit (`200ms`, `120s`, `15m`,
`7d`), sizes look like `64KiB`.

A wrong, missing or unknown setting ends the start, with a message that names the variable;
`quartet doctor` reports all of them at once. The other pages leave out the prefix `QUARTET_`.
";

/// Every setting as a page in Markdown: a heading and a table for each section.
pub fn reference_page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut current = None;
    for SettingDoc { variable, default, meaning } in Config::reference() {
        let section = section_of(variable);
        if current != Some(section) {
            current = Some(section);
            let title = title(section);
            _ = write!(page, "\n## {title}\n\n| variable | default | meaning |\n|---|---|---|\n");
        }
        let default = if default.is_empty() { "–".to_owned() } else { format!("`{default}`") };
        _ = writeln!(page, "| `{variable}` | {default} | {meaning} |");
    }
    page
}

/// `QUARTET_THIRD_PARTY__TIMEOUT` → `THIRD_PARTY`; without a level the first word: `LOG`.
fn section_of(variable: &'static str) -> &'static str {
    let name = variable.strip_prefix(PREFIX).unwrap_or(variable);
    let section = name.split_once(LEVEL).or_else(|| name.split_once('_'));
    section.map_or(name, |(section, _)| section)
}

/// `THIRD_PARTY` → `Third party`; acronyms stay.
fn title(section: &str) -> String {
    if matches!(section, "HTTP" | "DNS") {
        return section.to_owned();
    }
    let words = section.replace('_', " ").to_lowercase();
    let mut characters = words.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}
