//! The tests that SECURITY.md and README.md name as proof exist.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{read, root};

/// A test's place: `module::test` of `tests/it`, or of `src`.
fn is_there(root: &Path, name: &str) -> bool {
    let (module, test) = name.rsplit_once("::").unwrap();
    let module = module.replace("::", "/");
    let files = [".rs", "/mod.rs", "/tests.rs"].map(|end| format!("{module}{end}"));
    let places = ["tests/it", "src"]
        .into_iter()
        .flat_map(|folder| files.iter().map(move |file| root.join(folder).join(file)));
    let line = format!("fn {test}(");
    places.into_iter().any(|place| fs::read_to_string(place).is_ok_and(|text| text.contains(&line)))
}

#[test]
fn every_test_that_is_named_as_proof_is_there() {
    let is_name = |name: &&str| {
        name.contains("::") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
    };
    for (page, least) in [("SECURITY.md", 30), ("README.md", 8)] {
        let text = read(page);
        let names: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
        assert!(names.len() >= least, "{page}: {names:?}");
        let is_missing = |name: &&&str| **name != "module::test" && !is_there(root(), name);
        let missing: Vec<_> = names.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:?}");
    }
    assert!(!is_there(root(), "auth::no_such_test"));
}
