//! Words that a reader has to decode are not added, and become fewer.
//!
//! `words.txt` holds how often each stands in `src` and in the pages. A change that adds one fails
//! here; one that removes some lowers the number with `just words`.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use crate::{check_written, files, pages, read};

const COUNTS: &str = "tests/docs/words.txt";

/// What is not written, and what to write instead.
const WORDS: [(&str, &str); 8] = [
    ("anew", "again, or name what is created"),
    ("came", "name what happened: arrived, was received, was sent"),
    ("shown", "name the reader and the verb: prints, displays, appears in"),
    ("so many", "name the number"),
    ("that many", "name the number"),
    ("told", "notified (clients), answered (callers), informed"),
    ("trouble", "error, failure, outage, fault"),
    ("whoever", "name who: the caller, the operator, the process that"),
];

/// A text's words in lower case; `camelCase` and `snake_case` are several.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut before) = (vec![String::new()], ' ');
    for character in text.chars() {
        let starts = character.is_uppercase() && before.is_lowercase();
        if starts || !character.is_alphabetic() {
            words.push(String::new());
        }
        if character.is_alphabetic() {
            words.last_mut().unwrap().extend(character.to_lowercase());
        }
        before = character;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// How often a word stands in a text, or several words in a row; `trouble` also in the plural.
fn count(text: &str, wanted: &str) -> usize {
    let wanted: Vec<&str> = wanted.split(' ').collect();
    let is =
        |word: &String, wanted: &&str| word == wanted || *wanted == "trouble" && word == "troubles";
    let words = words(text);
    let rows = words.windows(wanted.len());
    rows.filter(|row| row.iter().zip(&wanted).all(|(word, wanted)| is(word, wanted))).count()
}

fn counts(files: &[PathBuf]) -> BTreeMap<&'static str, usize> {
    let texts: Vec<String> = files.iter().map(read).collect();
    let sum = |word| texts.iter().map(|text| count(text, word)).sum();
    WORDS.iter().map(|(word, _)| (*word, sum(word))).collect()
}

#[test]
fn words_to_avoid_become_fewer() {
    let (src, pages) = (counts(&files("src", &[".rs", ".html", ".sql"])), counts(&pages()));
    let mut present =
        String::from("# Made by `just words`: word, times in src, times in the pages.\n");
    for (word, _) in WORDS {
        _ = writeln!(present, "{}\t{}\t{}", word.replace(' ', "_"), src[word], pages[word]);
    }
    for line in read(COUNTS).lines().filter(|line| !line.starts_with('#')) {
        let [word, in_src, in_pages] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{COUNTS}: {line}")
        };
        let word = word.replace('_', " ");
        let (word, instead) = WORDS.iter().find(|(known, _)| *known == word).expect("a known word");
        for (place, allowed, found) in
            [("src", in_src, src[word]), ("the pages", in_pages, pages[word])]
        {
            let allowed: usize = allowed.parse().unwrap();
            assert!(
                found <= allowed,
                "{place}: {word:?} stands {found} times, and may {allowed} times. Write instead: \
                 {instead}."
            );
        }
    }
    check_written(COUNTS, &present, "just words");
}

#[test]
fn words_are_counted_in_names_and_across_lines() {
    assert_eq!(count("Told, untold: was_told toldYou wasTold", "told"), 4);
    assert_eq!(count("so\n    many", "so many"), 1);
    assert_eq!(count("so\n/// many", "so many"), 1);
    assert_eq!(count("DatabaseTroubles trouble", "trouble"), 2);
}
