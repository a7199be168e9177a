//! The kinds of dead letters, which `src/domain/dead_letter.rs` declares, are those of the pages, the
//! OpenAPI document and the schema.

use std::path::Path;

use quartet::domain::{DeadLetterKind, EvidenceKind, Replay, StringEnum};
use serde_json::Value;

use crate::{files, read};

fn words() -> Vec<&'static str> {
    DeadLetterKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

/// What stands of a kind in the table of `docs/errors.md`.
fn row(kind: DeadLetterKind) -> String {
    let replay = match kind.replay() {
        Replay::RunsJob => "runs its job",
        Replay::AppliesWebhook => "applies the webhook's status",
        Replay::Nothing => "is refused",
    };
    let status = match kind.concerns_status() {
        true => "yes, unless its job is `create_transaction` or `notify_client`",
        false => "no",
    };
    format!("| `{kind}` | {} | {replay} | {status} |", kind.meaning())
}

#[test]
fn the_page_of_errors_says_what_may_be_done_with_each_kind() {
    let page = read("docs/errors.md");
    let section = page.split("\n## Dead letters\n").nth(1).expect("a section on dead letters");
    let section = section.split("\n## ").next().unwrap();
    let headings = section.lines().filter_map(|line| line.strip_prefix("### "));
    assert_eq!(headings.collect::<Vec<_>>(), words(), "docs/errors.md: a heading for each kind");
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> = DeadLetterKind::ALL.iter().map(|kind| row(*kind)).collect();
    assert_eq!(rows, expected, "docs/errors.md: the table of dead letters");
}

#[test]
fn the_guide_advises_as_the_console_does() {
    let guide = read("docs/operators.md");
    let mut seen = Vec::new();
    for line in guide.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [what, _, _, advice] = cells[..] else { continue };
        let (word, queue) = match what.split_once(" of ") {
            Some((word, queue)) => (word, Some(queue)),
            None => (what, None),
        };
        let Ok(kind) = word.trim_matches('`').parse::<DeadLetterKind>() else { continue };
        assert_eq!(advice, kind.advice(queue), "docs/operators.md: what to do about {what}");
        seen.push(kind.as_str());
    }
    seen.sort_unstable();
    seen.dedup();
    let mut kinds = words();
    kinds.sort_unstable();
    assert_eq!(seen, kinds);
}

#[test]
fn the_openapi_document_has_each_kind() {
    let document: Value = serde_json::from_str(&read("openapi/quartet.json")).unwrap();
    let schema = &document["components"]["schemas"][DeadLetterKind::NAME];
    assert_eq!(schema["enum"], Value::from(words()), "run `just openapi`");
}

/// The words of the last statement in the migrations that begins with `start`.
fn words_of_migrations(start: &str, end: &str) -> Vec<String> {
    let texts = files("migrations", &[".sql"])
        .iter()
        .map(|file: &std::path::PathBuf| read(Path::new(file)))
        .collect::<Vec<_>>();
    let last = texts.iter().rev().find_map(|text| text.rsplit_once(start));
    let list = last.expect(start).1.split(end).next().unwrap();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words = list.split(|c| !is_word(c)).filter(|word| !["", "or"].contains(word));
    words.map(str::to_owned).collect()
}

#[test]
fn the_schema_has_each_kind() {
    let checked = words_of_migrations("failed_jobs_kind_known CHECK (kind IN (", ")");
    assert_eq!(checked, words(), "a migration for the CHECK failed_jobs_kind_known");
    let comment = "COMMENT ON COLUMN operator.dead_letters.kind IS '";
    assert_eq!(words_of_migrations(comment, "'"), words(), "a migration for the comment");
}

/// What stands between quotation marks in a text of SQL, each with what is before it on its line.
fn quoted(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut at = 0;
    let pieces = line.split('\'').enumerate().map(move |(nth, piece)| {
        let before = &line[..at];
        at += piece.len() + 1;
        (nth % 2 == 1, before, piece)
    });
    pieces.filter(|(is_quoted, ..)| *is_quoted).map(|(_, before, piece)| (before, piece))
}

#[test]
fn no_query_of_the_store_has_a_kind_of_its_own() {
    for file in files("src/store", &[".rs"]) {
        let text = read(&file);
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (before, word) in quoted(line).filter(|(_, word)| words().contains(word)) {
                // `settled_by` has a word like it.
                let is_kind = !before.contains("settled_by");
                let file = file.display();
                assert!(!is_kind, "{file}: bind the kind {word:?} instead: {}", line.trim());
            }
        }
    }
    let found: Vec<_> = quoted("x = 'a' OR kind IN ('b', 'c')").map(|(_, word)| word).collect();
    assert_eq!(found, ["a", "b", "c"]);
}

/// A view, a trigger or an index cannot take the words from the declaration.
#[test]
fn each_kind_in_the_schema_is_declared() {
    let evidence = EvidenceKind::ALL.iter().map(|kind| kind.as_str());
    let known: Vec<&str> = words().into_iter().chain(evidence).collect();
    let mut found = 0;
    for file in files("migrations", &[".sql"]) {
        let text = read(&file);
        for (start, end) in [("kind IN (", ')'), ("kind = '", '\''), ("kind <> '", '\'')] {
            for (at, _) in text.match_indices(start) {
                let list = text[at + start.len()..].split(end).next().unwrap();
                let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
                for word in list.split(|c| !is_word(c)).filter(|word| !word.is_empty()) {
                    found += 1;
                    assert!(known.contains(&word), "{}: {word:?} is no kind", file.display());
                }
            }
        }
    }
    assert!(found >= words().len(), "{found}");
}
