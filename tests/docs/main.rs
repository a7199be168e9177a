//! The documentation agrees with the code, and with itself. Nothing here needs a database.
//!
//! `QUARTET_TEST_WRITE=1` writes what is made from the code (`docs/configuration.md`, `words.txt`)
//! instead of comparing it: `just configuration`, `just words`.

mod code;
mod configuration;
mod dead_letters;
mod layers;
mod limits;
mod links;
mod named_tests;
mod quantity;

mod words;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder whose names end in one of `endings`, sorted, relative to the root.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every page that people read.
fn pages() -> Vec<PathBuf> {
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];
    let mut pages: Vec<PathBuf> = top.iter().map(PathBuf::from).collect();
    pages.extend(files("docs", &[".md"]));
    pages
}

/// Compares a file with what the code says, or writes it where that is asked for.
fn check_written(path: &str, expected: &str, recipe: &str) {
    if std::env::var_os("QUARTET_TEST_WRITE").is_some() {
        fs::write(root().join(path), expected).unwrap();
        return;
    }
    let present = fs::read_to_string(root().join(path)).unwrap_or_default();
    let different = expected.lines().find(|line| !present.lines().any(|other| other == *line));
    assert!(
        present == expected,
        "{path} is out of date: run `{recipe}`, and commit what it writes. The first line that \
         differs:\n{}",
        different.unwrap_or("(lines are missing or in another order)")
    );
}
