//! How the code is laid out: the size of files, where SQL stands, and that files do not import one
//! another in circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{files, read};

/// Most lines of a file, without its tests.
const MAX_LINES: usize = 450;

/// The part of a file that is no test.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test(file: &Path) -> bool {
    file.components()
        .any(|part| ["tests", "tests.rs"].contains(&&*part.as_os_str().to_string_lossy()))
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for file in files("src", &[".rs"]).iter().filter(|file| !is_test(file)) {
        let lines = production(&read(file)).lines().count();
        if lines > MAX_LINES {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(
        long.is_empty(),
        "more than {MAX_LINES} lines without tests: split the file by its concepts\n{long:#?}"
    );
}

#[test]
fn sql_stands_in_the_store() {
    let mut elsewhere = Vec::new();
    for file in files("src", &[".rs"]) {
        let macros = ["query!(", "query_as!(", "query_scalar!("];
        let text = read(&file);
        if !file.starts_with("src/store") && macros.iter().any(|name| text.contains(name)) {
            elsewhere.push(file);
        }
    }
    assert!(elsewhere.is_empty(), "a query belongs into a function of src/store: {elsewhere:?}");
}

/// A file's module, `store::jobs` for `src/store/jobs/mod.rs`.
fn module(file: &Path) -> Vec<String> {
    let parts = file.with_extension("");
    let parts = parts.components().skip(1).map(|part| part.as_os_str().to_string_lossy());
    parts.filter(|part| part != "mod").map(|part| part.into_owned()).collect()
}

/// The paths that a file's `use` lines name, relative ones as they are written; re-exports are none.
fn used_paths(text: &str) -> Vec<Vec<String>> {
    fn flatten(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
        let (path, list) = match tree.split_once('{') {
            Some((path, list)) => (path, list.rsplit_once('}').map(|(list, _)| list)),
            None => (tree, None),
        };
        let segments = path.split("::").map(str::trim).filter(|segment| !segment.is_empty());
        let name = |segment: &str| segment.split(" as ").next().unwrap().trim().to_owned();
        let path: Vec<String> = prefix.iter().cloned().chain(segments.map(name)).collect();
        let Some(list) = list else {
            found.push(path);
            return;
        };
        let (mut depth, mut start) = (0, 0);
        for (index, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    flatten(&list[start..index], &path, found);
                    start = index + 1;
                }
                _ => {}
            }
        }
        if !list[start..].trim().is_empty() {
            flatten(&list[start..], &path, found);
        }
    }

    let mut found = Vec::new();
    let lines = production(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    for statement in code.split("\nuse ").skip(1) {
        flatten(statement.split(';').next().unwrap(), &[], &mut found);
    }
    found
}

/// Which modules each module imports: neither those that it lies in nor those within it.
fn imports() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let files = files("src", &[".rs"]);
    let files: Vec<_> = files.iter().filter(|file| !is_test(file)).collect();
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| module(file)).collect();
    let mut graph = BTreeMap::new();
    for file in files {
        let own = module(file);
        let mut imported = BTreeSet::new();
        for path in used_paths(&read(file)) {
            let climbs = path.iter().take_while(|segment| *segment == "super").count();
            let absolute: Vec<String> = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "self" => own.iter().chain(&path[1..]).cloned().collect(),
                "super" => {
                    own[..own.len() - climbs].iter().chain(&path[climbs..]).cloned().collect()
                }
                _ => continue,
            };
            let target = (1..=absolute.len()).rev().map(|length| &absolute[..length]);
            let target = target.into_iter().find(|start| modules.contains(*start));
            let is_near = |other: &[String]| own.starts_with(other) || other.starts_with(&own);
            imported.extend(target.filter(|other| !is_near(other)).map(<[String]>::to_vec));
        }
        graph.insert(own, imported);
    }
    graph
}

#[test]
fn files_do_not_import_one_another_in_circles() {
    let graph = imports();
    assert!(graph.len() > 200, "{} modules", graph.len());
    // What leads to a module is followed until nothing new is found: a module that leads to itself
    // is in a circle.
    let mut circles = BTreeSet::new();
    for start in graph.keys() {
        let (mut seen, mut next) = (BTreeSet::new(), graph[start].iter().collect::<Vec<_>>());
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(graph.get(module).into_iter().flatten());
            }
        }
        if seen.contains(start) {
            circles.insert(start.join("::"));
        }
    }
    assert!(
        circles.is_empty(),
        "these import one another in a circle; move what both need to a file of its own: \
         {circles:#?}"
    );
}

#[test]
fn used_paths_are_found_in_lists() {
    let text = "\nuse super::{\n    StoreError,\n    jobs::{self, Lease as L},\n};\n\
                use crate::domain::Status;\npub use self::x::Y;\n#[cfg(test)]\nuse super::z;\n";
    let found: Vec<String> = used_paths(text).iter().map(|path| path.join("::")).collect();
    let expected =
        ["super::StoreError", "super::jobs::self", "super::jobs::Lease", "crate::domain::Status"];
    assert_eq!(found, expected);
}
